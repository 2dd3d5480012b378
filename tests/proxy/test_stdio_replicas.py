"""Several proxies, or several workers of one, each with processes of its own: a session belongs to who has its process.

Real: two proxies on one Redis, workers, scripted servers. Which process answers is what it says of itself (its pid).
"""

import signal
import socket
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import redis_server
from tests.proxy import stdio_stage as stage
from tests.proxy.stdio_stage import Caller


@pytest.fixture
def pair(redis: redis_server.RedisServer) -> Iterator[list[kit.Proxy]]:
    with stage.stages("--name", f"stdio-{time.monotonic_ns()}", store=redis.url) as running:
        yield running


def opened(*proxies: kit.Proxy) -> Caller:
    """A session through the first, asked of each in turn."""
    caller = Caller(proxies[0].url())
    assert caller.open().status == 200
    session_id = caller.session_id
    caller = Caller(*[proxies[0].url()], urls=[proxy.url() for proxy in proxies[1:]])
    caller.session_id = session_id
    return caller


def test_a_session_is_served_by_the_process_that_it_has_whichever_proxy_is_asked(pair: list[kit.Proxy]) -> None:
    callers = [opened(*pair), opened(*reversed(pair))]
    for caller, home in zip(callers, pair, strict=True):
        [pid] = {caller.call("whoami") for _ in range(6)}
        assert int(pid) in stage.processes(home)
        assert [caller.call("count") for _ in range(4)] == ["1", "2", "3", "4"]
    assert [len(stage.processes(proxy)) for proxy in pair] == [1, 1]
    for caller in callers:
        record = pair[0].session(caller.session_id or "")
        assert record is not None
        assert record["generation"] == 1
        assert caller.end() == 204
    stage.await_that(lambda: not any(map(stage.processes, pair)), "processes end with their sessions")


def test_streams_questions_and_their_answers_cross_from_one_proxy_to_the_other(pair: list[kit.Proxy]) -> None:
    caller = opened(pair[0])
    elsewhere = opened_elsewhere(caller, pair[1])
    news = elsewhere.stream()
    assert caller.call("changed") == "changed"
    assert news.next()["method"] == "notifications/tools/list_changed"
    stream = stage.Stream(elsewhere.begin("tools/call", 1, name="elicit", arguments={"message": "x"}))
    question = stream.next()
    assert caller.answer(question["id"], {"action": "decline"}) == 202
    assert "decline" in stream.next()["result"]["content"][0]["text"]
    assert elsewhere.end() == 204
    assert news.ended()


def opened_elsewhere(caller: Caller, proxy: kit.Proxy) -> Caller:
    same = Caller(proxy.url())
    same.session_id = caller.session_id
    return same


def test_a_session_whose_proxy_is_gone_is_opened_anew_on_one_that_lives(pair: list[kit.Proxy]) -> None:
    caller = opened(pair[0])
    elsewhere = opened_elsewhere(caller, pair[1])
    pid = int(elsewhere.call("whoami"))
    pair[0].signal(signal.SIGKILL)
    stage.await_that(lambda: not stage.is_alive(pid), "its process is gone with it")
    now = int(elsewhere.call("whoami"))
    assert now in stage.processes(pair[1])
    record = pair[1].session(caller.session_id or "")
    assert record is not None
    assert record["generation"] == 2
    assert elsewhere.call("count") == "1"  # what the old process knew is lost
    assert elsewhere.end() == 204


def test_not_found_tells_the_client_instead(redis: redis_server.RedisServer) -> None:
    flags = ("--name", f"stdio-{time.monotonic_ns()}", "--on-backend-loss", "not-found")
    with stage.stages(*flags, store=redis.url) as pair:
        caller = opened(pair[0])
        elsewhere = opened_elsewhere(caller, pair[1])
        assert elsewhere.call("echo", value=1) == "1"
        pair[0].signal(signal.SIGKILL)
        stage.await_that(lambda: not pair[0].alive, "it is gone")
        reply = elsewhere.post("tools/list")
        assert (reply.status, reply.error["code"]) == (404, -32001)


def test_a_drained_proxy_hands_its_sessions_over(pair: list[kit.Proxy]) -> None:
    caller = opened(pair[0])
    elsewhere = opened_elsewhere(caller, pair[1])
    pid = int(elsewhere.call("whoami"))
    assert pair[0].stop() == 0
    assert not stage.is_there(pid)
    assert int(elsewhere.call("whoami")) in stage.processes(pair[1])


def test_a_proxy_on_another_address_is_reached_by_the_one_that_it_tells(redis: redis_server.RedisServer) -> None:
    name = f"stdio-{time.monotonic_ns()}"
    with (
        stage.stage("--name", name, "--stdio-address", "127.0.0.9:0", store=redis.url) as first,
        stage.stage("--name", name, store=redis.url) as second,
    ):
        caller = opened(first)
        record = second.session(caller.session_id or "")
        assert record is not None
        assert record["backend_url"].startswith("http://127.0.0.9:")
        assert opened_elsewhere(caller, second).call("count") == "1"
        assert caller.call("count") == "2"


def test_an_address_that_cannot_be_had_ends_the_proxy_with_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = f"cannot listen on {address} \\(--stdio-address\\): address already in use"
        with pytest.raises(kit.KitError, match=said), stage.stage("--stdio-address", address):
            pass
    said = "expected the address by which other replicas reach this one"
    with pytest.raises(kit.KitError, match=said), stage.stage("--stdio-address", "0.0.0.0:0"):
        pass


# Workers.


def test_any_worker_serves_any_session_by_the_process_that_it_has() -> None:
    with stage.stage("--workers", "2") as proxy:
        callers = []
        for _ in range(6):
            callers.append(opened(proxy))
        pids = []
        for caller in callers:
            [pid] = {caller.call("whoami") for _ in range(6)}  # a connection each: the kernel spreads them
            assert [caller.call("count") for _ in range(4)] == ["1", "2", "3", "4"]
            pids.append(pid)
        assert len(set(pids)) == len(callers)
        for caller in callers[1:]:
            assert caller.end() == 204
        wardens = [warden for worker in stage.children(proxy.pid) for warden in stage.children(worker)]
        stage.await_that(
            lambda: [pid for warden in wardens for pid in stage.children(warden)] == [int(pids[0])], "one is left"
        )
        assert proxy.stop() == 0
        assert [pid for pid in wardens if stage.is_there(pid)] == []
        assert not stage.is_there(int(pids[0]))


def test_a_worker_that_is_killed_leaves_no_process_and_its_sessions_go_on() -> None:
    with stage.stage("--workers", "2") as proxy:
        callers = [opened(proxy) for _ in range(4)]
        pids = [int(caller.call("whoami")) for caller in callers]
        worker = stage.children(proxy.pid)[0]
        its = [pid for warden in stage.children(worker) for pid in stage.children(warden)]
        stage.kill(worker)
        stage.await_that(lambda: not any(map(stage.is_alive, its)), "its processes are gone")
        for caller, pid in zip(callers, pids, strict=True):
            stage.await_that(lambda caller=caller: "result" in caller.post("tools/list").message, "it goes on")
            assert (int(caller.call("whoami")) == pid) == (pid not in its)
