"""Where session stores live in the contract suite: in memory, in the memory of a supervisor that lends it to its
workers, or on real servers that are started once per run."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from fastproxy.session import memory, outage, redis, redis_client, store
from tests.kit import lent_store, redis_server
from tests.kit.coroutines import pytest_pyfunc_call  # noqa: F401


class Place:
    """A store's data. Stores made of one place share it, except in memory, where each has its own."""

    def __init__(self, kind: str, address: redis_client.Address | None, server: Any, *, buffered: bool = False) -> None:
        self.kind = kind
        self.shared = address is not None
        self.server = server
        self.prefix = f"contract:{uuid.uuid4().hex}:{{x}}*[a]?:"  # glob characters and braces must not matter
        self._address = address
        self._buffered = buffered

    def make(self, *, ttl_seconds: float = 60.0, **more: Any) -> store.SessionStore:
        """A store that is not open yet."""
        if self._address is None:
            return memory.MemoryStore(ttl_seconds=ttl_seconds, sessions_max=10_000)
        inner = redis.RedisStore(self._address, key_prefix=self.prefix, ttl_seconds=ttl_seconds, **more)
        return outage.OutageBuffer(inner, ttl_seconds=ttl_seconds) if self._buffered else inner

    @contextlib.asynccontextmanager
    async def opened(self, count: int = 1, **options: Any) -> AsyncIterator[list[store.SessionStore]]:
        """As many stores as proxies would have: in memory it is the one, several times."""
        stores = [self.make(**options) for _ in range(count if self.shared else 1)]
        try:
            for one in stores:
                await one.open()
            yield stores if self.shared else stores * count
        finally:
            for one in stores:
                await one.close()

    def execute(self, *words: str | bytes | int) -> Any:
        """Ask the server that has the key, which is the second word."""
        server = self.server.holding(str(words[1])) if self.kind == "cluster" else self.server
        return server.execute(*words)


class LentPlace(Place):
    """One store in memory; each proxy asks for it through a channel."""

    def __init__(self) -> None:
        super().__init__("lent", None, None)

    @contextlib.asynccontextmanager
    async def opened(self, count: int = 1, **options: Any) -> AsyncIterator[list[store.SessionStore]]:
        async with lent_store.lent(self.make(**options), count) as stores:
            yield list(stores)


@pytest.fixture(scope="session")
def servers() -> Iterator[Any]:
    """Starts a kind of server when it is first asked for."""
    running: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:

        def server(kind: str) -> Any:
            if kind not in running:
                made: Any
                if kind == "cluster":
                    made = redis_server.RedisCluster()
                elif kind == "sentinel":
                    made = redis_server.RedisSentinel()
                else:
                    made = redis_server.RedisServer(family=kind)
                running[kind] = stack.enter_context(made)
            return running[kind]

        yield server


SHARED_KINDS = ["valkey", "redis", "buffered", "cluster", "sentinel"]


def make_place(kind: str, servers: Any) -> Place:
    if kind == "memory":
        return Place(kind, None, None)
    if kind == "lent":
        return LentPlace()
    if kind == "redis" and redis_server.binary("redis") is None:
        pytest.skip("the system has no redis-server")
    server = servers("valkey" if kind == "buffered" else kind)
    if kind == "sentinel":
        address = redis_client.Address(kind="sentinel", hosts=server.hosts, service=server.SERVICE)
        return Place(kind, address, server.master)
    address = redis_client.Address(kind="cluster" if kind == "cluster" else "redis", hosts=server.hosts)
    return Place(kind, address, server, buffered=kind == "buffered")


@pytest.fixture(params=["memory", "lent", *SHARED_KINDS])
def place(request: pytest.FixtureRequest, servers: Any) -> Place:
    return make_place(request.param, servers)


@pytest.fixture(params=SHARED_KINDS)
def shared_place(request: pytest.FixtureRequest, servers: Any) -> Place:
    return make_place(request.param, servers)
