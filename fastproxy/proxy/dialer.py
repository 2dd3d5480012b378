"""Connections to replicas: an idle one, or a new one to one of the addresses that the replica's name has now.

A name is resolved when it is needed, remembered for 5 s (1 s when it has no address), and resolved again at once when
a connect to a remembered address fails: a pod that restarts comes back under its name with another address.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable

from fastproxy import errors
from fastproxy._ext import core

RESOLVED_SECONDS_MAX = 5.0
UNRESOLVED_SECONDS_MAX = 1.0


class Unreachable(errors.FastproxyError):
    """No connection to this replica: its name has no address, or no address takes one."""

    reason = "backend_unreachable"


class Dialer:
    """Hands out connections in hand. `connects` counts (url, outcome)."""

    def __init__(self, reactor: core.Reactor, *, clock: Callable[[], float]) -> None:
        self._reactor = reactor
        self._clock = clock
        self._resolved: dict[str, tuple[float, list[str]]] = {}
        self.connects: dict[tuple[str, str], int] = {}

    async def connect(self, endpoint: core.Endpoint, *, fresh: bool = False) -> core.Upstream:
        """A connection to the replica. `fresh`: not one that has waited. Unreachable when there is none."""
        if not fresh:
            spare = endpoint.take_spare()
            if spare is not None:
                return spare
        addresses, remembered = await self._resolve(endpoint.hostname)
        try:
            return await self._try_each(endpoint, addresses)
        except Unreachable:
            if not remembered:
                raise
            self._resolved.pop(endpoint.hostname, None)
            again, _ = await self._resolve(endpoint.hostname)
            if set(again) == set(addresses):
                raise
            return await self._try_each(endpoint, again)

    async def address(self, endpoint: core.Endpoint) -> str:
        """A literal address of the replica. Unreachable when its name has none."""
        addresses, _ = await self._resolve(endpoint.hostname)
        if not addresses:
            raise Unreachable(f"{endpoint.url}: its name has no address")
        return addresses[0]

    async def _try_each(self, endpoint: core.Endpoint, addresses: list[str]) -> core.Upstream:
        last = "its name has no address"
        for address in addresses:
            try:
                upstream = await self._reactor.connect(endpoint, address)
            except core.ConnectFailed as error:
                last = f"{address}: {error}"
                self._count(endpoint.url, "failed")
                continue
            self._count(endpoint.url, "connected")
            return upstream
        raise Unreachable(f"{endpoint.url}: {last}")

    def _count(self, url: str, outcome: str) -> None:
        self.connects[url, outcome] = self.connects.get((url, outcome), 0) + 1

    async def _resolve(self, hostname: str) -> tuple[list[str], bool]:
        """Literal addresses of a name, and whether they come from memory."""
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(hostname))], False
        known = self._resolved.get(hostname)
        if known is not None and self._clock() < known[0]:
            return known[1], True
        try:
            found = await asyncio.get_running_loop().getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            found = []
        addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
        seconds = RESOLVED_SECONDS_MAX if addresses else UNRESOLVED_SECONDS_MAX
        self._resolved[hostname] = (self._clock() + seconds, addresses)
        return addresses, False
