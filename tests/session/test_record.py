"""The stored form of a session: what is written, what is read back, what is refused. Pure; nothing is started."""

import hashlib
import json
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from fastproxy import errors
from fastproxy.session import record

MEMBERS = [
    "v",
    "session_id",
    "backend_pod",
    "backend_url",
    "backend_session_id",
    "transport",
    "path",
    "protocol_version",
    "initialize",
    "created_at",
    "updated_at",
    "generation",
]


def session(**members: Any) -> record.SessionRecord:
    return record.SessionRecord(**{"session_id": "s-1", "backend_url": "http://127.0.0.2:8000"} | members)


def stored(**members: Any) -> bytes:
    return json.dumps(json.loads(record.encode(session())) | members).encode()


def test_members_are_written_in_the_documented_order_and_all_of_them() -> None:
    assert list(json.loads(record.encode(session()))) == MEMBERS


json_values = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=10,
)


@hypothesis.given(
    initialize=strategies.dictionaries(strategies.text(), json_values, max_size=4),
    unknown=strategies.dictionaries(
        strategies.text().filter(lambda name: name not in MEMBERS), json_values, max_size=4
    ),
    generation=strategies.integers(1, 2**53),
)
def test_what_is_written_is_read_back_with_members_of_strangers(
    initialize: dict[str, Any], unknown: dict[str, Any], generation: int
) -> None:
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in unknown.items()}
    made = session(initialize=initialize, generation=generation, unknown=raw or msgspec.UNSET)
    assert record.decode(record.encode(made), key="s-1") == made
    assert json.loads(record.encode(made)) == json.loads(record.encode(session(initialize=initialize))) | unknown | {
        "generation": generation
    }


def test_numbers_of_strangers_stay_as_they_were_written() -> None:
    value = stored()[:-1] + b', "exact": [1.0, 1e2, 123456789012345678901234567890, "\\u00e9"]}'
    held = record.decode(value, key="s-1")
    moved = msgspec.structs.replace(held, generation=2)
    assert b'"exact":[1.0, 1e2, 123456789012345678901234567890, "\\u00e9"]' in record.encode(moved)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"\xff\xfe",
        b'{"v":1}',
        stored()[:-1],
        stored() + b"x",
        stored(v=0),
        stored(v="1"),
        stored(v=None),
        stored(generation=0),
        stored(generation=1.5),
        stored(backend_url=None),
        stored(session_id=""),
        stored(session_id="s-2"),
        stored(session_id="\u20ac"),
        stored(initialize=[]),
        b"[" * 100_000,
        stored(initialize={"a": "\ud800"}),
    ],
)
def test_what_is_not_a_whole_record_of_this_key_is_bad(value: bytes) -> None:
    with pytest.raises(record.BadRecord):
        record.decode(value, key="s-1")


@pytest.mark.parametrize("members", [{}, {"session_id": 7}, {"generation": "many"}, {"initialize": []}])
def test_a_later_version_is_told_apart_before_its_types_are_looked_at(members: dict[str, Any]) -> None:
    with pytest.raises(errors.RecordTooNew, match="version 2"):
        record.decode(stored(v=2, **members), key="s-1")


def test_an_error_about_a_value_does_not_carry_the_value() -> None:
    with pytest.raises(record.BadRecord) as caught:
        record.decode(stored(backend_url=["secret"]), key="s-1")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("session_id", "plain"),
    [
        ("a", True),
        ("AZaz09._~-", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("a b", False),
        ("a/b", False),
        ("a\n", False),
        ("!claim:a", False),
        ("\xe9", False),
    ],
)
def test_long_or_unusual_ids_are_named_by_their_hash(session_id: str, plain: bool) -> None:
    hashed = hashlib.sha256(session_id.encode("latin-1")).hexdigest()
    assert record.store_key(session_id) == (session_id if plain else hashed)


def test_a_moved_session_keeps_its_birth_and_counts_its_moves() -> None:
    made = session(backend_pod="pod-0", created_at="2026-01-01T00:00:00.000Z", unknown={"x": msgspec.Raw(b"1")})
    moved = record.moved(
        made,
        backend_url="http://127.0.0.3:8000",
        backend_pod="pod-1",
        backend_session_id="inner",
        protocol_version="2025-06-18",
        unix_seconds=1_767_323_045.678,
    )
    assert (moved.session_id, moved.created_at, moved.unknown) == (made.session_id, made.created_at, made.unknown)
    assert (moved.backend_pod, moved.backend_session_id, moved.generation) == ("pod-1", "inner", 2)
    assert moved.updated_at == "2026-01-02T03:04:05.678Z"


def test_a_backend_id_that_is_the_clients_own_is_left_out() -> None:
    moved = record.moved(
        session(backend_session_id="inner"),
        backend_url="http://127.0.0.3:8000",
        backend_pod=None,
        backend_session_id="s-1",
        protocol_version="2025-06-18",
        unix_seconds=0,
    )
    assert moved.backend_session_id is None
