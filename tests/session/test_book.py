"""The book: route table and store together, and what may overtake what between them.

Real: the compiled table, RedisStore on a Valkey server, two books on one store as two proxies have them. Through
whole proxies: tests/proxy/test_session_*.py.
"""

import asyncio
import time
from collections.abc import Iterator

import pytest

from fastproxy import errors
from fastproxy.session import book, looks, record
from tests.kit import redis_server
from tests.kit.coroutines import eventually
from tests.session import desks as desk


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


async def test_what_one_book_does_the_other_finds(server: redis_server.RedisServer) -> None:
    async with desk.desks(server) as (here, there):
        assert await here.book.create(desk.session())
        assert not await there.book.create(desk.session()), "the id is taken"
        place = await there.book.find("s-1")
        assert place is not None
        assert (place.endpoint, place.backend_session_id, place.sse, place.generation) == (0, None, False, 1)
        there.calls.clear()
        assert await there.book.find("s-1") == place
        assert there.calls == [], "then it is cached"
        now = await here.book.move(desk.moved(desk.session()), expected_generation=1)
        assert now is not None
        assert (now.endpoint, now.backend_session_id, now.generation, now.confirmed) == (1, "inner", 2, False)
        await eventually(lambda: desk.place_in(there.table) == 1)
        assert await there.book.find("s-1") == book.Place("s-1", 1, "inner", True, False, 2)
        await there.book.forget("s-1")
        await eventually(lambda: b"s-1" not in here.table)
        assert await here.book.find("s-1") is None
        assert here.book.lookups["missing"] == 1


async def test_fifty_who_ask_at_once_share_one_load_and_one_who_leaves_takes_nobody_along(
    server: redis_server.RedisServer,
) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        with there.holding():
            first = await there.answered(lambda: there.book.find("s-1"))
            others = [asyncio.create_task(there.book.find("s-1")) for _ in range(49)]
            await asyncio.sleep(0)
            first.cancel()
        assert {place.endpoint for place in await asyncio.gather(*others) if place} == {0}
        assert there.calls == ["load"]


async def test_a_session_that_ends_while_it_is_loaded_does_not_stay(server: redis_server.RedisServer) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        with there.holding():
            load = await there.answered(lambda: there.book.find("s-1"))
            await here.book.forget("s-1")
            await asyncio.sleep(0.05)  # the news overtakes the answer
        assert await load is None, "it looked again"
        assert b"s-1" not in there.table


async def test_a_session_that_moves_while_it_is_loaded_is_found_where_it_is(server: redis_server.RedisServer) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        with there.holding():
            load = await there.answered(lambda: there.book.find("s-1"))
            await here.book.move(desk.moved(desk.session()), expected_generation=1)
            await asyncio.sleep(0.05)
        place = await load
        assert (place.endpoint, place.backend_session_id) == (1, "inner")
        assert await there.book.find("s-1") == place
        assert there.book.lookups["cache"] == 1


async def test_after_a_gap_in_the_middle_of_a_load_the_store_is_asked_again(server: redis_server.RedisServer) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        with there.holding():
            load = await there.answered(lambda: there.book.find("s-1"))
            there.book._lost_track()
        assert (await load).endpoint == 0
        assert there.calls == ["load", "load"]
        found = there.table.get(b"s-1", int(time.monotonic()))
        assert found is not None
        assert not found[4], "cached, and fresh"


@pytest.mark.parametrize("act", ["create", "move"])
async def test_an_end_that_overtakes_the_answer_to_a_write_is_not_undone(
    server: redis_server.RedisServer, act: str
) -> None:
    async with desk.desks(server) as (here, there):
        if act == "move":
            await here.book.create(desk.session())
        with here.holding():
            if act == "create":
                write = await here.answered(lambda: here.book.create(desk.session()))
            else:
                write = await here.answered(lambda: here.book.move(desk.moved(desk.session()), expected_generation=1))
            await asyncio.sleep(0.3)  # longer than a change passes for our own
            await there.book.forget("s-1")
            await asyncio.sleep(0.05)
        assert await write
        assert desk.place_in(here.table) is None
        assert await here.book.find("s-1") is None


async def test_an_end_of_our_own_in_the_middle_of_a_move_is_not_undone(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1) as (here,):
        await here.book.create(desk.session())
        with here.holding():
            move = await here.answered(lambda: here.book.move(desk.moved(desk.session()), expected_generation=1))
            end = await here.answered(lambda: here.book.forget("s-1"))
        await asyncio.gather(move, end)
        assert await here.book.find("s-1") is None
        assert b"s-1" not in here.table


async def test_an_end_that_is_told_together_with_our_own_move_is_noticed(server: redis_server.RedisServer) -> None:
    """The server is held back until it has both, so that it tells of them as of one change."""
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        await there.book.find("s-1")
        server.execute("CLIENT", "PAUSE", 300, "WRITE")
        move = asyncio.create_task(here.book.move(desk.moved(desk.session()), expected_generation=1))
        await asyncio.sleep(0.1)
        end = asyncio.create_task(there.book.forget("s-1"))
        assert await move is not None
        await end
        await eventually(lambda: b"s-1" not in here.table, seconds_max=1.0)
        assert await here.book.find("s-1") is None


