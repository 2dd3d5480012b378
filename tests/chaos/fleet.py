"""The fleet on a stage: sessions that are there all the time, some that come with each fault and leave after it."""

import asyncio
import pathlib
import random
import time

from tests import kit
from tests.chaos import clients, deeds, faults, report, stages

SESSIONS = 18
NEWCOMERS = 4  # per fault; on two proxies by lot, so that most faults meet one on each
BEFORE_SECONDS, AFTER_SECONDS = 1.0, 3.0
NEWCOMERS_SECONDS = 0.3  # after the harm was done


class Fleet:
    """See the module. `call_log`: what the replicas write before they run a call."""

    def __init__(
        self, stage: stages.Stage, call_log: pathlib.Path, seed: int, limits: report.Limits = report.LIMITS
    ) -> None:
        self._stage = stage
        self._call_log = call_log
        self._limits = limits
        self._lots = random.Random(seed)
        self._sessions: dict[int, clients.Session] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._end = asyncio.Event()

    async def begin(self) -> None:
        for _ in range(SESSIONS):
            session = self._new()
            await session.open()
            await session.meet_everybody()
            self._start(session)

    async def end(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks.values())

    def _new(self) -> clients.Session:
        session = clients.Session(self._stage.doors, random.Random(self._lots.random()))
        self._sessions[session.number] = session
        return session

    def _start(self, session: clients.Session) -> None:
        self._tasks[session.number] = asyncio.create_task(session.run(self._end))

    async def _dismiss(self, numbers: set[int]) -> None:
        """They have seen what they came for; and who was lost has no use."""
        for number in numbers:
            self._sessions[number].leaves = True
        await asyncio.gather(*(self._tasks.pop(number) for number in numbers))
        for number in numbers:
            await self._sessions.pop(number).close()

    async def suffer(self, store: str, fault: faults.Fault) -> report.Outcome:
        """One fault, from shortly before it to when all is well again."""
        at_home = await self._at_home(fault.replica)
        old_calls = {number: len(session.calls) for number, session in self._sessions.items()}
        old_ran = kit.logged_calls(self._call_log)
        await asyncio.sleep(BEFORE_SECONDS)
        self._stage.struck.clear()
        acting = asyncio.create_task(fault.act(self._stage))
        newcomers = await self._receive_newcomers(acting)
        span = await acting
        await self._settle(span)
        now = time.monotonic()
        calls = [c for n, session in self._sessions.items() for c in session.calls[old_calls.get(n, 0) :]]
        involved = report.involve(fault, span, calls, at_home=at_home, newcomers=newcomers)
        if faults.HOME in fault.concerns:
            involved |= await self._at_home(fault.replica) & newcomers
        ran = kit.logged_calls(self._call_log)[len(old_ran) :]
        again = set(ran) & set(old_ran)
        outcome = report.judge(
            fault,
            span,
            [call for call in calls if call.ended_at <= now],
            store=store,
            involved=involved,
            newcomers=newcomers,
            sessions=self._sessions,
            ran=[*ran, *again],
            limits=self._limits,
        )
        for session in self._sessions.values():
            session.wrong.clear()  # it has been told
        lost = {number for number, session in self._sessions.items() if session.lost_at is not None}
        await self._dismiss(newcomers | lost)
        return outcome

    async def _settle(self, span: deeds.Span) -> None:
        """A while; on a busy machine a longer one, until everybody has been served again or it is too late anyway."""
        await asyncio.sleep(AFTER_SECONDS)
        while time.monotonic() < span.servable + self._limits.recovered_seconds:
            waiting = [
                session
                for session in self._sessions.values()
                if session.lost_at is None and not session.is_served_since(span.servable)
            ]
            if not waiting:
                return
            await asyncio.sleep(0.1)

    async def _receive_newcomers(self, acting: asyncio.Task[deeds.Span]) -> set[int]:
        striking = asyncio.create_task(self._stage.struck.wait())
        await asyncio.wait({acting, striking}, return_when=asyncio.FIRST_COMPLETED)
        striking.cancel()
        await asyncio.sleep(NEWCOMERS_SECONDS)
        newcomers = [self._new() for _ in range(NEWCOMERS)]
        for session in newcomers:
            self._start(session)
        return {session.number for session in newcomers}

    async def _at_home(self, replica: int) -> set[int]:
        """The sessions on one replica, by the word of a proxy."""
        records = await asyncio.to_thread(self._stage.proxies[0].sessions)
        ids = {record["session_id"] for record in records if record["backend_pod"] == stages.pod(replica)}
        return {number for number, session in self._sessions.items() if session.id in ids}
