"""Writes down what real programs say on the wire: `python -m tests.kit.record` makes `tests/transcripts/` anew.

Nouns: `Recorder` (a relay on loopback that passes bytes unchanged and keeps them), `Exchange` (one request and its
answer, raw). Data flow: client → `Recorder` → server; the kept bytes are cut into exchanges, ordered by the arrival of
their first byte, rid of what differs from run to run (ids, ports, dates), and written as text. Nothing is parsed on the
way through.
"""

import asyncio
import contextlib
import pathlib
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator

import msgspec

from tests.kit import actors_message, actors_wire, backends, clients

TRANSCRIPTS = pathlib.Path(__file__).resolve().parents[1] / "transcripts"
SHOWN_BYTES_MAX = 3_000  # of a body: a list of tools says little after its first one

VOLATILE = (
    (re.compile(r"(?<=127\.0\.0\.1:)\d+"), "{port}"),
    (re.compile(r"(?i)(?<=^date: ).*$", re.MULTILINE), "{date}"),
    (re.compile(r"(?<=^: ping - ).*$", re.MULTILINE), "{time}"),
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\b[0-9a-f]{32}\b"), "{id}"),
)


class Exchange(msgspec.Struct, frozen=True, gc=False):
    """One request and what was answered so far."""

    request: bytes
    answer: bytes
    complete: bool  # False: a stream that was still open, or an answer that was cut


class Recorder:
    """A relay in front of one origin; use as a context manager."""

    def __init__(self, origin: str) -> None:
        parts = urllib.parse.urlsplit(origin)
        self._upstream = (parts.hostname, parts.port)
        self._answers: dict[int, bytearray] = {}  # by connection, in order of arrival
        self._arrivals: list[tuple[int, int]] = []  # (connection, offset in what it sent), one per piece
        self._relay = actors_wire.ScriptedBackend(self._pass)

    def __enter__(self) -> "Recorder":
        self._relay.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._relay.stop()

    @property
    def origin(self) -> str:
        return self._relay.origin

    async def _pass(self, connection: actors_wire.Connection) -> None:
        number = self._relay.connections.index(connection)
        answers = self._answers.setdefault(number, bytearray())
        reader, writer = await asyncio.open_connection(*self._upstream)

        async def upwards() -> None:
            while data := await connection.read_some():
                self._arrivals.append((number, len(connection.received) - len(data)))
                writer.write(data)
                await writer.drain()
            writer.close()  # a client that half-closes is gone: no SDK waits after its FIN

        async def downwards() -> None:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(actors_wire.READ_BYTES):
                    answers.extend(data)
                    await connection.send(data)
            await connection.close()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(upwards())
            tasks.create_task(downwards())

    def exchanges(self) -> list[Exchange]:
        """All of them, in the order in which the requests came."""
        found: list[tuple[int, Exchange]] = []
        for number, connection in enumerate(self._relay.connections):
            sent, answered, offset = bytes(connection.received), bytes(self._answers.get(number, b"")), 0
            while (request := actors_message.take(sent[offset:])) is not None:
                answer = actors_message.take(answered, answers=request.method)
                taken = answered if answer is None else answer.raw
                found.append((self._arrival(number, offset), Exchange(request.raw, taken, answer is not None)))
                offset, answered = offset + len(request.raw), answered[len(taken) :]
        return [exchange for _, exchange in sorted(found, key=lambda each: each[0])]

    def _arrival(self, number: int, offset: int) -> int:
        """When the piece began that this offset is in."""
        return max(place for place, (own, begin) in enumerate(self._arrivals) if own == number and begin <= offset)


def write_transcript(path: pathlib.Path, title: str, exchanges: list[Exchange]) -> None:
    """As text: `>` before what the client says, `<` before what the server says."""
    lines = [title, "=" * len(title), ""]
    for exchange in exchanges:
        lines += [*quote(exchange.request, ">"), "", *quote(exchange.answer, "<")]
        lines += [] if exchange.complete else ["< (the stream was open when the recording ended)"]
        lines += ["", "-" * 40, ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines[:-2]) + "\n")


def quote(data: bytes, mark: str) -> list[str]:
    text = data.decode("utf-8", errors="backslashreplace").replace("\r\n", "\n").rstrip("\n")
    for pattern, placeholder in VOLATILE:
        text = pattern.sub(placeholder, text)
    if len(text) > SHOWN_BYTES_MAX:
        text = f"{text[:SHOWN_BYTES_MAX]}… ({len(text) - SHOWN_BYTES_MAX} more)"
    return [f"{mark} {line}".rstrip() for line in text.split("\n")]


# What is recorded: each client against one server, each server against one list of requests.


