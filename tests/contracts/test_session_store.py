"""What every SessionStore promises (fastproxy/session/store.py), on each kind of it.

Real: the stores, Valkey, the system's Redis where it is installed, a Cluster, Sentinel. `place` is each kind;
`shared_place` those that other processes can reach too. Not here: what a store does while its server is away or refuses
(tests/session/test_redis.py), which memory can't be.
"""

import asyncio
import random
from typing import Any

import msgspec
import pytest

from fastproxy import errors
from fastproxy.session import record
from tests.kit.coroutines import eventually

BIG = 123456789012345678901234567890


def session(session_id: str, **members: Any) -> record.SessionRecord:
    members = {"backend_url": "http://127.0.0.2:8000", "initialize": {"capabilities": {}, "big": BIG}} | members
    return record.SessionRecord(session_id=session_id, created_at="2026-01-02T03:04:05.678Z", **members)


async def everything(store: Any, limit: int) -> list[str]:
    """The ids on all pages."""
    ids: list[str] = []
    cursor = None
    while True:
        records, cursor = await store.page(cursor, limit)
        assert len(records) <= limit
        ids += [one.session_id for one in records]
        if cursor is None:
            return ids


async def test_what_was_created_is_loaded_whole_by_every_store(place: Any) -> None:
    async with place.opened(2) as (here, there):
        made = session("s-1", backend_pod="pod-0", backend_session_id="inner", protocol_version="2025-11-25")
        assert await here.create(made)
        assert await there.load("s-1") == made
        assert await here.load("s-2") is None
        assert here.available
        assert here.fault is None
        await here.ping()


@pytest.mark.parametrize(
    "session_id", ["with space-free!sign", "/+=", "x" * 129, "!claim:s-1", "~plain._-"], ids=lambda name: name[:12]
)
async def test_unusual_ids_are_kept_apart_from_plain_ones(place: Any, session_id: str) -> None:
    async with place.opened(2) as (here, there):
        made = session(session_id)
        assert await here.create(made)
        assert await there.load(session_id) == made
        assert await everything(there, 10) == [session_id]
        assert await there.delete(session_id)
        assert await here.load(session_id) is None


async def test_a_string_is_remembered_for_every_proxy_until_another_takes_its_place(place: Any) -> None:
    async with place.opened(2) as (here, there):
        assert await there.recall("ab12") is None
        await here.remember("ab12", "http://127.0.0.2:8000", 60)
        assert await there.recall("ab12") == "http://127.0.0.2:8000"
        await there.remember("ab12", "http://127.0.0.3:8000", 60)
        assert await here.recall("ab12") == "http://127.0.0.3:8000"
        assert await here.recall("ab13") is None


async def test_what_is_remembered_is_forgotten_in_time_and_is_no_session(place: Any) -> None:
    async with place.opened() as (store,):
        await store.remember("ab12", "soon gone", 0.2)
        await store.remember("cd34", "stays", 60)
        assert await store.load("ab12") is None
        assert await store.create(session("cd34")), "a session of that name is another thing"
        assert await everything(store, 10) == ["cd34"]
        await asyncio.sleep(0.3)
        assert await store.recall("ab12") is None
        assert await store.delete("cd34")
        assert await store.recall("cd34") == "stays"


async def test_of_twenty_concurrent_creators_one_wins(place: Any) -> None:
    async with place.opened(4) as stores:
        makers = [session("s-1", backend_url=f"http://127.0.0.2:{number}") for number in range(20)]
        won = await asyncio.gather(*(stores[number % 4].create(made) for number, made in enumerate(makers)))
        assert won.count(True) == 1
        assert await stores[0].load("s-1") == makers[won.index(True)]


async def test_of_twenty_concurrent_updates_of_a_generation_one_wins(place: Any) -> None:
    async with place.opened(4) as stores:
        made = session("s-1")
        await stores[0].create(made)
        nexts = [
            record.moved(
                made,
                backend_url=f"http://127.0.0.3:{number}",
                backend_pod=None,
                backend_session_id=f"inner-{number}",
                protocol_version="2025-11-25",
                unix_seconds=number,
            )
            for number in range(20)
        ]
        won = await asyncio.gather(
            *(stores[number % 4].update(made, expected_generation=1) for number, made in enumerate(nexts))
        )
        assert won.count(True) == 1
        held = await stores[1].load("s-1")
        assert held == nexts[won.index(True)]
        assert held.generation == 2
        assert held.initialize["big"] == BIG


