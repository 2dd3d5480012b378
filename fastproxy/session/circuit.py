"""Whether the store serves us, so that a request during an outage costs no deadline of its own.

Two states: *serving*, and *away* with the fault that made it so. Any operation that finds the store away trips the
circuit; from then on operations fail at once, and one task probes with back-off and jitter until a probe is served.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable

from fastproxy import errors

logger = logging.getLogger(__name__)

BACKOFF_SECONDS_MIN = 0.05
BACKOFF_SECONDS_MAX = 0.4  # with one probe's time on top, all is well within a second of the store's return


def jittered(seconds: float) -> float:
    """Half of it to all of it, so that a fleet does not come back in one stroke."""
    return seconds * random.uniform(0.5, 1.0)


class Circuit:
    """One per store. `probe` raises a StoreError while the store does not serve."""

    def __init__(self, probe: Callable[[], Awaitable[None]]) -> None:
        self.fault: errors.StoreError | None = errors.StoreUnavailable("session store has not answered yet")
        self._probe = probe
        self._probing: asyncio.Task[None] | None = None
        self._stopped = False
        self._told = False  # somebody who reads logs
        self._returned_at = float("-inf")

    def check(self) -> None:
        """StoreUnavailable: there is no use in asking the store."""
        if self.fault is not None:
            self.suspect()
            raise errors.StoreUnavailable(str(self.fault))

    def serve(self) -> None:
        """The store has answered."""
        if self._told:
            logger.info("store=serving")
            self._returned_at = time.monotonic()
        self._told = False
        self.fault = None

    @property
    def seconds_since_return(self) -> float:
        """From the end of the last outage; infinite when there was none."""
        return time.monotonic() - self._returned_at

    def trip(self, fault: errors.StoreError) -> None:
        """The store is away; find out when it is back."""
        if not self._told or fault.reason != (self.fault or fault).reason:
            logger.warning("store=away reason=%s error=%s", fault.reason, fault)
        self._told = True
        self.fault = fault
        self.suspect()

    def suspect(self) -> None:
        """The store may be away: probe it now."""
        if self._probing is None and not self._stopped:
            self._probing = asyncio.create_task(self._probe_until_served(), name="session-store-probe")

    async def stop(self) -> None:
        self._stopped = True
        probing = self._probing
        if probing is not None:
            probing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await probing

    async def _probe_until_served(self) -> None:
        pause_seconds = BACKOFF_SECONDS_MIN
        try:
            while not await self._is_served():
                await asyncio.sleep(jittered(pause_seconds))
                pause_seconds = min(2 * pause_seconds, BACKOFF_SECONDS_MAX)
            self.serve()
        finally:
            self._probing = None

    async def _is_served(self) -> bool:
        try:
            await self._probe()
        except errors.StoreError as error:
            self.trip(error)
            return False
        return True
