"""Who the replicas are, while the proxy runs: those of the configuration, those that DNS names now, those that left.

    dns://          --Resolver, again and again--> Memory --+
    http://, statefulset:// ---------------------------------+--Backends.apply--> live, or leaving
    names of replicas --Names.refresh--> without an address: failed (a StatefulSet scaled down), moved: connections anew
    leaving and idle for a minute --> forgotten

New replicas get new sessions at once. Those that left get none and keep what they have; coming back they are live
again. A server that can't be asked changes nothing but `fault`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastproxy.config import backend
from fastproxy.proxy import names
from fastproxy.routing import backends, discovery

logger = logging.getLogger(__name__)

FIRST_SECONDS_MAX = 2.0  # that serving waits for the first answers
LOOK_SECONDS = 0.5  # between two looks at which names are due
FORGET_LOOK_SECONDS = 5.0

Lookup = Callable[[backend.DnsBackend], Awaitable[discovery.Found[backend.StaticBackend]]]
StaticBackends = tuple[backend.StaticBackend, ...]


class Discovery:
    """`find_replicas` asks DNS. `on_failure` hears of a replica that can't be reached, `drop` lets go of one that is
    forgotten, or says no."""

    def __init__(
        self,
        configured: tuple[backend.Backend, ...],
        find_replicas: Lookup,
        *,
        replicas: backends.Backends,
        hosts: names.Names,
        clock: Callable[[], float],
        start_task: Callable[..., asyncio.Task[Any]],
        on_failure: Callable[[backends.Replica, str], None],
        drop: Callable[[backends.Replica], bool],
    ) -> None:
        self._configured = configured
        self._find_replicas = find_replicas
        self._replicas = replicas
        self._names = hosts
        self._clock = clock
        self._start_task = start_task
        self._on_failure = on_failure
        self._drop = drop
        self._memories: dict[backend.DnsBackend, discovery.Memory[backend.StaticBackend]] = {}
        self._followers: dict[backend.DnsBackend, asyncio.Task[None]] = {}
        self._errors = 0
        self._remember()
        self._apply()

    @property
    def several(self) -> bool:
        """Is there more than one replica, or may there be at any time?"""
        return bool(self._memories) or len(self._replicas.all()) > 1

    def configure(self, configured: tuple[backend.Backend, ...]) -> None:
        """Other replicas from now on; with new names from their first answers on, so that nobody finds none."""
        self._configured = configured
        new = self._remember()
        if new:
            self._start_task(self._begin(new), name="discover replicas")
        else:
            self._apply()

    async def _begin(self, new: list[backend.DnsBackend]) -> None:
        asked = [self._start_task(self._ask(item), name="discover replicas") for item in new]
        await asyncio.wait(asked, timeout=FIRST_SECONDS_MAX)
        self._follow_names()
        self._apply()

    def _follow_names(self) -> None:
        for item in self._memories.keys() - self._followers.keys():
            self._followers[item] = self._start_task(self._follow(item), name="follow a name")

    def _remember(self) -> list[backend.DnsBackend]:
        """A memory for each name that is configured, and for no other; which are new."""
        wanted = [item for item in self._configured if isinstance(item, backend.DnsBackend)]
        for item in self._memories.keys() - set(wanted):
            del self._memories[item]
            if item in self._followers:
                self._followers.pop(item).cancel()
        new = [item for item in wanted if item not in self._memories]
        self._memories.update((item, discovery.Memory()) for item in new)
        return new

    @property
    def errors_total(self) -> int:
        """Questions that no server answered."""
        return self._errors + self._names.errors_total

    @property
    def fault(self) -> str | None:
        """Why the replicas may not be those that there are; None when all is known."""
        faults = [f"{item}: {memory.error}" for item, memory in self._memories.items() if memory.error is not None]
        if self._names.fault is not None:
            faults.append(self._names.fault)
        return "; ".join(faults) or None

    async def open(self) -> None:
        """Begin; wait a little for the first answers, so that the first clients find replicas."""
        first = [self._start_task(self._ask(item), name="discover replicas") for item in self._memories]
        ordinals = [item for item in self._configured if isinstance(item, backend.StatefulSetBackend)]
        first += [
            self._start_task(self._check_host(static.host), name="resolve a replica")
            for item in ordinals
            for static in item.expand()
        ]
        if first:
            await asyncio.wait(first, timeout=FIRST_SECONDS_MAX)
        self._follow_names()
        self._start_task(self._check_hosts(), name="check the names of replicas")
        self._start_task(self._forget_idle(), name="forget replicas")

    # ---- which replicas there are

    async def _follow(self, item: backend.DnsBackend) -> None:
        """For ever: ask again when the answer is too old."""
        memory = self._memories[item]
        while True:
            await asyncio.sleep(max(memory.ask_at - self._clock(), 0.01))
            await self._ask(item)

    async def _ask(self, item: backend.DnsBackend) -> None:
        memory = self._memories[item]
        was_ill = memory.error is not None
        try:
            found = await self._find_replicas(item)
        except names.LookupFailed as failure:
            self._errors += 1
            if memory.fail(str(failure), self._clock()):
                logger.warning("discovery fails, what was known stays: name=%s reason=%s", item, failure)
            return
        if was_ill:
            logger.info("discovery works again: name=%s", item)
        if memory.learn(found, self._clock()):
            logger.info("discovered: name=%s replicas=%d", item, len(memory.items))
            self._apply()

    def _apply(self) -> None:
        self._replicas.apply(static for item in self._configured for static in self._expand(item))

    def _expand(self, item: backend.Backend) -> StaticBackends:
        if isinstance(item, backend.DnsBackend):
            return self._memories[item].items
        return item.expand() if isinstance(item, backend.StatefulSetBackend) else (item,)

    # ---- whether their names mean something

    async def _check_hosts(self) -> None:
        """For ever: ask for the names of the replicas when their answers are old. One that hangs holds up no other."""
        while True:
            for host in {replica.host for replica in self._replicas.all()}:
                if self._names.is_due(host):
                    self._start_task(self._check_host(host), name="resolve a replica")
            await asyncio.sleep(LOOK_SECONDS)

    async def _check_host(self, host: str) -> None:
        await self._names.refresh(host)
        named = not self._names.is_missing(host)
        for replica in self._replicas.all():
            if replica.host == host and replica.named != named:
                # one that has its name again is probed, and lives once it answers
                self._replicas.set_named(replica, named)
                if not named:
                    self._on_failure(replica, f"{replica.url}: {self._names.explain(host)}")

    # ---- those that nobody will ask for again

    async def _forget_idle(self) -> None:
        while True:
            await asyncio.sleep(FORGET_LOOK_SECONDS)
            for replica in self._replicas.forget_idle(self._clock(), self._drop):
                logger.info("replica forgotten: backend=%s", replica.url)
                if all(other.host != replica.host for other in self._replicas.all()):
                    self._names.forget(replica.host)
