"""`python -m tests.rollout.replica --port N`: a small MCP server that is quick enough to be asked 500 times a second.

Sessions with a counter each; `tools/call` counts, and names the server in its answer; with `"steps": N` it answers by
an event stream of N progress notifications and the result; `"seconds": S` lets it work so long. A GET stream gets an
event every `--event-seconds`. Every event is written in two pieces with a pause between, so that who cuts without
looking cuts in the middle of one. SIGTERM: no new connections; streams end, answers say `Connection: close`; when it
has been quiet for a moment, the end.
"""

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import typing
import uuid

import uvloop

from tests.kit import actors_message

JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Transfer-Encoding": "chunked"}
PIECE_SECONDS = 0.02  # between the two halves of an event
STEP_SECONDS = 0.05
QUIET_SECONDS = 0.3  # without a call, at the end
READ_BYTES = 65_536
PADDING = "." * 600  # an event is a few times as long as a line of text, so that it has a middle


class Server:
    """One replica."""

    def __init__(self, name: str, event_seconds: float) -> None:
        self.name = name
        self.sessions: dict[str, int] = {}
        self._event_seconds = event_seconds
        self._calls = 0
        self._ending = asyncio.Event()
        self._called = asyncio.Event()

    async def run(self, host: str, port: int) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._ending.set)
        server = await asyncio.start_server(self._accept, host, port, backlog=1024, limit=2**20)
        print(json.dumps({"ready": True, "port": server.sockets[0].getsockname()[1]}), flush=True)
        await self._ending.wait()
        server.close()
        with contextlib.suppress(TimeoutError):
            while True:
                self._called.clear()
                async with asyncio.timeout(None if self._calls else QUIET_SECONDS):
                    await self._called.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        buffer = b""
        with contextlib.suppress(ConnectionError):
            while True:
                while (request := actors_message.take(buffer)) is None:
                    data = await reader.read(READ_BYTES)
                    if not data:
                        writer.close()
                        return
                    buffer += data
                buffer = buffer[len(request.raw) :]
                await self._answer(request, writer)
                await writer.drain()
                if self._ending.is_set():
                    writer.close()
                    return

    async def _answer(self, request: actors_message.Message, writer: asyncio.StreamWriter) -> None:
        session = request.field("mcp-session-id")
        said = json.loads(request.body) if request.body else {}
        if said.get("method") == "initialize":
            session = uuid.uuid4().hex
            self.sessions[session] = 0
            own = {"name": self.name, "version": "1"}
            result = {"protocolVersion": said["params"]["protocolVersion"], "capabilities": {}, "serverInfo": own}
            writer.write(self._result(said["id"], result, session))
        elif session is None or session not in self.sessions:
            error = {"jsonrpc": "2.0", "id": None, "error": {"code": -32001, "message": "Session not found"}}
            writer.write(actors_message.format_response("404 Not Found", JSON, json.dumps(error).encode()))
        elif request.method == "DELETE":
            del self.sessions[session]
            writer.write(actors_message.format_response("200 OK"))
        elif request.method == "GET":
            await self._stream(session, writer)
        elif "id" not in said:
            writer.write(actors_message.format_response("202 Accepted"))
        else:
            await self._call(session, said, writer)

    async def _call(self, session: str, said: dict[str, typing.Any], writer: asyncio.StreamWriter) -> None:
        self._calls += 1
        self._called.set()
        try:
            self.sessions[session] += 1
            result = {"replica": self.name, "session": session, "count": self.sessions[session]}
            asked = said["params"].get("arguments", {})
            if asked.get("seconds"):
                await asyncio.sleep(asked["seconds"])
            if not asked.get("steps"):
                writer.write(self._result(said["id"], result, session))
                return
            writer.write(actors_message.format_response("200 OK", {**EVENTS, "Mcp-Session-Id": session}))
            for step in range(asked["steps"]):
                await self._event(writer, {"method": "notifications/progress", "params": {"progress": step + 1}})
                await asyncio.sleep(STEP_SECONDS)
            await self._event(writer, {"id": said["id"], "result": result})
            writer.write(actors_message.LAST_CHUNK)
            await writer.drain()
        finally:
            self._calls -= 1
            self._called.set()

    async def _stream(self, session: str, writer: asyncio.StreamWriter) -> None:
        writer.write(actors_message.format_response("200 OK", {**EVENTS, "Mcp-Session-Id": session}))
        number = 0
        while session in self.sessions and not writer.transport.is_closing() and not self._ending.is_set():
            number += 1
            said = {"method": "notifications/message", "params": {"level": "info", "data": f"{number} {PADDING}"}}
            await self._event(writer, said)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._event_seconds):
                    await self._ending.wait()
        if not writer.transport.is_closing():
            writer.write(actors_message.LAST_CHUNK)

    async def _event(self, writer: asyncio.StreamWriter, said: dict[str, typing.Any]) -> None:
        event = b"event: message\ndata: " + json.dumps({"jsonrpc": "2.0", **said}).encode() + b"\n\n"
        half = len(event) // 2
        writer.write(actors_message.format_chunk(event[:half]))
        await asyncio.sleep(PIECE_SECONDS)
        writer.write(actors_message.format_chunk(event[half:]))

    def _result(self, number: object, result: object, session: str) -> bytes:
        body = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
        last = {"Connection": "close"} if self._ending.is_set() else {}
        return actors_message.format_response("200 OK", {**JSON, "Mcp-Session-Id": session, **last}, body)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.rollout.replica")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="replica")
    parser.add_argument("--event-seconds", type=float, default=0.5)
    asked = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Server(asked.name, asked.event_seconds).run(asked.host, asked.port))


if __name__ == "__main__":
    main(sys.argv[1:])
