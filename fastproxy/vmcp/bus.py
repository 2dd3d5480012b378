"""Words between the processes of a fleet, and who waits for one.

The store's own connections carry them (Redis pub/sub): whatever reaches the store reaches every replica, so that no
replica needs an address of its own that the others can connect to, nor credentials towards them. With `memory:` there
is one process, and words come straight back. While the store is away nothing is carried; who waits has a deadline.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.session import store
from fastproxy.vmcp import words

logger = logging.getLogger(__name__)

MESSAGE_BYTES_MAX = 4 << 20  # a subscriber that lags behind 8 MiB is cut off by Redis


class Bus:
    """This process's end. `replica` is its name, new with each start."""

    def __init__(self, carrier: store.Bus, *, start_task: Callable[..., asyncio.Task[Any]]) -> None:
        self.replica = uuid.uuid4().hex
        self._carrier = carrier
        self._start_task = start_task
        self._hear: dict[type, Callable[[Any], object]] = {}
        carrier.listen(self.replica, self._heard)

    def on(self, kind: type, act: Callable[[Any], object]) -> None:
        """What is done about words of a kind; quick."""
        self._hear[kind] = act

    def tell(self, word: words.Any, to: str | None = None) -> None:
        """To all, ourselves too, or to one replica; nobody waits whether it is heard."""
        self._start_task(self._tell(word, to), name="tell the fleet")

    async def reach(self, word: words.Any, to: str) -> bool:
        """To one replica. False: it is gone. StoreUnavailable: nobody knows."""
        return await self._carrier.tell(words.ENCODER.encode(word), to=to)

    async def _tell(self, word: words.Any, to: str | None) -> None:
        try:
            await self._carrier.tell(words.ENCODER.encode(word), to=to)
        except errors.StoreError as error:
            logger.debug("the fleet was not told: reason=%s", error)

    def _heard(self, message: bytes) -> None:
        try:
            word = words.DECODER.decode(message)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            logger.debug("a word of another release: %s", error)
            return
        act = self._hear.get(type(word))
        if act is not None:
            act(word)