async def test_a_move_of_a_session_that_has_ended_brings_nothing_back(server: redis_server.RedisServer) -> None:
    async with desk.desks(server) as (here, there):
        await here.book.create(desk.session())
        await there.book.forget("s-1")
        assert await here.book.move(desk.moved(desk.session()), expected_generation=1) is None
        assert server.execute("EXISTS", "book:s-1") == 0


async def test_a_success_confirms_the_place_it_was_had_at_and_no_other(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1) as (here,):
        await here.book.create(desk.session())
        first = await here.book.find("s-1")
        assert first is not None
        assert not first.confirmed
        second = await here.book.move(desk.moved(desk.session()), expected_generation=1)
        assert second is not None
        here.book.confirm(first)
        assert await here.book.find("s-1") == second, "a late success of the old place says nothing of the new one"
        here.book.confirm(second)
        found = await here.book.find("s-1")
        assert found is not None
        assert found.confirmed


async def test_generations_are_told_apart_over_their_wrap(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1) as (here,):
        known = desk.session()
        await here.book.create(known)
        for number in range(20):
            before = await here.book.find("s-1")
            following = desk.moved(known, number % 2, f"inner-{number}")
            await here.book.move(following, expected_generation=known.generation)
            assert before is not None
            assert before.is_of(known)
            assert not before.is_of(following)
            known = following


@pytest.mark.parametrize("odd", ["x" * 129, "a/b", "with space-free!sign"], ids=["long", "slash", "mark"])
async def test_an_odd_id_is_cached_and_its_digest_is_not_the_id(server: redis_server.RedisServer, odd: str) -> None:
    async with desk.desks(server, 1) as (here,):
        await here.book.create(desk.session(odd))
        here.calls.clear()
        place = await here.book.find(odd)
        assert place is not None
        assert place.session_id == odd
        assert await here.book.find(record.store_key(odd)) is None
        assert here.calls == []


async def test_a_stale_place_serves_while_the_store_is_away_and_a_hanging_store_costs_little(
    server: redis_server.RedisServer,
) -> None:
    async with desk.desks(server, 1) as (here,):
        await here.book.create(desk.session())
        await here.book.create(desk.session("s-2", backend_url=desk.PLACES[1]))
        here.table.remove(b"s-2")
        server.freeze()
        here.table.mark_all_stale()
        started = time.monotonic()
        assert (await here.book.find("s-1")) is not None
        assert time.monotonic() - started < 0.5
        with pytest.raises(errors.StoreUnavailable):
            await here.book.find("s-2")
        started = time.monotonic()
        assert (await here.book.find("s-1")) is not None
        assert time.monotonic() - started < 0.05, "by now it is known to be away"
        server.thaw()
        await eventually(lambda: here.store.available)
        place = await here.book.find("s-2")
        assert place is not None
        assert place.endpoint == 1


async def test_what_is_in_use_is_renewed_but_a_stale_place_stays_stale(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1, ttl_seconds=2) as (here,):
        await here.book.create(desk.session())
        here.start(here.book.keep_in_use(lambda: ["s-1"]), name="in use")
        here.table.mark_all_stale()
        for _ in range(8):
            await asyncio.sleep(0.4)
            assert server.execute("PTTL", "book:s-1") > 0
            found = here.table.get(b"s-1", int(time.monotonic()))
            assert found is None or found[4], "a renewal does not say where it lives"


async def test_a_renewal_that_finds_nothing_takes_the_place_away(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1) as (here,):
        here.book._enter(desk.session(), 0, looks.Look("s-1"))
        assert b"s-1" in here.table
        here.book.touched("s-1")
        await eventually(lambda: b"s-1" not in here.table)


async def test_a_loaded_place_is_due_when_the_stores_record_is(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1, ttl_seconds=100) as (here,):
        now = int(time.monotonic())
        for left, due in ((100, 11), (95, 6), (50, 0)):
            here.book._enter(desk.session(), 0, looks.Look("s-1"), left)
            found = here.table.get(b"s-1", now)
            assert found is not None
            expires, touch_at = found[2], found[3]
            if due:
                assert expires - now in (left, left + 1)
                assert touch_at - now in (due, due + 1)
            else:
                assert touch_at - now in (11, 12), "renewed at once, and that begins a new tenth"


async def test_ids_of_backends_do_not_pile_up(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1, capacity=10) as (here,):
        for number in range(3 * book.ALIASES_PURGE_MIN):
            here.book._enter(desk.session(f"s-{number}", backend_session_id="inner"), 0, looks.Look("s-1"))
            here.table.remove(b"s-%d" % (number - 5))  # as expiry does it: without a word
        assert len(here.book.aliases) <= book.ALIASES_PURGE_MIN
        found = await here.book.find(f"s-{3 * book.ALIASES_PURGE_MIN - 1}")
        assert found is not None
        assert found.backend_session_id == "inner"


async def test_a_record_without_a_replica_or_too_new_is_no_place(server: redis_server.RedisServer) -> None:
    async with desk.desks(server, 1) as (here,):
        await here.store.create(desk.session("nowhere", backend_url="http://127.0.0.9:9"))
        assert await here.book.find("nowhere") is None
        server.execute("SET", "book:newer", '{"v":2}')
        with pytest.raises(errors.RecordTooNew):
            await here.book.find("newer")
        assert here.book.lookups["error"] == 1
