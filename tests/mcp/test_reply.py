"""Answers of the proxy's own (interface §3.2): every refusal, rendered for each kind of message. Pure."""

import json

import msgspec
import pytest

from fastproxy.mcp import envelope, reply, revision

ROWS = [
    (reply.session_not_found(), 404, -32001, None, False, False),
    (reply.bad_session_id(), 400, -32600, None, False, False),
    (reply.forbidden("no"), 403, -32600, None, False, False),
    (reply.backend_unreachable("gone"), 502, -32603, {"reason": "backend_unreachable"}, True, False),
    (reply.backend_unavailable(), 503, -32603, {"reason": "backend_unavailable"}, True, True),
    (reply.backend_lost(), 502, -32603, {"reason": "backend_lost", "may_have_run": True}, True, False),
    (reply.backend_timeout(2.5), 504, -32603, {"reason": "backend_timeout", "may_have_run": True}, True, False),
    (
        reply.backend_protocol_error(""),
        502,
        -32603,
        {"reason": "backend_protocol_error", "may_have_run": True},
        True,
        False,
    ),
    (reply.store_unavailable(), 503, -32603, {"reason": "session_store_unavailable"}, False, True),
    (reply.record_too_new(), 503, -32603, {"reason": "record_too_new"}, False, False),
    (reply.too_many_sessions(), 503, -32603, {"reason": "too_many_sessions"}, False, True),
]


@pytest.mark.parametrize(("refusal", "status", "code", "data", "in_band", "retry"), ROWS, ids=lambda row: str(row)[:24])
@pytest.mark.parametrize("id_text", [b"1", b'"\\u00e9"', b"1.50", b"99999999999999999999999", None])
@pytest.mark.parametrize("method", ["tools/call", None])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_refusal_is_rendered_as_its_row_says(
    refusal: reply.Refusal,
    status: int,
    code: int,
    data: dict[str, object] | None,
    in_band: bool,
    retry: bool,
    id_text: bytes | None,
    method: str | None,
    legacy: bool,
) -> None:
    told, fields, body = reply.render(refusal, envelope.Envelope(method, id_text), legacy=legacy)
    awaited = id_text is not None and method is not None
    assert told == (200 if in_band and legacy and awaited else status)
    names = dict(fields)
    assert names.pop(b"Content-Type") == b"application/json"
    assert names == ({b"Retry-After": b"1"} if retry and told != 200 else {})
    said = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    assert list(said) == (["jsonrpc", "error"] if id_text is None else ["jsonrpc", "id", "error"])
    assert id_text is None or bytes(said["id"]) == id_text
    error = json.loads(bytes(said["error"]))
    assert error["code"] == code
    assert error.get("data") == data
    assert error["message"]


@pytest.mark.parametrize("legacy", [True, False])
def test_what_is_no_single_message_gets_the_status_and_no_id(legacy: bool) -> None:
    status, _, body = reply.render(reply.backend_lost(), None, legacy=legacy)
    assert status == 502
    assert "id" not in json.loads(body)


@pytest.mark.parametrize(
    ("version", "sessions"),
    [
        (None, True),
        ("2024-11-05", True),
        ("2025-03-26", True),
        ("2025-06-18", True),
        ("2025-11-25", True),
        ("2026-07-28", False),
        ("2027-01-01", False),
        ("2025-11-25 ", False),
        ("", False),
        ("nonsense", False),
    ],
)
def test_only_the_four_old_revisions_have_sessions(version: str | None, sessions: bool) -> None:
    assert revision.has_sessions(version) == sessions
