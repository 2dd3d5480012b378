"""Messages of which one member is changed: everything else stays as it was written, byte for byte. Pure."""

import json

from hypothesis import given
from hypothesis import strategies as st

from fastproxy.vmcp import messages, peer, voices

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
ARGUMENTS = b'{"big":123456789012345678901234567890,"float":1.0e+05,"text":"\\u00e9\\/","twice":1 , "twice":2}'


def test_arguments_are_not_written_anew() -> None:
    params = b'{ "name" : "a_tool", "arguments":%s, "unknown": [1,  2] }' % ARGUMENTS
    changed = messages.with_member(params, "name", b'"tool"')
    assert changed == b'{"name":"tool","arguments":%s,"unknown":[1,  2]}' % ARGUMENTS


@given(st.dictionaries(st.text(max_size=10), JSON, max_size=6), JSON)
def test_the_other_members_stay(params: dict[str, object], value: object) -> None:
    changed = messages.with_member(json.dumps(params).encode(), "name", json.dumps(value).encode())
    assert json.loads(changed) == {**params, "name": value}


@given(st.binary(max_size=60))
def test_what_is_no_object_has_no_members(noise: bytes) -> None:
    found = messages.members(noise)
    assert isinstance(found, dict)


def test_a_token_is_found_and_replaced_where_it_stands() -> None:
    params = b'{"_meta":{"vendor/x":1,"progressToken":7},"name":"progressToken"}'
    assert messages.asked_token(params) == b"7"
    changed = messages.with_asked_token(params, lambda raw: b'"sealed-' + raw + b'"')
    assert json.loads(changed)["_meta"] == {"vendor/x": 1, "progressToken": "sealed-7"}
    without = b'{"name":"progressToken"}'
    assert messages.asked_token(without) == b""
    assert messages.with_asked_token(without, lambda raw: b"1") is without


def test_an_answer_keeps_its_result_under_another_id() -> None:
    message = peer.read_message(b'{"jsonrpc":"2.0","id":"sealed","result":%s}' % ARGUMENTS)
    assert message is not None
    assert messages.answer(b"1", message) == b'{"jsonrpc":"2.0","id":1,"result":%s}' % ARGUMENTS
    refused = peer.read_message(b'{"jsonrpc":"2.0","id":"sealed","error":{"code":-1,"message":"no"}}')
    assert refused is not None
    assert messages.answer(b'"a"', refused) == b'{"jsonrpc":"2.0","id":"a","error":{"code":-1,"message":"no"}}'


def test_a_message_of_many_lines_is_one_event() -> None:
    event = voices.event(b'{\r\n "a": 1,\n "b": 2\r}')
    assert event.count(b"\n\n") == 1
    data = b"\n".join(line[6:] for line in event.split(b"\n") if line.startswith(b"data: "))
    assert json.loads(data) == {"a": 1, "b": 2}
