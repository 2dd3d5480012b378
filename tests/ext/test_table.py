"""The route table against a plain ordered dictionary, and its promises on eviction, pinning, staleness and listing.

Everything is real. Not covered: keys and their hash (test_keys.py), growth and memory (test_slots.py), times
(bench/micro), and the fast lane's C door itself, which `get` goes through.
"""

import collections

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from fastproxy._ext import core
from tests.ext import session_keys

EXACT_UP_TO = 64  # entries among which the least recently used one is found exactly

Route = collections.namedtuple("Route", "endpoint flags expires touch_at epoch")

# A few keys that meet again and again, and some that nobody has seen.
keys = st.one_of(
    st.integers(0, 15).map(lambda number: b"%032x" % number),
    st.integers(0, 15).map(lambda number: b"%016x%016x" % (number, 0)),
    session_keys.shapes_of_keys,
)


class RouteTableAgainstDictionary(stateful.RuleBasedStateMachine):
    """`routes` holds what the table must hold, least recently used first."""

    @stateful.initialize(capacity=st.sampled_from([1, 2, 7, 40, 2**30]), secret=st.binary(min_size=16, max_size=16))
    def open(self, capacity: int, secret: bytes) -> None:
        self.table = core.RouteTable(capacity, secret=secret)
        self.capacity = capacity
        self.routes: collections.OrderedDict[bytes, Route] = collections.OrderedDict()
        self.now = 100
        self.told = 0  # the latest second that the table has heard of
        self.epoch = 0
        self.most = 0

    def is_expired(self, key: bytes, now: int) -> bool:
        return self.routes[key].expires <= now and not self.routes[key].flags & core.FLAG_PINNED

    @stateful.rule(
        key=keys,
        endpoint=st.integers(0, 65535) | st.integers(0, 3),
        flags=st.sampled_from([0, 1, 0x7F, core.FLAG_PINNED]),
        lifetime=st.integers(0, 20) | st.just(session_keys.FOREVER - 1000),
    )
    def put(self, key: bytes, endpoint: int, flags: int, lifetime: int) -> None:
        expires = self.now + lifetime
        evicted = self.table.put(key, endpoint, flags=flags, expires=expires, touch_at=self.now + 1)
        if key not in self.routes and len(self.routes) >= self.capacity:
            self.make_room(evicted)
        else:
            assert evicted is None
        self.routes[key] = Route(endpoint, flags, expires, self.now + 1, self.epoch)
        self.routes.move_to_end(key)
        self.most = max(self.most, len(self.routes))

    def make_room(self, evicted: bytes | None) -> None:
        expired = [key for key in self.routes if self.is_expired(key, self.told)]
        evictable = [key for key in self.routes if not self.routes[key].flags & core.FLAG_PINNED]
        if expired:
            assert evicted is None
            (gone,) = [key for key in expired if key not in self.table]
            del self.routes[gone]
        elif evictable:
            if self.most <= EXACT_UP_TO:
                assert evicted == evictable[0]
            assert evicted in evictable
            del self.routes[evicted]
        else:
            assert evicted is None

    @stateful.rule(first=st.integers(0, 1000), count=st.integers(1, 400))
    def put_many(self, first: int, count: int) -> None:
        if self.capacity > EXACT_UP_TO:
            for number in range(first, first + count):
                self.put(b"session %d of many" % number, number % 5, 0, session_keys.FOREVER - 1000)

    @stateful.rule(first=st.integers(0, 1000), count=st.integers(1, 400))
    def remove_many(self, first: int, count: int) -> None:
        for number in range(first, first + count):
            self.remove(b"session %d of many" % number)

    @stateful.rule(key=keys)
    def get(self, key: bytes) -> None:
        found = self.table.get(key, self.now)
        self.told = self.now
        if key in self.routes and self.is_expired(key, self.now):
            del self.routes[key]
        if key not in self.routes:
            assert found is None
            return
        route = self.routes[key]
        self.routes.move_to_end(key)
        assert found == (*route[:4], route.epoch != self.epoch)

    @stateful.rule(data=st.data())
    def get_one_of_them(self, data: st.DataObject) -> None:
        if self.routes:
            self.get(data.draw(st.sampled_from(list(self.routes))))

    @stateful.rule(key=keys, lifetime=st.integers(0, 20))
    def renew(self, key: bytes, lifetime: int) -> None:
        assert self.table.renew(key, self.now + lifetime, self.now + 2) == (key in self.routes)
        if key in self.routes:
            self.routes[key] = self.routes[key]._replace(
                expires=self.now + lifetime, touch_at=self.now + 2, epoch=self.epoch
            )

    @stateful.rule(key=keys, flags=st.sampled_from([0, 3, core.FLAG_PINNED]))
    def set_flags(self, key: bytes, flags: int) -> None:
        assert self.table.set_flags(key, flags) == (key in self.routes)
        if key in self.routes:
            self.routes[key] = self.routes[key]._replace(flags=flags)

    @stateful.rule(key=keys)
    def mark_stale(self, key: bytes) -> None:
        route = self.routes.get(key)
        assert self.table.mark_stale(key) == (route and (route.endpoint, route.flags))
        if route:
            self.routes[key] = route._replace(epoch=-1)

    @stateful.rule(key=keys)
    def remove(self, key: bytes) -> None:
        assert self.table.remove(key) == (self.routes.pop(key, None) is not None)

    @stateful.rule(seconds=st.integers(1, 30))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @stateful.rule(marks=st.sampled_from([1, 1, 2, 254, 255, 256, 600]), steps=st.integers(0, 3))
    def mark_all_stale(self, marks: int, steps: int) -> None:
        for mark in range(marks):
            self.table.mark_all_stale()
            if mark % 100 == 99:
                self.sweep(steps)
        self.epoch += marks

    @stateful.rule(budget=st.integers(0, 40))
    def sweep(self, budget: int) -> None:
        dropped = self.table.sweep(self.now, budget)
        self.told = self.now
        gone = [key for key in self.routes if key not in self.table]
        expired = [key for key in gone if self.is_expired(key, self.now)]
        assert dropped == len(expired)
        assert len(gone) == len(expired) or len(self.routes) - len(expired) > self.capacity > 0
        for key in gone:
            assert not self.routes[key].flags & core.FLAG_PINNED
            del self.routes[key]

    @stateful.rule()
    def sweep_a_whole_round(self) -> None:
        self.sweep(max(self.most, 1))
        assert not [key for key in self.routes if self.is_expired(key, self.now)]

    @stateful.rule()
    def clear(self) -> None:
        self.table.clear()
        self.routes.clear()
        self.most = 0

    @stateful.invariant()
    def holds_exactly_what_it_should(self) -> None:
        assert len(self.table) == len(self.routes)
        assert sorted(session_keys.list_all(self.table, 7)) == sorted(self.routes)
        assert all(key in self.table for key in self.routes)
        for endpoint, count in collections.Counter(route.endpoint for route in self.routes.values()).items():
            assert self.table.count(endpoint) == count


