"""Running programs to be had: one that waits warm, or one that is started now; never more than there may be.

    take -> a spare, if one waits, else a new process          a taken or dead spare is replaced, with a back-off
    NoRoom: as many run as may                                  a spare gives way to one that is wanted

A spare has not been spoken to, so that it will speak whichever era it is spoken to in first.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.stdio import process, spawner

logger = logging.getLogger(__name__)

BACK_OFF_SECONDS = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_SECONDS = 10.0  # a program that has lived so long starts with the shortest wait again

StartTask = Callable[..., asyncio.Task[Any]]


class NoRoom(errors.FastproxyError):
    """As many programs run as may."""

    reason = "too_many_processes"


class Program(msgspec.Struct, frozen=True):
    """What is started; `environment` is all of it."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: str | None = None
    name: str = "stdio server"


class BackOff:
    """How long to wait before a program that keeps ending is started again."""

    def __init__(self) -> None:
        self._tries = 0

    def seconds(self, lived_seconds: float) -> float:
        """After a life so long."""
        self._tries = 0 if lived_seconds >= HEALTHY_SECONDS else self._tries
        wait = BACK_OFF_SECONDS[min(self._tries, len(BACK_OFF_SECONDS) - 1)]
        self._tries += 1
        return wait


class Supply:
    """All processes of one program."""

    def __init__(
        self,
        program: Program,
        *,
        processes_max: int,
        spares: int,
        line_bytes_max: int,
        start_task: StartTask,
    ) -> None:
        self.program = program
        self.start_task = start_task
        self.started = 0
        self.ended_badly = 0
        self._keeper = spawner.Spawner()
        self._processes_max = processes_max
        self._spares_wanted = spares
        self._line_bytes_max = line_bytes_max
        self._running: set[process.Process] = set()
        self._starting = 0
        self._spares: list[process.Process] = []
        self._missing = asyncio.Event()
        self._lost_after: float | None = None  # for how long a spare had lived that has ended just now
        self._closing = False

    @property
    def running(self) -> int:
        """Processes that live, spares included."""
        return len(self._running)

    @property
    def spares(self) -> int:
        """Of those, the ones that wait to be taken."""
        return len(self._spares)

    async def run(self) -> None:
        """Keep the spares; for ever. One that ends by itself is replaced after a wait, which grows."""
        back_off = BackOff()
        while self._spares_wanted:
            self._missing.clear()
            while len(self._spares) < self._spares_wanted and self._has_room():
                if self._lost_after is not None:
                    lived, self._lost_after = self._lost_after, None
                    await asyncio.sleep(back_off.seconds(lived))
                    continue
                try:
                    self._keep(await self._start())
                except (spawner.NotStarted, process.Ended) as error:
                    logger.warning("a spare could not be started: reason=%s", error)
                    self._lost_after = 0.0
            await self._missing.wait()

    def _keep(self, spare: process.Process) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()

        def ended() -> None:
            if spare in self._spares:
                self._spares.remove(spare)
                self._lost_after = loop.time() - began
                logger.warning("a spare has ended: reason=%s", spare.explain())
            self._missing.set()

        spare.on_end = ended
        self._spares.append(spare)

    def _has_room(self) -> bool:
        return len(self._running) + self._starting < self._processes_max and not self._closing

    async def take(self) -> process.Process:
        """A process that nobody has spoken to. NoRoom, NotStarted."""
        while self._spares:
            spare = self._spares.pop()
            self._missing.set()
            if spare.running:
                spare.on_end = lambda: None
                return spare
        if not self._has_room():
            raise NoRoom(f"{self._processes_max} processes run already (--stdio-max-processes)")
        return await self._start()

    async def _start(self) -> process.Process:
        program = self.program
        self._starting += 1
        try:
            child = await self._keeper.start(program.command, cwd=program.cwd, environment=program.environment)
            started = process.Process(child, self._keeper, name=program.name, line_bytes_max=self._line_bytes_max)
            self._running.add(started)
            self.started += 1
            started.ended.add_done_callback(lambda _: self._ended(started))
            await started.open()
        finally:
            self._starting -= 1
        return started

    def _ended(self, gone: process.Process) -> None:
        self._running.discard(gone)
        self._missing.set()
        if not gone.reason and gone.ended.result() != 0:
            self.ended_badly += 1

    async def kill(self) -> None:
        """End them all at once."""
        self._closing = True
        self._keeper.abandon()
        await self._keeper.close()

    async def close(self, reason: str) -> None:
        """End them all, each in the time that it may take; then nothing is left."""
        self._closing = True
        await asyncio.gather(*(one.end(reason) if one.running else one.ended for one in list(self._running)))
        await self._keeper.close()
