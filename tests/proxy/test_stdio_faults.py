"""What goes wrong with a stdio server costs its own session at most: deaths, floods, silence, garbage, and our own end.

Real: the proxy, its warden, scripted servers that misbehave as they are told, /proc. A flood is some ten MiB here: more
than every buffer on the way, less than a machine under test can spare.
"""

import json
import signal
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator

import pytest

from tests import kit
from tests.proxy import stdio_stage as stage
from tests.proxy.stdio_stage import Caller

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def proxy() -> Iterator[kit.Proxy]:
    with stage.stage() as running:
        yield running


def kill_and_await(caller: Caller) -> int:
    """Kill the session's process; the pid of the one that has taken over. A call on its way there may be lost."""
    pid = int(caller.call("whoami"))
    stage.kill(pid)
    stage.await_that(lambda: "result" in caller.post("tools/call", name="whoami").message, "another process")
    now = int(caller.call("whoami"))
    assert now != pid
    return now


def opened(proxy: kit.Proxy) -> Caller:
    caller = Caller(proxy.url())
    assert caller.open().status == 200
    return caller


# Its death.


def test_a_process_that_dies_in_a_call_is_replaced_and_the_client_told_that_it_may_have_run(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    pid = caller.call("whoami")
    reply = caller.post("tools/call", 3, name="die", arguments={"status": 7})
    assert reply.status == 200
    assert reply.error["code"] == -32603
    assert (reply.error["data"]["reason"], reply.error["data"]["may_have_run"]) == ("backend_lost", True)
    assert "status 7" in reply.error["message"]
    assert caller.call("whoami") != pid
    assert json.loads(caller.call("seen"))[:2] == ["initialize", "notifications/initialized"]


def test_what_was_agreed_with_the_old_process_is_told_to_the_new_one(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    caller.post("logging/setLevel", level="debug")
    caller.post("resources/subscribe", uri="a://1")
    caller.post("resources/subscribe", uri="a://2")
    caller.post("resources/unsubscribe", uri="a://1")
    kill_and_await(caller)
    assert json.loads(caller.call("seen"))[:4] == [
        "initialize",
        "notifications/initialized",
        "logging/setLevel",
        "resources/subscribe",
    ]


def test_a_process_killed_while_it_streams_ends_the_call_with_an_error_on_its_stream(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    pid = int(caller.call("whoami"))
    stream = stage.Stream(caller.begin("tools/call", 1, name="elicit", arguments={"message": "x"}))
    question = stream.next()
    stage.kill(pid)
    assert stream.next()["error"]["data"]["may_have_run"] is True
    assert stream.ended()
    assert caller.call("echo", value=1) == "1"
    assert caller.answer(question["id"], {"action": "decline"}) == 202  # too late, and not the new process's question
    assert caller.call("echo", value=1) == "1"


def test_a_process_killed_before_it_has_answered_the_handshake_is_an_error_and_no_session() -> None:
    with stage.stage(manners="dies") as proxy:
        reply = Caller(proxy.url()).open()
        assert reply.status == 200
        assert reply.error["code"] == -32603
        assert "no licence for today" in reply.error["message"]
        assert "mcp-session-id" not in reply.fields
        assert proxy.sessions() == []
        assert stage.processes(proxy) == []


def test_a_session_without_calls_gets_another_process_too_and_its_stream_lives_on(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    stream = caller.stream()
    kill_and_await(caller)
    assert caller.call("changed") == "changed"
    assert stream.next()["method"] == "notifications/tools/list_changed"
    stream.close()


def test_a_command_that_is_not_there_ends_the_proxy_with_one_line() -> None:
    said = "fastproxy: cannot start no-such-program: no such program$"
    with pytest.raises(kit.KitError, match=said), stage.stage(command=["no-such-program"]):
        pass


# What it says.


def test_what_is_no_message_is_logged_and_skipped(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    for text in ("Listening on stdin…", "[]", '{"jsonrpc": "2.0"', '"text"', "{}"):
        assert caller.call("garbage", text=text) == "said"
    assert caller.call("echo", value=3) == "3"
    stage.await_that(lambda: "said what is no message: 'Listening on stdin" in proxy.stderr, "it is in the log")


def test_a_line_over_the_limit_ends_that_process_and_no_other() -> None:
    with stage.stage("--stdio-max-line", "64KiB") as proxy:
        caller, other = opened(proxy), opened(proxy)
        pids = caller.call("whoami"), other.call("whoami")
        assert len(caller.call("big", size_bytes=60_000)) == 60_000
        reply = caller.post("tools/call", name="big", arguments={"size_bytes": 70_000})
        assert reply.error["data"]["may_have_run"] is True
        assert "a line of more than 65536 bytes" in reply.error["message"]
        assert caller.call("whoami") != pids[0]
        assert other.call("whoami") == pids[1]


def test_standard_error_is_logged_with_the_servers_name_and_bounded() -> None:
    with stage.stage("--name", "files") as proxy:
        caller = opened(proxy)
        pid = caller.call("whoami")
        caller.call("complain", lines=5000)
        stage.await_that(
            lambda: "more lines on standard error" in proxy.stderr or _complain(caller), "some were left out"
        )
        assert f"files[{pid}]: complaint 0" in proxy.stderr
        assert proxy.stderr.count(": complaint ") < 1000


def _complain(caller: Caller) -> bool:
    caller.call("complain", lines=1)
    return False


# Those who do not read.


def lag(caller: Caller, size_bytes: int) -> socket.socket:
    """A client that asks for a flood and reads nothing of it."""
    place = urllib.parse.urlsplit(caller.url)
    lagging = socket.socket()
    lagging.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    lagging.connect((place.hostname, place.port))
    body = stage.encode(
        "tools/call", 1, {"name": "flood", "arguments": {"lines": size_bytes // 10_000, "size_bytes": 10_000}}
    )
    head = f"POST {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nMcp-Session-Id: {caller.session_id}\r\n"
    head += "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
    lagging.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return lagging


def test_a_client_that_does_not_read_holds_its_own_process_up_and_nobody_else(proxy: kit.Proxy) -> None:
    caller, other = opened(proxy), opened(proxy)
    resident = proxy.resident_bytes
    with lag(caller, 40 * MEBIBYTE) as lagging:
        for _ in range(20):
            assert other.call("echo", value=1) == "1"
            time.sleep(0.05)
        assert proxy.resident_bytes - resident < 24 * MEBIBYTE
        got = b""
        while b" lines" not in got:
            piece = lagging.recv(MEBIBYTE)
            assert piece, "the stream was cut"
            got = got[-300:] + piece
    assert caller.call("echo", value=2) == "2"


def test_a_flood_that_nobody_listens_to_is_bounded(proxy: kit.Proxy) -> None:
    caller = opened(proxy)
    resident = proxy.resident_bytes
    gone = caller.begin("tools/call", 1, name="flood", arguments={"lines": 3000, "size_bytes": 10_000})
    gone.close()
    assert caller.call("echo", value=2) == "2"
    assert proxy.resident_bytes - resident < 24 * MEBIBYTE


def test_a_server_that_does_not_read_is_not_written_to_without_end() -> None:
    with stage.stage(manners="deaf") as proxy:
        caller = opened(proxy)
        resident = proxy.resident_bytes
        big = json.dumps({"jsonrpc": "2.0", "method": "notifications/x", "params": {"text": "x" * 500_000}}).encode()
        replies: list[int] = []

        def tell() -> None:
            reply = stage.Reply(caller.request("POST", big))
            replies.append(reply.status)

        threads = [threading.Thread(target=tell, daemon=True) for _ in range(90)]
        for thread in threads:
            thread.start()
        stage.await_that(lambda: 503 in replies, "those beyond the bound are refused")
        assert proxy.resident_bytes - resident < 64 * MEBIBYTE
        other = Caller(proxy.url())
        assert other.open().status == 200
        assert caller.end() == 204  # which ends the wait of all others
        for thread in threads:
            thread.join(stage.SECONDS_MAX)
        assert len(replies) == 90


# How many.


def test_a_session_beyond_the_processes_that_may_run_is_refused_until_one_ends() -> None:
    with stage.stage("--stdio-max-processes", "2") as proxy:
        first, second = opened(proxy), opened(proxy)
        refused = Caller(proxy.url()).open()
        assert refused.error["data"]["reason"] == "too_many_processes"
        assert "mcp-session-id" not in refused.fields
        pid = int(first.call("whoami"))
        first.end()
        stage.await_that(lambda: not stage.is_there(pid), "its process has ended")
        third = opened(proxy)
        assert third.call("whoami") != second.call("whoami")


def test_spares_wait_and_are_replaced() -> None:
    with stage.stage("--stdio-spares", "2") as proxy:
        stage.await_that(lambda: len(stage.processes(proxy)) == 2, "two spares wait")
        before = set(stage.processes(proxy))
        caller = opened(proxy)
        assert int(caller.call("whoami")) in before
        stage.await_that(lambda: len(stage.processes(proxy)) == 3, "the spare was replaced")
        own = int(caller.call("whoami"))
        for pid in set(stage.processes(proxy)) - {own}:
            stage.kill(pid)
        stage.await_that(lambda: len(set(stage.processes(proxy)) - before) == 2, "dead spares are replaced")
        stage.await_that(lambda: proxy.metrics().value("fastproxy_stdio_processes", state="spare") == 2, "two wait")
        metrics = proxy.metrics()
        assert metrics.value("fastproxy_stdio_processes", state="serving") == 1
        assert metrics.value("fastproxy_stdio_starts_total") == 5
        assert metrics.value("fastproxy_stdio_deaths_total") == 2


@pytest.mark.parametrize("mode", ["ended", "left"])
def test_many_sessions_leave_nothing_behind(mode: str) -> None:
    many, ttl = (500, "2m") if stage.WHOLE else (25, "6s")
    with stage.stage("--session-ttl", ttl, "--stdio-max-processes", str(many + 10)) as proxy:
        opened(proxy).end()  # what is made once is there
        stage.await_that(lambda: stage.processes(proxy) == [], "no process yet")
        descriptors, resident = proxy.descriptors, proxy.resident_bytes
        callers = []
        for _ in range(many):
            callers.append(opened(proxy))
            assert callers[-1].call("echo", value=1) == "1"
        assert len(stage.processes(proxy)) <= many
        if mode == "ended":
            assert {caller.end() for caller in callers} <= {204, 404}
        stage.await_that(lambda: stage.processes(proxy) == [], "all processes have ended", 240)
        stage.await_that(lambda: proxy.descriptors <= descriptors + 8, "all descriptors are closed")
        assert proxy.resident_bytes - resident < 16 * MEBIBYTE
        [warden] = stage.wardens(proxy)
        stage.await_that(lambda: stage.children(warden) == [], "none of them is a zombie")


# Our own end.


def test_a_drain_ends_every_process_politely() -> None:
    with stage.stage() as proxy:
        caller = opened(proxy)
        pids = [int(caller.call("whoami")), *stage.wardens(proxy)]
        pending: list[stage.Reply] = []
        call = threading.Thread(
            target=lambda: pending.append(
                caller.post("tools/call", 1, name="sleep", arguments={"seconds": 1, "value": "done"})
            )
        )
        call.start()
        time.sleep(0.3)
        assert proxy.stop() == 0
        call.join(stage.SECONDS_MAX)
        assert json.loads(pending[0].text) == "done"
        assert [pid for pid in pids if stage.is_there(pid)] == []


def test_a_server_that_minds_nothing_is_killed_with_its_children() -> None:
    with stage.stage(manners="stubborn child") as proxy:
        caller = opened(proxy)
        pid = int(caller.call("whoami"))
        [child] = stage.children(pid)
        began = time.monotonic()
        assert proxy.stop() == 0
        assert time.monotonic() - began > 3  # it had its time
        assert [one for one in (pid, child) if stage.is_alive(one)] == []


def test_a_second_signal_ends_a_stubborn_server_at_once() -> None:
    with stage.stage(manners="stubborn") as proxy:
        caller = opened(proxy)
        pid = int(caller.call("whoami"))
        stream = stage.Stream(caller.begin("tools/call", 1, name="elicit", arguments={"message": "x"}))
        stream.next()
        proxy.signal(signal.SIGTERM)
        stage.await_that(lambda: "draining" in proxy.stderr, "it drains")
        proxy.signal(signal.SIGTERM)
        assert proxy.wait(20) == 1
        assert not stage.is_alive(pid)


@pytest.mark.parametrize("manners", ["", "stubborn child"])
def test_nothing_is_left_after_kill_9_of_the_proxy(manners: str) -> None:
    with stage.stage("--stdio-spares", "1", manners=manners) as proxy:
        caller = opened(proxy)
        caller.call("whoami")
        stage.await_that(lambda: len(stage.processes(proxy)) == 2, "a spare waits")
        servers = stage.processes(proxy)
        having = 1 if manners else 0  # children
        stage.await_that(lambda: [len(stage.children(pid)) for pid in servers] == [having] * 2, "they have children")
        pids = [*stage.wardens(proxy), *servers, *(child for pid in servers for child in stage.children(pid))]
        proxy.signal(signal.SIGKILL)
        stage.await_that(lambda: not any(map(stage.is_alive, pids)), "nothing is left", 10)


def test_nothing_is_left_after_kill_9_of_the_warden_and_sessions_go_on() -> None:
    with stage.stage() as proxy:
        caller = opened(proxy)
        pid = int(caller.call("whoami"))
        [warden] = stage.wardens(proxy)
        stage.kill(warden)
        stage.await_that(lambda: not stage.is_alive(pid), "the kernel has ended the server")
        stage.await_that(lambda: "result" in caller.post("tools/call", name="whoami").message, "another process")
        assert stage.wardens(proxy) != [warden]


def test_a_terminals_ctrl_c_is_for_the_proxy_alone() -> None:
    with stage.stage() as proxy:
        caller = opened(proxy)
        pids = [int(caller.call("whoami")), *stage.wardens(proxy)]
        proxy.signal(signal.SIGINT)
        assert proxy.wait(20) == 0
        assert [pid for pid in pids if stage.is_alive(pid)] == []