async def test_an_update_of_another_generation_is_refused(place: Any) -> None:
    async with place.opened() as (store,):
        await store.create(session("s-1", generation=3))
        assert not await store.update(session("s-1", generation=3), expected_generation=2)
        assert await store.update(session("s-1", generation=4), expected_generation=3)
        assert (await store.load("s-1")).generation == 4


async def test_an_update_never_brings_back_what_was_deleted(place: Any) -> None:
    async with place.opened(2) as (here, there):
        await here.create(session("s-1"))
        assert await there.delete("s-1")
        assert not await there.delete("s-1")
        assert not await here.update(session("s-1", generation=2), expected_generation=1)
        assert await here.load("s-1") is None
        assert await here.create(session("s-1")), "the id is free again"


async def test_a_session_expires_when_nobody_touches_it(place: Any) -> None:
    async with place.opened(ttl_seconds=0.3) as (store,):
        await store.create(session("idle"))
        await store.create(session("busy"))
        for _ in range(4):
            await asyncio.sleep(0.15)
            assert await store.touch(["busy"]) == []
        assert await store.load("idle") is None
        assert await store.load("busy") is not None
        assert await everything(store, 10) == ["busy"]
        assert await store.create(session("idle")), "the id is free again"


async def test_an_update_starts_the_ttl_anew(place: Any) -> None:
    async with place.opened(ttl_seconds=0.6) as (store,):
        await store.create(session("s-1"))
        await asyncio.sleep(0.4)
        assert await store.update(session("s-1", generation=2), expected_generation=1)
        await asyncio.sleep(0.4)
        assert await store.load("s-1") is not None


async def test_touch_answers_with_those_that_are_not_there(place: Any) -> None:
    async with place.opened() as (store,):
        ids = [f"s-{number}" for number in range(1_200)]  # more than one pipeline
        gone = set(random.Random(4).sample(ids, 37))
        await asyncio.gather(*(store.create(session(name)) for name in ids if name not in gone))
        assert await store.touch(ids) == [name for name in ids if name in gone]
        assert await store.touch([]) == []


@pytest.mark.parametrize("limit", [1, 7, 100, 1_000])
async def test_pages_hold_no_more_than_asked_and_all_there_is(place: Any, limit: int) -> None:
    async with place.opened() as (store,):
        ids = {f"s-{number}" for number in range(150)}
        await asyncio.gather(*(store.create(session(name)) for name in ids))
        await store.claim("s-1", "somebody", 10)
        seen = await everything(store, limit)
        assert set(seen) == ids
        assert len(seen) == len(ids)


async def test_who_stays_is_on_some_page_whatever_comes_and_goes(place: Any) -> None:
    async with place.opened(2) as (reader, writer):
        staying = {f"stay-{number}" for number in range(120)}
        leaving = [f"leave-{number}" for number in range(120)]
        await asyncio.gather(*(writer.create(session(name)) for name in [*staying, *leaving]))
        seen: set[str] = set()
        cursor = None
        for turn in range(10_000):
            records, cursor = await reader.page(cursor, 9)
            seen |= {one.session_id for one in records}
            if cursor is None:
                break
            if leaving:
                await writer.delete(leaving.pop())
            await asyncio.gather(*(writer.create(session(f"new-{turn}-{number}")) for number in range(10)))
        assert cursor is None
        assert staying <= seen


@pytest.mark.parametrize("cursor", ["", "nonsense", "-1", "0!a b", "9999:x:", "pending", "1@"])
async def test_a_foreign_cursor_is_a_value_error(place: Any, cursor: str) -> None:
    async with place.opened() as (store,):
        with pytest.raises(ValueError, match="cursor"):
            await store.page(cursor, 10)


async def test_one_owner_at_a_time_has_a_claim(place: Any) -> None:
    async with place.opened(2) as (here, there):
        assert await here.claim("s-1", "here", 10)
        assert not await there.claim("s-1", "there", 10)
        assert await there.claim("s-2", "there", 10)
        assert await here.claim("s-1", "here", 10), "its owner may take it again"
        await there.release("s-1", "there")
        assert not await there.claim("s-1", "there", 10), "who does not hold it can't give it back"
        await here.release("s-1", "here")
        assert await there.claim("s-1", "there", 10)


