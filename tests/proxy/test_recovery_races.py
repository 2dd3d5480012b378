"""What may happen at the same moment as a recovery (interface §3.4): other requests, another proxy's recovery, an end,
a death. One recovery at a time per session over both proxies, no ended session comes back, no call runs twice.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas, slow where a moment must last.
"""

import asyncio
import concurrent.futures
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


@pytest.fixture
def crowd() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(max_workers=24) as pool:
        yield pool


def confirmed(fleet: Fleet) -> str:
    """A session that both proxies know."""
    session = fleet.open()
    for proxy in (0, 1):
        fleet.count(proxy, session)
    for replica in fleet.replicas:
        replica.requests.clear()
    return session


def begin(
    crowd: concurrent.futures.ThreadPoolExecutor, act: Callable[[], Message]
) -> "concurrent.futures.Future[Message]":
    return crowd.submit(act)


@pytest.mark.parametrize("loss", ["forgotten", "killed", "restarted"])
def test_twenty_requests_at_once_cause_one_recovery(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor, loss: str
) -> None:
    session = confirmed(fleet)
    home = fleet.replica_of(session)
    {"forgotten": home.forget, "killed": home.kill, "restarted": home.restart}[loss]()
    for replica in fleet.replicas:
        replica.initialize_seconds = 0.1
    asked = [begin(crowd, lambda number=number: fleet.call(number % 2, session, number)) for number in range(20)]
    answers = [one.result() for one in asked]
    assert [answer.status for answer in answers] == [200] * 20
    assert {answer.field("mcp-session-id") for answer in answers} == {session}
    assert sorted(fleets.result_of(answer)["count"] for answer in answers) == list(range(1, 21))
    assert [answer.json()["id"] for answer in answers] == list(range(20))
    assert len(fleet.got("POST", "initialize")) == 1
    assert len(fleet.got("POST", "notifications/initialized")) == 1
    record = fleet.record(session)
    assert record is not None
    assert record["generation"] == 2


