"""The session record of vMCP: its stored form, and what is refused. Pure."""

import json

import msgspec
import pytest

from fastproxy import errors
from fastproxy.session import record as plain
from fastproxy.vmcp import record

SESSION = record.VmcpRecord(
    session_id="a-session",
    protocol_version="2025-11-25",
    client_info=msgspec.Raw(b'{"name":"c","version":"1"}'),
    client_capabilities=msgspec.Raw(b'{"roots":{}}'),
    created_at="2026-01-01T00:00:00.000Z",
    updated_at="2026-01-01T00:00:00.000Z",
    backends=(record.Leg("files", "leg-1", "2025-06-18"), record.Leg("stateless", None, "2025-11-25")),
    secret="sesame",
)


def read(stored: bytes) -> record.VmcpRecord:
    return record.Form.decode(stored, key="a-session")


def test_its_stored_form_has_the_members_of_the_design() -> None:
    stored = json.loads(record.Form.encode(SESSION))
    assert stored["session_id"] == "a-session"
    assert stored["backends"] == [
        {"backend_id": "files", "backend_session_id": "leg-1", "protocol_version": "2025-06-18"},
        {"backend_id": "stateless", "backend_session_id": None, "protocol_version": "2025-11-25"},
    ]
    assert {"protocol_version", "principal", "created_at", "updated_at", "generation"} <= set(stored)
    assert (stored["v"], stored["generation"], stored["client_info"]) == (1, 1, {"name": "c", "version": "1"})


def test_it_is_read_as_it_was_written() -> None:
    assert read(record.Form.encode(SESSION)) == SESSION


def test_members_that_nobody_here_knows_are_kept() -> None:
    stored = record.Form.encode(SESSION)[:-1] + b',"later":{"big":123456789012345678901234567890}}'
    changed = record.with_leg(read(stored), record.Leg("more", "x", "2025-11-25"), instead_of=None)
    written = record.Form.encode(record.following(changed, unix_seconds=0))
    assert b'"later":{"big":123456789012345678901234567890}' in written
    assert json.loads(written)["generation"] == 2


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="no object"),
        pytest.param(b'{"v":1}', id="not whole"),
        pytest.param(record.Form.encode(SESSION).replace(b'"a-session"', b'"another"'), id="another's"),
        pytest.param(record.Form.encode(SESSION).replace(b'"leg-1"', b'"leg\\r\\nX: 1"'), id="ends a line of a head"),
        pytest.param(record.Form.encode(SESSION).replace(b'"generation":1', b'"generation":0'), id="no generation"),
        pytest.param(record.Form.encode(SESSION).replace(b'{"roots":{}}', b"[]"), id="capabilities are no object"),
        pytest.param(b"\xff" + record.Form.encode(SESSION), id="not text"),
    ],
)
def test_what_is_no_record_of_this_session_is_refused(stored: bytes) -> None:
    with pytest.raises(plain.BadRecord):
        read(stored)


def test_a_record_of_a_later_version_is_told_apart() -> None:
    with pytest.raises(errors.RecordTooNew):
        read(record.Form.encode(SESSION).replace(b'"v":1', b'"v":2'))


def test_a_leg_takes_the_place_of_the_one_that_was_expected_and_of_no_other() -> None:
    lost, found = SESSION.backends[0], record.Leg("files", "leg-2", "2025-11-25")
    assert record.with_leg(SESSION, found, instead_of=lost).leg("files") == found
    assert record.with_leg(SESSION, found, instead_of=None) is SESSION
    moved = record.with_leg(SESSION, record.Leg("files", "by another", ""), instead_of=lost)
    assert record.with_leg(moved, found, instead_of=lost) is moved
    assert len(record.with_leg(SESSION, found, instead_of=lost).backends) == 2
