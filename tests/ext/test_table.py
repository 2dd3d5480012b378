"""The route table against a plain ordered dictionary, and its promises: hash, growth, memory, no leak.

Everything is real: the compiled table, its memory as the operating system counts it, and CPython's own SipHash-1-3 as
the judge of ours. Not covered: times (bench/micro/test_table.py and bench/micro/pauses.py show them), and the fast
lane's C door, which `get` goes through.
"""

import base64
import collections
import random
import string
import subprocess
import sys
import textwrap

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from fastproxy._ext import core

FOREVER = 2**32 - 1
BYTES_PER_SESSION_MAX = 64
EXACT_UP_TO = 64  # entries among which the least recently used one is found exactly
BASE32 = string.ascii_uppercase + "234567"

Route = collections.namedtuple("Route", "endpoint flags expires touch_at epoch")

hex_digits = st.text("0123456789abcdef", min_size=32, max_size=32)


def hyphenated(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


shapes_of_keys = st.one_of(
    hex_digits,
    hex_digits.map(hyphenated),
    hex_digits.map(lambda digits: "mcp-session-" + hyphenated(digits)),
    st.binary(min_size=16, max_size=16).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")),
    st.text(BASE32, min_size=26, max_size=26),
    # Nearly one of these: of the right length, with something that must keep it from being packed.
    hex_digits.map(str.upper),
    hex_digits.map(lambda digits: hyphenated(digits).replace("-", "_")),
    hex_digits.map(lambda digits: "MCP-session-" + hyphenated(digits)),
    st.text(string.ascii_letters + string.digits + "-_", min_size=22, max_size=22),
    st.text(BASE32 + "01", min_size=26, max_size=26),
    st.text(string.printable, min_size=1, max_size=128),
    st.text("\0a", min_size=1, max_size=18),
).map(str.encode)

# A few keys that meet again and again, and some that nobody has seen.
keys = st.one_of(st.integers(0, 30).map(lambda number: b"%032x" % number), shapes_of_keys)


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
        lifetime=st.integers(0, 20) | st.just(FOREVER - 1000),
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
                self.put(b"session %d of many" % number, number % 5, 0, FOREVER - 1000)

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
        assert sorted(list_all(self.table, 7)) == sorted(self.routes)
        assert all(key in self.table for key in self.routes)
        for endpoint, count in collections.Counter(route.endpoint for route in self.routes.values()).items():
            assert self.table.count(endpoint) == count


RouteTableAgainstDictionary.TestCase.settings = hypothesis.settings(
    max_examples=80, stateful_step_count=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
test_table_does_what_an_ordered_dictionary_would_do = RouteTableAgainstDictionary.TestCase


def list_all(table: core.RouteTable, page: int) -> list[bytes]:
    found, after = table.keys(page)
    while after:
        more, after = table.keys(page, after)
        found += more
    return found


def put(
    table: core.RouteTable, key: bytes, endpoint: int = 0, *, flags: int = 0, expires: int = FOREVER
) -> bytes | None:
    return table.put(key, endpoint, flags=flags, expires=expires, touch_at=0)


@hypothesis.given(st.sets(shapes_of_keys, max_size=50))
def test_every_shape_of_key_comes_back_as_it_was(chosen: set[bytes]) -> None:
    table = core.RouteTable(100)
    for key in chosen:
        put(table, key)
    assert set(list_all(table, 10)) == chosen


@pytest.mark.parametrize("length", [0, 129, 5000])
def test_a_key_of_impossible_length_is_refused_by_put_and_missing_elsewhere(length: int) -> None:
    table = core.RouteTable(10)
    with pytest.raises(ValueError, match=f"1 to 128 bytes, got {length}"):
        put(table, b"x" * length)
    assert table.get(b"x" * length, 0) is None
    assert b"x" * length not in table
    assert not table.remove(b"x" * length)


@pytest.mark.parametrize("capacity", [0, 2**30 + 1])
def test_a_capacity_that_makes_no_sense_is_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="expected a capacity from 1"):
        core.RouteTable(capacity)


def test_hash_is_siphash_as_the_interpreter_computes_it() -> None:
    if sys.hash_info.algorithm != "siphash13":
        pytest.skip(f"this interpreter hashes with {sys.hash_info.algorithm}")
    program = "print(*(hash(bytes(range(n))) for n in range(1, 200)))"
    output = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True
    ).stdout
    theirs = [int(word) % 2**64 for word in output.split()]
    assert theirs == [core.siphash13(bytes(16), bytes(range(length))) for length in range(1, 200)]


