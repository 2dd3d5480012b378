"""A stdio server behind `serve -- COMMAND`, a process per session: what passes, and how a session ends.

Real: the proxy, its warden, the scripted server's processes, HTTP connections. Not here: the SDKs' clients and servers
(tests/e2e/test_stdio_clients.py), faults (test_stdio_faults.py), shared processes (test_stdio_modes.py).
"""

import concurrent.futures
import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.proxy import stdio_stage as stage
from tests.proxy.stdio_stage import Caller


@pytest.fixture(scope="module")
def proxy() -> Iterator[kit.Proxy]:
    with stage.stage() as running:
        yield running


@pytest.fixture
def caller(proxy: kit.Proxy) -> Iterator[Caller]:
    opened = Caller(proxy.url())
    opened.open()
    yield opened
    opened.end()


def test_a_session_begins_with_the_servers_own_words(proxy: kit.Proxy) -> None:
    caller = Caller(proxy.url())
    greeting = caller.open("2025-03-26")
    assert greeting.status == 200
    assert greeting.fields["content-type"] == "application/json"
    assert greeting.message["result"]["serverInfo"] == {"name": "script", "version": "1"}
    assert greeting.message["result"]["protocolVersion"] == "2025-03-26"
    record = proxy.session(caller.session_id or "")
    assert record is not None
    assert (record["transport"], record["path"], record["protocol_version"]) == (
        "streamable-http",
        "/mcp",
        "2025-03-26",
    )
    assert caller.end() == 204


def test_each_session_has_a_process_of_its_own(proxy: kit.Proxy) -> None:
    callers = [Caller(proxy.url()) for _ in range(3)]
    for one in callers:
        one.open()
    pids = [one.call("whoami") for one in callers]
    assert len(set(pids)) == 3
    assert [[one.call("count") for _ in range(3)] for one in callers] == [["1", "2", "3"]] * 3
    for one in callers:
        assert one.end() == 204
    stage.await_that(lambda: not {int(pid) for pid in pids} & set(stage.processes(proxy)), "their processes have ended")


def test_ids_of_any_kind_come_back_as_they_were(caller: Caller) -> None:
    for number in ("seven", "7", 7, 0, -3, 2**63, 1.5, 'a"b\\', "\u00e9\u4e2d"):
        reply = caller.post("tools/call", number, name="echo", arguments={"value": number})
        assert reply.message["id"] == number
        assert json.loads(reply.text) == number


def test_numbers_and_text_pass_undecoded(caller: Caller) -> None:
    body = (
        b'{"jsonrpc": "2.0",\r\n "id": 1,\n "method": "tools/call", "params": {"name": "echo", "arguments":\n'
        b' {"value": 123456789012345678901234567890}, "unknown": [1.0, 1e400]}}'
    )
    reply = stage.Reply(caller.request("POST", body))
    assert reply.text == "123456789012345678901234567890"


def test_equal_ids_at_the_same_time_get_their_own_answers(caller: Caller) -> None:
    def ask(value: int) -> object:
        reply = caller.post("tools/call", 1, name="sleep", arguments={"seconds": 0.2 / value, "value": value})
        return json.loads(reply.text)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(1, 9))) == list(range(1, 9))


def test_progress_comes_on_the_calls_own_stream_before_its_answer(caller: Caller) -> None:
    token = {"_meta": {"progressToken": "mine"}}
    reply = caller.post("tools/call", 5, name="progress", arguments={"steps": 3}, **token)
    assert reply.fields["content-type"] == "text/event-stream"
    assert [each.get("method") for each in reply.messages] == ["notifications/progress"] * 3 + [None]
    assert [each["params"]["progressToken"] for each in reply.messages[:3]] == ["mine"] * 3
    assert reply.message["id"] == 5


def test_a_servers_question_comes_on_the_calls_stream_and_its_answer_reaches_it(caller: Caller) -> None:
    stream = stage.Stream(caller.begin("tools/call", 9, name="elicit", arguments={"message": "who?"}))
    question = stream.next()
    assert (question["method"], question["params"]["message"]) == ("elicitation/create", "who?")
    assert caller.answer(question["id"], {"action": "accept", "content": {"name": "Ada"}}) == 202
    answer = stream.next()
    assert json.loads(answer["result"]["content"][0]["text"]) == {"action": "accept", "content": {"name": "Ada"}}


def test_an_answer_to_what_was_not_asked_goes_nowhere(caller: Caller) -> None:
    assert caller.answer(4711, {"action": "accept"}) == 202
    assert caller.call("echo", value=1) == "1"


def test_news_come_on_the_get_stream_and_wait_for_it(caller: Caller) -> None:
    assert caller.call("later", seconds=0.3, kind="prompts") == "soon"
    time.sleep(0.6)
    stream = caller.stream()
    assert stream.status == 200
    assert stream.next()["method"] == "notifications/prompts/list_changed"
    assert caller.call("update", uri="a://b") == "updated"
    assert stream.next()["params"] == {"uri": "a://b"}
    stream.close()


def test_news_of_a_session_without_a_stream_come_with_the_call_under_way(caller: Caller) -> None:
    reply = caller.post("tools/call", name="changed", arguments={"kind": "resources"})
    assert [each.get("method") for each in reply.messages] == ["notifications/resources/list_changed", None]


def test_the_newest_get_stream_wins(caller: Caller) -> None:
    older = caller.stream()
    newer = caller.stream()
    assert older.ended()
    caller.call("changed")
    assert newer.next()["method"] == "notifications/tools/list_changed"
    newer.close()