def test_many_sessions_of_a_replica_that_died_are_recovered_once_each(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    sessions = [fleet.open(number % 2) for number in range(12)]
    home = max(fleet.replicas, key=lambda replica: len(replica.sessions))
    lost = [session for session in sessions if fleet.replica_of(session) is home]
    assert len(lost) >= 6
    home.kill()
    for replica in fleet.replicas:
        replica.requests.clear()
    asked = [begin(crowd, lambda number=number: fleet.call(number % 2, sessions[number % 12])) for number in range(48)]
    answers = [one.result() for one in asked]
    assert [answer.status for answer in answers] == [200] * 48
    assert all("result" in answer.json() for answer in answers)
    assert len(fleet.got("POST", "initialize")) == len(lost)
    assert {fleets.result_of(fleet.call(0, session))["count"] for session in sessions} == {5}


@pytest.mark.parametrize("manner", ["404", "400 typescript"])
def test_a_late_word_of_the_old_place_is_no_reason_for_another_recovery(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor, manner: str
) -> None:
    """The request was under way when the session was moved, and the answer comes when the proxy knows of that."""
    session = confirmed(fleet)
    home = fleet.replica_of(session)

    async def think(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if rpc_id(request) != "late" or request.field("mcp-session-id") != session:
            return False
        await asyncio.to_thread(fleets.await_that, lambda: (fleet.record(session) or {})["generation"] == 2, "moved")
        await asyncio.sleep(0.1)
        return False

    home.forgets = manner
    home.act = think
    home.forget()
    late = begin(crowd, lambda: fleet.call(1, session, "late"))
    fleets.await_that(lambda: bool(home.requests), "it is under way")
    assert fleet.count(0, session) == 1
    assert fleets.result_of(late.result())["count"] == 2
    assert len(fleet.got("POST", "initialize")) == 1
    record = fleet.record(session)
    assert record is not None
    assert record["generation"] == 2


def rpc_id(request: Message) -> object:
    return request.json().get("id") if request.body else None


def test_an_end_in_the_middle_of_a_recovery_is_an_end(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    session = confirmed(fleet)
    fleet.replica_of(session).forget()
    for replica in fleet.replicas:
        replica.initialize_seconds = 0.5
    call = begin(crowd, lambda: fleet.call(0, session))
    fleets.await_that(lambda: bool(fleet.got("POST", "initialize")), "the recovery has begun")
    ended = fleet.ask(1, "DELETE", "/mcp", {"Mcp-Session-Id": session})
    assert ended.status == 404, "the replica does not know it"
    assert fleet.record(session) is None
    assert call.result().status == 404
    assert fleet.record(session) is None, "nothing brings it back"
    for proxy in (0, 1):
        assert fleet.call(proxy, session).status == 404
    assert len(fleet.got("POST", "initialize")) == 1
    fleets.await_that(lambda: not any(r.sessions for r in fleet.replicas), "what was opened for it is ended again")


@pytest.mark.parametrize("number", range(3))
def test_an_end_and_a_recovery_at_once_leave_no_session_behind(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor, number: int
) -> None:
    for _ in range(5):
        session = confirmed(fleet)
        fleet.replica_of(session).forget()
        calls = [begin(crowd, lambda proxy=proxy, session=session: fleet.call(proxy, session)) for proxy in (0, 1)]
        time.sleep(0.002 * number)
        end = fleet.ask(number % 2, "DELETE", "/mcp", {"Mcp-Session-Id": session})
        answers = [call.result().status for call in calls]
        assert set(answers) <= {200, 404}
        assert end.status in (200, 404)
        fleets.await_that(
            lambda session=session: [fleet.call(proxy, session).status for proxy in (0, 1)] == [404, 404],
            "it has ended",
            seconds_max=1.0,
        )
        assert fleet.record(session) is None


def test_a_claim_of_a_proxy_that_died_holds_the_others_up_for_three_seconds_at_most(
    redis: redis_server.RedisServer, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    prefix = {"FASTPROXY_KEY_PREFIX": "died:"}
    with fleets.fleet(redis=redis, environment=prefix) as fleet:
        session = fleet.open()
        for proxy in (0, 1):
            fleet.count(proxy, session)
        for replica in fleet.replicas:
            replica.forget()
            replica.requests.clear()
            replica.initialize_seconds = 2.0
        call = begin(crowd, lambda: fleet.call(0, session))
        fleets.await_that(lambda: bool(fleet.got("POST", "initialize")), "the recovery has begun")
        fleet.proxies[0].kill()
        died_at = time.monotonic()
        with pytest.raises((AssertionError, OSError)):
            call.result()
        for replica in fleet.replicas:
            replica.initialize_seconds = 0.0
        assert fleet.count(1, session) == 1
        assert time.monotonic() - died_at < 4.0
        assert len(fleet.got("POST", "initialize")) == 2
        record = json.loads(redis.execute("GET", "died:" + session))
        assert record["generation"] == 2
        fleets.assert_sound(fleet)


def test_a_recovery_that_is_outlived_by_its_claim_loses_to_the_other_and_ends_what_it_opened(
    redis: redis_server.RedisServer, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    """The first proxy is frozen in the middle of its recovery; the second does the work; the first thaws."""
    prefix = {"FASTPROXY_KEY_PREFIX": "frozen:"}
    with fleets.fleet(redis=redis, environment=prefix) as fleet:
        session = fleet.open()
        for proxy in (0, 1):
            fleet.count(proxy, session)
        for replica in fleet.replicas:
            replica.forget()
            replica.requests.clear()
            replica.initialize_seconds = 0.3
        late = begin(crowd, lambda: fleet.call(0, session, "late"))
        fleets.await_that(lambda: bool(fleet.got("POST", "initialize")), "the recovery has begun")
        fleet.proxies[0].freeze()
        assert fleet.count(1, session) == 1
        fleet.proxies[0].thaw()
        answer = late.result()
        assert answer.status == 200
        assert fleets.result_of(answer)["count"] == 2, "the same session as the other's"
        assert len(fleet.got("POST", "initialize")) == 2
        fleets.await_that(lambda: sum(len(r.sessions) for r in fleet.replicas) == 1, "the loser's is ended again")
        assert json.loads(redis.execute("GET", "frozen:" + session))["generation"] == 2
        fleets.assert_sound(fleet)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_a_replica_killed_under_load_loses_no_session_and_no_call_runs_twice(
    redis: redis_server.RedisServer, crowd: concurrent.futures.ThreadPoolExecutor, fast: bool
) -> None:
    with fleets.fleet("--key-prefix", f"load-{fast}:", redis=redis, fast=fast) as fleet:
        opened = [fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE)) for _ in range(8)]
        sessions = [answer.field("mcp-session-id") or "" for answer in opened]
        home = fleet.replicas[0]
        mine = {session for session in sessions if session in home.sessions}
        assert len(mine) == 4
        answers: list[tuple[str, str, Message]] = []
        lock = threading.Lock()

        def converse(index: int) -> None:
            session = sessions[index % 8]
            for number in range(30):
                call_id = f"{index}-{number}"
                answer = fleet.call((index + number) % 2, session, call_id)
                with lock:
                    answers.append((session, call_id, answer))

        working = [crowd.submit(converse, index) for index in range(16)]
        fleets.await_that(lambda: len(answers) > 100, "the load is on")
        home.kill()
        for one in working:
            one.result()
        assert len(answers) == 16 * 30
        assert {answer.status for _, _, answer in answers} == {200}
        failed = [(session, answer.json()["error"]) for session, _, answer in answers if "error" in answer.json()]
        assert {session for session, _ in failed} <= mine, "the others see nothing"
        assert all(error["data"] == {"reason": "backend_lost", "may_have_run": True} for _, error in failed)
        ran = [request.json()["id"] for request in fleet.got("POST", "tools/call")]
        assert len(ran) == len(set(ran)), "no call reached a replica twice"
        assert {call_id for _, call_id, answer in answers if "result" in answer.json()} <= set(ran)
        assert len(fleet.replicas[1].got("POST", "initialize")) == 4 + 4
        fleets.assert_sound(fleet)


def test_a_kept_connection_that_the_replica_has_just_closed_costs_nothing(fleet: Fleet) -> None:
    """The keep-alive race: the request meets a socket that is closed, nobody can have run it, it is sent again."""
    session = confirmed(fleet)
    home = fleet.replica_of(session)

    async def close_after(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        await replica.answer(connection, request)
        await connection.close()
        return True

    home.act = close_after
    counts = [fleet.count(number % 2, session) for number in range(40)]
    assert counts == list(range(3, 43))
    ran = len(home.got("POST", "tools/call"))
    assert ran == 40


def test_an_answer_that_comes_after_the_session_has_ended_is_still_the_clients(
    fleet: Fleet, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    session = confirmed(fleet)
    home = fleet.replica_of(session)

    async def wait(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "tools/call":
            return False
        await asyncio.to_thread(fleets.await_that, lambda: session not in replica.sessions, "the end")
        await connection.send(actors_message.format_response("200 OK", fleets.JSON, b'{"late":true}'))
        return True

    home.act = wait
    call = begin(crowd, lambda: fleet.call(1, session))
    fleets.await_that(lambda: bool(home.got("POST", "tools/call")), "the call runs")
    assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": session}).status == 200
    answer = call.result()
    assert (answer.status, answer.body) == (200, b'{"late":true}')


def test_a_signal_that_drains_lets_a_recovery_finish(
    redis: redis_server.RedisServer, crowd: concurrent.futures.ThreadPoolExecutor
) -> None:
    flags = ("--key-prefix", "drained:", "--drain-delay", "0s")
    with fleets.fleet(*flags, redis=redis, proxies=1) as fleet:
        session = fleet.open()
        fleet.count(0, session)
        for replica in fleet.replicas:
            replica.forget()
            replica.initialize_seconds = 0.5
        call = begin(crowd, lambda: fleet.call(0, session))
        fleets.await_that(lambda: len(fleet.got("POST", "initialize")) == 2, "the recovery has begun")
        fleet.proxies[0].signal(signal.SIGTERM)
        answer = call.result()
        assert fleets.result_of(answer)["count"] == 1
        assert answer.field("connection") == "close"
        assert fleet.proxies[0].wait(5.0) == 0
