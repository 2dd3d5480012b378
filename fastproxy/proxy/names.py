"""Addresses of hosts, remembered: who connects must neither wait for DNS nor lose a replica because DNS is ill.

    find(host)     known and fresh -> at once; known and old -> asked again, but waited for only a moment; else awaited
    again(host)    a connect has failed: asked anew, a moment after the last time at the soonest
    refresh(host)  asked when it is time, for hosts that are in use

Of a name that has just gone the last addresses are given for half a minute more, until a connect to them fails: a pod
that is told to end loses its name first, and serves its sessions for as long as its grace lasts.

One question per name at a time, however many wait for it. What an answer, a denial or a failure means is decided in
routing/discovery.py; `ask` is the machine's getaddrinfo (`ask_system`), or a Resolver.
"""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable

from fastproxy import errors
from fastproxy.routing import discovery

logger = logging.getLogger(__name__)

WAIT_SECONDS_MAX = 5.0  # for a name of which nothing is known
AGAIN_SECONDS_MIN = 0.1  # between two questions because of failed connects: a dead pod may have had many sessions
AGAIN_SECONDS_MAX = 1.0  # for a name whose addresses take no connection
STALE_SECONDS_MAX = 0.2  # for a name whose old addresses may serve; a healthy server answers within milliseconds
NO_SUCH_NAME = {socket.EAI_NONAME, socket.EAI_NODATA, socket.EAI_ADDRFAMILY}


class LookupFailed(errors.FastproxyError):
    """Nobody can tell whether the name has addresses."""

    reason = "lookup_failed"


Ask = Callable[[str], Awaitable[discovery.Found[str]]]


class Names:
    """`on_moved(host)` is called when a host has none of the addresses that it had: connections to those lead nowhere.
    A name that stands for many addresses, of which each answer shows some, may change all the time without that."""

    def __init__(
        self,
        ask: Ask,
        *,
        clock: Callable[[], float],
        start_task: Callable[..., asyncio.Task[None]],
        on_moved: Callable[[str], None],
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._start_task = start_task
        self._on_moved = on_moved
        self._known: dict[str, discovery.Memory[str]] = {}
        self._asking: dict[str, tuple[asyncio.Task[None], float]] = {}  # and since when
        self._ill: set[str] = set()
        self.errors_total = 0

    async def find(self, host: str) -> tuple[str, ...]:
        """The addresses that a host has, as far as can be told within a moment."""
        if is_address(host):
            return (host,)
        memory = self._memory(host)
        now = self._clock()
        if now >= memory.ask_at:
            usable = memory.items or memory.parting(now)
            patience = AGAIN_SECONDS_MAX if memory.known else WAIT_SECONDS_MAX
            await self._wait(host, STALE_SECONDS_MAX if usable else patience)
        return memory.items or memory.parting(self._clock())

    async def again(self, host: str) -> tuple[str, ...]:
        """The addresses, after those known have failed."""
        if is_address(host):
            return (host,)
        memory = self._memory(host)
        last = memory.asked_at
        await asyncio.sleep(last + AGAIN_SECONDS_MIN - self._clock())
        if memory.asked_at == last:  # else somebody who waited too has asked
            # Whoever has just failed to tell will not do so at once, and the session may be served elsewhere meanwhile.
            await self._wait(host, AGAIN_SECONDS_MAX if memory.error is None else STALE_SECONDS_MAX)
        if not memory.items:
            memory.part()
        return memory.items

    async def refresh(self, host: str) -> None:
        """Ask, if it is time."""
        if not is_address(host) and self._clock() >= self._memory(host).ask_at:
            await self._wait(host, WAIT_SECONDS_MAX)

    def is_due(self, host: str) -> bool:
        """Is it time to ask again, and nobody does?"""
        return not is_address(host) and host not in self._asking and self._clock() >= self._memory(host).ask_at

    def is_missing(self, host: str) -> bool:
        """Has it been asked for, and there is no address: denied beyond doubt, or never told?"""
        memory = self._known.get(host)
        return memory is not None and not memory.items and (memory.known or memory.error is not None)

    @property
    def fault(self) -> str | None:
        """What the names suffer from that nobody can tell the addresses of."""
        for host in sorted(self._ill):
            more = f", nor can {len(self._ill) - 1} more" if len(self._ill) > 1 else ""
            return f"{host} can't be resolved{more}: {self._known[host].error}"
        return None

    def explain(self, host: str) -> str:
        """Why it has no addresses."""
        memory = self._known.get(host)
        if memory is not None and memory.error is not None:
            return f"its name could not be resolved: {memory.error}"
        return "its name has no address"

    def forget(self, host: str) -> None:
        """Nobody uses the host any more."""
        self._known.pop(host, None)
        self._ill.discard(host)

    def _memory(self, host: str) -> discovery.Memory[str]:
        return self._known.setdefault(host, discovery.Memory())

    async def _wait(self, host: str, seconds: float) -> None:
        """At most so long from when the question was asked: who comes later has no better hope of an answer."""
        if host not in self._asking:
            looking = self._start_task(self._look(host, self._memory(host)), name="resolve a name")
            self._asking[host] = (looking, self._clock())
        asking, since = self._asking[host]
        await asyncio.wait({asking}, timeout=max(0.0, since + seconds - self._clock()))

    async def _look(self, host: str, memory: discovery.Memory[str]) -> None:
        try:
            found = await self._ask(host)
        except LookupFailed as failure:
            self.errors_total += 1
            memory.fail(str(failure), self._clock())
            if host in self._known:
                if not self._ill:  # one line per outage, not per name
                    logger.warning("names can't be resolved, last addresses stay: name=%s reason=%s", host, failure)
                self._ill.add(host)
        else:
            if host in self._ill:
                self._ill.discard(host)
                if not self._ill:
                    logger.info("names are resolved again")
            had = memory.items
            if memory.learn(found, self._clock()) and had and memory.items and not set(had) & set(memory.items):
                self._on_moved(host)
        finally:
            del self._asking[host]


def is_address(host: str) -> bool:
    """Is it a literal address, with which there is nothing to ask?"""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def ask_system(host: str) -> discovery.Found[str]:
    """The machine's own answer, by its hosts file, nsswitch.conf and resolv.conf; it tells no TTL."""
    try:
        rows = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno in NO_SUCH_NAME:
            return discovery.Found(())
        raise LookupFailed(str(error.strerror or error)) from error
    except (OSError, UnicodeError) as error:
        raise LookupFailed(str(error)) from error
    return discovery.Found(tuple(dict.fromkeys(str(row[4][0]) for row in rows)), discovery.KEPT_SECONDS_MAX)
