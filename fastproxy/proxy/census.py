"""Tells the fleet how many sessions of each replica this proxy knows, and hears it of the others, through the store.

One small operation: at once when we begin; after sixteen sessions that we have opened, but twenty times a second at the
most; each second in which our counts have changed; else every ten. No request waits for it; while the store is away the
last news hold.
"""

import asyncio
import contextlib
import random
import uuid
from collections.abc import Callable, Mapping

from fastproxy import errors
from fastproxy.routing import backends, placements
from fastproxy.session import store

NEWS_SECONDS = 1.0
BEAT_SECONDS = 10.0  # without news: that we live; and we hear the others
# What is placed between two news is a guess of the others'. So few are 1.6 % of a thousand, and the operation costs as
# much as storing one session.
OPENINGS_MAX = 16
BURST_SECONDS = 0.05  # between two news, however many are opened


class Census:
    """A backends.Fleet. `count_of` knows our own sessions on a replica, by its index."""

    def __init__(self, sessions: store.SessionStore, count_of: Callable[[int], int]) -> None:
        self._sessions = sessions
        self._count_of = count_of
        self._member = uuid.uuid4().hex[:12]
        self._placements = placements.Placements()
        self._openings = 0
        self._many = asyncio.Event()

    def elsewhere(self, replica: backends.Replica, count: int) -> int:
        """Sessions on it that other proxies know, beside our `count`."""
        return self._placements.elsewhere(replica.url, count)

    def session_opened(self) -> None:
        """One more has been placed."""
        self._openings += 1
        if self._openings >= OPENINGS_MAX:
            self._many.set()

    async def run(self, replicas: backends.Backends) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        told: dict[str, int] = {}
        told_at = loop.time() - BEAT_SECONDS
        while True:
            counts = {replica.url: self._count_of(replica.index) for replica in replicas.all()}
            if self._sessions.available and (counts != told or loop.time() - told_at >= BEAT_SECONDS):
                self._openings = 0
                if await self._share(counts):
                    told, told_at = counts, loop.time()
            self._many.clear()
            await asyncio.sleep(BURST_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEWS_SECONDS * random.uniform(0.85, 1.05)):
                    await self._many.wait()

    async def _share(self, counts: Mapping[str, int]) -> bool:
        loop = asyncio.get_running_loop()
        try:
            lines = await self._sessions.share_news(
                self._member, self._placements.news(counts), self._placements.gone(loop.time())
            )
        except errors.StoreError:
            return False  # it says so itself
        lines.pop(self._member, None)
        self._placements.hear(lines, counts, loop.time())
        return True
