"""Shared stdio processes: clients with equal ids, tokens and subscriptions see nothing of each other.

Real: the proxy, scripted servers, fifty clients at once that all use the same ids. `per-session` is here for the same
conversation; what else it does is in test_stdio_sessions.py.
"""

import concurrent.futures
import json
from collections.abc import Iterator

import pytest

from tests import kit
from tests.proxy import stdio_stage as stage
from tests.proxy.stdio_stage import Caller

CLIENTS = 50
POOL = 3


@pytest.fixture(scope="module", params=["shared", "pool", "per-session"])
def any_proxy(request: pytest.FixtureRequest) -> Iterator[kit.Proxy]:
    processes = {"shared": "1", "pool": str(POOL), "per-session": str(CLIENTS + 5)}[request.param]
    with stage.stage("--stdio-mode", request.param, "--stdio-max-processes", processes) as running:
        yield running


@pytest.fixture(scope="module")
def proxy() -> Iterator[kit.Proxy]:
    with stage.stage("--stdio-mode", "shared") as running:
        yield running


def opened(proxy: kit.Proxy, capabilities: stage.Entry | None = None) -> Caller:
    caller = Caller(proxy.url())
    caller.capabilities = capabilities or {}
    assert caller.open().status == 200
    return caller


def test_fifty_clients_with_equal_ids_and_tokens_get_their_own_answers(any_proxy: kit.Proxy) -> None:
    def converse(client: int) -> list[object]:
        caller = opened(any_proxy)
        heard: list[object] = []
        for number in (1, 2):
            arguments = {"seconds": 0.005 * ((client * 7) % 20), "value": [client, number]}
            heard.append(json.loads(caller.post("tools/call", number, name="sleep", arguments=arguments).text))
        steps = client % 5 + 1
        reply = caller.post(
            "tools/call", 3, name="progress", arguments={"steps": steps}, _meta={"progressToken": "same"}
        )
        heard += [each["params"]["progress"] for each in reply.messages[:-1]]
        assert [each["params"]["total"] for each in reply.messages[:-1]] == [steps] * steps
        assert (reply.message["id"], reply.text) == (3, f"{steps} steps")
        assert caller.end() == 204
        return heard

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        heard = list(pool.map(converse, range(CLIENTS)))
    assert heard == [[[client, 1], [client, 2], *range(1, client % 5 + 2)] for client in range(CLIENTS)]


def test_a_pool_spreads_its_sessions_and_holds_no_more_processes_than_it_may() -> None:
    with stage.stage("--stdio-mode", "pool", "--stdio-max-processes", str(POOL)) as proxy:
        callers = [opened(proxy) for _ in range(3 * POOL)]
        pids = [caller.call("whoami") for caller in callers]
        assert sorted(pids.count(pid) for pid in set(pids)) == [3] * POOL
        assert {int(pid) for pid in pids} == set(stage.processes(proxy))
        assert [caller.call("whoami") for caller in callers] == pids


def test_one_handshake_is_made_and_shown_to_all(proxy: kit.Proxy) -> None:
    first, second = Caller(proxy.url()), Caller(proxy.url())
    greetings = [first.open("2025-03-26"), second.open("2099-01-01")]
    results = [greeting.message["result"] for greeting in greetings]
    assert [result["serverInfo"]["name"] for result in results] == ["script", "script"]
    assert [result["protocolVersion"] for result in results] == ["2025-03-26", "2025-11-25"]
    assert [sorted(result["capabilities"]) for result in results] == [["prompts", "resources", "tools"]] * 2
    assert first.call("whoami") == second.call("whoami")
    seen = json.loads(first.call("seen"))
    assert (seen.count("initialize"), seen.count("notifications/initialized")) == (1, 1)


def test_changes_of_lists_are_told_to_all_and_resources_to_who_subscribed(proxy: kit.Proxy) -> None:
    first, second, third = (opened(proxy) for _ in range(3))
    streams = [caller.stream() for caller in (first, second, third)]
    for caller in (first, second):
        assert caller.post("resources/subscribe", uri="a://shared").message["result"] == {}
    assert first.call("update", uri="a://shared/part") == "updated"
    assert [stream.next()["params"]["uri"] for stream in streams[:2]] == ["a://shared/part"] * 2
    assert first.post("resources/unsubscribe", uri="a://shared").message["result"] == {}
    assert first.call("update", uri="a://shared") == "updated"
    assert first.call("changed") == "changed"
    assert streams[1].next()["method"] == "notifications/resources/updated"
    assert [stream.next()["method"] for stream in streams] == ["notifications/tools/list_changed"] * 3
    seen = json.loads(first.call("seen"))
    assert "resources/unsubscribe" not in seen  # the second one still listens
    streams[1].close()
    assert second.end() == 204
    stage.await_that(lambda: "resources/unsubscribe" in json.loads(first.call("seen")), "nobody listens any more")
    for caller in (first, third):
        caller.end()


