"""Tells the fleet how many sessions of each replica this proxy knows, and hears it of the others, through the store.

One small operation: each second in which our counts have changed, else every ten. No request waits for it; while the
store is away the last news hold.
"""

import asyncio
import random
import uuid
from collections.abc import Callable

from fastproxy import errors
from fastproxy.routing import backends, placements
from fastproxy.session import store

NEWS_SECONDS = 1.0
BEAT_SECONDS = 10.0  # without news: that we live; and we hear the others


class Census:
    """`count_of` knows our own sessions on a replica, by its index."""

    def __init__(self, sessions: store.SessionStore, count_of: Callable[[int], int]) -> None:
        self._sessions = sessions
        self._count_of = count_of
        self._member = uuid.uuid4().hex[:12]
        self._placements = placements.Placements()

    def elsewhere(self, replica: backends.Replica, count: int) -> int:
        """Sessions on it that other proxies know, beside our `count`."""
        return self._placements.elsewhere(replica.url, count)

    async def run(self, replicas: backends.Backends) -> None:
        """For ever."""
        loop = asyncio.get_running_loop()
        told: dict[str, int] = {}
        told_at = loop.time() - BEAT_SECONDS
        while True:
            await asyncio.sleep(NEWS_SECONDS * random.uniform(0.9, 1.1))
            counts = {replica.url: self._count_of(replica.index) for replica in replicas.all()}
            if not self._sessions.available or (counts == told and loop.time() - told_at < BEAT_SECONDS):
                continue
            try:
                lines = await self._sessions.share_news(
                    self._member, self._placements.news(counts), self._placements.gone(loop.time())
                )
            except errors.StoreError:
                continue  # it says so itself
            lines.pop(self._member, None)
            self._placements.hear(lines, counts, loop.time())
            told, told_at = counts, loop.time()
