"""Sessions while the store is away, and over the death of a proxy (interface §3.2; what the store itself promises:
tests/session).

Real: two proxies on one Redis of their own that is killed, frozen and started; scripted replicas; with and without the
fast lane.
"""

import json
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


@pytest.fixture(scope="module")
def own_redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="module", params=["fast", "story"])
def running_own(request: pytest.FixtureRequest, own_redis: redis_server.RedisServer) -> Iterator[Fleet]:
    with fleets.fleet(redis=own_redis, fast=request.param == "fast") as running:
        yield running


@pytest.fixture
def fleet(running_own: Fleet) -> Iterator[Fleet]:
    assert running_own.redis is not None
    if not running_own.redis.alive:
        running_own.redis.start()
    running_own.redis.thaw()
    await_store(running_own)
    running_own.begin(empty=False)
    yield running_own
    fleets.assert_sound(running_own)


def await_store(fleet: Fleet) -> None:
    for proxy in fleet.proxies:
        fleets.await_that(lambda proxy=proxy: not proxy.readiness()[1]["reasons"], "the store is back")


def unavailable(answer: Message, number: object) -> None:
    assert answer.status == 503, answer
    assert answer.field("retry-after") == "1"
    said = answer.json()
    assert said.get("id") == number
    assert said["error"]["code"] == -32603
    assert said["error"]["data"] == {"reason": "session_store_unavailable"}


def test_sessions_that_are_cached_see_nothing_and_others_are_told_to_come_again(fleet: Fleet) -> None:
    redis = fleet.redis
    assert redis is not None
    cached, unknown = fleet.open(0), fleet.open(1)
    odd = "odd/id" + "x" * 200
    for replica in fleet.replicas:
        replica.ids = lambda: odd
    assert fleet.open(0) == odd
    assert fleet.count(0, cached) == 1
    redis.kill()
    for count in range(2, 12):
        began = time.monotonic()
        assert fleet.count(0, cached) == count
        assert fleet.count(0, odd) == count - 1
        assert time.monotonic() - began < 0.5
    unavailable(fleet.call(0, unknown, 7), 7)
    unavailable(fleet.call(0, "never-heard-of", "a"), "a")
    unavailable(fleet.ask(0, "GET", "/mcp", {"Mcp-Session-Id": unknown, "Accept": "text/event-stream"}), None)
    unavailable(fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": unknown}), None)
    assert fleets.result_of(fleet.call(0, None))["count"] == 0, "what has no session needs no store"
    assert fleet.proxies[0].readiness()[0] == 200
    redis.start()
    back = time.monotonic()
    fleets.await_that(lambda: fleet.call(0, unknown).status == 200, "back", seconds_max=1.0)
    assert time.monotonic() - back < 1.0
    fleets.await_that(lambda: fleet.call(1, cached).status == 200, "there too", seconds_max=1.0)
    assert fleet.count(0, cached) == 13


def test_a_store_that_hangs_costs_a_cached_session_no_time_that_shows(fleet: Fleet) -> None:
    redis = fleet.redis
    assert redis is not None
    cached, unknown = fleet.open(0), fleet.open(1)
    fleet.count(0, cached)
    redis.freeze()
    slowest = 0.0
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        began = time.monotonic()
        fleet.count(0, cached)
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.02)
    assert slowest < 0.5, "a store's deadline is a second"
    began = time.monotonic()
    unavailable(fleet.call(0, unknown, 7), 7)
    assert time.monotonic() - began < 1.5
    redis.thaw()
    fleets.await_that(lambda: fleet.call(0, unknown).status == 200, "back", seconds_max=1.5)


def test_sessions_opened_during_an_outage_are_everybodys_when_it_is_over(fleet: Fleet) -> None:
    redis = fleet.redis
    assert redis is not None
    before = fleet.open(1)
    redis.kill()
    opened = [fleet.open(0) for _ in range(5)]
    for session in opened:
        assert [fleet.count(0, session) for _ in range(2)] == [1, 2]
    unavailable(fleet.call(1, opened[0], 1), 1)
    assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": opened[0]}).status == 200
    assert fleet.call(0, opened[0]).status == 404
    redis.start()
    fleets.await_that(lambda: fleet.call(1, opened[1]).status == 200, "written", seconds_max=1.5)
    fleets.await_that(lambda: fleet.stored() == sorted([before, *opened[1:]]), "all of them", seconds_max=1.5)
    assert [fleet.count(1, session) for session in opened[2:]] == [3, 3, 3]
    assert fleet.call(1, opened[0]).status == 404