@pytest.mark.parametrize(
    ("method", "params"),
    [
        pytest.param("logging/setLevel", {"level": "debug"}, id="logging"),
        pytest.param("tasks/list", {}, id="tasks"),
        pytest.param("tools/call", {"name": "echo", "arguments": {}, "task": {"ttl": 1}}, id="a call as a task"),
    ],
)
def test_what_needs_a_process_of_ones_own_is_refused_by_name(
    proxy: kit.Proxy, method: str, params: stage.Entry
) -> None:
    caller = opened(proxy)
    reply = caller.post(method, **params)
    assert reply.status == 200
    assert reply.error["code"] == -32601
    assert reply.error["data"]["reason"] == "not_carried"
    assert "--stdio-mode per-session" in reply.error["message"]
    caller.end()


def test_a_servers_question_is_refused_to_the_server_and_reaches_no_client(proxy: kit.Proxy) -> None:
    caller = opened(proxy, {"elicitation": {}})
    reply = caller.post("tools/call", name="elicit", arguments={"message": "x"})
    assert [each.get("method") for each in reply.messages] == [None]
    assert json.loads(reply.text)["code"] == -32601
    caller.end()


def test_log_messages_reach_nobody_as_nobody_knows_whose_they_are(proxy: kit.Proxy) -> None:
    first, second = opened(proxy), opened(proxy)
    stream = second.stream()
    assert [each.get("method") for each in first.post("tools/call", name="flood", arguments={"lines": 3}).messages] == [
        None
    ]
    first.call("changed")
    assert stream.next()["method"] == "notifications/tools/list_changed"
    stream.close()


def test_one_clients_cancellation_ends_no_other_ones_call(proxy: kit.Proxy) -> None:
    first, second = opened(proxy), opened(proxy)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending = pool.submit(first.post, "tools/call", "c", name="sleep", arguments={"seconds": 0.5, "value": 1})
        assert second.tell("notifications/cancelled", requestId="c") == 202
        assert json.loads(pending.result().text) == 1
    assert "notifications/cancelled" not in json.loads(first.call("seen"))


def test_a_client_that_does_not_read_loses_its_stream_and_holds_nobody_up(proxy: kit.Proxy) -> None:
    caller, other = opened(proxy), opened(proxy)
    lagging = caller.stream()
    resident = proxy.resident_bytes
    for _ in range(8):
        other.post("tools/call", name="repeat", arguments={"times": 1500, "uri": "a://" + "x" * 1000}, _meta={})
    assert other.call("echo", value=1) == "1"
    assert proxy.resident_bytes - resident < 32 << 20
    lagging.close()


def test_a_shared_process_that_dies_is_replaced_for_all(proxy: kit.Proxy) -> None:
    first, second = opened(proxy), opened(proxy)
    second.post("resources/subscribe", uri="a://kept")
    stream = second.stream()
    token = {"_meta": {"progressToken": 1}}
    under_way = stage.Stream(second.begin("tools/call", name="progress", arguments={"steps": 2000}, **token))
    assert under_way.next()["method"] == "notifications/progress"
    assert first.post("tools/call", name="die").error["data"]["may_have_run"] is True
    said = under_way.next()
    while "error" not in said:
        said = under_way.next()
    assert said["error"]["data"]["may_have_run"] is True
    stage.await_that(lambda: "result" in first.post("tools/call", name="echo").message, "another process")
    assert json.loads(first.call("seen"))[:3] == ["initialize", "notifications/initialized", "resources/subscribe"]
    assert json.loads(first.call("seen")).count("initialize") == 1
    first.call("update", uri="a://kept")
    assert stream.next()["params"] == {"uri": "a://kept"}
    stream.close()


def test_a_shared_process_ends_when_nobody_has_come_for_the_ttl_and_begins_anew() -> None:
    with stage.stage("--stdio-mode", "shared", "--session-ttl", "1s") as proxy:
        pid = int(opened(proxy).call("whoami"))
        stage.await_that(lambda: not stage.is_there(pid), "session and process have ended")
        assert int(opened(proxy).call("whoami")) != pid
