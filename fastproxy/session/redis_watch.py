"""From "the server says that this key has changed" to "somebody else has changed this session".

    Tracker (one per node) --key--> Watch: a session's key? --> Echoes: our own write? --> changed(store key)
    Tracker --gap--> Watch --> broken(), and a word to the circuit: the store may be away

Which nodes there are: one server; the master that Sentinel names now; the primaries of a Cluster, looked at once a
second, for they come and go.
"""

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable

import msgspec
import redis.asyncio

from fastproxy.session import circuit, redis_client, tracking

_NODES_LOOK_SECONDS = 1.0


class Echoes:
    """This process's own writes, whose invalidations come back and must not throw out what we have just cached.

    A write is expected before it is sent and settled by its reply. Each expectation swallows one invalidation, in the
    moment around the reply (both travel at once, on two connections). A server joins invalidations of one key within
    one turn of its loop; if ours and a stranger's are joined so, the stranger's is swallowed with it. The server's own
    NOLOOP option has the same blind spot; the next update meets another generation, and recovers.
    """

    MOMENT_SECONDS = 0.25  # after the reply; longer would hide strangers, shorter would waste cache entries

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[str, list[float]] = {}  # key: until when, for each echo still to come

    def expect(self, key: str) -> None:
        self._forget_old()
        self._expected.setdefault(key, []).append(float("inf"))

    def settle(self, key: str, *, written: bool) -> None:
        """The reply is there. What was not written has no echo."""
        until = self._expected.get(key)
        if not until:
            return  # the echo was faster than the reply
        until.remove(max(until))
        if written:
            until.append(self._clock() + self.MOMENT_SECONDS)
        if not until:
            del self._expected[key]

    def swallow(self, key: str) -> bool:
        """Is this invalidation the echo of a write of ours?"""
        until = self._expected.get(key)
        if not until:
            return False
        now = self._clock()
        until.sort()
        while until and until[0] <= now:
            until.pop(0)
        echo = bool(until) and bool(until.pop(0))
        if not until:
            del self._expected[key]
        return echo

    def _forget_old(self) -> None:
        # At most two each time: more than one is ever added between two calls, so the table can't grow.
        now = self._clock()
        for key in list(itertools.islice(self._expected, 2)):
            if max(self._expected[key]) <= now:
                del self._expected[key]


class Ear(msgspec.Struct, frozen=True):
    """Who wants to hear what is told on which channels."""

    channels: tuple[str, ...]
    heard: Callable[[bytes], None]


class Watch:
    """All trackers of one store. In a Cluster every node tells what was told to any, so that an ear hears it often."""

    def __init__(
        self,
        *,
        address: redis_client.Address,
        connected: redis_client.Connected,
        echoes: Echoes,
        prefix: str,
        changed: Callable[[str], None],
        broken: Callable[[], None],
        breaker: circuit.Circuit,
    ) -> None:
        self._echoes = echoes
        self._address = address
        self._connected = connected
        self._prefix = prefix
        self._prefix_bytes = prefix.encode()
        self._changed = changed
        self._broken = broken
        self._breaker = breaker
        self.ear: Ear | None = None  # to be set before `start`
        self._trackers: dict[tuple[str, int] | None, tracking.Tracker] = {}
        self._task: asyncio.Task[None] | None = None

    @property
    def complete(self) -> bool:
        """Every node is followed now."""
        return bool(self._trackers) and all(tracker.tracking for tracker in self._trackers.values())

    def start(self) -> None:
        if self._connected.sentinel is not None:
            self._follow(None, self._locate_master)
        elif self._address.kind == "redis":
            self._follow(None, self._locate_only_host)
        elif self._task is None:
            self._task = asyncio.create_task(self._follow_primaries(), name="session-store-nodes")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        while self._trackers:
            await self._trackers.popitem()[1].stop()

    def _follow(self, node: tuple[str, int] | None, locate: tracking.Locate) -> None:
        if node not in self._trackers:
            self._trackers[node] = tracking.Tracker(
                self._address,
                locate=locate,
                prefix=self._prefix,
                changed=self._hear,
                broken=self._lose,
                in_vain=self._stay_blind,
                channels=() if self.ear is None else self.ear.channels,
                heard=None if self.ear is None else self.ear.heard,
            )

    async def _locate_only_host(self) -> tuple[str, int]:
        return self._address.hosts[0]

    async def _locate_master(self) -> tuple[str, int]:
        assert self._connected.sentinel is not None
        host, port = await self._connected.sentinel.discover_master(self._address.service)
        return host, int(port)

    async def _follow_primaries(self) -> None:
        while True:
            client = self._connected.client
            assert isinstance(client, redis.asyncio.RedisCluster)
            nodes = {(node.host, int(node.port)) for node in client.get_primaries()}
            for gone in [node for node in self._trackers if node is not None and node not in nodes and nodes]:
                await self._trackers.pop(gone).stop()
                self._broken()  # its slots have moved to a node that we may have followed too late
            for node in nodes:
                self._follow(node, _locate(node))
            await asyncio.sleep(_NODES_LOOK_SECONDS)

    def _hear(self, name: bytes) -> None:
        key = name[len(self._prefix_bytes) :]
        if key.startswith(b"!") or not name.startswith(self._prefix_bytes):
            return
        session_key = key.decode("latin-1")
        if not self._echoes.swallow(session_key):
            self._changed(session_key)

    def _lose(self) -> None:
        self._broken()
        self._breaker.suspect()

    def _stay_blind(self) -> None:
        if self._breaker.fault is None:
            self._broken()  # others may be writing to a store that serves


def _locate(node: tuple[str, int]) -> tracking.Locate:
    async def locate() -> tuple[str, int]:
        return node

    return locate
