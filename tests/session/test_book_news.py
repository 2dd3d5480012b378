"""What a book makes of the news of other proxies' writes. Real: the table, RedisStore on a Valkey server."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.kit import redis_server
from tests.kit.coroutines import eventually
from tests.session import desks as desk


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


async def test_news_of_a_renewal_costs_no_session_its_place_when_the_store_goes_away_behind_it(
    server: redis_server.RedisServer,
) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session(backend_session_id="inner"))
        place = await there.book.find("s-1")
        assert place is not None
        here.book.touched("s-1")
        await eventually(lambda: desk.place_in(there.table) is None)
        server.freeze()
        try:
            assert await there.book.find("s-1") == place
            assert there.book.lookups["error"] == 0
        finally:
            server.thaw()


async def test_after_news_of_a_renewal_the_place_is_fresh_again_without_a_request(
    server: redis_server.RedisServer,
) -> None:
    async with desk.desks(server, ttl_seconds=100) as (here, there):
        await here.book.create(desk.session())
        await there.book.find("s-1")
        there.calls.clear()
        here.book.touched("s-1")
        await eventually(lambda: desk.place_in(there.table) is None)
        await eventually(lambda: desk.place_in(there.table) == 0)
        assert there.calls == ["load"], "one look"
        assert there.book.lookups["store"] == 1, "which was no client's"


async def test_a_thousand_sessions_that_end_elsewhere_leave_the_table_within_a_second(
    server: redis_server.RedisServer,
) -> None:
    async with desk.desks(server, capacity=2000) as (here, there):
        ids = [f"s-{number}" for number in range(1000)]
        for some in range(0, 1000, 50):
            await asyncio.gather(*(here.book.create(desk.session(session_id)) for session_id in ids[some : some + 50]))
            await asyncio.gather(*(there.book.find(session_id) for session_id in ids[some : some + 50]))
        assert len(there.table) == 1000
        server.execute("FLUSHALL")
        here.table.clear()
        for session_id in ids:
            there.book._heard(session_id)
        await eventually(lambda: len(there.table) == 0, seconds_max=5.0)
        await eventually(lambda: len(there.tasks) == 0)
        assert there.book._heard_of == {}
