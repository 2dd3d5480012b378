"""An MCP server that says exactly what a test wants, on the test's own loop: sound where the test says nothing else.

    Speaker(tools=[...]) as a context -> url       `on(method, act)`: what it does about one method instead
    heard: every message that came, with its head's fields         say(message): on the streams that are open

`act(call)` gets a Call and answers by one of its verbs. Nothing of fastproxy is in here.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, Self

Act = Callable[["Call"], Awaitable[None]]
EVENTS = "text/event-stream"
MODERN = "2026-07-28"


def tool(name: str, **members: Any) -> dict[str, Any]:
    return {"name": name, "inputSchema": {"type": "object"}, **members}


class Call:
    """One message that came, and the connection on which it is answered."""

    def __init__(
        self, speaker: "Speaker", line: str, fields: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        self.speaker = speaker
        self.verb, self.target, _ = line.split(" ", 2)
        self.fields = fields
        self.message: dict[str, Any] = json.loads(body) if body else {}
        self.writer = writer
        self.answered = False

    @property
    def method(self) -> str:
        return str(self.message.get("method", ""))

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.message.get("params", {}))

    @property
    def session(self) -> str | None:
        return self.fields.get("mcp-session-id")

    def envelope(self, **members: Any) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": self.message.get("id"), **members}

    async def result(self, result: dict[str, Any], *, status: int = 200, fields: dict[str, str] | None = None) -> None:
        await self.body(self.envelope(result=result), status=status, fields=fields)

    async def error(self, code: int, message: str, *, status: int = 200, data: Any = None) -> None:
        error = {"code": code, "message": message} | ({} if data is None else {"data": data})
        await self.body(self.envelope(error=error), status=status)

    async def body(self, message: Any, *, status: int = 200, fields: dict[str, str] | None = None) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        await self.plain(status, data, {"Content-Type": "application/json", **(fields or {})})

    async def plain(self, status: int, data: bytes = b"", fields: dict[str, str] | None = None) -> None:
        self.answered = True
        head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        self.writer.write(head.encode() + b"\r\n" + data)
        await self.writer.drain()

    async def open_events(self, fields: dict[str, str] | None = None) -> None:
        self.answered = True
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {EVENTS}\r\nTransfer-Encoding: chunked\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (fields or {}).items())
        self.writer.write(head.encode() + b"\r\n")
        await self.writer.drain()

    async def event(self, message: Any, *, kind: str = "message", event_id: str = "", retry: int | None = None) -> None:
        data = message if isinstance(message, str) else json.dumps(message)
        text = f"event: {kind}\n" + (f"id: {event_id}\n" if event_id else "")
        text += (f"retry: {retry}\n" if retry is not None else "") + f"data: {data}\n\n"
        self.writer.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())
        await self.writer.drain()

    async def end_events(self) -> None:
        self.writer.write(b"0\r\n\r\n")
        await self.writer.drain()

    async def until_gone(self) -> None:
        """The client has closed the connection."""
        await self.speaker.readers[self.writer].read()


class Speaker:
    """One server. `eras`: which it speaks."""

    def __init__(
        self,
        *,
        tools: list[Any] | None = None,
        eras: tuple[str, ...] = ("legacy",),
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.tools = [tool("hello")] if tools is None else tools
        self.eras = eras
        self.port = port
        self.tls = tls
        self.capabilities: dict[str, Any] = {"tools": {"listChanged": True}}
        self.heard: list[Call] = []
        self.streams: list[Call] = []
        self.sessions: set[str] = set()
        self.connections = 0
        self.readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self._acts: dict[str, Act] = {}
        self._numbers = itertools.count(1)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}/mcp"

    def on(self, method: str, act: Act) -> None:
        """Do this about a method (or GET, DELETE) from now on."""
        self._acts[method] = act

    def calls(self, method: str) -> list[Call]:
        return [call for call in self.heard if call.method == method or call.verb == method]

    async def say(self, message: dict[str, Any]) -> None:
        for stream in self.streams:
            await stream.event({"jsonrpc": "2.0", **message})

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *fault: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Nobody is there any more."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        self.connections += 1
        self.readers[writer] = reader
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._serve_one(reader, writer)
        finally:
            self._serving.discard(task)
            self.streams = [stream for stream in self.streams if stream.writer is not writer]
            writer.close()

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        fields = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in lines}
        body = await reader.readexactly(int(fields.get("content-length", "0")))
        call = Call(self, first, fields, body, writer)
        self.heard.append(call)
        act = self._acts.get(call.method or call.verb)
        await (act or self.serve)(call)

    # ---- what a sound server does

    async def serve(self, call: Call) -> None:
        """As the era of the request has it."""
        if call.verb != "POST":
            await self._serve_verb(call)
        elif "id" not in call.message or "method" not in call.message:
            await call.plain(202)
        elif call.fields.get("mcp-protocol-version") == MODERN:
            await self._serve_modern(call)
        else:
            await self._serve_legacy(call)

    async def _serve_verb(self, call: Call) -> None:
        if call.session not in self.sessions:
            await call.plain(404)
        elif call.verb == "DELETE":
            self.sessions.discard(str(call.session))
            await call.plain(200)
        else:
            await call.open_events()
            self.streams.append(call)
            await call.until_gone()

    async def _serve_modern(self, call: Call) -> None:
        if "modern" not in self.eras:
            await call.error(-32600, "Bad Request: Missing session ID", status=400)
        elif call.method == "server/discover":
            await call.result(
                {"supportedVersions": [MODERN], "capabilities": self.capabilities, "resultType": "complete"}
            )
        else:
            await self._serve_lists(call)

    async def _serve_legacy(self, call: Call) -> None:
        if "legacy" not in self.eras:
            await call.error(-32022, "unsupported", status=400, data={"supported": [MODERN], "requested": "2025-11-25"})
        elif call.method == "initialize":
            session = f"session-{next(self._numbers)}"
            self.sessions.add(session)
            info = {"name": "speaker", "version": "1"}
            result = {"protocolVersion": "2025-11-25", "capabilities": self.capabilities, "serverInfo": info}
            await call.result(result, fields={"Mcp-Session-Id": session})
        elif call.session not in self.sessions:
            await call.error(-32001, "Session not found", status=404)
        else:
            await self._serve_lists(call)

    async def _serve_lists(self, call: Call) -> None:
        if call.method == "tools/list":
            await call.result({"tools": self.tools})
        elif call.method == "ping":
            await call.result({})
        elif call.method == "tools/call":
            await call.result({"content": [{"type": "text", "text": f"called {call.params.get('name')}"}]})
        else:
            await call.error(-32601, "Method not found")
