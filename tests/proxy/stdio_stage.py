"""stdio servers behind real proxies, and clients that say exactly what a test tells them.

    with stage("--stdio-mode", "shared") as proxy:          # in front of tests/kit/programs/stdio_script.py
        caller = Caller(proxy.url())
        caller.open()                                        # initialize, notifications/initialized
        caller.call("echo", value=7)                         # the text of the answer
        caller.post("tools/call", number=7, name="sleep", …) # the Reply: status, fields, messages

A Reply holds every message of an answer, whether it came as JSON or as events. `processes(proxy)` are the living
programs behind a proxy, as /proc has them.
"""

import contextlib
import http.client
import itertools
import json
import os
import pathlib
import signal
import sys
import time
import typing
import urllib.parse
from collections.abc import Callable, Iterator, Sequence

from tests import kit
from tests.kit.backends import PROGRAMS

SCRIPT = [sys.executable, "-S", str(PROGRAMS / "stdio_script.py")]
SECONDS_MAX = 30.0
VERSION = "2025-11-25"
MODERN = "2026-07-28"
ENVELOPE = "io.modelcontextprotocol/"
ACCEPT = {"Accept": "application/json, text/event-stream", "Content-Type": "application/json"}
WHOLE = bool(os.environ.get("KIT_MATRIX"))  # all there is to show, and not a sample
DRAIN = ("--drain-delay", "0s", "--drain-timeout", "5s")

Entry = dict[str, typing.Any]


@contextlib.contextmanager
def stage(
    *flags: str,
    manners: str = "",
    command: Sequence[str] = SCRIPT,
    count: int = 1,
    store: str = "memory:",
    environment: dict[str, str] | None = None,
) -> Iterator[kit.Proxy]:
    """One proxy in front of a stdio server; of several (`count`) the first."""
    with stages(*flags, manners=manners, command=command, count=count, store=store, environment=environment) as running:
        yield running[0]


@contextlib.contextmanager
def stages(
    *flags: str,
    manners: str = "",
    command: Sequence[str] = SCRIPT,
    count: int = 2,
    store: str = "memory:",
    environment: dict[str, str] | None = None,
) -> Iterator[list[kit.Proxy]]:
    """So many proxies, each with processes of its own."""
    given = {"STDIO_SCRIPT": manners, **(environment or {})}
    with kit.proxies(count, store=store, flags=[*DRAIN, *flags, "--", *command], environment=given) as running:
        yield running


class Reply:
    """The answer to one request."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.fields = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()
        self.messages = list(read_messages(self.fields.get("content-type", ""), self.body))

    @property
    def message(self) -> Entry:
        """The last one: the answer itself."""
        return self.messages[-1]

    @property
    def text(self) -> str:
        """Of a tool's result."""
        assert "result" in self.message, self.message
        return typing.cast("str", self.message["result"]["content"][0]["text"])

    @property
    def error(self) -> Entry:
        assert "error" in self.message, self.message
        return typing.cast("Entry", self.message["error"])


def read_messages(content_type: str, body: bytes) -> Iterator[Entry]:
    if content_type.startswith("text/event-stream"):
        for event in body.replace(b"\r\n", b"\n").split(b"\n\n"):
            data = b"".join(line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:"))
            if data:
                yield json.loads(data)
    elif body.startswith(b"{"):
        yield json.loads(body)


class Caller:
    """A client of the older era, without an SDK. Each request has a connection of its own, so that threads may share
    it."""

    def __init__(self, url: str, *, urls: Sequence[str] = (), seconds_max: float = SECONDS_MAX) -> None:
        self.url = url
        self._urls = itertools.cycle([url, *urls])
        self._seconds_max = seconds_max
        self._numbers = itertools.count(1)
        self.session_id: str | None = None
        self.capabilities: Entry = {}

    def request(self, method: str, body: bytes | None = None, **fields: str) -> http.client.HTTPResponse:
        """Its answer, whose body has not been read."""
        place = urllib.parse.urlsplit(next(self._urls))
        connection = http.client.HTTPConnection(place.netloc, timeout=self._seconds_max)
        headers = {**ACCEPT, **{name.replace("_", "-"): value for name, value in fields.items()}}
        if self.session_id is not None:
            headers["Mcp-Session-Id"] = self.session_id
        target = place.path + (f"?{place.query}" if place.query else "")
        connection.request(method, target, body, {**headers, "Connection": "close"})
        return connection.getresponse()

    def begin(self, method: str, number: object = None, **params: typing.Any) -> http.client.HTTPResponse:
        """A JSON-RPC request whose answer is read by the caller."""
        number = next(self._numbers) if number is None else number
        return self.request("POST", encode(method, number, params))

    def post(self, method: str, number: object = None, **params: typing.Any) -> Reply:
        """A JSON-RPC request and its answer."""
        with contextlib.closing(self.begin(method, number, **params)) as response:
            return Reply(response)

    def tell(self, method: str, **params: typing.Any) -> int:
        """A notification; the status of its answer."""
        with contextlib.closing(self.request("POST", encode(method, None, params))) as response:
            return response.status

    def answer(self, number: object, result: Entry) -> int:
        """What the server has asked."""
        body = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
        with contextlib.closing(self.request("POST", body)) as response:
            return response.status

    def open(self, version: str = VERSION) -> Reply:
        """A session."""
        params = {
            "protocolVersion": version,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "tests", "version": "1"},
        }
        greeting = self.post("initialize", **params)
        self.session_id = greeting.fields.get("mcp-session-id")
        if self.session_id is not None:
            assert self.tell("notifications/initialized") == 202
        return greeting

    def call(self, verb: str, /, **arguments: typing.Any) -> str:
        """A tool's text."""
        return self.post("tools/call", name=verb, arguments=arguments).text

    def end(self) -> int:
        """The session."""
        with contextlib.closing(self.request("DELETE")) as response:
            return response.status

    def stream(self) -> "Stream":
        """The session's GET stream."""
        return Stream(self.request("GET", None, Accept="text/event-stream"))