def test_a_call_goes_on_when_its_client_has_left(caller: Caller) -> None:
    gone = caller.begin("tools/call", 1, name="elicit", arguments={"message": "x", "number": "q"})
    stage.Stream(gone).next()
    gone.close()
    assert caller.call("echo", value=2) == "2"
    assert caller.call("whoami").isdigit()


def test_a_cancelled_call_that_is_never_answered_ends_all_the_same(caller: Caller) -> None:
    under_way = stage.Stream(caller.begin("tools/call", "c", name="elicit", arguments={"message": "x"}))
    assert under_way.next()["method"] == "elicitation/create"
    assert caller.tell("notifications/cancelled", requestId="c") == 202
    assert under_way.next()["error"]["code"] == -32800
    assert under_way.ended()


def test_a_cancellation_names_the_request_as_the_server_knows_it(caller: Caller) -> None:
    pending = threading.Thread(target=lambda: caller.post("tools/call", "c", name="sleep", arguments={"seconds": 0.3}))
    pending.start()
    assert caller.tell("notifications/cancelled", requestId="c") == 202
    assert caller.tell("notifications/cancelled", requestId="unknown") == 202
    pending.join(stage.SECONDS_MAX)
    assert json.loads(caller.call("seen")).count("notifications/cancelled") <= 1


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"no json", 400, -32700, id="no JSON"),
        pytest.param(b"[]", 400, -32600, id="a batch"),
        pytest.param(b'{"jsonrpc":"2.0","id":1}', 400, -32600, id="neither request nor answer"),
    ],
)
def test_what_is_no_message_is_refused(caller: Caller, body: bytes, status: int, code: int) -> None:
    reply = stage.Reply(caller.request("POST", body))
    assert (reply.status, reply.error["code"]) == (status, code)


def test_without_a_session_only_initialize_is_served(proxy: kit.Proxy) -> None:
    stranger = Caller(proxy.url())
    reply = stranger.post("tools/list")
    assert (reply.status, reply.error["code"]) == (400, -32600)
    assert "mcp-session-id" not in reply.fields
    stranger.session_id = "unknown"
    assert stranger.post("tools/list").status == 404


def test_an_ended_session_is_gone_with_its_process(proxy: kit.Proxy) -> None:
    caller = Caller(proxy.url())
    caller.open()
    pid = int(caller.call("whoami"))
    stream = caller.stream()
    assert caller.end() == 204
    assert stream.ended()
    assert caller.post("tools/list").status == 404
    stage.await_that(lambda: not stage.is_there(pid), "the process has ended and was reaped")


def test_an_idle_session_ends_with_its_process_unless_its_stream_is_open() -> None:
    with stage.stage("--session-ttl", "1s") as proxy:
        idle, listening = Caller(proxy.url()), Caller(proxy.url())
        pids = []
        for one in (idle, listening):
            one.open()
            pids.append(int(one.call("whoami")))
        stream = listening.stream()
        stage.await_that(lambda: not stage.is_there(pids[0]), "the idle process has ended")
        assert idle.post("tools/list").status == 404
        assert listening.call("whoami") == str(pids[1])
        stream.close()


def test_the_older_transport_is_served_on_the_same_port(proxy: kit.Proxy) -> None:
    stream = stage.Stream(Caller(proxy.url("/sse")).request("GET", None, Accept="text/event-stream"))
    kind, where = stream.next_event()
    assert (kind, where.startswith(b"/sse?sessionId=")) == ("endpoint", True)
    poster = Caller(proxy.url(where.decode()))
    body = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}}
    assert poster.post("initialize", 1, **body).status == 202
    assert stream.next()["result"]["protocolVersion"] == "2024-11-05"
    poster.tell("notifications/initialized")
    assert poster.post("tools/call", 2, name="whoami", arguments={}).status == 202
    pid = int(stream.next()["result"]["content"][0]["text"])
    assert pid in stage.processes(proxy)
    stream.close()
    stage.await_that(lambda: not stage.is_there(pid), "the stream was the session")
    assert poster.post("tools/list", 3).status == 404


def test_sessions_are_ended_through_the_admin_address(proxy: kit.Proxy) -> None:
    caller = Caller(proxy.url())
    caller.open()
    pid = int(caller.call("whoami"))
    assert proxy.end_session(caller.session_id or "") == 204
    stage.await_that(lambda: not stage.is_there(pid), "the process has ended")
    assert caller.post("tools/list").status == 404


def test_the_server_gets_the_environment_but_not_what_is_the_proxys() -> None:
    with stage.stage(environment={"FASTPROXY_REDIS_PASSWORD": "secret", "OTHER": "1"}) as proxy:
        caller = Caller(proxy.url())
        caller.open()
        environment = json.loads(caller.call("environment"))
        assert environment["OTHER"] == "1"
        assert [name for name in environment if name.startswith("FASTPROXY_")] == ["FASTPROXY_STDIO_PROCESS"]


def test_the_admin_pages_tell_the_command_and_not_the_token_of_the_bridge(proxy: kit.Proxy) -> None:
    assert proxy.config()["command"] == stage.SCRIPT
    assert "fastproxy-" not in json.dumps([proxy.config(), proxy.backends()])


def test_who_does_not_know_the_token_opens_nothing_on_the_bridges_port(proxy: kit.Proxy) -> None:
    [backend] = proxy.backends()
    before = stage.processes(proxy)
    for path in ("/mcp", "/", "/fastproxy-" + "0" * 32 + "/mcp"):
        assert Caller(backend["url"] + path).open().status == 404
        assert stage.ask_modern(backend["url"] + path, "tools/list").status == 404
    assert stage.processes(proxy) == before
