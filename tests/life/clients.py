"""Short lives of many sessions: opened, used through any proxy, listened to, and then ended, left or come back to late.

A `Life` is one session's; its fate is drawn by lot. What must not happen is a failure in the tally: a call of a live
session that is not answered by the next number of its counter, a dead session that is not told 404.
"""

import asyncio
import collections
import random

import msgspec

from tests.rollout import stage, traffic

CALLS = 4
PAUSE_SECONDS = (0.05, 0.4)
LISTEN_SECONDS = (0.2, 1.0)
# What becomes of a session, and how often. Most clients end their sessions or just leave; some come back too late, and
# some vanish in the middle of a call.
FATES = {"ended": 45, "left": 40, "late": 5, "vanished": 10}


class Lives(msgspec.Struct):
    """What became of all of them."""

    begun: int = 0
    fates: collections.Counter[str] = msgspec.field(default_factory=collections.Counter)


class Life:
    """One session."""

    def __init__(self, service: stage.Service, tally: traffic.Tally, lots: random.Random, ttl_seconds: float) -> None:
        self._client = traffic.Client(service, tally, lots)
        self._tally = tally
        self._lots = lots
        self._ttl_seconds = ttl_seconds

    async def live(self, lives: Lives) -> None:
        """From `initialize` to its fate; a failure is counted in the tally."""
        lives.begun += 1
        fate = self._lots.choices(list(FATES), list(FATES.values()))[0]
        try:
            await self._client.open()
            await self._use()
            await self._meet(fate)
            lives.fates[fate] += 1
        except (OSError, traffic.Failed, TimeoutError, stage.NobodyReady) as error:
            self._tally.failures[f"{type(error).__name__}: {error}"] += 1
        finally:
            self._client.leave()

    async def _use(self) -> None:
        for number in range(CALLS):
            await self._client.call(steps=2 * (number == CALLS - 1))
            if self._lots.random() < 0.5:
                self._client.leave()  # the next call may meet another proxy
            await asyncio.sleep(self._lots.uniform(*PAUSE_SECONDS))
        if self._lots.random() < 0.3:
            end = asyncio.Event()
            listening = asyncio.create_task(self._client.listen_until(end))
            await asyncio.sleep(self._lots.uniform(*LISTEN_SECONDS))
            end.set()
            await listening

    async def _meet(self, fate: str) -> None:
        if fate == "ended":
            await self._client.close()
        elif fate == "late":
            await asyncio.sleep(1.5 * self._ttl_seconds)  # expired, and the proxies have had time to notice
            if not await self._client.is_unknown():
                raise traffic.Failed("a session whose time was over was served")
        elif fate == "vanished":
            await self._client.vanish()