RouteTableAgainstDictionary.TestCase.settings = hypothesis.settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
test_table_does_what_an_ordered_dictionary_would_do = RouteTableAgainstDictionary.TestCase


@pytest.mark.parametrize("capacity", [0, 2**30 + 1])
def test_a_capacity_that_makes_no_sense_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="expected a capacity from 1"):
        core.RouteTable(capacity)


@pytest.mark.parametrize("marks_per_sweep", [1, 7, 85, 86, 254, 255, 256, 10_000])
def test_what_is_stale_stays_so_however_often_the_epoch_comes_round(marks_per_sweep: int) -> None:
    table = core.RouteTable(100)
    old = [b"old %d" % number for number in range(3)]  # a round of the sweep takes three calls
    for key in old:
        session_keys.put(table, key)
    for mark in range(1, 1_200):
        table.mark_all_stale()
        if mark % marks_per_sweep == 0:
            table.sweep(0, 1)
        assert all(table.get(key, 0)[-1] for key in old)
        if mark % 100 == 50:
            session_keys.put(table, b"new")
        assert table.get(b"new", 0) is None or table.get(b"new", 0)[-1] == (mark % 100 != 50)


def test_rounds_of_an_uneven_pace_do_not_hide_an_epoch_that_comes_round() -> None:
    table = core.RouteTable(100)
    for number in range(3):
        session_keys.put(table, b"%d" % number)
    table.sweep(0, 1)
    session_keys.put(table, b"1")
    table.sweep(0, 1)  # sees it while it is fresh
    for _ in range(200):
        table.mark_all_stale()
    table.sweep(0, 2)  # ends the round, and begins the next
    for _ in range(55):
        table.mark_all_stale()
    assert table.get(b"1", 0)[-1]


def test_eviction_from_a_large_table_takes_one_of_the_oldest() -> None:
    count = 20_000
    table = core.RouteTable(count, secret=bytes(range(16)))
    for number in range(count):
        session_keys.put(table, b"%032x" % number)
    for number in range(count // 2):  # the first half becomes the younger one
        assert table.get(b"%032x" % number, 0)
    ranks = [
        (int(session_keys.put(table, b"new %d" % number) or b"0", 16) - count // 2) / count for number in range(500)
    ]
    assert min(ranks) >= 0  # none of the younger half
    assert sum(ranks) / len(ranks) < 0.05  # the mean of the best of 64 is 1/65, and up to 1/40 when 500 have gone
    assert (table.evictions, len(table)) == (500, count)


def test_pinned_sessions_survive_time_and_pressure_and_may_exceed_the_capacity() -> None:
    table = core.RouteTable(4)
    for number in range(6):
        assert session_keys.put(table, b"stream %d" % number, flags=core.FLAG_PINNED, expires=1) is None
    assert table.sweep(100, 100) == 0
    assert all(table.get(b"stream %d" % number, 100) for number in range(6))
    assert session_keys.put(table, b"other", expires=1000) is None
    assert session_keys.put(table, b"one more", expires=1000) == b"other"
    for number in range(6):
        table.set_flags(b"stream %d" % number, 0)
        table.renew(b"stream %d" % number, 1000, 0)
    table.sweep(100, 1000)
    assert len(table) == 4
    assert b"one more" in table


def test_listing_passes_over_a_desert_in_bounded_steps() -> None:
    table = core.RouteTable(50_000)
    for number in range(50_000):
        session_keys.put(table, b"%032x" % number)
    for number in range(1, 49_999):
        table.remove(b"%032x" % number)
    calls, found, after = 1, *table.keys(10)
    while after:
        more, after = table.keys(10, after)
        found += more
        calls += 1
    assert found == [b"%032x" % 0, b"%032x" % 49_999]
    assert 10 < calls < 20


def test_counters_tell_hits_misses_expirations_and_evictions_apart() -> None:
    table = core.RouteTable(2)
    session_keys.put(table, b"a", expires=10)
    session_keys.put(table, b"b", expires=20)
    assert table.get(b"a", 9)
    assert table.get(b"a", 10) is None
    assert table.get(b"never", 10) is None
    session_keys.put(table, b"c")
    session_keys.put(table, b"d")
    assert (table.hits, table.misses, table.expirations, table.evictions) == (1, 2, 1, 1)
