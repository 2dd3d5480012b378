"""What RedisStore costs its server and us: round trips, connections, tasks.

Real: Valkey from the wheel, and its own word about what it was sent (INFO, CLIENT LIST).
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastproxy.session import record, redis, redis_client
from tests.kit import redis_server

SESSIONS = 1_000
CONNECTIONS_MAX = 32 + 4 + 1  # operations, the probe's spare ones, the tracking connection


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


@asynccontextmanager
async def opened(server: redis_server.RedisServer) -> AsyncIterator[redis.RedisStore]:
    server.execute("FLUSHALL")
    store = redis.RedisStore(redis_client.Address(hosts=server.hosts), key_prefix="test:", ttl_seconds=60)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def session(name: str) -> record.SessionRecord:
    return record.SessionRecord(session_id=name, backend_url="http://127.0.0.2:8000")


def calls_of(server: redis_server.RedisServer, command: str) -> int:
    counted = server.execute("INFO", "commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(counted["calls"])


def reads_of(server: redis_server.RedisServer) -> int:
    """How often the server has read from a socket: about once for each round trip of each connection."""
    return int(server.execute("INFO", "stats")["total_reads_processed"])


async def test_a_thousand_sessions_are_renewed_in_a_few_round_trips(server: redis_server.RedisServer) -> None:
    async with opened(server) as store:
        names = [f"s-{number}" for number in range(SESSIONS)]
        await asyncio.gather(*(store.create(session(name)) for name in names))
        commands, reads = calls_of(server, "expire"), reads_of(server)
        assert await store.touch([*names, "nobody"]) == ["nobody"]
        assert calls_of(server, "expire") - commands == SESSIONS + 1
        # Two pipelines of up to 30 KiB, which may come in several reads; asking for these numbers takes some more.
        assert reads_of(server) - reads < 30


async def test_a_burst_of_operations_waits_for_the_connections_that_there_may_be(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as store:
        most = 0

        async def look() -> None:
            nonlocal most
            while True:
                clients = await asyncio.to_thread(server.execute, "INFO", "clients")
                most = max(most, int(clients["connected_clients"]) - 1)
                await asyncio.sleep(0.01)

        looking = asyncio.create_task(look())
        for _ in range(3):
            await asyncio.gather(*(store.load(f"s-{number}") for number in range(2_000)))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        assert 8 < most <= CONNECTIONS_MAX
        assert store.errors_total == 0


async def test_an_operation_is_its_callers_task_and_no_other(server: redis_server.RedisServer) -> None:
    """A task of the library's own for each command would outlive a command that is cancelled, and its failure would be
    nobody's: "Task exception was never retrieved"."""
    async with opened(server) as store:
        await store.create(session("s-1"))
        loop = asyncio.get_running_loop()
        begun: list[str] = []

        def note(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
            begun.append(work.__qualname__)
            return asyncio.Task(work, loop=loop, **options)

        loop.set_task_factory(note)
        try:
            assert await store.load("s-1") == session("s-1")
            assert not await store.create(session("s-1"))
            assert await store.update(session("s-1"), expected_generation=1)
            assert await store.claim("s-1", "us", 1.0)
            await store.release("s-1", "us")
            assert await store.delete("s-1")
        finally:
            loop.set_task_factory(None)
        assert begun == []
