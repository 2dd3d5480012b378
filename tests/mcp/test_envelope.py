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


# ---- the beginning of a long message


@given(MESSAGES, st.integers(0, 200), st.booleans())
@settings(deadline=None)
def test_a_beginning_tells_the_id_of_the_whole_or_nothing(
    message: dict[str, object], cut: int, ascii_only: bool
) -> None:
    try:
        body = json.dumps(message, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    asked, whole = envelope.read_beginning(body[:cut]), envelope.read(body)
    if asked is not None and whole is not None:
        assert asked.id is not None and whole.id is not None
        assert json.loads(asked.id) == json.loads(whole.id)
        assert asked.method in (whole.method, "", None)


@pytest.mark.parametrize(
    ("beginning", "number"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"put","argu', b"7"),
        (b' {\r\n "id" : "a-\\u00e9" , "params":[1, 2', b'"a-\\u00e9"'),
        (b'{"params":{"a":[{}]},"id":1.5,"method":"x","more":"', b"1.5"),
        (b'{"jsonrpc":"2.0","id":12', None),
        (b'{"jsonrpc":"2.0","id":NaN,"method":"x","params":{"', None),
        (b'{"jsonrpc":"2.0","id":"\xff","method":"x","params":{"', None),
        (b'{"jsonrpc":"2.0","id":null,"method":"x","params":{"', None),
        (b'{"jsonrpc":"2.0","id":true,"method":"x","params":{"', None),
        (b'{"params":{"id":7,"a":"', None),
        (b'[{"id":7,"method":"x"},{"', None),
        (b'{"id";7,"a":"', None),
        (b"{7:7,", None),
        (b"", None),
        (b"{" + b"[" * 60_000, None),
        (b'{"a":' + b"[" * 60_000, None),
    ],
)
def test_the_id_is_found_where_it_comes_before_what_is_cut_off(beginning: bytes, number: bytes | None) -> None:
    asked = envelope.read_beginning(beginning)
    assert (None if asked is None else asked.id) == number


@pytest.mark.parametrize(
    ("beginning", "is_request"),
    [
        (b'{"id":7,"method":"tools/call","params":{"', True),
        (b'{"id":7,"params":{"', True),
        (b'{"id":7,"result":{"content":["', False),
        (b'{"error":{"', None),
        (b'{"id":7,"error":{"code":1},"more":"', False),
    ],
)
def test_an_answer_of_which_only_the_beginning_is_there_is_no_request(
    beginning: bytes, is_request: bool | None
) -> None:
    asked = envelope.read_beginning(beginning)
    assert (None if asked is None else asked.is_request) == is_request


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@settings(deadline=None)
def test_no_beginning_is_a_fault(body: bytes) -> None:
    envelope.read_beginning(body)
    envelope.read_beginning(b'{"id":' + body)
