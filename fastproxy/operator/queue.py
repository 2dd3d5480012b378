"""Work that waits: each key at most once, at most once at a time, and after a failure later and later.

A key that is added while it is worked on is worked on once more afterwards, never twice at once: a hundred events about
one object are one more look at it. Back-off belongs to the key, so a broken object holds nobody up. Time is the loop's.
"""

import asyncio
import random
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

FIRST_SECONDS, LAST_SECONDS = (
    0.25,
    120.0,
)  # a server that restarts is back in between; one that is broken is not stormed


class WorkQueue(Generic[Key]):
    """`take` a key, work, then say `done` or `failed`."""

    def __init__(self) -> None:
        self._ready: deque[Key] = deque()
        self._waiting: set[Key] = set()  # in _ready
        self._taken: set[Key] = set()
        self._again: set[Key] = set()  # added while taken
        self._failures: dict[Key, int] = {}
        self._timers: dict[Key, asyncio.TimerHandle] = {}
        self._woken = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._taken)

    @property
    def delayed(self) -> int:
        """Keys that have failed and wait for their time."""
        return len(self._timers)

    def add(self, key: Key, *, edited: bool = False) -> None:
        """Have a look at it soon. One that has failed waits for its time, unless its owner has edited it."""
        if edited:
            self._failures.pop(key, None)
        timer = self._timers.get(key)
        if timer is not None:
            if not edited:
                return
            timer.cancel()
            del self._timers[key]
        if key in self._taken:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._woken.set()

    async def take(self) -> Key:
        while not self._ready:
            self._woken.clear()
            await self._woken.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._taken.add(key)
        return key

    def done(self, key: Key) -> None:
        """It is as it should be."""
        self._failures.pop(key, None)
        self._release(key)

    def failed(self, key: Key) -> float:
        """It is not; it will be tried again, after the seconds that are returned."""
        count = self._failures[key] = self._failures.get(key, 0) + 1
        seconds = min(FIRST_SECONDS * 2.0 ** min(count - 1, 30), LAST_SECONDS) * random.uniform(0.75, 1.25)
        again = key in self._again
        self._again.discard(key)
        self._taken.discard(key)
        if again and count == 1:
            self.add(key)
            return 0.0
        loop = asyncio.get_running_loop()
        self._timers[key] = loop.call_later(seconds, self._ripen, key)
        return seconds

    def _ripen(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _release(self, key: Key) -> None:
        self._taken.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
