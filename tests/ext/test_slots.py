"""The route table's index and memory at size: found through doublings, at most 64 bytes a session, nothing leaks.

Everything is real; memory is what the operating system counts, in a process of its own. Not covered: times
(bench/micro/test_table.py and bench/micro/pauses.py show them).
"""

import random
import subprocess
import sys
import textwrap

import pytest

from fastproxy._ext import core
from tests.ext import session_keys

BYTES_PER_SESSION_MAX = 64


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
            key = (
                b"%032x" % chance.getrandbits(128),
                b"%016x%016x" % (step, 0),  # alike in one half: with one bit of tag, often compared
                b"%016x%016x" % (0, step),
                b"session-%060d" % step,
            )[step % 4]
            session_keys.put(table, key, step % 65536)
            expected[key] = step % 65536
            held.append(key)
        probe = held[chance.randrange(len(held))] if held else b"nobody"
        assert (table.get(probe, 0) or [None])[0] == expected.get(probe)
        assert table.get(b"%016x%016x" % (step, 1), 0) is None
    assert len(table) == len(expected)
    assert all(table.get(key, 0)[0] == endpoint for key, endpoint in expected.items())
    assert set(session_keys.list_all(table, 1000)) == set(expected)


def test_sweep_alone_finishes_a_doubling_that_puts_have_begun() -> None:
    table = core.RouteTable(10_000)
    for number in range(3_080):  # 3,072 are three quarters of 4,096 slots
        session_keys.put(table, b"%032x" % number)
    in_the_middle = table.memory_bytes
    for _ in range(2):
        table.sweep(0, 10_000)
    assert table.memory_bytes == in_the_middle - 4 * 4_096
    assert all(b"%032x" % number in table for number in range(3_080))


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
        pytest.param(f'bytes(random.choices(b"{session_keys.BASE32}", k=26))', id="base32 (Go SDK)"),
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
