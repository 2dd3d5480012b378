"""Calls translated between the eras: params, results, errors, questions. Pure; JSON in and out."""

import json
from typing import Any

import pytest

from fastproxy.vmcp import bridge, inquiries, mirrors

META = bridge.META
CALLER = bridge.Caller(bridge.msgspec.Raw(b'{"name":"client"}'), bridge.msgspec.Raw(b'{"elicitation":{}}'), "warning")


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def modern_params(**members: Any) -> bytes:
    meta = {
        META + "protocolVersion": "2026-07-28",
        META + "clientInfo": {"name": "c"},
        META + "clientCapabilities": {"roots": {}},
        META + "logLevel": "error",
        "progressToken": 7,
        "com.example/kept": True,
    }
    return text({**members, "_meta": meta})


# ---- params


def test_a_session_hears_nothing_of_the_other_hop_but_all_that_is_meant_for_it() -> None:
    params = modern_params(name="t", arguments={"a": 1}, inputResponses={"k": {}}, requestState="s")
    assert json.loads(bridge.to_legacy_params(params)) == {
        "name": "t",
        "arguments": {"a": 1},
        "_meta": {"progressToken": 7, "com.example/kept": True},
    }


def test_params_that_were_only_of_the_hop_are_none_for_a_session() -> None:
    assert bridge.to_legacy_params(text({"_meta": {META + "clientInfo": {}}})) == b""
    assert bridge.to_legacy_params(b"") == b""


def test_arguments_are_not_written_anew() -> None:
    arguments = b'{"big":12345678901234567890,"twice":1,"twice":2,"e":1E2,"u":"\\u00e9"}'
    params = b'{"name":"t","arguments":' + arguments + b',"_meta":{}}'
    assert arguments in bridge.to_legacy_params(params)
    assert arguments in bridge.to_modern_params(params, CALLER, "2026-07-28")


def test_a_modern_backend_hears_with_each_call_who_asks() -> None:
    asked = json.loads(
        bridge.to_modern_params(text({"name": "t", "_meta": {"progressToken": "p"}}), CALLER, "2026-07-28")
    )
    assert asked["_meta"] == {
        "progressToken": "p",
        META + "protocolVersion": "2026-07-28",
        META + "clientInfo": {"name": "client"},
        META + "clientCapabilities": {"elicitation": {}},
        META + "logLevel": "warning",
    }


def test_who_asks_is_read_from_a_modern_call_and_survives_what_is_wrong_in_it() -> None:
    caller = bridge.read_caller(modern_params())
    assert (bytes(caller.capabilities), caller.log_level) == (b'{"roots": {}}', "error")
    assert bridge.read_caller(b'{"_meta":7}') == bridge.Caller()
    assert bridge.read_caller(b"nonsense") == bridge.Caller()


SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        "plain": {"type": "string"},
        "deep": {"type": "object", "properties": {"leaf": {"type": "string", "x-mcp-header": "Leaf"}}},
    },
}


def test_arguments_that_a_schema_wants_in_headers_are_there_and_no_others() -> None:
    arguments = {"region": "eu west", "count": 42.0, "dry": True, "plain": "x", "deep": {"leaf": "grün"}}
    fields = bridge.parameter_fields(text(SCHEMA), text({"name": "t", "arguments": arguments}))
    assert fields == [
        (b"Mcp-Param-Region", b"eu west"),
        (b"Mcp-Param-Count", b"42"),
        (b"Mcp-Param-Dry", b"true"),
        (b"Mcp-Param-Leaf", mirrors.header_value("grün")),
    ]


