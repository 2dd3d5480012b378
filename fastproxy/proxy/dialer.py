"""Connections to replicas: an idle one, or a new one to one of the addresses that the replica's name has now.

Which addresses those are, names.py knows. When none of them takes a connection the name is asked for again at once: a
pod that restarts comes back under its name with another address.
"""

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import reply
from fastproxy.proxy import names


class Unreachable(errors.FastproxyError):
    """No connection to this replica: its name has no address, or no address takes one."""

    reason = "backend_unreachable"


class Dialer:
    """Hands out connections in hand. `connects` counts (url, outcome)."""

    def __init__(self, reactor: core.Reactor, hosts: names.Names) -> None:
        self._reactor = reactor
        self._names = hosts
        self.connects: dict[tuple[str, str], int] = {}

    async def connect(self, endpoint: core.Endpoint, *, fresh: bool = False) -> core.Upstream:
        """A connection to the replica. `fresh`: not one that has waited. Unreachable when there is none."""
        if not fresh:
            spare = endpoint.take_spare()
            if spare is not None:
                return spare
        addresses = await self._names.find(endpoint.hostname)
        try:
            return await self._try_each(endpoint, addresses)
        except Unreachable:
            others = [found for found in await self._names.again(endpoint.hostname) if found not in addresses]
            if not others:
                raise
            return await self._try_each(endpoint, others)

    async def address(self, endpoint: core.Endpoint) -> str:
        """A literal address of the replica. Unreachable when its name has none."""
        addresses = await self._names.find(endpoint.hostname)
        if not addresses:
            raise self._nameless(endpoint)
        return addresses[0]

    def forget(self, url: str) -> None:
        """The replica is no longer known: its counts would stand for nothing, and pile up."""
        self.connects = {key: count for key, count in self.connects.items() if key[0] != url}

    async def _try_each(self, endpoint: core.Endpoint, addresses: list[str] | tuple[str, ...]) -> core.Upstream:
        last: Unreachable | None = None
        for address in addresses:
            try:
                upstream = await self._reactor.connect(endpoint, address)
            except core.ConnectFailed as error:
                if error.ours:  # no session is to be moved, and no replica called failed, for that
                    raise reply.backend_unreachable(f"this proxy can open no more connections ({error})") from error
                last = Unreachable(f"{endpoint.url}: {address}: {error}")
                self._count(endpoint.url, "failed")
                continue
            self._count(endpoint.url, "connected")
            return upstream
        raise last or self._nameless(endpoint)

    def _nameless(self, endpoint: core.Endpoint) -> Unreachable:
        return Unreachable(f"{endpoint.url}: {self._names.explain(endpoint.hostname)}")

    def _count(self, url: str, outcome: str) -> None:
        self.connects[url, outcome] = self.connects.get((url, outcome), 0) + 1
