"""Clients of 2026-07-28 in front of stdio servers: one of that era (the official SDK's) and an older one (scripted).

Real: proxies, servers, raw HTTP. The SDKs' clients are in tests/e2e/test_stdio_clients.py.
"""

import base64
import concurrent.futures
import json
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import provision
from tests.kit.backends import PROGRAMS
from tests.proxy import stdio_stage as stage

LOG_LEVEL = stage.ENVELOPE + "logLevel"
SUBSCRIPTION_ID = stage.ENVELOPE + "subscriptionId"


@pytest.fixture(scope="module")
def older() -> Iterator[kit.Proxy]:
    with stage.stage() as running:
        yield running


@pytest.fixture(scope="module")
def newer() -> Iterator[kit.Proxy]:
    """A server that speaks both eras."""
    command = [str(provision.python("mcp2")), str(PROGRAMS / "stdio_server.py"), "mcp2"]
    with stage.stage(command=command) as running:
        yield running


@pytest.fixture(params=["older", "newer"])
def proxy(request: pytest.FixtureRequest) -> kit.Proxy:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, kit.Proxy)
    return found


def call(proxy: kit.Proxy, name: str, number: object = 1, **arguments: object) -> stage.Reply:
    return stage.ask_modern(proxy.url(), "tools/call", number, name=name, arguments=arguments)


# Servers of both eras.


def test_a_server_is_discovered(proxy: kit.Proxy) -> None:
    reply = stage.ask_modern(proxy.url(), "server/discover")
    result = reply.message["result"]
    assert reply.status == 200
    assert result["supportedVersions"] == [stage.MODERN]
    assert result["resultType"] == "complete"
    assert "tools" in result["capabilities"]
    assert not {"logging", "tasks"} & result["capabilities"].keys()
    assert result["_meta"][stage.ENVELOPE + "serverInfo"]["name"] in ("script", "kit")
    assert "mcp-session-id" not in reply.fields


def test_a_call_is_answered_in_the_words_of_the_era(proxy: kit.Proxy) -> None:
    reply = call(proxy, "echo", "seven", value=[1, "é"])
    assert json.loads(reply.text) == [1, "é"]
    assert (reply.message["id"], reply.message["result"]["resultType"]) == ("seven", "complete")
    tools = stage.ask_modern(proxy.url(), "tools/list").message["result"]
    assert (tools["ttlMs"], tools["cacheScope"]) == (0, "private")
    assert tools["tools"]


def test_equal_ids_at_the_same_time_get_their_own_answers(proxy: kit.Proxy) -> None:
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda value: call(proxy, "echo", 1, value=value), range(50)))
    assert [json.loads(reply.text) for reply in replies] == list(range(50))


def test_progress_comes_with_the_clients_own_token(proxy: kit.Proxy) -> None:
    meta = {"progressToken": "p"}
    reply = stage.ask_modern(proxy.url(), "tools/call", 2, name="progress", arguments={"steps": 2}, meta=meta)
    assert [each["params"]["progressToken"] for each in reply.messages[:-1]] == ["p", "p"]
    assert reply.text == "2 steps"


def test_a_listener_hears_what_it_asked_for_under_its_own_id(proxy: kit.Proxy) -> None:
    call(proxy, "echo")  # the process is there
    wanted = {"toolsListChanged": True, "resourceSubscriptions": ["kit://greeting"]}
    stream = stage.Stream(stage.begin_modern(proxy.url(), "subscriptions/listen", "mine", notifications=wanted))
    acknowledged = stream.next()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["params"]["_meta"][SUBSCRIPTION_ID] == "mine"
    assert acknowledged["params"]["notifications"] == wanted
    if "script" in str(stage.ask_modern(proxy.url(), "server/discover").body):
        call(proxy, "changed", kind="prompts")  # not asked for
        call(proxy, "changed", kind="tools")
        call(proxy, "update", uri="kit://greeting")
    else:
        call(proxy, "notify", kind="prompts")
        call(proxy, "notify", kind="tools")
        call(proxy, "notify", kind="updated")
    heard = [stream.next(), stream.next()]
    assert [each["method"] for each in heard] == [
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ]
    assert [each["params"]["_meta"][SUBSCRIPTION_ID] for each in heard] == ["mine", "mine"]
    stream.close()


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/subscribe", "no/such"])
def test_methods_of_the_other_era_are_unknown(proxy: kit.Proxy, method: str) -> None:
    reply = stage.ask_modern(proxy.url(), method, 4, uri="a://b", level="info")
    assert (reply.status, reply.error["code"], reply.message["id"]) == (404, -32601, 4)


