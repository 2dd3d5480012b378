"""OutageBuffer: sessions opened, moved and ended while the store is away, and what becomes of them when it is back.

Real: Valkey, killed, frozen and started anew; the proxies' stores. What every store promises: tests/contracts, where
"buffered" is this one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from fastproxy import errors
from fastproxy.session import outage, record, redis, redis_client
from tests.kit import redis_server
from tests.kit.coroutines import eventually

TTL_SECONDS = 60.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


def plain(server: redis_server.RedisServer, *, operation_seconds_max: float = 1.0) -> redis.RedisStore:
    return redis.RedisStore(
        redis_client.Address(hosts=server.hosts),
        key_prefix="test:",
        ttl_seconds=TTL_SECONDS,
        operation_seconds_max=operation_seconds_max,
    )


@asynccontextmanager
async def opened(
    server: redis_server.RedisServer, *, operation_seconds_max: float = 1.0, **options: Any
) -> AsyncIterator[outage.OutageBuffer]:
    inner = plain(server, operation_seconds_max=operation_seconds_max)
    buffer = outage.OutageBuffer(inner, ttl_seconds=TTL_SECONDS, **options)
    try:
        await buffer.open()
        yield buffer
    finally:
        await buffer.close()


def session(session_id: str, **members: Any) -> record.SessionRecord:
    members = {"backend_url": "http://127.0.0.2:8000", "created_at": "2026-01-01T00:00:00.000Z"} | members
    return record.SessionRecord(session_id=session_id, **members)


async def held(server: redis_server.RedisServer, session_id: str) -> record.SessionRecord | None:
    """What another proxy finds."""
    store = plain(server)
    await store.open()
    try:
        return await store.load(session_id)
    finally:
        await store.close()


async def back(server: redis_server.RedisServer, buffer: outage.OutageBuffer) -> None:
    await asyncio.to_thread(server.start)
    await eventually(lambda: buffer.pending == 0, seconds_max=1.5)


async def test_a_session_opened_during_an_outage_lives_here_and_is_written_afterwards(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as buffer:
        server.kill()
        assert await buffer.create(session("s-1"))
        assert not await buffer.create(session("s-1")), "it is held"
        assert await buffer.load("s-1") == session("s-1")
        assert await buffer.touch(["s-1"]) == []
        assert await buffer.claim("s-1", "here", 10)
        assert not await buffer.claim("s-1", "elsewhere", 10)
        assert not await buffer.update(session("s-1", generation=3), expected_generation=2)
        moved = session("s-1", generation=2, backend_url="http://127.0.0.3:8000")
        assert await buffer.update(moved, expected_generation=1)
        await buffer.release("s-1", "here")
        assert (await buffer.page(None, 10))[0] == [moved]
        assert buffer.pending == 1
        assert not buffer.available
        await back(server, buffer)
        assert await held(server, "s-1") == moved
        assert 0 < server.execute("TTL", "test:s-1") <= TTL_SECONDS
        assert await buffer.load("s-1") == moved
        assert buffer.lost_total == 0


async def test_a_session_that_only_the_store_has_can_be_ended_but_not_moved_during_an_outage(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as buffer:
        await buffer.create(session("s-1"))
        await buffer.create(session("s-2"))
        server.kill()
        with pytest.raises(errors.StoreUnavailable):
            await buffer.update(session("s-1", generation=2), expected_generation=1)
        assert await buffer.delete("s-1")
        assert not await buffer.delete("s-1")
        assert await buffer.load("s-1") is None
        assert not await buffer.update(session("s-1", generation=2), expected_generation=1)
        assert await buffer.touch(["s-1"]) == ["s-1"]
        with pytest.raises(errors.StoreUnavailable):
            await buffer.load("s-2")
        await back(server, buffer)
        assert await held(server, "s-1") is None
        assert await held(server, "s-2") == session("s-2")


async def test_an_id_ended_and_opened_anew_is_the_new_one_afterwards(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        await buffer.create(session("s-1"))
        server.kill()
        new = session("s-1", backend_url="http://127.0.0.3:8000", created_at="2026-01-01T00:00:09.000Z")
        assert await buffer.delete("s-1")
        assert await buffer.create(new)
        assert await buffer.load("s-1") == new
        await back(server, buffer)
        assert await held(server, "s-1") == new
        assert buffer.lost_total == 0


async def test_a_session_opened_and_ended_during_an_outage_leaves_nothing(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        server.kill()
        await buffer.create(session("s-1"))
        assert await buffer.delete("s-1")
        await back(server, buffer)
        assert server.execute("EXISTS", "test:s-1") == 0


async def test_an_id_that_somebody_else_has_taken_meanwhile_is_lost_and_told(server: redis_server.RedisServer) -> None:
    theirs = session("s-1", backend_url="http://127.0.0.9:8000", created_at="2026-01-01T00:00:01.000Z")
    changed: list[str] = []
    buffer = outage.OutageBuffer(plain(server, operation_seconds_max=0.5), ttl_seconds=TTL_SECONDS)
    buffer.watch(changed.append, lambda: None)
    await buffer.open()
    server.execute("SET", "test:s-1", record.encode(theirs))
    await eventually(lambda: not buffer.pending)
    server.freeze()
    assert await buffer.create(session("s-1")), "nobody can say that it is held"
    server.thaw()
    await eventually(lambda: buffer.pending == 0)
    assert buffer.lost_total == 1
    assert "s-1" in changed
    assert await buffer.load("s-1") == theirs
    await buffer.close()


@pytest.mark.parametrize("moved", [False, True], ids=["as-it-was", "moved-meanwhile"])
async def test_a_creation_that_was_cut_short_but_obeyed_is_no_conflict(
    server: redis_server.RedisServer, moved: bool
) -> None:
    async with opened(server, operation_seconds_max=0.5) as buffer:
        server.freeze()
        assert await buffer.create(session("s-1"))  # lies in the frozen server's socket, and will be obeyed
        final = session("s-1", generation=2) if moved else session("s-1")
        if moved:
            assert await buffer.update(final, expected_generation=1)
        server.thaw()
        await eventually(lambda: buffer.pending == 0)
        assert buffer.lost_total == 0
        assert await held(server, "s-1") == final


async def test_a_session_that_expires_before_the_store_is_back_is_lost(server: redis_server.RedisServer) -> None:
    clock = Clock()
    async with opened(server, clock=clock) as buffer:
        server.kill()
        await buffer.create(session("s-1"))
        await buffer.create(session("s-2"))
        clock.now += TTL_SECONDS - 1
        await buffer.touch(["s-2"])
        clock.now += 2
        with pytest.raises(errors.StoreUnavailable):
            await buffer.load("s-1")  # from now on it is an id that only the store can know
        assert buffer.lost_total == 1
        await back(server, buffer)
        assert await held(server, "s-1") is None
        assert await held(server, "s-2") == session("s-2")


async def test_the_number_of_waiting_sessions_is_bounded(server: redis_server.RedisServer) -> None:
    async with opened(server, pending_max=20) as buffer:
        server.kill()
        for number in range(15):
            assert await buffer.create(session(f"s-{number}"))
        for number in range(5):
            assert await buffer.delete(f"elsewhere-{number}")
        with pytest.raises(errors.StoreUnavailable, match="20 sessions wait"):
            await buffer.create(session("one-more"))
        with pytest.raises(errors.StoreUnavailable):
            await buffer.delete("one-more")
        assert await buffer.delete("s-0"), "what is here can always be ended"


async def test_ten_thousand_waiting_sessions_are_all_written(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        server.kill()
        for number in range(outage.PENDING_MAX):
            await buffer.create(session(f"s-{number}"))
        pages = 0
        cursor = None
        while True:
            try:
                records, cursor = await buffer.page(cursor, 1_000)
            except errors.StoreUnavailable:
                break  # the pages of the store itself
            pages += len(records)
        assert pages == outage.PENDING_MAX
        await asyncio.to_thread(server.start)
        await eventually(lambda: buffer.pending == 0, seconds_max=30)
        assert server.execute("DBSIZE") >= outage.PENDING_MAX
        assert buffer.lost_total == 0


async def test_what_can_not_be_written_before_the_end_is_counted_as_lost(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        server.kill()
        await buffer.create(session("s-1"))
    assert buffer.lost_total == 1
    assert buffer.pending == 0


async def test_what_waits_at_the_end_is_written_if_the_store_serves(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        server.kill()
        await buffer.create(session("s-1"))
        await asyncio.to_thread(server.start)
        await eventually(lambda: buffer.available, seconds_max=1.0)
    assert await held(server, "s-1") == session("s-1")


async def test_what_another_proxy_has_yet_to_write_is_waited_for_when_the_store_is_back(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as here, opened(server) as there:
        server.kill()
        assert await here.create(session("s-1"))
        with pytest.raises(errors.StoreUnavailable):
            await there.find("s-1")
        await asyncio.to_thread(server.start)
        await eventually(lambda: there.available, seconds_max=1.5)
        found = await there.find("s-1")
        assert found is not None and found.session == session("s-1")
        assert await there.load("nobody's") is None
        await asyncio.sleep(max(0.0, outage.SETTLE_SECONDS - there.seconds_since_return))
        started = time.monotonic()
        assert await there.load("nobody's") is None
        assert time.monotonic() - started < 0.2, "only just after an outage"


async def test_what_is_unknown_to_a_store_that_takes_no_writes_may_be_anothers_to_write(
    server: redis_server.RedisServer,
) -> None:
    async with opened(server) as here, opened(server) as there:
        assert await there.create(session("s-0"))
        server.execute("CONFIG", "SET", "maxmemory", "1")  # reads are served; as with a full disk
        assert await here.create(session("s-1"))
        assert here.pending == 1
        assert await there.load("s-0") == session("s-0"), "what is known is served"
        with pytest.raises(errors.StoreUnavailable):
            await there.find("s-1")
        with pytest.raises(errors.StoreUnavailable):
            await there.load("nobody's")
        assert there.available, "only writes are refused"
        server.execute("CONFIG", "SET", "maxmemory", "0")
        found = await there.find("s-1")  # the other has not written it yet
        assert found is not None and found.session == session("s-1")
        await eventually(lambda: here.pending == 0, seconds_max=1.5)
        assert await there.load("nobody's") is None


async def test_many_unknown_sessions_cost_few_writes(server: redis_server.RedisServer) -> None:
    async with opened(server) as buffer:
        before = server.execute("INFO", "commandstats")["cmdstat_set"]["calls"]
        started = time.monotonic()
        for number in range(50):
            assert await buffer.load(f"unknown-{number}") is None
        passed = time.monotonic() - started
        calls = server.execute("INFO", "commandstats")["cmdstat_set"]["calls"] - before
        assert 1 <= calls <= 1 + passed / outage.VOUCHED_SECONDS
