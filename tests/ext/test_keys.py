"""How the route table reads session keys: every shape comes back as it was, and the hash is SipHash-1-3.

Everything is real; CPython's own SipHash-1-3 is the judge of ours.
"""

import collections
import subprocess
import sys
import uuid

import hypothesis
import pytest
from hypothesis import strategies as st

from fastproxy._ext import core
from tests.ext import session_keys


@hypothesis.given(st.sets(session_keys.shapes_of_keys, max_size=50))
def test_every_shape_of_key_comes_back_as_it_was(chosen: set[bytes]) -> None:
    table = core.RouteTable(100)
    for key in chosen:
        session_keys.put(table, key)
    assert set(session_keys.list_all(table, 10)) == chosen


def test_the_same_sixteen_bytes_in_two_shapes_are_two_keys() -> None:
    digits = [uuid.UUID(int=number).hex.encode() for number in range(5)]
    for _ in range(300):  # each with a secret of its own: some pairs meet in slot and tag
        table = core.RouteTable(2**30)
        for key in digits:
            session_keys.put(table, key, 1)
        for number in range(5):
            assert str(uuid.UUID(int=number)).encode() not in table
            session_keys.put(table, str(uuid.UUID(int=number)).encode(), 2)
        assert all(table.get(key, 0)[0] == 1 for key in digits)


@pytest.mark.parametrize("length", [0, 129, 5000])
def test_a_key_of_impossible_length_is_refused_by_put_and_missing_elsewhere(length: int) -> None:
    table = core.RouteTable(10)
    with pytest.raises(ValueError, match=f"1 to 128 bytes, got {length}"):
        session_keys.put(table, b"x" * length)
    assert table.get(b"x" * length, 0) is None
    assert b"x" * length not in table
    assert not table.remove(b"x" * length)


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
        session_keys.put(table, key, number)
    for gone in (20, 0, 39, 10, 30):
        assert table.remove(chosen[gone])
        assert not table.remove(chosen[gone])
    for number, key in enumerate(chosen):
        assert (table.get(key, 0) or [None])[0] == (None if number in (20, 0, 39, 10, 30) else number)