def test_both_eras_are_served_side_by_side_by_processes_of_their_own(proxy: kit.Proxy) -> None:
    caller = stage.Caller(proxy.url())
    assert caller.open().status == 200
    assert json.loads(call(proxy, "echo", value=1).text) == 1
    assert caller.call("echo", value=2) == "2"
    assert caller.end() == 204


def test_a_process_that_dies_is_replaced(older: kit.Proxy) -> None:
    pid = call(older, "whoami").text
    reply = call(older, "die")
    assert (reply.status, reply.error["data"]["may_have_run"]) == (200, True)
    stage.await_that(lambda: "result" in call(older, "whoami").message, "another process")
    assert call(older, "whoami").text != pid


# What is held against the body.


def envelope(version: object = stage.MODERN) -> stage.Entry:
    return {stage.ENVELOPE + "protocolVersion": version, stage.ENVELOPE + "clientCapabilities": {}}


@pytest.mark.parametrize(
    ("headers", "params", "status", "code"),
    [
        pytest.param({}, {}, 400, -32602, id="no envelope"),
        pytest.param({}, {"_meta": {stage.ENVELOPE + "protocolVersion": stage.MODERN}}, 400, -32602, id="half of it"),
        pytest.param({}, {"_meta": envelope("2099-01-01")}, 400, -32020, id="another version in the body"),
        pytest.param(
            {"MCP-Protocol-Version": "2099-01-01"}, {"_meta": envelope("2099-01-01")}, 400, -32022, id="not served"
        ),
        pytest.param({"Mcp-Method": "tools/call"}, {"_meta": envelope()}, 400, -32020, id="another method"),
        pytest.param({"Mcp-Method": ""}, {"_meta": envelope()}, 400, -32020, id="no method"),
    ],
)
def test_headers_that_differ_from_the_body_are_refused(
    older: kit.Proxy, headers: dict[str, str], params: stage.Entry, status: int, code: int
) -> None:
    given = {"MCP-Protocol-Version": stage.MODERN, "Mcp-Method": "tools/list", **headers}
    body = stage.encode("tools/list", 8, params)
    reply = stage.Reply(stage.Caller(older.url()).request("POST", body, **given))
    assert (reply.status, reply.error["code"], reply.message["id"]) == (status, code, 8)


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        pytest.param("echo", True, id="plain"),
        pytest.param("=?base64?" + base64.b64encode(b"echo").decode() + "?=", True, id="Base64"),
        pytest.param("count", False, id="another name"),
        pytest.param("=?base64?ZWNo*bw==?=", False, id="no Base64"),
        pytest.param(None, False, id="none"),
    ],
)
def test_the_name_in_the_header_is_the_one_in_the_body(older: kit.Proxy, header: str | None, accepted: bool) -> None:
    given = {"MCP-Protocol-Version": stage.MODERN, "Mcp-Method": "tools/call"}
    given |= {} if header is None else {"Mcp-Name": header}
    body = stage.encode("tools/call", 8, {"name": "echo", "arguments": {}, "_meta": envelope()})
    reply = stage.Reply(stage.Caller(older.url()).request("POST", body, **given))
    assert reply.status == (200 if accepted else 400)
    assert accepted or reply.error["code"] == -32020


def test_only_posts_are_served(older: kit.Proxy) -> None:
    for method in ("GET", "DELETE"):
        reply = stage.Caller(older.url()).request(method, MCP_Protocol_Version=stage.MODERN)
        assert (reply.status, reply.getheader("Allow")) == (405, "POST")


# Who leaves.


def test_who_leaves_ends_the_work(older: kit.Proxy) -> None:
    gone = stage.begin_modern(
        older.url(), "tools/call", name="progress", arguments={"steps": 3000}, meta={"progressToken": 1}
    )
    assert stage.Stream(gone).next()["method"] == "notifications/progress"
    gone.close()
    stage.await_that(
        lambda: "notifications/cancelled" in json.loads(call(older, "seen").text), "the server was told to stop"
    )


def test_a_log_message_comes_with_the_only_call_that_wants_one(newer: kit.Proxy) -> None:
    with_log = stage.ask_modern(
        newer.url(), "tools/call", name="log", arguments={"text": "t"}, meta={LOG_LEVEL: "info"}
    )
    assert [each.get("method") for each in with_log.messages] == ["notifications/message", None]
    assert [each.get("method") for each in call(newer, "log", text="t").messages] == [None]


def test_a_modern_process_ends_when_nobody_has_asked_for_the_ttl() -> None:
    with stage.stage("--session-ttl", "1s") as proxy:
        pid = int(call(proxy, "whoami").text)
        stage.await_that(lambda: not stage.is_there(pid), "it was idle")
        assert int(call(proxy, "whoami").text) != pid
