"""Real MCP clients as actors: `mcp2`, `mcp1` (Python SDKs), `ts2`, `ts1` (TypeScript SDKs), the inspector's CLI.

`client("ts1", urls, seed=7)` is a context manager that yields a connected `Client`: a process in the environment of
its SDK that takes steps and gives reports (`programs/driver.py`, `programs/driver.mjs`). Several URLs: each request
goes to one by lot. Data flow: `begin` writes a step → the driver does it → a thread of ours reads the report →
`Pending.result` returns it.
"""

import contextlib
import itertools
import os
import pathlib
import queue
import subprocess
import tempfile
import threading
import time
import typing
from collections.abc import Iterator, Sequence

import msgspec

from tests.kit import actors, provision
from tests.kit.backends import PROGRAMS

CLIENTS = ("mcp2", "mcp1", "ts2", "ts1")
CALL_SECONDS_MAX = 60.0
Entry = dict[str, typing.Any]
END_SECONDS_MAX = 15.0  # DELETE, and the SDK's own tasks


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What a tool call gave."""

    text: str
    is_error: bool
    progress: list[Entry]
    raw: Entry


class Refused(Exception):
    """The SDK raised. `code` is JSON-RPC's where there is one, `status` HTTP's, `type` the error class."""

    def __init__(self, error: Entry) -> None:
        super().__init__(f"{error.get('type')}: {error.get('message')} (code {error.get('code')})")
        self.type: str = error.get("type", "")
        self.message: str = error.get("message", "")
        self.code: int | None = error.get("code")
        self.data: typing.Any = error.get("data")
        self.status: int | None = error.get("status")


class Died(Refused):
    """The whole client is gone: its SDK's tasks failed, or its process ended."""


