"""Who uses the proxies during a rollout: MCP clients, each with a session, a connection for calls and an open stream.

A `Client` calls at its own pace, whatever the last call took, on a connection that it keeps until it is told to close
it; then it takes a new one from the Service, as it does for its stream when that has ended. A call fails by any other
answer than the next number of its session's counter; it is never made again. A stream must end between two events, with
the final chunk of its body. A counter that begins again on another replica is a move: the session was opened anew there
by the proxy, unseen by its client. `Tally` is what all of them have seen.
"""

import asyncio
import collections
import itertools
import json
import random
import time

import msgspec

from tests.kit import actors_message
from tests.proxy import fleet as fleets
from tests.rollout import stage

READ_BYTES = 65_536
AGAIN_SECONDS = (0.0, 0.1)  # until a stream that has ended is opened again, as clients jitter it
CALL_SECONDS_MAX = 15.0


class Failed(Exception):
    """A call that was not answered as it must be."""


class Tally(msgspec.Struct):
    """What all clients have seen."""

    calls: int = 0
    streamed_calls: int = 0
    failures: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    streams_opened: int = 0
    streams_ended: int = 0
    streams_cut: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)
    events: int = 0
    moves: int = 0
    connections: int = 0
    slowest_call_seconds: float = 0.0
    gaps: list[float] = msgspec.field(default_factory=list)  # from a stream's end to the head of the next


