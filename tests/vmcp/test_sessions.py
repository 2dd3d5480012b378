"""Clients' sessions in front of the store: two processes as two `Sessions` on one store, and one alone.

Real: the stores, Redis (Valkey) with its invalidations. Time is the test's where nothing but time happens.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import msgspec
import pytest

from fastproxy import errors
from fastproxy.proxy import tasks
from fastproxy.session import outage, redis_client, shelf
from fastproxy.session import redis as redis_store
from fastproxy.vmcp import record, sessions
from tests.kit import coroutines, redis_server

TTL_SECONDS = 60.0


def make(session_id: str) -> record.VmcpRecord:
    return record.VmcpRecord(session_id=session_id, protocol_version="2025-11-25", secret="x")


def with_leg(backend: str, leg_id: str) -> sessions.Change:
    return lambda kept: record.with_leg(kept, record.Leg(backend, leg_id, ""), instead_of=None)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def alone(sessions_max: int = 100) -> AsyncIterator[tuple[sessions.Sessions, Clock]]:
    clock, started = Clock(), tasks.Tasks()
    kept = shelf.WholeShelf[record.VmcpRecord](ttl_seconds=TTL_SECONDS, sessions_max=1000, clock=clock)
    yield (
        sessions.Sessions(
            kept,
            ttl_seconds=TTL_SECONDS,
            sessions_max=sessions_max,
            alone=True,
            start_task=started.start,
            clock=clock,
        ),
        clock,
    )
    await started.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as running:
        yield running


@contextlib.asynccontextmanager
async def pair(server: redis_server.RedisServer, prefix: str) -> AsyncIterator[list[sessions.Sessions]]:
    """Two processes on one Redis."""
    started = tasks.Tasks()
    stores, members = [], []
    for _ in range(2):
        inner = redis_store.RedisRecords(
            redis_client.Address(hosts=server.hosts), form=record.Form(), key_prefix=prefix, ttl_seconds=TTL_SECONDS
        )
        kept = outage.OutageBuffer(inner, ttl_seconds=TTL_SECONDS)
        stores.append(kept)
        members.append(
            sessions.Sessions(kept, ttl_seconds=TTL_SECONDS, sessions_max=100, alone=False, start_task=started.start)
        )
        await kept.open()
    await asyncio.sleep(0.2)  # for both to be told of changes
    yield members
    await started.stop()
    for kept in stores:
        await kept.close()


async def test_a_session_is_found_until_its_time_is_over() -> None:
    async with alone() as (known, clock):
        await known.create(make("s"))
        clock.now += TTL_SECONDS - 1
        assert await known.find("s") is not None
        await coroutines.eventually(lambda: not known._touched)
        clock.now += TTL_SECONDS - 1
        assert await known.find("s") is not None, "it was used, and renewed"
        await coroutines.eventually(lambda: not known._touched)
        clock.now += TTL_SECONDS + 1
        assert await known.find("s") is None


async def test_the_least_recently_used_goes_but_none_in_use() -> None:
    async with alone(sessions_max=3) as (known, _):
        for name in "abc":
            await known.create(make(name))
        used = await known.find("a")
        assert used is not None
        used.users += 1
        await known.find("b")
        await known.create(make("d"))
        assert {session.session_id for session in known.held()} == {"a", "b", "d"}
        await known.create(make("e"))
        assert {session.session_id for session in known.held()} == {"a", "d", "e"}
        again = await known.find("c")
        assert again is not None, "it has lost its place in memory, and nothing else"
        assert known.evicted_total == 3


async def test_an_id_that_is_taken_makes_no_session() -> None:
    async with alone() as (known, _):
        assert await known.create(make("s")) is not None
        assert await known.create(make("s")) is None


async def test_of_two_processes_that_write_at_once_both_are_heard(server: redis_server.RedisServer) -> None:
    async with pair(server, "both:") as (here, there):
        await here.create(make("s"))
        mine, theirs = await here.find("s"), await there.find("s")
        assert mine is not None
        assert theirs is not None
        await asyncio.gather(
            *(here.amend(mine, with_leg(f"here{number}", "x")) for number in range(5)),
            *(there.amend(theirs, with_leg(f"there{number}", "x")) for number in range(5)),
        )
        kept = await here.store.load("s")
        assert kept is not None
        assert {leg.backend_id for leg in kept.backends} == {f"{w}{n}" for w in ("here", "there") for n in range(5)}
        assert kept.generation == 11


async def test_of_two_legs_at_one_backend_the_first_stays(server: redis_server.RedisServer) -> None:
    async with pair(server, "first:") as (here, there):
        await here.create(make("s"))
        mine, theirs = await here.find("s"), await there.find("s")
        assert mine is not None
        assert theirs is not None
        await asyncio.gather(here.amend(mine, with_leg("b", "mine")), there.amend(theirs, with_leg("b", "theirs")))
        assert mine.record.leg("b") == theirs.record.leg("b")


async def test_what_another_process_writes_is_seen_at_the_next_use(server: redis_server.RedisServer) -> None:
    async with pair(server, "news:") as (here, there):
        mine = await here.create(make("s"))
        theirs = await there.find("s")
        assert mine is not None
        assert theirs is not None
        await here.amend(mine, with_leg("b", "mine"))
        await coroutines.eventually(lambda: theirs.stale)
        found = await there.find("s")
        assert found is theirs
        assert found.record.leg("b") is not None


async def test_who_uses_a_session_is_told_at_once_that_it_is_another_now(server: redis_server.RedisServer) -> None:
    async with pair(server, "told:") as (here, there):
        mine = await here.create(make("s"))
        theirs = await there.find("s")
        assert mine is not None
        assert theirs is not None
        heard: list[sessions.Session] = []
        there.on_changed = heard.append
        theirs.users += 1
        await here.amend(mine, with_leg("b", "mine"))
        await coroutines.eventually(lambda: heard == [theirs])
        assert theirs.record.leg("b") is not None


async def test_an_ended_session_is_ended_everywhere_and_never_written_again(server: redis_server.RedisServer) -> None:
    async with pair(server, "end:") as (here, there):
        await here.create(make("s"))
        theirs = await there.find("s")
        assert theirs is not None
        ended: list[sessions.Session] = []
        there.on_ended = ended.append
        await here.forget("s")
        assert not await there.amend(theirs, with_leg("b", "late"))
        assert ended == [theirs]
        assert await there.find("s") is None
        assert await here.find("s") is None


async def test_a_change_made_while_the_store_is_away_is_written_when_it_is_back(
    server: redis_server.RedisServer,
) -> None:
    async with pair(server, "away:") as (here, there):
        mine = await here.create(make("s"))
        assert mine is not None
        server.kill()
        try:
            assert await here.amend(mine, with_leg("b", "mine"))
            assert mine.record.leg("b") is not None, "it holds here at once"
            assert await here.find("s") is mine
            with pytest.raises(errors.StoreUnavailable):
                await there.find("s")
        finally:
            server.start()

        async def written() -> bool:
            with contextlib.suppress(errors.StoreUnavailable):
                found = await there.find("s")
                return found is not None and found.record.leg("b") is not None
            return False

        for _ in range(100):
            if await written():
                break
            await asyncio.sleep(0.1)
        assert await written()
        assert not mine.unsaved


async def test_a_plain_id_that_reads_like_the_digest_of_another_is_unknown() -> None:
    async with alone() as (known, _):
        long = "x" * 500
        await known.create(msgspec.structs.replace(make("s"), session_id=long))
        assert await known.find(long) is not None
        (held,) = [key for key in known._held]
        assert await known.find(held) is None