def test_hash_depends_on_every_bit_of_the_secret() -> None:
    secrets = [(1 << bit).to_bytes(16, "little") for bit in range(128)]
    assert len({core.siphash13(secret, b"session") for secret in secrets}) == 128


def test_keys_that_collide_in_slot_and_tag_are_told_apart() -> None:
    secret = bytes(range(16))
    capacity = 2**30  # leaves one bit for the tag

    def place(key: bytes) -> tuple[int, int]:
        value = core.siphash13(secret, key)
        return value & 0xFF, value >> 63

    crowd: collections.defaultdict[tuple[int, int], list[bytes]] = collections.defaultdict(list)
    for number in range(20_000):
        key = b"a session that lives out of line: %07d" % number
        crowd[place(key)].append(key)
    chosen = max(crowd.values(), key=len)[:40]
    assert len(chosen) == 40
    table = core.RouteTable(capacity, secret=secret)
    for number, key in enumerate(chosen):
        put(table, key, number)
    for gone in (20, 0, 39, 10, 30):
        assert table.remove(chosen[gone])
        assert not table.remove(chosen[gone])
    for number, key in enumerate(chosen):
        assert (table.get(key, 0) or [None])[0] == (None if number in (20, 0, 39, 10, 30) else number)


@pytest.mark.parametrize("capacity", [100_000, 2**30], ids=["long tags", "one bit of tag"])
def test_keys_stay_found_while_the_index_doubles_and_others_leave(capacity: int) -> None:
    chance = random.Random(7)
    table = core.RouteTable(capacity, secret=bytes(16))
    expected: dict[bytes, int] = {}
    held: list[bytes] = []
    for step in range(60_000):
        if held and chance.random() < 0.3:
            position = chance.randrange(len(held))
            held[position], held[-1] = held[-1], held[position]
            key = held.pop()
            del expected[key]
            assert table.remove(key)
        else:
            key = b"%032x" % chance.getrandbits(128) if step % 5 else b"session-%060d" % step
            put(table, key, step % 65536)
            expected[key] = step % 65536
            held.append(key)
        probe = held[chance.randrange(len(held))] if held else b"nobody"
        assert (table.get(probe, 0) or [None])[0] == expected.get(probe)
        assert table.get(b"%032x" % step, 0) is None
    assert len(table) == len(expected)
    assert all(table.get(key, 0)[0] == endpoint for key, endpoint in expected.items())
    assert set(list_all(table, 1000)) == set(expected)


def test_sweep_alone_finishes_a_doubling_that_puts_have_begun() -> None:
    table = core.RouteTable(10_000)
    for number in range(3_080):  # 3,072 are three quarters of 4,096 slots
        put(table, b"%032x" % number)
    in_the_middle = table.memory_bytes
    for _ in range(2):
        table.sweep(0, 10_000)
    assert table.memory_bytes == in_the_middle - 4 * 4_096
    assert all(b"%032x" % number in table for number in range(3_080))