@pytest.mark.parametrize(
    "arguments", [{}, {"region": None}, {"count": 2**60}, {"count": 1.5}, {"deep": "x"}, None], ids=str
)
def test_an_argument_that_is_not_there_or_can_not_be_said_has_no_header(arguments: object) -> None:
    assert bridge.parameter_fields(text(SCHEMA), text({"name": "t", "arguments": arguments})) == []


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("plain words", b"plain words"),
        (" edge", b"=?base64?IGVkZ2U=?="),
        ("a\r\nX-Evil: b", b"=?base64?YQ0KWC1FdmlsOiBi?="),
        ("=?base64?x?=", b"=?base64?PT9iYXNlNjQ/eD89?="),
        ("ü", b"=?base64?w7w=?="),
    ],
)
def test_a_header_holds_any_text_and_no_text_breaks_out_of_it(value: str, written: bytes) -> None:
    assert mirrors.header_value(value) == written


# ---- results


def test_a_sessions_result_is_complete_and_said_by_us() -> None:
    result = json.loads(
        bridge.to_modern_result(
            "tools/call", text({"content": [], "_meta": {META + "x": 1, "mine": 2}}), b'{"name":"us"}'
        )
    )
    assert result == {
        "content": [],
        "resultType": "complete",
        "_meta": {"mine": 2, META + "serverInfo": {"name": "us"}},
    }


def test_what_may_be_cached_says_that_it_should_not_be() -> None:
    result = json.loads(bridge.to_modern_result("resources/read", text({"contents": []}), b"{}"))
    assert (result["ttlMs"], result["cacheScope"]) == (0, "private")


def test_a_modern_result_is_for_a_session_what_it_always_was() -> None:
    modern = {
        "content": [],
        "resultType": "complete",
        "ttlMs": 5,
        "cacheScope": "public",
        "_meta": {META + "serverInfo": {}},
    }
    assert json.loads(bridge.to_legacy_result(text(modern))) == {"content": []}


# ---- errors


@pytest.mark.parametrize(
    ("code", "status", "shown"),
    [
        (-32601, 404, -32601),
        (-32002, 200, -32602),
        (-32602, 200, -32602),
        (-32021, 200, -32603),
        (-32042, 200, -32603),
        (-32603, 200, -32603),
        (17, 200, 17),
    ],
)
def test_an_error_of_a_session_has_the_code_and_status_of_the_newer_era(code: int, status: int, shown: int) -> None:
    found, error = bridge.to_modern_error(text({"code": code, "message": "m", "data": {"d": 1}}))
    assert (found, json.loads(error)["code"], json.loads(error)["message"]) == (status, shown, "m")


@pytest.mark.parametrize(
    ("method", "code", "shown"),
    [
        ("resources/read", -32602, -32002),
        ("tools/call", -32602, -32602),
        ("tools/call", -32021, -32603),
        ("tools/call", -32020, -32603),
        ("tools/call", -31000, -31000),
    ],
)
def test_an_error_of_the_newer_era_is_one_that_a_sessions_client_knows(method: str, code: int, shown: int) -> None:
    error = json.loads(bridge.to_legacy_error(method, text({"code": code, "message": "m", "data": 1})))
    assert error["code"] == shown
    assert ("data" in error) == (shown != -32603), "what is between us and the backend is not told"


def test_an_error_that_is_none_becomes_one() -> None:
    assert json.loads(bridge.to_legacy_error("tools/call", b"7"))["code"] == -32603
    assert json.loads(bridge.to_modern_error(b"{}")[1])["code"] == -32603


def test_log_messages_pass_by_the_level_that_the_call_asked_for() -> None:
    def passes(said: str, level: str | None) -> bool:
        return bridge.passes(text({"level": said, "data": "x"}), level)

    assert passes("error", "warning") and passes("warning", "warning") and not passes("info", "warning")
    assert not passes("error", None)


def test_a_notification_loses_the_mark_of_its_hop_and_nothing_else() -> None:
    message = text({"jsonrpc": "2.0", "method": "m", "params": {"a": 1, "_meta": {META + "subscriptionId": 1, "k": 2}}})
    assert json.loads(bridge.to_other_notification(message))["params"] == {"a": 1, "_meta": {"k": 2}}
    untouched = b'{"jsonrpc":"2.0", "method":"m", "params":{"a":1e2}}'
    assert bridge.to_other_notification(untouched) == untouched


