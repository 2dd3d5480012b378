"""What a session of vMCP survives: the loss of a process, of a backend, of Redis; two processes at its legs at once.

Real: everything; each is a process of its own. Requests are written by hand, so that each goes where the test wants it.
The counters are the servers' own, one per session there: a leg that was opened anew counts from 1.
"""

import concurrent.futures
import json
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import redis_server
from tests.vmcp import fleet, raw

KINDS = ("mcp2-sse", "mcp1-json", "mcp1-httpsse")


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(redis: redis_server.RedisServer) -> Iterator[fleet.Place]:
    with fleet.running(redis, KINDS) as running:
        yield running


def call(member: kit.Proxy, session_id: str, tool: str) -> str:
    """A tool's text, or the error as it is."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}}
    status, headers, answer = raw.post(member.origin, json.dumps(body), session_id=session_id)
    assert status == 200, answer
    message = json.loads(answer if headers["content-type"] == "application/json" else answer.split(b"data: ")[-1])
    if "error" in message:
        return json.dumps(message["error"])
    return str(message["result"]["content"][0]["text"])


def count(member: kit.Proxy, session_id: str, kind: str = "mcp2-sse") -> str:
    return call(member, session_id, f"{fleet.backend_id(kind)}_counter")


def test_a_session_goes_on_where_it_was_never_seen(place: fleet.Place, redis: redis_server.RedisServer) -> None:
    """One read of the store, and no backend is asked for anything but the call."""
    first, second, _ = place.members
    session_id = raw.initialize(first.origin)
    assert count(first, session_id) == "1"
    leg = place.legs(session_id)
    before = commands(redis)
    assert count(second, session_id) == "2"
    after = commands(redis)
    read = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
    assert {name: read[name] for name in read if name in ("get", "set", "evalsha")} in ({"get": 1}, {"get": 2})
    assert place.legs(session_id) == leg


def commands(redis: redis_server.RedisServer) -> dict[str, int]:
    """How often each command was served."""
    stats = redis.execute("INFO", "commandstats")
    text = stats if isinstance(stats, dict) else {}
    return {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in text.items()}


def test_processes_that_open_a_leg_at_once_end_up_with_one(place: fleet.Place) -> None:
    """The losers' are ended and never called: each call counts in the same session of the server."""
    for _ in range(5):
        session_id = raw.initialize(place.members[0].origin)
        with concurrent.futures.ThreadPoolExecutor(9) as pool:
            asked = [pool.submit(count, place.members[number % 3], session_id) for number in range(9)]
            counted = sorted(int(each.result()) for each in asked)
        assert counted == list(range(1, 10))


def test_a_backend_that_begins_anew_costs_its_own_leg_alone(place: fleet.Place) -> None:
    first, second, third = place.members
    session_id = raw.initialize(first.origin)
    assert [count(first, session_id, kind) for kind in KINDS[:2]] == ["1", "1"]
    before = place.record(session_id)
    place.backends["mcp2-sse"].kill()
    place.backends["mcp2-sse"].start()
    place.backends["mcp2-sse"].await_ready()
    assert count(second, session_id, "mcp1-json") == "2"
    fleet.await_that(lambda: count(second, session_id).isdigit(), "the backend is asked again")
    after = place.record(session_id)
    assert after["generation"] == before["generation"] + 1
    legs = {leg["backend_id"]: leg["backend_session_id"] for leg in before["backends"]}
    assert place.legs(session_id)["mcp1json"] == legs["mcp1json"]
    assert place.legs(session_id)["mcp2sse"] != legs["mcp2sse"]
    counted = int(count(third, session_id))
    assert count(first, session_id) == str(counted + 1)
    assert count(third, session_id, "mcp1-json") == "3"


def test_a_process_that_dies_takes_no_session_with_it(place: fleet.Place) -> None:
    first, second, third = place.members
    session_id = raw.initialize(first.origin)
    assert count(first, session_id) == "1"
    first.kill()
    try:
        assert count(second, session_id) == "2"
        assert count(third, session_id) == "3"
    finally:
        first.start()
        first.await_ready()
    fleet.await_that(lambda: fleet.all_live(first, len(KINDS)), "it is back")
    assert count(first, session_id) == "4"


def test_a_leg_that_is_a_connection_dies_with_its_process_and_is_opened_anew(place: fleet.Place) -> None:
    """HTTP+SSE: the stream is the session. While its process lives, every other one calls through it."""
    first, second, third = place.members
    session_id = raw.initialize(first.origin)
    counted = [count(member, session_id, "mcp1-httpsse") for member in (first, second, third, first)]
    assert counted == ["1", "2", "3", "4"]
    first.kill()
    try:
        assert count(second, session_id, "mcp1-httpsse") == "1"
        assert count(third, session_id, "mcp1-httpsse") == "2"
    finally:
        first.start()
        first.await_ready()
    assert count(first, session_id, "mcp1-httpsse") == "3"


def test_sessions_go_on_and_begin_while_redis_is_away(place: fleet.Place, redis: redis_server.RedisServer) -> None:
    first, second, _ = place.members
    session_id = raw.initialize(first.origin)
    assert count(first, session_id) == "1"
    redis.kill()
    try:
        assert count(first, session_id) == "2"
        born_without = raw.initialize(first.origin)
        assert count(first, born_without) == "1"
        assert count(first, born_without, "mcp1-json") == "1"
        status, headers, _ = raw.post(second.origin, '{"jsonrpc":"2.0","id":1,"method":"ping"}', session_id=session_id)
        assert (status, headers.get("retry-after")) == (503, "1"), "it was never seen there"
    finally:
        redis.start()
    fleet.await_that(lambda: is_known(second, born_without), "it was written when Redis was back")
    time.sleep(0.5)
    assert count(second, born_without) == "2"
    assert count(second, born_without, "mcp1-json") == "2"
    assert count(second, session_id) == "3"


def is_known(member: kit.Proxy, session_id: str) -> bool:
    return raw.post(member.origin, '{"jsonrpc":"2.0","id":1,"method":"ping"}', session_id=session_id)[0] == 200


def test_a_backend_that_is_away_delays_nobody(place: fleet.Place) -> None:
    first = place.members[0]
    place.backends["mcp1-json"].freeze()
    try:
        started = time.monotonic()
        session_id = raw.initialize(first.origin)
        assert count(first, session_id) == "1"
        assert time.monotonic() - started < 5
    finally:
        place.backends["mcp1-json"].thaw()
    fleet.await_that(lambda: count(first, session_id, "mcp1-json") == "1", "it answers again")