class Pending:
    """A step that was begun."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._report: queue.SimpleQueue[Entry] = queue.SimpleQueue()

    def settle(self, report: Entry) -> None:
        self._report.put(report)

    def report(self, seconds_max: float = CALL_SECONDS_MAX) -> Entry:
        try:
            report = self._report.get(timeout=seconds_max)
        except queue.Empty:
            raise actors.KitError(f"step {self.number} had no report within {seconds_max} s") from None
        if "died" in report:
            raise Died(report["died"])
        if not report["ok"]:
            raise Refused(report["error"])
        return report

    def answer(self, seconds_max: float = CALL_SECONDS_MAX) -> Answer:
        report = self.report(seconds_max)
        result = report["result"]
        text = "".join(block["text"] for block in result.get("content", []) if block["type"] == "text")
        return Answer(text, bool(result.get("isError")), report["progress"], result)


class Client:
    """A connected client of one SDK. Reading its reports is a thread's work; asking is the test's."""

    def __init__(self, sdk: str, options: Entry) -> None:
        self.sdk = sdk
        self.options = options
        self.protocol: str | None = None
        self._numbers = itertools.count(1)
        self._pending: dict[int, Pending] = {}
        self._greeting = Pending(0)
        self._died: Entry | None = None
        self._lock = threading.Lock()  # steps begin in the test's threads, reports come in the reader's
        self._stderr = tempfile.TemporaryFile(dir=actors.log_folder())  # noqa: SIM115
        command, environment = _command(sdk, options)
        self._popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, name=f"kit-client-{sdk}", daemon=True)
        self._reader.start()

    # Verbs.

    def await_connected(self, seconds_max: float = actors.READY_SECONDS_MAX) -> None:
        greeting = self._greeting.report(seconds_max)
        self.protocol = greeting["protocol"]

    def call(self, name: str, /, **arguments: typing.Any) -> Answer:
        """Call a tool and wait for its answer; raises `Refused` when the SDK does."""
        return self.begin_call(name, **arguments).answer()

    def begin_call(self, name: str, /, **arguments: typing.Any) -> Pending:
        return self.begin({"do": "call", "name": name, "arguments": arguments})

    def ask(self, method: str, **arguments: typing.Any) -> typing.Any:
        """Another request: list_tools, read_resource, get_prompt, subscribe_resource, set_logging_level, send_ping."""
        return self.begin({"do": method, "arguments": arguments}).report()["result"]

    def await_stream(self, seconds_max: float = 10.0) -> None:
        """Until the GET stream is open: what a server sends before that, without an event store, is lost."""
        deadline = time.monotonic() + seconds_max
        while not any(each["method"] == "GET" and each.get("status") == 200 for each in self.exchanges):
            if time.monotonic() > deadline:
                raise actors.KitError(f"no GET stream within {seconds_max} s: {self.exchanges}")
            time.sleep(0.02)

    def abandon(self, pending: Pending) -> None:
        """Give up a step, the way the SDK does it (a cancelled task, an aborted signal)."""
        self.begin({"do": "abandon", "of": pending.number}).report()

    def notifications(self, count: int = 0, seconds_max: float = 5.0) -> list[Entry]:
        """Notifications so far, other than progress; waits until there are `count`, and no longer than it may."""
        return self._list({"do": "notifications", "count": count, "seconds_max": seconds_max})

    @property
    def asked(self) -> list[Entry]:
        """What the server asked this client (sampling, elicitation), which it answered."""
        return self._list({"do": "asked"})

    @property
    def exchanges(self) -> list[Entry]:
        """Each HTTP request: method, rpc, target (index of the URL), session, protocol, last_event_id; of its answer
        status, content_type, answered_session."""
        return self._list({"do": "exchanges"})

    @property
    def session_id(self) -> str | None:
        """The id that the answer to initialize carried."""
        return next((each.get("answered_session") for each in self.exchanges if each["rpc"] == "initialize"), None)

    def _list(self, step: Entry) -> list[Entry]:
        return typing.cast("list[Entry]", self.begin(step).report()["result"])

    def begin(self, step: Entry) -> Pending:
        with self._lock:
            pending = Pending(next(self._numbers))
            if self._died is not None:
                pending.settle({"died": self._died})
                return pending
            self._pending[pending.number] = pending
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(msgspec.json.encode({**step, "step": pending.number}) + b"\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            pass  # the reader settles every pending step when the process ends
        return pending

    def end(self) -> int:
        """Close the client as its SDK does; its exit code (0 unless it died)."""
        assert self._popen.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._popen.stdin.close()
        try:
            return self._popen.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired as error:
            raise actors.KitError(f"client {self.sdk} did not end within {END_SECONDS_MAX} s\n{self.stderr}") from error
        finally:
            self.kill()

    def kill(self) -> None:
        """End it at once: its connections are reset or closed by the kernel."""
        self._popen.kill()
        self._popen.wait()
        self._reader.join()

    @property
    def stderr(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _read(self) -> None:
        assert self._popen.stdout is not None
        died: Entry | None = None
        for line in self._popen.stdout:
            report = msgspec.json.decode(line)
            if "ready" in report:
                self._greeting.settle({"ok": report["ready"], **report})
            elif "died" in report:
                died = report["died"]
            else:
                with self._lock:
                    pending = self._pending.pop(report["step"])
                pending.settle(report)
        with self._lock:
            self._died = died or {"type": "Ended", "message": f"the client process ended: {self.stderr[-2000:]}"}
            left, self._pending = list(self._pending.values()), {}
        for pending in [self._greeting, *left]:
            pending.settle({"died": self._died})


def _command(sdk: str, options: Entry) -> tuple[list[str], dict[str, str]]:
    words = msgspec.json.encode(options).decode()
    if sdk.startswith("ts"):
        modules = provision.require(sdk) / "node_modules"
        return [str(provision.node()), str(PROGRAMS / "driver.mjs"), f"client_{sdk}", words], {
            "KIT_MODULES": str(modules)
        }
    return [str(provision.python(sdk)), str(PROGRAMS / "driver.py"), f"client_{sdk}", words], {}


@contextlib.contextmanager
def client(
    sdk: str,
    urls: str | Sequence[str],
    *,
    seed: int = 0,
    mode: str = "legacy",
    protocol_version: str | None = None,
    terminate: bool = True,
    headers: dict[str, str] | None = None,
    call_seconds_max: float = CALL_SECONDS_MAX,
) -> Iterator[Client]:
    """A connected real client; ended the way its SDK ends afterwards.

    `urls` are endpoints with one path; a path that ends with `/sse` means the old HTTP+SSE. `mode` is `legacy`, `auto`
    or a modern revision (mcp2, ts2); `protocol_version` what a legacy `initialize` proposes; `terminate` whether it
    ends with DELETE.
    """
    targets = [urls] if isinstance(urls, str) else list(urls)
    options = {
        "urls": targets,
        "seed": seed,
        "transport": "sse" if targets[0].endswith("/sse") else "streamable-http",
        "mode": mode,
        "protocol_version": protocol_version,
        "terminate": terminate,
        "headers": headers or {},
        "call_seconds_max": call_seconds_max,
    }
    connected = Client(sdk, options)
    try:
        connected.await_connected()
        yield connected
    except BaseException:
        connected.kill()
        raise
    connected.end()


def inspect(url: str, method: str, *, seconds_max: float = 60.0, flags: Sequence[str] = ()) -> Entry:
    """One run of the inspector's command line against a URL: its JSON output. It never ends its session."""
    program = (
        provision.module("inspector", "@modelcontextprotocol/inspector") / "clients" / "launcher" / "build" / "index.js"
    )
    transport = "sse" if url.endswith("/sse") else "http"
    command = [str(provision.node()), str(program), "--cli", url, "--transport", transport, "--method", method, *flags]
    with tempfile.TemporaryDirectory(dir=actors.log_folder()) as home:  # it keeps a catalog of servers there
        environment = {**os.environ, "HOME": home, "MCP_CATALOG_PATH": str(pathlib.Path(home) / "mcp.json")}
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=seconds_max, check=False
        )
    if done.returncode != 0:
        message = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise Refused({"type": "Inspector", "message": message, "code": None})
    return typing.cast("Entry", msgspec.json.decode(done.stdout))