# ---- questions


def elicit(**params: Any) -> inquiries.Inquiry:
    return inquiries.Inquiry("k", inquiries.ELICIT, text(params))


def test_what_a_modern_backend_asks_is_read_and_answered_under_its_keys() -> None:
    asked = inquiries.read_input_required(
        text(
            {
                "resultType": "input_required",
                "inputRequests": {"name": {"method": "elicitation/create", "params": {"message": "?"}}},
                "requestState": "opaque\u00e9",
            }
        )
    )
    assert [(each.key, each.method) for each in asked.inquiries] == [("name", "elicitation/create")]
    again = inquiries.with_responses(
        text({"name": "t", "requestState": "old"}), {"name": b'{"action":"accept"}'}, asked.state
    )
    assert json.loads(again) == {
        "name": "t",
        "inputResponses": {"name": {"action": "accept"}},
        "requestState": "opaque\u00e9",
    }
    assert "requestState" not in json.loads(inquiries.with_responses(text({"requestState": "old"}), {}, None))


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"inputRequests": {}},
        {"inputRequests": {"a": {"method": "tools/call"}}},
        {"inputRequests": [1]},
        {"inputRequests": {f"k{n}": {"method": "roots/list"} for n in range(101)}},
        {"requestState": 7},
    ],
    ids=["nothing", "no question", "a call", "no map", "too many", "no text"],
)
def test_a_demand_for_input_that_can_not_be_met_is_malformed(result: object) -> None:
    with pytest.raises(inquiries.Malformed):
        inquiries.read_input_required(text(result))


def test_an_address_to_visit_has_an_id_in_sessions_only() -> None:
    url = elicit(mode="url", message="m", url="https://example.com")
    legacy = inquiries.to_legacy(url, "e1")
    assert json.loads(legacy.params)["elicitationId"] == "e1"
    assert "elicitationId" not in json.loads(inquiries.to_modern(legacy).params)
    assert "elicitationId" not in json.loads(inquiries.to_legacy(elicit(message="m"), "e1").params)


@pytest.mark.parametrize(
    ("capabilities", "asked", "missing"),
    [
        ({"elicitation": {}}, elicit(message="m"), None),
        ({"elicitation": {"form": {}}}, elicit(message="m"), None),
        ({"elicitation": {"url": {}}}, elicit(message="m"), {"elicitation": {"form": {}}}),
        ({}, elicit(message="m"), {"elicitation": {"form": {}}}),
        ({"elicitation": {}}, elicit(mode="url"), {"elicitation": {"url": {}}}),
        ({"elicitation": {"url": {}}}, elicit(mode="url"), None),
        ({"sampling": {}}, inquiries.Inquiry("k", inquiries.SAMPLE, b"{}"), None),
        ({"sampling": {}}, inquiries.Inquiry("k", inquiries.SAMPLE, b'{"tools":[]}'), {"sampling": {"tools": {}}}),
        ({}, inquiries.Inquiry("k", inquiries.SAMPLE, b"{}"), {"sampling": {}}),
        ({"roots": {}}, inquiries.Inquiry("k", inquiries.ROOTS, b"{}"), None),
        ({}, inquiries.Inquiry("k", inquiries.ROOTS, b"{}"), {"roots": {}}),
    ],
)
def test_a_client_is_asked_only_what_it_has_declared(
    capabilities: dict[str, Any], asked: inquiries.Inquiry, missing: object
) -> None:
    assert inquiries.missing_capability(text(capabilities), asked) == missing


def test_the_addresses_of_an_older_error_become_questions() -> None:
    visits = inquiries.urls_required(
        text({"elicitations": [{"mode": "url", "message": "m", "url": "https://x", "elicitationId": "e"}, {"url": ""}]})
    )
    assert [(each.key, json.loads(each.params)) for each in visits] == [
        ("e", {"mode": "url", "message": "m", "url": "https://x"})
    ]
    assert inquiries.urls_required(b"null") == []
