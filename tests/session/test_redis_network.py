"""RedisStore over a bad network: links that are slow, lose every packet, or are cut (tests/kit/link.py).

Real: Valkey, loopback. What a dead or frozen server does is in test_redis.py.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from fastproxy import errors
from fastproxy.session import record, redis, redis_client
from tests.kit import link, redis_server
from tests.kit.coroutines import eventually

PASSWORD = "sesame"
BACK_SECONDS_MAX = 4.0  # of a busy machine


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer(password=PASSWORD) as running:
        yield running


@pytest.fixture
def way(server: redis_server.RedisServer) -> Iterator[link.Link]:
    server.execute("FLUSHALL")
    with link.Network() as network:
        yield network.link("127.0.11.1", 0, to=("127.0.0.1", server.port))


@asynccontextmanager
async def opened(way: link.Link, *, operation_seconds_max: float = 1.0) -> AsyncIterator[redis.RedisStore]:
    store = redis.RedisStore(
        redis_client.Address(hosts=((way.host, way.port),), password=PASSWORD),
        key_prefix="test:",
        ttl_seconds=60,
        operation_seconds_max=operation_seconds_max,
    )
    gaps: list[None] = []
    store.watch(lambda key: None, lambda: gaps.append(None))
    try:
        await store.open()
        await eventually(lambda: gaps, seconds_max=BACK_SECONDS_MAX)  # it is followed
        yield store
    finally:
        await store.close()


def session(session_id: str) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, backend_url="http://127.0.0.2:8000")


async def test_a_far_store_serves_again_though_a_new_connection_takes_longer_than_a_brief_probe(
    way: link.Link,
) -> None:
    async with opened(way, operation_seconds_max=10.0) as store:
        await store.create(session("s-1"))
        way.cut()
        await eventually(lambda: not store.available, seconds_max=BACK_SECONDS_MAX)
        way.heal()
        way.delay(0.2)  # three times there and back: the password, the client's name, the probe
        await eventually(lambda: store.available, seconds_max=10.0)
        assert await store.load("s-1") == session("s-1")


async def test_a_store_whose_packets_are_lost_costs_one_deadline_and_serves_when_they_arrive(way: link.Link) -> None:
    async with opened(way) as store:
        await store.create(session("s-1"))
        way.lose()
        with pytest.raises(errors.StoreUnavailable):
            await store.load("s-1")
        assert not store.available
        with pytest.raises(errors.StoreUnavailable):
            async with asyncio.timeout(0.5):  # at once, by the circuit
                await store.load("s-1")
        await asyncio.sleep(1.5)
        way.heal()
        await eventually(lambda: store.available, seconds_max=BACK_SECONDS_MAX)
        assert await store.load("s-1") == session("s-1")


async def test_a_store_that_is_cut_off_is_noticed_without_any_operation(way: link.Link) -> None:
    async with opened(way) as store:
        way.cut()
        await eventually(lambda: not store.available, seconds_max=BACK_SECONDS_MAX)
        assert isinstance(store.fault, errors.StoreUnavailable)
        way.heal()
        await eventually(lambda: store.available, seconds_max=BACK_SECONDS_MAX)
        assert await store.create(session("s-1"))


async def test_connections_that_were_reset_while_they_were_idle_cost_nothing_once_the_store_serves(
    way: link.Link,
) -> None:
    async with opened(way) as store:
        await store.create(session("s-1"))
        await asyncio.gather(*(store.load("s-1") for _ in range(8)))  # so many connections lie idle now
        way.cut()
        await eventually(lambda: not store.available, seconds_max=BACK_SECONDS_MAX)
        way.heal()
        await eventually(lambda: store.available, seconds_max=BACK_SECONDS_MAX)
        errors_before = store.errors_total
        for _ in range(3):
            found = await asyncio.gather(*(store.load("s-1") for _ in range(8)))
            assert found == [session("s-1")] * 8
        assert store.available
        assert store.errors_total == errors_before
