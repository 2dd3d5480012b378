"""A client of 2026-07-28 and an older server: each other's words. Pure."""

import json

import pytest

from fastproxy.stdio import eras, message

ENVELOPE = "io.modelcontextprotocol/"


def read(value: object) -> message.Message:
    found = message.read(json.dumps(value).encode())
    assert found is not None
    return found


def test_the_envelope_goes_and_all_else_stays() -> None:
    meta = {ENVELOPE + "protocolVersion": "2026-07-28", "progressToken": 1, "vendor/key": 2, "traceparent": "x"}
    asked = read({"id": 1, "method": "tools/call", "params": {"name": "a", "arguments": {"b": 1}, "_meta": meta}})
    assert json.loads(eras.as_older(asked).text()) == {
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "a",
            "arguments": {"b": 1},
            "_meta": {"progressToken": 1, "vendor/key": 2, "traceparent": "x"},
        },
    }
    alone = read({"id": 1, "method": "tools/list", "params": {"_meta": {ENVELOPE + "clientCapabilities": {}}}})
    assert json.loads(eras.as_older(alone).text()) == {"id": 1, "method": "tools/list"}


def test_a_result_says_that_it_is_complete_and_who_gave_it() -> None:
    answer = read({"id": 1, "result": {"tools": [], "_meta": {"a": 1}}})
    newer = json.loads(eras.as_newer("tools/list", answer, b'{"name":"s"}').text())
    assert newer["result"] == {
        "tools": [],
        "_meta": {"a": 1, ENVELOPE + "serverInfo": {"name": "s"}},
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }
    assert "ttlMs" not in json.loads(eras.as_newer("tools/call", answer, b"").text())["result"]


def test_an_unknown_resource_has_the_code_of_the_era() -> None:
    answer = read({"id": 1, "error": {"code": -32002, "message": "no", "data": {"uri": "a"}}})
    assert json.loads(eras.as_newer("resources/read", answer, b"").text())["error"] == {
        "code": -32602,
        "message": "no",
        "data": {"uri": "a"},
    }
    other = read({"id": 1, "error": {"code": -32601, "message": "no"}})
    assert eras.as_newer("a", other, b"") is other


def test_discovery_tells_what_is_carried() -> None:
    greeting = message.members_of(
        json.dumps(
            {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {"listChanged": True}, "logging": {}, "tasks": {}, "experimental": {}},
                "serverInfo": {"name": "s"},
                "instructions": "read me",
            }
        ).encode()
    )
    found = json.loads(eras.discovery(read({"id": "d", "method": "server/discover"}), greeting, "2026-07-28").text())
    assert found["id"] == "d"
    assert found["result"]["supportedVersions"] == ["2026-07-28"]
    assert found["result"]["capabilities"] == {"tools": {"listChanged": True}}
    assert found["result"]["instructions"] == "read me"


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("notifications/tools/list_changed", True),
        ("notifications/prompts/list_changed", False),
        ("notifications/resources/updated", True),
        ("notifications/message", False),
    ],
)
def test_a_listener_is_told_what_it_has_asked_for(method: str, told: bool) -> None:
    asked = read(
        {
            "id": 1,
            "method": "subscriptions/listen",
            "params": {"notifications": {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}},
        }
    )
    granted = eras.wanted(asked)
    news = eras.news(b'"l"', granted, read({"method": method, "params": {"uri": "a://b"}}))
    assert (news is not None) == told
    if news is not None:
        assert json.loads(news)["params"] == {"uri": "a://b", "_meta": {ENVELOPE + "subscriptionId": "l"}}
    acknowledged = json.loads(eras.acknowledgement(b'"l"', granted))
    assert acknowledged["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": ["a://b"]}
