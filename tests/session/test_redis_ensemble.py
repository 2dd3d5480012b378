"""RedisStore on Sentinel (1+2+3) and on a Cluster of six: a master is killed or frozen while many connections to it lie
idle, another takes its place, and it comes back.

Real: Valkey, all of it. With one Sentinel, or without replicas: test_redis.py, and tests/contracts for the promises.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from fastproxy import errors
from fastproxy.session import record, redis, redis_client
from tests.kit import redis_ensemble, redis_server
from tests.kit.coroutines import eventually

IDLE = 12
BACK_SECONDS_MAX = 3.0  # from when another takes writes; two on a machine that has nothing else to do
Ensemble = redis_ensemble.SentinelEnsemble | redis_ensemble.ClusterEnsemble


@pytest.fixture(params=["sentinel", "cluster"])
def ensemble(request: pytest.FixtureRequest) -> Iterator[Ensemble]:
    kinds = {"sentinel": redis_ensemble.SentinelEnsemble, "cluster": redis_ensemble.ClusterEnsemble}
    with kinds[request.param]() as running:
        yield running


@asynccontextmanager
async def opened(ensemble: Ensemble) -> AsyncIterator[redis.RedisStore]:
    if isinstance(ensemble, redis_ensemble.SentinelEnsemble):
        hosts = tuple((redis_server.HOST, sentinel.port) for sentinel in ensemble.sentinels)
        address = redis_client.Address(kind="sentinel", hosts=hosts, service=ensemble.SERVICE)
    else:
        hosts = tuple((redis_server.HOST, server.port) for server in ensemble.servers)
        address = redis_client.Address(kind="cluster", hosts=hosts)
    store = redis.RedisStore(address, key_prefix="test:", ttl_seconds=60)
    gaps: list[None] = []
    store.watch(lambda key: None, lambda: gaps.append(None))
    try:
        await store.open()
        await eventually(lambda: gaps)
        yield store
    finally:
        await store.close()


def session(session_id: str) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, backend_url="http://127.0.0.2:8000")


async def load_all(store: redis.RedisStore) -> list[record.SessionRecord | None]:
    return await asyncio.gather(*(store.load(f"s-{number}") for number in range(IDLE)))


@pytest.mark.parametrize("deed", ["kill", "freeze"])
async def test_the_next_master_serves_at_once_whatever_connections_the_last_one_has_left(
    ensemble: Ensemble, deed: str
) -> None:
    sessions = [session(f"s-{number}") for number in range(IDLE)]
    async with opened(ensemble) as store:
        assert all(await asyncio.gather(*(store.create(each) for each in sessions)))
        for _ in range(2):
            assert await load_all(store) == sessions
        victim = (await asyncio.to_thread(ensemble.masters))[0]
        getattr(victim, deed)()
        with pytest.raises(errors.StoreUnavailable):
            while True:
                await asyncio.gather(*(store.load(f"s-{number}") for number in range(3)))  # most lie idle
        await asyncio.to_thread(ensemble.await_writable)

        started = asyncio.get_running_loop().time()
        while True:
            try:
                assert await load_all(store) == sessions, "nothing was lost"
                assert await store.create(session(f"new-{started}"))
                break
            except errors.StoreUnavailable:
                await asyncio.sleep(0.01)
        assert asyncio.get_running_loop().time() - started < BACK_SECONDS_MAX

        if deed == "freeze":
            victim.thaw()  # it takes itself for the master still
            for number in range(20):
                assert await store.create(session(f"late-{number}"))
                await asyncio.sleep(0.02)
            await asyncio.to_thread(ensemble.await_whole)
            for number in range(20):
                assert await store.load(f"late-{number}") == session(f"late-{number}"), "written to the last master"
