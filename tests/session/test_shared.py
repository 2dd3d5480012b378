"""The embedded store lent to workers: who hears of what, in which order, and what happens when a channel fails.

Real: the store, the channels, their sockets. In one process, so that an order can be looked at. What every store
promises is shown of this one, too, in tests/contracts; real workers are in tests/proxy/test_workers.py.
"""

import asyncio
import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.proxy import channel, tasks
from fastproxy.session import book, memory, record, shared
from tests.kit.coroutines import eventually
from tests.kit.lent_store import lent, paired


def session(session_id: str, **members: Any) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, backend_url="http://127.0.0.2:8000", **members)


def embedded(*, ttl_seconds: float = 60.0, sessions_max: int = 20_000) -> memory.MemoryStore:
    return memory.MemoryStore(ttl_seconds=ttl_seconds, sessions_max=sessions_max)


def ignore() -> None:
    """A lent store knows no gap."""


async def test_who_changes_a_record_hears_nothing_and_all_others_do_at_once() -> None:
    async with lent(embedded(), 3) as stores:
        heard: list[list[str]] = [[], [], []]
        for store, into in zip(stores, heard, strict=True):
            store.watch(into.append, ignore)
        long_id = "x" * 500
        await stores[0].create(session("s-1"))
        await stores[0].create(session(long_id))
        assert await stores[0].update(session("s-1", generation=2), expected_generation=1)
        assert not await stores[0].update(session("s-1", generation=2), expected_generation=1)
        assert await stores[1].delete(long_id)
        assert not await stores[1].delete(long_id)
        expected = [[record.store_key(long_id)], ["s-1"], ["s-1", record.store_key(long_id)]]
        assert await eventually(lambda: heard == expected, seconds_max=1.0) < 0.1


async def test_what_expires_is_told_to_all() -> None:
    async with lent(embedded(ttl_seconds=0.2), 2) as stores:
        heard: list[list[str]] = [[], []]
        for store, into in zip(stores, heard, strict=True):
            store.watch(into.append, ignore)
        await stores[0].create(session("s-1"))
        await asyncio.sleep(0.25)
        assert await stores[0].load("s-1") is None
        await eventually(lambda: heard == [["s-1"], ["s-1"]], seconds_max=1.0)


async def test_a_gap_in_what_is_heard_is_told_to_all_and_in_its_order() -> None:
    class Remote(memory.MemoryStore):
        """Another proxy writes to it, too, as to a Redis; the connection that tells of that may be lost."""

        def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
            super().watch(changed, broken)
            self.changed, self.broken = changed, broken

    inner = Remote(ttl_seconds=60, sessions_max=10)
    async with lent(inner, 2) as stores:
        heard: list[list[str]] = [[], []]
        for store, into in zip(stores, heard, strict=True):
            store.watch(into.append, functools.partial(into.append, "gap"))
        inner.changed("s-1")
        inner.changed("s-2")
        await asyncio.sleep(0.01)
        inner.broken()
        await eventually(lambda: heard == [["s-1", "s-2", "gap"]] * 2, seconds_max=1.0)


async def test_no_load_is_kept_that_a_change_has_overtaken() -> None:
    """One worker's book looks for a session while another moves it: afterwards the first must know where it is."""
    async with lent(embedded(), 2) as (here, there):
        started = tasks.Tasks()
        clock = itertools.count(1)
        reader = book.Book(
            core.RouteTable(100),
            here,
            ttl_seconds=60,
            clock=lambda: next(clock) // 1_000 + 1,
            locate=lambda session: int(session.backend_url.rpartition(":")[2]),
            start_task=started.start,
        )
        await there.create(record.SessionRecord(session_id="s-1", backend_url="http://127.0.0.2:1"))
        for generation in range(2, 300):
            moved = record.SessionRecord(
                session_id="s-1", backend_url=f"http://127.0.0.2:{generation % 7}", generation=generation
            )
            updating = asyncio.create_task(there.update(moved, expected_generation=generation - 1))
            for _ in range(generation % 5):
                await asyncio.sleep(0)
            await asyncio.gather(reader.find("s-1"), updating)
            await there.ping()  # by now the notice, sent before the update was answered, has been read
            await asyncio.sleep(0.001)
            place = await reader.find("s-1")
            assert place is not None
            assert place.endpoint == generation % 7
        assert reader.lookups["store"] > 250
        await started.stop()


async def test_a_full_store_is_told_as_such_and_counted_where_it_was_asked() -> None:
    async with lent(embedded(sessions_max=1), 2) as (here, there):
        await here.create(session("s-1"))
        with pytest.raises(errors.StoreFull, match="--max-sessions"):
            await there.create(session("s-2"))
        assert (here.errors_total, there.errors_total) == (0, 1)
        assert there.available, "it serves, and is full"


async def test_a_cursor_of_nobody_is_refused_as_by_any_store() -> None:
    async with lent(embedded(), 1) as (here,):
        with pytest.raises(ValueError, match="cursor"):
            await here.page("nonsense", 10)


async def test_thousands_of_questions_at_once_are_each_given_their_own_answer() -> None:
    async with lent(embedded(), 2) as (here, there):
        names = [f"s-{number}" for number in range(5_000)]
        assert all(await asyncio.gather(*(here.create(session(name, path=f"/{name}")) for name in names)))
        found = await asyncio.gather(*(there.load(name) for name in names))
        assert [one.path for one in found if one] == [f"/{name}" for name in names]


async def test_when_the_channel_ends_what_is_asked_fails_at_once() -> None:
    async with paired(embedded(), 1) as (pair,):
        inner = pair.store
        pair.supervisor.close()
        with pytest.raises(errors.StoreUnavailable):
            await inner.load("s-1")
        with pytest.raises(errors.StoreUnavailable):
            await inner.load("s-1")
        assert not inner.available
        assert isinstance(inner.fault, errors.StoreUnavailable)
        assert pair.lost == 1


async def test_a_question_that_is_not_answered_in_time_fails_and_its_late_answer_harms_nobody() -> None:
    class Slow(memory.MemoryStore):
        async def ping(self) -> None:
            await asyncio.sleep(0.1)

    async with paired(Slow(ttl_seconds=60, sessions_max=10), 1) as (pair,):
        with pytest.raises(channel.ChannelLost, match="no answer within"):
            await pair.worker.ask(shared.Ping(), bool, seconds_max=0.02)
        await asyncio.sleep(0.15)
        assert await pair.store.create(session("s-1"))


async def test_a_peer_that_stops_reading_is_given_up_and_costs_no_memory() -> None:
    async with paired(embedded(), 2) as pairs:
        transport = pairs[0].worker._transport
        assert transport is not None
        transport.pause_reading()
        notice = shared.Changed(["x" * 100_000])
        for _ in range(2 * channel.UNSENT_BYTES_MAX // 100_000):
            pairs[0].supervisor.tell(notice)
        await asyncio.sleep(0)
        transport.resume_reading()
        await eventually(lambda: pairs[0].lost == 1)
        assert await pairs[1].store.create(session("s-1")), "the others go on"