def test_a_session_ended_during_an_outage_is_ended_everywhere_when_it_is_over(fleet: Fleet) -> None:
    redis = fleet.redis
    assert redis is not None
    session = fleet.open(0)
    fleet.count(1, session)
    redis.kill()
    assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": session}).status == 200
    assert fleet.call(0, session).status == 404
    redis.start()
    fleets.await_that(lambda: fleet.call(1, session).status == 404, "ended there too", seconds_max=3.0)
    fleets.await_that(lambda: fleet.stored() == [], "the record is gone", seconds_max=1.5)


def test_a_session_that_was_changed_elsewhere_during_an_outage_is_asked_for_again(fleet: Fleet) -> None:
    """What is told while nobody listens is not lost: after the gap nothing cached is believed."""
    redis = fleet.redis
    assert redis is not None
    ended, moved = fleet.open(0), fleet.open(0)
    for session in (ended, moved):
        assert [fleet.count(proxy, session) for proxy in (0, 1)] == [1, 2]
    fleet.proxies[1].freeze()
    assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": ended}).status == 200
    home = fleet.replica_of(moved)
    home.forget()
    home.initialize_seconds = 0.0
    assert fleet.count(0, moved) == 1
    redis.restart()
    fleet.proxies[1].thaw()
    fleets.await_that(lambda: fleet.call(1, ended).status == 404, "ended", seconds_max=1.5)
    assert fleet.count(1, moved) == 2
    assert len(fleet.got("POST", "initialize")) == 3


def test_a_loss_during_an_outage_keeps_the_session(fleet: Fleet) -> None:
    """There is no recovery without the store; a 404 would end the session for good, so the client is told to wait."""
    redis = fleet.redis
    assert redis is not None
    forgotten, dead = fleet.open(0), fleet.open(0)
    for session in (forgotten, dead):
        fleet.count(0, session)
    redis.kill()
    homes = [next(r for r in fleet.replicas if session in r.sessions) for session in (forgotten, dead)]
    homes[0].forget()
    unavailable(fleet.call(0, forgotten, 3), 3)
    homes[1].kill()
    unavailable(fleet.call(0, dead, 4), 4)
    redis.start()
    for session in (forgotten, dead):
        fleets.await_that(
            lambda session=session: fleet.call(0, session).json().get("result") is not None, "back", seconds_max=2.0
        )


def test_under_load_nobody_with_a_cached_session_sees_the_outage(fleet: Fleet) -> None:
    redis = fleet.redis
    assert redis is not None
    sessions = [fleet.open(number % 2) for number in range(4)]
    for session in sessions:
        for proxy in (0, 1):
            fleet.count(proxy, session)
    stop = threading.Event()
    seen: list[tuple[int, float, float]] = []
    started = time.monotonic()

    def converse(number: int) -> None:
        turn = 0
        while not stop.is_set():
            began = time.monotonic()
            status = fleet.call(turn % 2, sessions[number]).status
            seen.append((status, time.monotonic() - began, began - started))
            turn += 1
            time.sleep(0.01)

    working = [threading.Thread(target=converse, args=(number,)) for number in range(4)]
    for one in working:
        one.start()
    for act in (redis.kill, redis.start, redis.restart, redis.freeze, redis.thaw):
        time.sleep(0.4)
        act()
    time.sleep(0.6)
    stop.set()
    for one in working:
        one.join()
    assert [each for each in seen if each[0] != 200] == [], [proxy.log_tail() for proxy in fleet.proxies]
    assert max(seconds for _, seconds, _ in seen) < 1.0
    assert len(seen) > 200


