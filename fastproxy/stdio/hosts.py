"""Who gets which process: one each, one for all, or some for all (`--stdio-mode`).

    per-session   a PrivateHost for every client           `processes_max` bounds how many clients there are
    shared        one SharedHost                           begun with the first client
    pool          SharedHosts, the one with the fewest     another one is begun while all have clients and there may be
                  clients gets the next                    more

A shared process ends once it has had no client for `idle_seconds`.
"""

import asyncio

from fastproxy.stdio import host, shared, supply


class Hosts:
    """All hosts of one program."""

    def __init__(self, mode: str, source: supply.Supply, *, shared_max: int, idle_seconds: float) -> None:
        self._mode = mode
        self._source = source
        self._shared_max = shared_max if mode == "pool" else 1
        self._idle_seconds = idle_seconds
        self._shared: list[shared.SharedHost] = []
        self._opening: asyncio.Task[shared.SharedHost] | None = None
        self._idle_since: dict[shared.SharedHost, float] = {}

    async def attach(self, member: host.Member) -> host.Host:
        """A host for a new client. supply.NoRoom, spawner.NotStarted, host.Down, process.Ended."""
        if self._mode == "per-session":
            private = host.PrivateHost(self._source, member)
            await private.open()
            return private
        chosen = await self._choose()
        chosen.attach(member)
        self._idle_since.pop(chosen, None)
        return chosen

    async def _choose(self) -> shared.SharedHost:
        while True:
            free = [known for known in self._shared if not known.members]
            if free:
                return free[0]
            if len(self._shared) >= self._shared_max:
                return min(self._shared, key=lambda known: len(known.members))
            if self._opening is None:  # who comes meanwhile waits for the same one
                self._opening = self._source.start_task(self._begin(), name="start a shared stdio server")
            await asyncio.shield(self._opening)

    async def _begin(self) -> shared.SharedHost:
        begun = shared.SharedHost(self._source)
        try:
            await begun.open()
        except BaseException:
            await begun.close("it could not be begun", at_once=True)
            raise
        finally:
            self._opening = None
        self._shared.append(begun)
        return begun

    async def end_idle(self, now: float) -> None:
        """Ask now and then: shared processes that nobody wants any more are ended."""
        for known in list(self._shared):
            if known.members:
                self._idle_since.pop(known, None)
            elif now - self._idle_since.setdefault(known, now) >= self._idle_seconds:
                self._shared.remove(known)
                del self._idle_since[known]
                await known.close("idle")

    async def close(self, reason: str) -> None:
        """No shared process is left; private ones are their sessions'."""
        shared_ones, self._shared = self._shared, []
        await asyncio.gather(*(known.close(reason) for known in shared_ones))
