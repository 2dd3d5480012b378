"""What the route table's verbs cost: `pytest bench/micro/test_table.py`.

A call is timed with Python's share of it (the method call, and the tuple of a hit): about 70 ns that the fast lane,
which calls `find` from C, does not pay. Hits come in random order, on keys that lie in memory in the order of the
calls, so that it is the table's memory that is cold and not the load's.
"""

import random
from collections.abc import Iterator

import pytest
from pytest_benchmark import fixture

from fastproxy._ext import core

CAPACITY = 1_000_000
CALLS = 50_000  # per round: enough to go through the processor's caches at a million sessions


def make_keys(count: int, first: int = 0) -> list[bytes]:
    chance = random.Random(first)
    return [b"%032x" % chance.getrandbits(128) for _ in range(count)]


def fill(count: int) -> tuple[core.RouteTable, list[bytes]]:
    table, keys = core.RouteTable(CAPACITY), make_keys(count)
    for key in keys:
        table.put(key, 1, expires=7200, touch_at=720)
    while table.sweep(0, 65_536) or table.memory_bytes > settled_bytes(table):
        pass
    return table, keys


def settled_bytes(table: core.RouteTable) -> int:
    """Its memory when no doubling is under way."""
    slots = 16
    while slots * 3 < len(table) * 4:
        slots *= 2
    return (len(table) + 1) * 32 + max(slots * 4, 4096)


@pytest.fixture(scope="module", params=[1_000, 100_000, 1_000_000], ids="{:,} sessions".format)
def filled(request: pytest.FixtureRequest) -> Iterator[tuple[core.RouteTable, list[bytes]]]:
    yield fill(request.param)


def in_memory_order(keys: list[bytes]) -> list[bytes]:
    """Copies of the keys, made one after the other."""
    return [bytes(bytearray(key)) for key in keys]


def per_call(benchmark: fixture.BenchmarkFixture, rounds: int) -> None:
    benchmark.extra_info["calls_per_round"] = CALLS
    benchmark.extra_info["median_ns_per_call"] = round(benchmark.stats.stats.median / CALLS * 1e9, 1)
    benchmark.extra_info["rounds"] = rounds


def test_a_hit_in_random_order(
    benchmark: fixture.BenchmarkFixture, filled: tuple[core.RouteTable, list[bytes]]
) -> None:
    table, keys = filled
    rounds = 20
    plays = iter([in_memory_order(random.choices(keys, k=CALLS)) for _ in range(rounds)])

    def hit(play: list[bytes]) -> None:
        get = table.get
        for key in play:
            get(key, 1)

    benchmark.pedantic(hit, setup=lambda: ((next(plays),), {}), rounds=rounds)
    per_call(benchmark, rounds)


def test_a_miss(benchmark: fixture.BenchmarkFixture, filled: tuple[core.RouteTable, list[bytes]]) -> None:
    table, rounds = filled[0], 10
    plays = iter([make_keys(CALLS, 1 + number) for number in range(rounds)])

    def miss(play: list[bytes]) -> None:
        get = table.get
        for key in play:
            get(key, 1)

    benchmark.pedantic(miss, setup=lambda: ((next(plays),), {}), rounds=rounds)
    per_call(benchmark, rounds)


def test_a_put_that_evicts_at_a_million(benchmark: fixture.BenchmarkFixture) -> None:
    table, rounds = fill(CAPACITY)[0], 10
    plays = iter([make_keys(CALLS, 1 + number) for number in range(rounds)])
    benchmark.pedantic(put_all, setup=lambda: ((table, next(plays)), {}), rounds=rounds)
    per_call(benchmark, rounds)
    assert table.evictions == rounds * CALLS


def test_a_put_into_an_empty_table(benchmark: fixture.BenchmarkFixture) -> None:
    keys, rounds = make_keys(CALLS), 10
    benchmark.pedantic(put_all, setup=lambda: ((core.RouteTable(CAPACITY), keys), {}), rounds=rounds)
    per_call(benchmark, rounds)


def put_all(table: core.RouteTable, keys: list[bytes]) -> None:
    put = table.put
    for key in keys:
        put(key, 1, expires=7200, touch_at=720)


def test_a_removal_at_a_million(benchmark: fixture.BenchmarkFixture) -> None:
    table, keys = fill(CAPACITY)
    rounds = 10
    random.shuffle(keys)
    plays = iter(batches(keys))

    def remove(play: list[bytes]) -> None:
        forget = table.remove
        for key in play:
            forget(key)

    benchmark.pedantic(remove, setup=lambda: ((in_memory_order(next(plays)),), {}), rounds=rounds)
    per_call(benchmark, rounds)
    assert len(table) == CAPACITY - rounds * CALLS


def batches(keys: list[bytes]) -> Iterator[list[bytes]]:
    for start in range(0, len(keys), CALLS):
        yield keys[start : start + CALLS]
