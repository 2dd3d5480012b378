"""MemoryStore: its bound, its expiry in virtual time, its size. What every store promises: tests/contracts."""

import tracemalloc
import uuid
from typing import Any

import pytest

from fastproxy import errors
from fastproxy.session import memory, record

TTL_SECONDS = 100.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def session(session_id: str, **members: Any) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, backend_url="http://127.0.0.2:8000", **members)


def made(sessions_max: int = 1_000) -> tuple[memory.MemoryStore, Clock]:
    clock = Clock()
    return memory.MemoryStore(ttl_seconds=TTL_SECONDS, sessions_max=sessions_max, clock=clock), clock


async def test_beyond_the_bound_nothing_is_created_and_nothing_live_is_evicted() -> None:
    store, _ = made(10)
    for number in range(10):
        await store.create(session(f"s-{number}"))
    with pytest.raises(errors.StoreFull, match="--max-sessions"):
        await store.create(session("one-more"))
    assert store.errors_total == 1
    assert not await store.create(session("s-3")), "what is held is held, full or not"
    assert await store.update(session("s-3", generation=2), expected_generation=1)
    assert len((await store.page(None, 100))[0]) == 10
    assert await store.delete("s-0")
    assert await store.create(session("one-more"))


async def test_expired_sessions_make_room_wherever_they_lie() -> None:
    store, clock = made(500)
    for number in range(500):
        await store.create(session(f"old-{number}"))
    clock.now += TTL_SECONDS / 2
    await store.touch([f"old-{number}" for number in range(0, 500, 2)])
    clock.now += TTL_SECONDS / 2
    for number in range(250):
        assert await store.create(session(f"new-{number}"))
    with pytest.raises(errors.StoreFull):
        await store.create(session("one-more"))
    assert store.expired_total == 250
    assert await store.load("old-0") is not None
    assert await store.load("old-1") is None


async def test_a_session_expires_exactly_when_its_time_is_over() -> None:
    store, clock = made()
    await store.create(session("s-1"))
    clock.now += TTL_SECONDS - 0.001
    assert await store.load("s-1") is not None
    assert not await store.touch(["s-1"])
    clock.now += TTL_SECONDS
    assert await store.load("s-1") is None
    assert not await store.update(session("s-1", generation=2), expected_generation=1)
    assert await store.touch(["s-1"]) == ["s-1"]


async def test_what_expires_is_swept_by_the_operations_of_others_and_told() -> None:
    store, clock = made()
    told: list[str] = []
    store.watch(told.append, lambda: pytest.fail("memory never loses track"))
    ids = {f"s-{number}" for number in range(700)}
    for name in ids:
        await store.create(session(name))
    clock.now += TTL_SECONDS
    assert len(store) == 700
    for _ in range(256):
        await store.load("nobody")
    assert len(store) == 0
    assert set(told) == ids
    assert len(told) == 700


async def test_a_claim_table_does_not_grow_with_claims_that_ended() -> None:
    store, clock = made()
    for number in range(10_000):
        clock.now += 1
        assert await store.claim(f"s-{number}", "owner", 10)
    assert len(store._claims) < 200


async def test_what_sessions_have_in_common_is_held_once_and_freed_with_the_last() -> None:
    store, _ = made()
    for number in range(100):
        await store.create(session(f"s-{number}", initialize={"client": "same"}))
    await store.create(session("other", initialize={"client": "other"}))
    assert len(store._commons) == 2
    await store.delete("other")
    assert len(store._commons) == 1
    first = await store.load("s-1")
    first.initialize["client"] = "changed by a careless caller"
    assert (await store.load("s-2")).initialize == {"client": "same"}


async def test_a_session_costs_less_than_400_bytes() -> None:
    count = 10_000
    store, _ = made(count)
    initialize = {"capabilities": {"sampling": {}, "roots": {"listChanged": True}}, "clientInfo": {"name": "mcp"}}
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(count):
            at = record.timestamp(number)
            await store.create(session(uuid.uuid4().hex, initialize=dict(initialize), created_at=at, updated_at=at))
        held = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert held / count < 400


async def test_no_table_grows_large_enough_to_stall_the_loop() -> None:
    """A dict grows by being rehashed whole; so no dict may hold more than a small part of the sessions."""
    count = 30_000
    store, _ = made(count)
    for number in range(count):
        await store.create(session(f"s-{number}", initialize={"number": number}))  # nothing in common
    assert max(len(shard.held) for shard in store._shards) < 2 * count / len(store._shards)
    assert len(store._commons) <= 4_096


async def test_sessions_are_counted_by_backend_through_moves_ends_and_expiry() -> None:
    store, clock = made()
    for number in range(4):
        await store.create(session(f"s-{number}"))
    moved = record.SessionRecord(session_id="s-0", backend_url="http://127.0.0.3:8000", generation=2)
    assert await store.update(moved, expected_generation=1)
    assert not await store.update(moved, expected_generation=1), "the second of two is refused, and not counted"
    await store.delete("s-1")
    await store.delete("s-1")
    assert (store.count("http://127.0.0.2:8000"), store.count("http://127.0.0.3:8000"), len(store)) == (2, 1, 3)
    clock.now += TTL_SECONDS
    assert await store.load("s-2") is None
    assert store.count("http://127.0.0.2:8000") == 1, "the other is not met yet"