async def test_a_claim_ends_by_itself(place: Any) -> None:
    async with place.opened(2) as (here, there):
        assert await here.claim("s-1", "here", 0.1)
        await asyncio.sleep(0.15)
        assert await there.claim("s-1", "there", 10)
        await here.release("s-1", "here")
        assert not await here.claim("s-1", "here", 10)


async def test_members_that_we_do_not_know_live_through_an_update(place: Any) -> None:
    unknown = {"region": msgspec.Raw(b'"eu"'), "weights": msgspec.Raw(b"[1.0, 2e3,%d]" % BIG)}
    async with place.opened(2) as (here, there):
        await here.create(session("s-1", unknown=unknown))
        held = await there.load("s-1")
        assert await there.update(msgspec.structs.replace(held, generation=2), expected_generation=1)
        again = await here.load("s-1")
        assert again.unknown == unknown
        if place.shared:
            stored = place.execute("GET", place.prefix + "s-1")
            assert b'"weights":[1.0, 2e3,%d]' % BIG in stored


async def test_the_stored_form_is_the_documented_one(shared_place: Any) -> None:
    async with shared_place.opened(ttl_seconds=100) as (store,):
        await store.create(session("s-1"))
    assert shared_place.execute("GET", shared_place.prefix + "s-1") == (
        b'{"v":1,"session_id":"s-1","backend_pod":null,"backend_url":"http://127.0.0.2:8000","backend_session_id":null,'
        b'"transport":"streamable-http","path":"/mcp","protocol_version":"","initialize":{"capabilities":{},'
        b'"big":123456789012345678901234567890},"created_at":"2026-01-02T03:04:05.678Z","updated_at":"","generation":1}'
    )
    assert shared_place.execute("TTL", shared_place.prefix + "s-1") in (99, 100)


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\x00\xff", b"[]", b"null", b'{"v":1}', b'{"session_id":"s-1"}', b'{"v":1,"session_id":"s-1"', b"[" * 5_000],
    ids=["empty", "binary", "list", "null", "no-id", "no-version", "cut", "deep"],
)
async def test_a_value_that_is_no_record_counts_and_is_missing(shared_place: Any, garbage: bytes) -> None:
    async with shared_place.opened() as (store,):
        shared_place.execute("SET", shared_place.prefix + "s-1", garbage)
        assert await store.load("s-1") is None
        assert store.bad_records_total == 1
        assert await everything(store, 10) == []
        assert not await store.update(session("s-1", generation=2), expected_generation=1)
        assert shared_place.execute("GET", shared_place.prefix + "s-1") == garbage
        assert not await store.create(session("s-1")), "it is held, if not by a session"


async def test_a_value_of_another_type_or_name_is_missing(shared_place: Any) -> None:
    async with shared_place.opened() as (store,):
        shared_place.execute("RPUSH", shared_place.prefix + "list", "x")
        shared_place.execute("SET", shared_place.prefix + "alias", record.encode(session("s-1")))
        shared_place.execute("SET", shared_place.prefix + "foreign name", "x")
        for name in ("list", "alias"):
            assert await store.load(name) is None
            assert not await store.update(session(name, generation=2), expected_generation=7)
        assert await everything(store, 10) == []
        assert store.available


async def test_a_record_of_a_later_version_is_neither_used_nor_overwritten(shared_place: Any) -> None:
    newer = b'{"v":2,"session_id":["s","1"],"generation":1}'
    async with shared_place.opened() as (store,):
        shared_place.execute("SET", shared_place.prefix + "s-1", newer)
        with pytest.raises(errors.RecordTooNew):
            await store.load("s-1")
        with pytest.raises(errors.RecordTooNew):
            await store.update(session("s-1", generation=2), expected_generation=1)
        assert await everything(store, 10) == []
        assert shared_place.execute("GET", shared_place.prefix + "s-1") == newer
        assert store.bad_records_total == 0


