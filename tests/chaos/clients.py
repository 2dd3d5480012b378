"""The client fleet: sessions that call all the time, each through any proxy, and check their own counter.

A step is one call, in turn `execute` (which the replica logs before it runs, so that a call that ran twice shows) and
`counter` (which shows that the session, and no other, was met, and what it remembers). Each request goes to a proxy by
lot on a connection of its own, as through a balancer that knows nothing: when the connection is refused it tries the
next proxy, for then nothing can have run; whatever else goes wrong is an error, and no call is made again.
"""

import asyncio
import itertools
import json
import random
import time
import typing

import msgspec

from tests.kit import actors_message
from tests.proxy import fleet as fleets

CALL_SECONDS_MAX = 10.0  # longer than anybody is frozen
PAUSE_SECONDS = (0.05, 0.35)

_numbers = itertools.count(1)


class Failed(Exception):
    """A call that was answered by an error, or not at all."""


class Refused(Exception):
    """No proxy took the connection."""


class Call(msgspec.Struct, frozen=True):
    """One request, when it was under way (monotonic), and what came of it."""

    session: int
    proxy: int
    began_at: float
    ended_at: float
    error: str | None

    def overlaps(self, begin: float, end: float) -> bool:
        return self.began_at <= end and self.ended_at >= begin


class Session:
    """One client's session. `doors`: how to each proxy now; `calls`: every request; `anew_at`: its counter began again;
    `lost_at`: it was told 404."""

    def __init__(self, doors: list[tuple[str, int]], lots: random.Random) -> None:
        self.number = next(_numbers)
        self.calls: list[Call] = []
        self.anew_at: list[float] = []
        self.wrong: list[str] = []
        self.lost_at: float | None = None
        self.id = ""
        self.leaves = False
        self._doors = doors
        self._lots = lots
        self._count = 0
        self._uncertain = 0  # counter calls that may have run
        self._steps = itertools.count(1)

    async def run(self, end: asyncio.Event) -> None:
        """Open it, then call until the end, be it its own or that of all."""
        while not self.id and not self._ends(end):
            await self._open()
        while not self._ends(end) and self.lost_at is None:
            step = next(self._steps)
            if step % 2:
                await self._execute(f"{self.number}-{step}")
            else:
                await self._look_at_counter()
            await asyncio.sleep(self._lots.uniform(*PAUSE_SECONDS))

    def is_served_since(self, moment: float) -> bool:
        return bool(self.calls) and self.calls[-1].error is None and self.calls[-1].ended_at >= moment

    def _ends(self, end: asyncio.Event) -> bool:
        return self.leaves or end.is_set()

    async def meet_everybody(self) -> None:
        """One call through each proxy, so that each knows the session."""
        for proxy in range(len(self._doors)):
            await self._call("counter", first=proxy)
            self._count += 1

    async def open(self) -> None:
        """Open it; Failed when that does not work."""
        await self._open()
        if not self.id:
            raise Failed(f"no session: {self.calls[-1].error}")

    async def close(self) -> None:
        """End it, if it was not lost."""
        if self.lost_at is None and self.id:
            answer = await self._ask(b"", method="DELETE")
            if answer is None or not 200 <= answer.status < 300:
                raise Failed(f"session {self.number} could not be ended: {self.calls[-1].error}")

    async def _open(self) -> None:
        answer = await self._ask(fleets.message("initialize", 0, **fleets.INITIALIZE))
        if answer is None:
            await asyncio.sleep(0.1)
            return
        session_id = answer.field("mcp-session-id")
        assert session_id is not None, answer
        self.id = session_id
        await self._ask(fleets.message("notifications/initialized", None))

    async def _execute(self, call_id: str) -> None:
        said = await self._call("execute", call_id=call_id)
        if said is not None and said != f"{call_id} done":
            self.wrong.append(f"call {call_id} was answered {said!r}")

    async def _look_at_counter(self) -> None:
        said = await self._call("counter")
        if said is None:
            self._uncertain += 1
            return
        count = int(said)
        if count <= min(self._count, 1 + self._uncertain):
            self.anew_at.append(time.monotonic())
        elif not self._count + 1 <= count <= self._count + 1 + self._uncertain:
            self.wrong.append(f"counter said {count} after {self._count}")
        self._count, self._uncertain = count, 0

    async def _call(self, tool: str, *, first: int | None = None, **arguments: object) -> str | None:
        answer = await self._ask(fleets.message("tools/call", 1, name=tool, arguments=arguments), first=first)
        if answer is None:
            return None
        return typing.cast(str, fleets.result_of(answer)["content"][0]["text"])

    async def _ask(
        self, body: bytes, *, first: int | None = None, method: str = "POST"
    ) -> actors_message.Message | None:
        order = self._lots.sample(range(len(self._doors)), len(self._doors))
        if first is not None:
            order = [first]
        for proxy in order:
            began_at, error = time.monotonic(), None
            try:
                async with asyncio.timeout(CALL_SECONDS_MAX):
                    answer = await self._exchange(*self._doors[proxy], method, body)
                self._judge(answer)
                return answer
            except ConnectionRefusedError:
                continue
            except (OSError, Failed, TimeoutError) as failure:
                error = f"{type(failure).__name__}: {failure}"
                return None
            finally:
                self.calls.append(Call(self.number, proxy, began_at, time.monotonic(), error))
        now = time.monotonic()
        self.calls.append(Call(self.number, -1, now, now, "every proxy refused the connection"))
        return None

    def _judge(self, answer: actors_message.Message) -> None:
        if answer.status == 404:
            self.lost_at = time.monotonic()
        if answer.status >= 400:
            raise Failed(f"{answer.status} {answer.body[:200]!r}")
        if answer.body.startswith(b"{") and "error" in (said := json.loads(answer.body)):
            raise Failed(f"{said['error'].get('data', said['error'])}")

    async def _exchange(self, host: str, port: int, method: str, body: bytes) -> actors_message.Message:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            fields = {**fleets.ACCEPT, "Connection": "close"}
            if self.id:
                fields |= {"Mcp-Session-Id": self.id, "MCP-Protocol-Version": fleets.PROTOCOL}
            writer.write(actors_message.format_request(method, "/mcp", f"{host}:{port}", fields, body))
            answer = actors_message.take(await reader.read(-1), answers=method, at_end=True)
            if answer is None:
                raise Failed("the connection ended before a whole answer")
            return answer
        finally:
            writer.transport.abort()