class Client:
    """One MCP client."""

    def __init__(
        self, service: stage.Service, tally: Tally, lots: random.Random, *, keeps_connection: bool = True
    ) -> None:
        self._keeps_connection = keeps_connection
        self._service = service
        self._tally = tally
        self._lots = lots
        self._session = ""
        self._place: tuple[str, str] | None = None
        self.count = 0
        self.replicas: list[str] = []  # in order: whose it was
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._numbers = itertools.count(1)

    @property
    def session_id(self) -> str:
        return self._session

    async def open(self) -> None:
        """A session."""
        answer = await self._ask("POST", fleets.message("initialize", 0, **fleets.INITIALIZE))
        self._session = answer.field("mcp-session-id") or ""
        if not self._session:
            raise Failed(f"no session: {answer}")
        await self._ask("POST", fleets.message("notifications/initialized", None))

    async def close(self) -> None:
        """End the session."""
        await self._ask("DELETE", None)
        self.leave()

    async def is_unknown(self) -> bool:
        """Is the session told 404?"""
        answer = await self._ask("POST", fleets.message("tools/call", 0, name="count"))
        return answer.status == 404

    async def vanish(self) -> None:
        """Leave in the middle of a call, without a word."""
        if self._link is None:
            self._link = await self._service.connect()
        arguments = {"seconds": 0.2}
        body = fleets.message("tools/call", 0, name="count", arguments=arguments)
        self._link[1].write(actors_message.format_request("POST", "/mcp", "localhost", self._fields(), body))
        await asyncio.sleep(0.05)
        self.leave()

    # ---- calls

    async def call_until(self, end: asyncio.Event, *, every_seconds: float, steps: int = 0) -> None:
        """A call at each beat of its own."""
        loop = asyncio.get_running_loop()
        due = loop.time() + self._lots.uniform(0.0, every_seconds)
        while not end.is_set():
            await asyncio.sleep(max(0.0, due - loop.time()))
            due += every_seconds
            await self.call(steps=steps)

    async def call(self, *, steps: int = 0) -> None:
        """One call; what goes wrong is counted."""
        self._tally.calls += 1
        self._tally.streamed_calls += steps > 0
        began = time.monotonic()
        try:
            async with asyncio.timeout(CALL_SECONDS_MAX):
                await self._call(steps)
        except (OSError, Failed, TimeoutError, asyncio.IncompleteReadError, stage.NobodyReady) as error:
            self._tally.failures[f"{type(error).__name__}: {error}"] += 1
            self.leave()
        self._tally.slowest_call_seconds = max(self._tally.slowest_call_seconds, time.monotonic() - began)

    async def _call(self, steps: int) -> None:
        number = next(self._numbers)
        arguments = {"steps": steps} if steps else {}
        answer = await self._ask("POST", fleets.message("tools/call", number, name="count", arguments=arguments))
        events = answer.body.split(b"\n\n") if steps else [b"data: " + answer.body, b""]
        said = [json.loads(event.partition(b"data: ")[2]) for event in events[:-1]]
        if answer.status != 200 or events[-1] or len(said) != steps + 1 or "result" not in said[-1]:
            raise Failed(f"{answer.status} {answer.body[-300:]!r}")
        if said[-1]["id"] != number:
            raise Failed("somebody else's answer")
        self._note(said[-1]["result"])

    def _note(self, result: dict[str, object]) -> None:
        replica, count = str(result["replica"]), int(str(result["count"]))
        place = (replica, str(result["session"]))  # the server's own name of the session
        if place != self._place:
            if self._place is not None and count == 1:
                self._tally.moves += 1
                self.count = 0
            self._place = place
            self.replicas.append(replica)
        if count != self.count + 1:
            self.count = count
            raise Failed("the counter did not go on by one")
        self.count = count

    async def _ask(self, method: str, body: bytes | None) -> actors_message.Message:
        link = self._link
        if link is None or link[0].at_eof():
            self.leave()
            link = self._link = await self._service.connect()
            self._tally.connections += 1
        reader, writer = link
        writer.write(actors_message.format_request(method, "/mcp", "localhost", self._fields(), body))
        buffer = b""
        while (answer := actors_message.take(buffer, answers=method)) is None:
            data = await reader.read(READ_BYTES)
            if not data:
                raise Failed(f"the connection ended before the answer, which began {buffer[:60]!r}")
            buffer += data
        if answer.field("connection") == "close" or not self._keeps_connection:
            self.leave()
        return answer

    def _fields(self) -> dict[str, str]:
        own = {"Mcp-Session-Id": self._session, "MCP-Protocol-Version": fleets.PROTOCOL} if self._session else {}
        return {**fleets.ACCEPT, **own}

    def leave(self) -> None:
        """Close the connection; the session stays."""
        if self._link is not None:
            self._link[1].transport.abort()
            self._link = None

    # ---- the stream

    async def listen_until(self, end: asyncio.Event) -> None:
        """Hold a stream, and open another when it ends."""
        ended_at: float | None = None
        while not end.is_set():
            try:
                reader, writer = await self._service.connect()
            except (OSError, stage.NobodyReady) as error:
                self._tally.streams_cut[f"not opened: {error}"] += 1
                await asyncio.sleep(0.1)
                continue
            try:
                await self._listen(reader, writer, end, ended_at)
            finally:
                writer.transport.abort()
            ended_at = time.monotonic()
            await asyncio.sleep(self._lots.uniform(*AGAIN_SECONDS))

    async def _listen(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, end: asyncio.Event, ended_at: float | None
    ) -> None:
        fields = {**self._fields(), "Accept": "text/event-stream"}
        writer.write(actors_message.format_request("GET", "/mcp", "localhost", fields))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (OSError, asyncio.IncompleteReadError) as error:
            self._tally.streams_cut[f"no head: {error}"] += 1
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._tally.streams_cut[f"answered {head.splitlines()[0]!r}"] += 1
            return
        self._tally.streams_opened += 1
        if ended_at is not None:
            self._tally.gaps.append(time.monotonic() - ended_at)
        try:
            async with asyncio.TaskGroup() as group:
                reading = group.create_task(self._read_events(reader))
                leaving = group.create_task(_leave(end, reading))
                reading.add_done_callback(lambda _: leaving.cancel())
        except* (OSError, asyncio.IncompleteReadError, ValueError) as errors:
            self._tally.streams_cut[f"{errors.exceptions[0]!r}"[:100]] += 1

    async def _read_events(self, reader: asyncio.StreamReader) -> None:
        """To the final chunk, which must come between two events."""
        tail = b""
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            data = (await reader.readexactly(size + 2))[:-2]
            self._tally.events += data.count(b"\n\n")
            tail = (tail + data)[-2:]
        self._tally.streams_ended += 1
        if tail not in (b"", b"\n\n"):
            self._tally.streams_cut["in the middle of an event"] += 1


async def _leave(end: asyncio.Event, reading: asyncio.Task[None]) -> None:
    await end.wait()
    reading.cancel()