def record_client(sdk: str, kind: str, mode: str = "legacy") -> list[Exchange]:
    """A short life of a client: connect, call, progress, a notification on the GET stream, end."""
    with backends.backend(kind) as [replica], Recorder(replica.origin) as recorder:
        with clients.client(sdk, recorder.origin + replica.kind.path, mode=mode) as client:
            if mode == "legacy":
                client.await_stream()
            client.call("echo", value="hello")
            client.call("progress", steps=1, seconds=0.05)
            if mode == "legacy":
                client.call("notify", kind="tools")
                client.notifications(1)
        return recorder.exchanges()


JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "recorder", "version": "1"},
    },
}
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


def record_server(kind: str) -> list[Exchange]:
    """What a server answers where servers differ; each request on a connection of its own: open streams hurt none."""
    exchanges: list[Exchange] = []
    with backends.backend(kind) as [replica], contextlib.ExitStack() as stack:

        def ask(method: str, session: str | None, message: object = None, **fields: str) -> str | None:
            client = stack.enter_context(actors_wire.RawClient(replica.origin))
            given = {**JSON, **({"Mcp-Session-Id": session} if session else {}), **fields}
            body = None if message is None else msgspec.json.encode(message)
            request = actors_message.format_request(method, replica.kind.path, client.authority, given, body)
            client.send(request)
            head = client.head()
            if method == "GET" and head.status == 200:  # an event stream: what comes at once, then it stays open
                client.is_silent(0.3)
                exchanges.append(Exchange(request, head.raw + client.buffer, False))
                return None
            client.buffer = head.raw + client.buffer
            response = client.response()
            exchanges.append(Exchange(request, response.raw, True))
            return response.field("mcp-session-id")

        session = ask("POST", None, INITIALIZE)
        ask("POST", session, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        ask("POST", session, PING, **{"MCP-Protocol-Version": "2025-11-25"})
        ask("GET", session)
        ask("GET", session)  # the second one
        ask("POST", None, PING)
        ask("POST", "no-such-session", PING)
        ask("GET", "no-such-session")
        ask("DELETE", "no-such-session")
        ask("DELETE", session)
        ask("POST", session, PING)
    return exchanges


def record_stream_server(kind: str) -> list[Exchange]:
    """The same for the old transport of two endpoints."""
    with backends.backend(kind) as [replica], actors_wire.RawClient(replica.origin) as stream:
        request = actors_message.format_request("GET", "/sse", stream.authority, {"Accept": "text/event-stream"})
        stream.send(request)
        heard = stream.until(b"\r\n\r\n") + stream.until(b"endpoint")
        heard += stream.until(b"\n\n" if kind.startswith("everything") else b"\r\n\r\n")
        target = heard.rsplit(b"data: ", 1)[1].split()[0].decode()
        posts: list[Exchange] = []
        for message in (INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}):
            posts.append(post(replica.origin, target, message))
        if not kind.startswith("everything"):  # which would not answer these at all
            posts.append(post(replica.origin, "/messages/", PING))
            posts.append(post(replica.origin, f"/messages/?session_id={'0' * 32}", PING))
        stream.is_silent(0.3)
        return [Exchange(request, heard + stream.buffer, False), *posts]


def post(origin: str, target: str, message: object) -> Exchange:
    with actors_wire.RawClient(origin) as client:
        body = msgspec.json.encode(message)
        request = actors_message.format_request("POST", target, client.authority, JSON, body)
        client.send(request)
        return Exchange(request, client.response().raw, True)


def plan() -> Iterator[tuple[pathlib.Path, str, Callable[[], list[Exchange]]]]:
    for sdk in clients.CLIENTS:
        for kind in ("mcp2-sse", "mcp2-httpsse"):
            yield (
                TRANSCRIPTS / "clients" / f"{sdk}-to-{kind}.txt",
                f"client {sdk} to server {kind}",
                lambda sdk=sdk, kind=kind: record_client(sdk, kind),  # type: ignore[misc]
            )
    for sdk in ("mcp2", "ts2"):
        yield (
            TRANSCRIPTS / "clients" / f"{sdk}-to-mcp2-sse-modern.txt",
            f"client {sdk}, mode auto, to server mcp2-sse",
            lambda sdk=sdk: record_client(sdk, "mcp2-sse", "auto"),  # type: ignore[misc]
        )
    for name, made_of in backends.KINDS.items():
        of = record_server if made_of.transport == "streamable-http" else record_stream_server
        yield (
            TRANSCRIPTS / "servers" / f"{name}.txt",
            f"server {name}",
            lambda of=of, name=name: of(name),  # type: ignore[misc]
        )


def main(wanted: list[str]) -> None:
    for path, title, make in plan():
        if not wanted or any(word in path.name for word in wanted):
            write_transcript(path, title, make())
            print(f"record: {path.relative_to(TRANSCRIPTS)}")


if __name__ == "__main__":
    main(sys.argv[1:])