class Watcher:
    """What a store has told its cache."""

    def __init__(self, store: Any) -> None:
        self.changed: list[str] = []
        self.gaps = 0
        store.watch(self.changed.append, self._count)

    def _count(self) -> None:
        self.gaps += 1


async def watching(place: Any, **options: Any) -> tuple[Any, Any, Watcher, Watcher]:
    """Two open stores, both of which watch already."""
    here, there = place.make(**options), place.make(**options)
    watchers = Watcher(here), Watcher(there)
    nodes = len(place.server.servers) if place.kind == "cluster" else 1
    for store in (here, there):
        await store.open()
    for watcher in watchers:
        await eventually(lambda watcher=watcher: watcher.gaps == nodes)  # each node is followed from now on
    return here, there, *watchers


async def test_a_change_made_elsewhere_is_seen_at_once_and_own_writes_are_not(shared_place: Any) -> None:
    here, there, own, other = await watching(shared_place)
    try:
        for change in (
            lambda: here.create(session("s-1")),
            lambda: here.update(session("s-1", generation=2), expected_generation=1),
            lambda: here.touch(["s-1"]),
            lambda: here.delete("s-1"),
        ):
            other.changed.clear()
            await change()
            assert await eventually(lambda: other.changed == ["s-1"], seconds_max=1.0) < 0.5
        await here.claim("s-1", "here", 1)
        await asyncio.sleep(0.1)
        assert other.changed == ["s-1"]
        assert own.changed == []
    finally:
        await here.close()
        await there.close()


async def test_own_writes_in_haste_are_not_taken_for_changes(shared_place: Any) -> None:
    here, there, own, other = await watching(shared_place)
    try:
        ids = [f"s-{number}" for number in range(300)]
        await asyncio.gather(*(here.create(session(name)) for name in ids))
        await asyncio.gather(*(here.touch([name]) for name in ids))
        await here.touch(ids)
        await asyncio.gather(*(here.delete(name) for name in ids))
        await eventually(lambda: set(other.changed) == set(ids))
        await asyncio.sleep(0.1)
        assert own.changed == []
        own_gone = await asyncio.gather(*(here.delete(name) for name in ids))
        assert not any(own_gone), "a write that wrote nothing leaves no expectation behind:"
        await asyncio.gather(*(there.create(session(name)) for name in ids))
        await eventually(lambda: set(own.changed) == set(ids), seconds_max=1.0)
    finally:
        await here.close()
        await there.close()


async def test_expiry_and_a_deletion_by_hand_are_seen(shared_place: Any) -> None:
    here, there, own, other = await watching(shared_place, ttl_seconds=0.3)
    try:
        await here.create(session("expiring"))
        await eventually(lambda: other.changed == ["expiring"], seconds_max=0.2)
        other.changed.clear()
        assert own.changed == []
        await asyncio.sleep(0.35)
        assert await there.load("expiring") is None  # a server with many keys may not have noticed by itself yet
        await eventually(lambda: own.changed == other.changed == ["expiring"], seconds_max=1.0)
        await here.create(session("by-hand"))
        await asyncio.sleep(0.05)
        own.changed.clear()
        shared_place.execute("DEL", shared_place.prefix + "by-hand")
        await eventually(lambda: own.changed == ["by-hand"], seconds_max=1.0)
    finally:
        await here.close()
        await there.close()


async def test_closing_twice_is_closing_once(place: Any) -> None:
    store = place.make()
    await store.open()
    await store.close()
    await store.close()


async def test_news_are_shared_by_every_proxy_each_with_one_line_and_those_who_are_gone_have_none(place: Any) -> None:
    async with place.opened(3) as (here, there, third):
        assert await here.share_news("a", "1;x:3", []) == {"a": "1;x:3"}
        assert await there.share_news("b", "1;", []) == {"a": "1;x:3", "b": "1;"}
        assert await here.share_news("a", "2;x:4,y:1", []) == {"a": "2;x:4,y:1", "b": "1;"}
        assert await third.share_news("c", "1;", ["a", "nobody"]) == {"b": "1;", "c": "1;"}
        assert await everything(here, 10) == []
        again = await asyncio.gather(*(store.share_news(name, "9;", []) for store, name in ((here, "a"), (there, "b"))))
        assert max(map(len, again)) == 3, "two at once lose nothing"
