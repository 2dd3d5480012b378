"""What a request of 2026-07-28 must be before it is let in, and what it is told otherwise. Pure."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy.vmcp import entrance, peer
from fastproxy.vmcp.mirrors import header_value
from fastproxy.wire import request as requests

META = "io.modelcontextprotocol/"
VERSION = "2026-07-28"
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "count": {"type": "integer", "x-mcp-header": "Count"},
            "where": {"type": "object", "properties": {"city": {"type": "string", "x-mcp-header": "City"}}},
        },
    }
).encode()


def message(method: str = "tools/call", *, meta: dict[str, Any] | None = None, **params: Any) -> dict[str, Any]:
    own = {META + "protocolVersion": VERSION, META + "clientCapabilities": {}} if meta is None else meta
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": own}}


def enter(body: dict[str, Any] | bytes, *, method: str = "POST", **headers: str) -> entrance.Entry:
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    given_headers = {"mcp_protocol_version": VERSION, "mcp_method": "tools/call", "mcp_name": "t", **headers}
    fields = [
        (name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given_headers.items() if value
    ]
    request = requests.of(method, b"/mcp", fields)
    return entrance.read(request, peer.read_message(text), text)


def test_a_request_that_is_what_it_says_is_let_in() -> None:
    entry = enter(message(name="t", arguments={"a": 1}))
    assert (entry.method, entry.id) == ("tools/call", b"1")
    assert json.loads(entry.params)["arguments"] == {"a": 1}


def test_a_notification_is_let_in_without_mirrored_headers() -> None:
    entry = enter({"jsonrpc": "2.0", "method": "notifications/x"}, mcp_method="", mcp_name="")
    assert entry.id == b""


@pytest.mark.parametrize(
    ("body", "headers", "status", "code"),
    [
        pytest.param(message(name="t"), {"method": "GET"}, 405, -32600, id="GET"),
        pytest.param(b"{", {}, 400, -32700, id="no JSON"),
        pytest.param(b"[{}]", {}, 400, -32600, id="a batch"),
        pytest.param({"jsonrpc": "2.0", "id": 1, "result": {}}, {}, 400, -32600, id="an answer"),
        pytest.param({**message(name="t"), "id": None}, {}, 400, -32600, id="an id that is null"),
        pytest.param({**message(name="t"), "id": {}}, {}, 400, -32600, id="an id that is an object"),
        pytest.param({**message(), "params": {}}, {}, 400, -32602, id="no _meta"),
        pytest.param({**message(), "params": []}, {}, 400, -32602, id="params are a list"),
        pytest.param(message(meta={META + "protocolVersion": VERSION}), {}, 400, -32602, id="no capabilities"),
        pytest.param(
            message(meta={META + "protocolVersion": VERSION, META + "clientCapabilities": []}),
            {},
            400,
            -32602,
            id="capabilities are a list",
        ),
        pytest.param(message(name="t"), {"mcp_protocol_version": ""}, 400, -32020, id="no version header"),
        pytest.param(message(name="t"), {"mcp_protocol_version": "2025-11-25"}, 400, -32020, id="another version"),
        pytest.param(
            message(meta={META + "protocolVersion": "2099-01-01", META + "clientCapabilities": {}}),
            {"mcp_protocol_version": "2099-01-01"},
            400,
            -32022,
            id="a version of the future",
        ),
        pytest.param(message(name="t"), {"mcp_method": ""}, 400, -32020, id="no Mcp-Method"),
        pytest.param(message(name="t"), {"mcp_method": "Tools/Call"}, 400, -32020, id="Mcp-Method in other letters"),
        pytest.param(message(name="t"), {"mcp_name": ""}, 400, -32020, id="no Mcp-Name"),
        pytest.param(message(name="t"), {"mcp_name": "other"}, 400, -32020, id="another name"),
        pytest.param(message(name="t"), {"mcp_name": "=?base64?dA?="}, 400, -32020, id="base64 without its padding"),
        pytest.param(message(name="t"), {"mcp_name": "=?base64?d!==?="}, 400, -32020, id="base64 of other letters"),
    ],
)
def test_what_is_not_as_it_says_is_turned_away(
    body: dict[str, Any] | bytes, headers: dict[str, str], status: int, code: int
) -> None:
    with pytest.raises(entrance.Turned) as turned:
        enter(body, **headers)
    assert (turned.value.status, turned.value.code) == (status, code)


def test_who_comes_with_another_version_is_told_which_is_served() -> None:
    meta = {META + "protocolVersion": "2099-01-01", META + "clientCapabilities": {}}
    with pytest.raises(entrance.Turned) as turned:
        enter(message(meta=meta), mcp_protocol_version="2099-01-01")
    assert turned.value.data == {"supported": [VERSION], "requested": "2099-01-01"}


@given(st.text(min_size=1, max_size=40))
def test_any_name_comes_through_a_header(name: str) -> None:
    assert entrance.decode(header_value(name).decode("latin-1")) == name


@given(st.binary(max_size=40))
def test_a_header_that_is_no_base64_of_text_says_nothing_or_itself(noise: bytes) -> None:
    value = f"=?base64?{base64.b64encode(noise).decode()}?="
    try:
        expected: str | None = noise.decode()
    except UnicodeDecodeError:
        expected = None
    assert entrance.decode(value) == expected


@pytest.mark.parametrize(
    ("arguments", "headers", "passes"),
    [
        pytest.param({"region": "eu"}, {"mcp_param_region": "eu"}, True, id="mirrored"),
        pytest.param({"region": "eu"}, {}, False, id="not mirrored"),
        pytest.param({"region": "eu"}, {"mcp_param_region": "us"}, False, id="mirrored wrongly"),
        pytest.param({}, {"mcp_param_region": "eu"}, False, id="without an argument"),
        pytest.param({"region": None}, {}, True, id="null is absent"),
        pytest.param({"count": 42}, {"mcp_param_count": "42.0"}, True, id="a number is a number"),
        pytest.param({"count": 42}, {"mcp_param_count": "43"}, False, id="another number"),
        pytest.param({"where": {"city": "Bern"}}, {"mcp_param_city": "Bern"}, True, id="further down"),
        pytest.param({"region": "eu"}, {"mcp_param_region": "eu", "mcp_param_new": "x"}, True, id="one not declared"),
        pytest.param({"region": "Zürich"}, {"mcp_param_region": "=?base64?WsO8cmljaA==?="}, True, id="in base64"),
    ],
)
def test_arguments_are_what_their_headers_say(arguments: object, headers: dict[str, str], passes: bool) -> None:
    fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    request = requests.of("POST", b"/mcp", fields)
    params = json.dumps({"name": "t", "arguments": arguments}).encode()
    if passes:
        entrance.check_arguments(request, SCHEMA, params)
    else:
        with pytest.raises(entrance.Turned) as turned:
            entrance.check_arguments(request, SCHEMA, params)
        assert (turned.value.status, turned.value.code) == (400, -32020)
