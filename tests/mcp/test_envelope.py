"""The envelope of a message, against Python's own JSON: whatever a body holds, it is read alike or is no envelope.

Pure: no socket. The compiled question "may this be an initialize" is held against it too.
"""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastproxy._ext import core
from fastproxy.mcp import envelope

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.dictionaries(st.sampled_from(["id", "method", "params", "jsonrpc", "Method"]) | st.text(), VALUES)
METHODS = st.sampled_from(["initialize", "tools/call", "notifications/initialized", "Initialize", "initialize "])


def spelled(text: str, escaped: list[bool]) -> str:
    """A JSON string with some of its characters as escapes."""
    return "".join(f"\\u{ord(c):04x}" if yes else c for c, yes in zip(text, escaped, strict=False))


@given(MESSAGES, st.booleans())
@settings(deadline=None)
def test_a_message_is_read_as_json_reads_it(message: dict[str, object], ascii_only: bool) -> None:
    try:
        body = json.dumps(message, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return  # half a character outside of an escape
    asked = envelope.read(body)
    if asked is None:
        return  # half a character as an escape; no reader agrees with another on it
    method, number = message.get("method"), message.get("id")
    assert asked.method == (method if isinstance(method, str) else None)
    if number is None or isinstance(number, bool | dict | list):
        assert asked.id is None
    else:
        assert asked.id is not None
        assert json.loads(asked.id) == number
        assert asked.id in body


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(b'{"method":"\xff"}')
@example(b'{"method":"\\ud800"}')
@example(b'{"id":"\xff","method":"x"}')
@example(b"[" * 50_000)
@example(b'{"a":' * 50_000)
@settings(deadline=None)
def test_no_bytes_are_a_fault(body: bytes) -> None:
    asked = envelope.read(body)
    assert asked is None or asked.id is None or json.loads(asked.id) is not None
    envelope.initialize_params(body)
    envelope.outcome(body)
    envelope.event_messages(body)
    envelope.endpoint_of(body)


@given(METHODS, st.lists(st.booleans(), min_size=36, max_size=36), st.booleans(), MESSAGES)
@settings(deadline=None)
def test_the_fast_lanes_question_never_misses_an_initialize(
    method: str, escaped: list[bool], last: bool, others: dict[str, object]
) -> None:
    others.pop("method", None)
    try:
        rest = json.dumps(others)[1:-1].encode()
    except UnicodeEncodeError:
        return
    member = f'"{spelled("method", escaped[:6])}": "{spelled(method, escaped[6 : 6 + len(method)])}"'.encode()
    parts = [part for part in ((rest, member) if last else (member, rest)) if part]
    body = b"{" + b" , ".join(parts) + b"}"
    asked = envelope.read(body)
    if asked is not None and asked.method == "initialize":
        assert core.may_be_initialize(body)


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (b"data: 1\n\n", [b"1"]),
        (b"event: message\r\ndata: 1\r\n\r\ndata:2\r\rdata: 3\n\ndata: cut", [b"1", b"2", b"3"]),
        (b": comment\n\nid: 7\ndata: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", []),
        (b"", []),
    ],
)
def test_the_messages_of_whole_events_are_found(text: bytes, messages: list[bytes]) -> None:
    assert envelope.event_messages(text) == messages


@pytest.mark.parametrize(
    ("event", "uri"),
    [
        (b"event: endpoint\ndata: /messages?session_id=1\n\n", b"/messages?session_id=1"),
        (b"data: /m\r\nevent:endpoint\r\n\r\n", b"/m"),
        (b": hello\nevent: endpoint\nid: 1\ndata:  /m\n\n", b" /m"),
        (b"event: message\ndata: endpoint\n\n", None),
        (b"event: endpoint\n\n", None),
        (b"data: event: endpoint\n\n", None),
        (b"", None),
    ],
)
def test_the_uri_of_an_endpoint_event_is_found(event: bytes, uri: bytes | None) -> None:
    assert envelope.endpoint_of(event) == uri