class Stream:
    """Events as they come."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.response = response
        self.status = response.status

    def next(self) -> Entry:
        """The next message."""
        return typing.cast("Entry", json.loads(self.next_event()[1]))

    def next_event(self) -> tuple[str, bytes]:
        """Its kind and its data."""
        kind, data = "message", b""
        deadline = time.monotonic() + SECONDS_MAX
        while True:
            assert time.monotonic() < deadline, "nothing but comments on the stream"
            line = self.response.readline()
            if not line:
                raise EOFError("the stream has ended")
            line = line.rstrip(b"\r\n")
            if line.startswith(b"event:"):
                kind = line[6:].strip().decode()
            elif line.startswith(b"data:"):
                data += line[5:].strip()
            elif not line and data:
                return kind, data

    def ended(self) -> bool:
        """Does it end, without anything more to say?"""
        return all(not line.strip() or line.startswith(b":") for line in self.response.read().split(b"\n"))

    def close(self) -> None:
        """The client goes away."""
        self.response.close()


def encode(method: str, number: object, params: Entry) -> bytes:
    message: Entry = {"jsonrpc": "2.0", "method": method}
    if number is not None:
        message["id"] = number
    if params:
        message["params"] = params
    return json.dumps(message).encode()


def ask_modern(url: str, method: str, number: object = 1, *, name: str | None = None, **params: typing.Any) -> Reply:
    """A request of 2026-07-28."""
    with contextlib.closing(begin_modern(url, method, number, name=name, **params)) as response:
        return Reply(response)


def begin_modern(
    url: str, method: str, number: object = 1, *, name: str | None = None, **params: typing.Any
) -> http.client.HTTPResponse:
    """The same; its answer is read by the caller."""
    place = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(place.netloc, timeout=SECONDS_MAX)
    meta = {ENVELOPE + "protocolVersion": MODERN, ENVELOPE + "clientCapabilities": {}, **params.pop("meta", {})}
    headers = {**ACCEPT, "MCP-Protocol-Version": MODERN, "Mcp-Method": method, "Connection": "close"}
    if name is not None:
        headers["Mcp-Name"] = name
        params["name"] = name
    connection.request("POST", place.path, encode(method, number, {**params, "_meta": meta}), headers)
    return connection.getresponse()


# What runs behind a proxy.


def children(pid: int) -> list[int]:
    """Of every thread, since any may have forked."""
    found: list[int] = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, task.read_text().split())
    return found


def wardens(proxy: kit.Proxy) -> list[int]:
    """The program beside a proxy that starts its servers; none before the first session."""
    return [pid for pid in children(proxy.pid) if "warden.py" in command_of(pid)]


def processes(proxy: kit.Proxy) -> list[int]:
    """The servers of a proxy that live."""
    return [pid for warden in wardens(proxy) for pid in children(warden) if is_alive(pid)]


def command_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return ""


def is_alive(pid: int) -> bool:
    """Does it run? A zombie does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] not in "ZX"
    except OSError:
        return False


def is_there(pid: int) -> bool:
    """Is it in the table of processes, if only as a zombie?"""
    return pathlib.Path(f"/proc/{pid}").exists()


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def await_that(holds: Callable[[], bool], wanted: str, seconds_max: float = SECONDS_MAX) -> None:
    """Wait until it holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds_max} s: {wanted}"
        time.sleep(0.02)