def test_a_session_opened_while_the_store_takes_no_writes_is_told_to_come_again_and_is_everybodys_later(
    fleet: Fleet,
) -> None:
    assert fleet.redis is not None
    old = fleet.open(0)
    assert [fleet.count(proxy, old) for proxy in (0, 1)] == [1, 2]
    fleet.redis.execute("CONFIG", "SET", "maxmemory", "1")
    session = fleet.open(0)
    assert fleet.count(0, session) == 1
    unavailable(fleet.call(1, session, 7), 7)
    unavailable(fleet.call(1, "unknown", 8), 8)
    assert [fleet.count(proxy, old) for proxy in (0, 1)] == [3, 4]
    fleet.redis.execute("CONFIG", "SET", "maxmemory", "0")
    assert fleet.count(1, session) == 2
    fleets.await_that(lambda: fleet.call(1, "unknown", 8).status == 404, "settled", seconds_max=6.0)


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_with_store_required_nothing_begins_without_the_store(own_redis: redis_server.RedisServer, fast: bool) -> None:
    if not own_redis.alive:
        own_redis.start()
    flags = ("--store-required", "--key-prefix", f"required-{fast}:")
    with fleets.fleet(*flags, redis=own_redis, fast=fast) as fleet:
        session = fleet.open()
        fleet.count(0, session)
        own_redis.kill()
        for replica in fleet.replicas:
            replica.requests.clear()
        unavailable(fleet.post(0, fleets.message("initialize", 5, **fleets.INITIALIZE)), 5)
        opened = len(fleet.got("POST", "initialize"))
        assert len(fleet.got("DELETE")) == opened, "what was opened at a backend in vain is ended there"
        assert fleet.count(0, session) == 2
        own_redis.start()
        fleets.await_that(
            lambda: fleet.post(0, fleets.message("initialize", 5, **fleets.INITIALIZE)).status == 200,
            "back",
            seconds_max=1.5,
        )
        fleets.assert_sound(fleet)


def test_a_proxy_that_dies_and_comes_back_goes_on_with_every_session(fleet: Fleet) -> None:
    sessions = [fleet.open(0) for _ in range(6)]
    home = max(fleet.replicas, key=lambda replica: len(replica.sessions))
    lost = [session for session in sessions if session in home.sessions]
    assert [fleet.count(0, session) for session in sessions] == [1] * 6
    home.restart()
    assert [fleet.count(0, session) for session in lost] == [1] * len(lost)
    fleet.proxies[0].restart()
    assert [fleet.count(0, session) for session in sessions] == [2] * 6
    assert [fleet.call(0, session).field("mcp-session-id") for session in lost] == lost
    for replica in fleet.replicas:
        replica.forget()
    for session in lost:
        assert fleet.count(0, session) == 1, "a session from the store is recovered as any other"
    assert json.loads(json.dumps(fleet.record(lost[0])))["generation"] == 3


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_a_proxy_with_the_embedded_store_forgets_with_its_process_and_says_so(fast: bool) -> None:
    with fleets.fleet(proxies=1, fast=fast) as fleet:
        session = fleet.open()
        assert fleet.count(0, session) == 1
        fleet.proxies[0].restart()
        answer = fleet.call(0, session, 4)
        assert answer.status == 404
        assert answer.body == b'{"jsonrpc":"2.0","id":4,"error":{"code":-32001,"message":"Session not found"}}'
        assert fleet.count(0, fleet.open()) == 1


def test_a_proxy_that_starts_without_the_store_serves_when_it_comes() -> None:
    with redis_server.RedisServer() as late, fleets.replicas(1) as behind:
        late.kill()
        environment = {"FASTPROXY_KEY_PREFIX": "late:"}
        with kit.proxies(1, backends=behind, store=late.url, environment=environment, await_readyz=False) as proxies:
            fleet = Fleet(proxies, behind, late, fast=True)
            status, ready = fleet.proxies[0].readiness()
            assert status == 503
            assert ready["reasons"]
            unavailable(fleet.call(0, "unknown", 1), 1)
            session = fleet.open()
            late.start()
            fleets.await_that(lambda: fleet.proxies[0].readiness()[0] == 200, "ready", seconds_max=1.5)
            fleets.await_that(lambda: late.execute("EXISTS", "late:" + session) == 1, "written", seconds_max=1.5)
            assert fleet.count(0, session) == 1
            fleets.assert_sound(fleet)