def test_eviction_from_a_large_table_takes_one_of_the_oldest() -> None:
    count = 20_000
    table = core.RouteTable(count, secret=bytes(range(16)))
    for number in range(count):
        put(table, b"%032x" % number)
    for number in range(count // 2):  # the first half becomes the younger one
        assert table.get(b"%032x" % number, 0)
    ranks = [(int(put(table, b"new %d" % number) or b"0", 16) - count // 2) / count for number in range(500)]
    assert min(ranks) >= 0  # none of the younger half
    assert sum(ranks) / len(ranks) < 0.05  # the mean of the best of 64 is 1/65, and up to 1/40 when 500 have gone
    assert (table.evictions, len(table)) == (500, count)


def test_pinned_sessions_survive_time_and_pressure_and_may_exceed_the_capacity() -> None:
    table = core.RouteTable(4)
    for number in range(6):
        assert put(table, b"stream %d" % number, flags=core.FLAG_PINNED, expires=1) is None
    assert table.sweep(100, 100) == 0
    assert all(table.get(b"stream %d" % number, 100) for number in range(6))
    assert put(table, b"other", expires=1000) is None
    assert put(table, b"one more", expires=1000) == b"other"
    for number in range(6):
        table.set_flags(b"stream %d" % number, 0)
        table.renew(b"stream %d" % number, 1000, 0)
    table.sweep(100, 1000)
    assert len(table) == 4
    assert b"one more" in table


def test_listing_passes_over_a_desert_in_bounded_steps() -> None:
    table = core.RouteTable(50_000)
    for number in range(50_000):
        put(table, b"%032x" % number)
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
    put(table, b"a", expires=10)
    put(table, b"b", expires=20)
    assert table.get(b"a", 9)
    assert table.get(b"a", 10) is None
    assert table.get(b"never", 10) is None
    put(table, b"c")
    put(table, b"d")
    assert (table.hits, table.misses, table.expirations, table.evictions) == (1, 2, 1, 1)


def measure(program: str) -> float:
    """Run a program in a process of its own and take the number that it prints."""
    preamble = """
        import random
        from fastproxy._ext import core

        def resident_bytes():
            with open("/proc/self/statm") as statm:
                return int(statm.read().split()[1]) * 4096
    """
    whole = textwrap.dedent(preamble) + textwrap.dedent(program)
    return float(subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=True).stdout)


@pytest.mark.parametrize(
    "key",
    [
        pytest.param('b"%032x" % random.getrandbits(128)', id="hex digits (Python SDK)"),
        pytest.param(
            '("%08x-%04x-%04x-%04x-%012x" % tuple(map(random.getrandbits, (32, 16, 16, 16, 48)))).encode()',
            id="UUID (TypeScript SDK)",
        ),
        pytest.param(f'bytes(random.choices(b"{BASE32}", k=26))', id="base32 (Go SDK)"),
    ],
)
def test_a_million_sessions_take_at_most_64_bytes_each(key: str) -> None:
    program = f"""
        table = core.RouteTable(1_000_000)
        before = resident_bytes()
        for number in range(1_000_000):
            table.put({key}, number & 3, expires=7200, touch_at=720)
        assert len(table) == 1_000_000
        print((resident_bytes() - before) / 1_000_000)
    """
    bytes_per_session = measure(program)
    assert 32 < bytes_per_session <= BYTES_PER_SESSION_MAX  # 32: the entry alone; less would be a broken measurement


def test_keys_out_of_line_are_freed_by_whatever_ends_them() -> None:
    program = """
        def live_and_die():
            table = core.RouteTable(10_000)
            for number in range(30_000):  # evicted
                table.put(b"%0128d" % number, 1, expires=100, touch_at=0)
            for key in table.keys(3_000)[0]:
                assert table.remove(key)
            table.sweep(100, 20_000)  # expired
            assert len(table) == 0
            for number in range(10_000):  # cleared
                table.put(b"%0128d" % number, 1, expires=100, touch_at=0)
            table.clear()
            for number in range(10_000):  # gone with the table
                table.put(b"%0128d" % number, 1, expires=100, touch_at=0)

        for _ in range(3):
            live_and_die()
        before = resident_bytes()
        for _ in range(10):
            live_and_die()
        print(resident_bytes() - before)
    """
    leaked_bytes = measure(program)
    # The cheapest of the four leaks would leave 10 x 3,000 x 128 bytes = 3.8 MB.
    assert leaked_bytes < 1_000_000
