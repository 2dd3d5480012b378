"""Request states and tasks of 2026-07-28 find the replica that made them, through either proxy.

Real: two proxies on one Redis; two replicas of a small server (sessionless.py) whose states and tasks nobody else
knows, as with the SDKs' defaults. Both lanes are compared by test_stateless_lanes.py. Not here:
`subscriptions/listen` (test_stateless_listen.py), the SDK's own server (tests/e2e/test_conformance.py).
"""

import asyncio
import base64
import gzip
import json
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets
from tests.proxy import sessionless

Place = sessionless.Place
result_of = sessionless.result_of


@pytest.fixture(scope="module")
def running(redis: redis_server.RedisServer) -> Iterator[Place]:
    with sessionless.place(redis=redis) as place:
        yield place


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    running.fleet.begin()
    yield running
    fleets.assert_sound(running.fleet)


@pytest.mark.parametrize("manner", ["json", "events", "counted"])
def test_a_state_comes_back_to_its_replica_through_either_proxy(place: Place, manner: str) -> None:
    for server in place.servers:
        server.manner = manner
    makers = set()
    for number in range(12):
        state, maker = place.ask(number % 2)
        makers.add(maker)
        for proxy in (0, 1):
            answer = place.call(proxy, "ask", requestState=state)
            assert answer.status == 200, answer
            assert result_of(answer)["who"] == maker
    assert makers == {"server-0", "server-1"}, "both were asked, or the test would show nothing"


def test_states_of_many_rounds_each_lead_back(place: Place) -> None:
    state, maker = place.ask(0)
    server = place.server(maker)

    async def ask_again(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        asked = json.loads(request.body)
        state = asked["params"]["requestState"]
        assert state.startswith(replica.name)
        result = {"resultType": "input_required", "requestState": state + "+"}
        body = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}).encode()
        await connection.send(actors_message.format_response("200 OK", fleets.JSON, body))
        return True

    server.act = ask_again
    for number in range(6):
        state = str(result_of(place.call(number % 2, "ask", requestState=state))["requestState"])
    assert state.endswith("++++++")


def test_bodies_pass_byte_for_byte_both_ways(place: Place) -> None:
    request = (
        b' {"jsonrpc":"2.0", "id":123456789012345678901,"method":"tools/call",\n"params":{"name":"ask","a":"\\u00e9",'
    )
    request += b'"requestState":"x","requestState":"nobody\\u0027s"}}'
    said = b'{"result": {"requestState":"odd\\u002fone", "b":1e400,"a":12345678901234567890123},"id":1,"id":1}\n'
    for server in place.servers:

        async def act(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
            await connection.send(actors_message.format_response("200 OK", fleets.JSON, said))
            return True

        server.act = act
    answer = place.post(0, request, "tools/call", "ask")
    assert answer.body == said
    assert answer.field("content-length") == str(len(said))
    [got] = place.fleet.got("POST")
    assert got.body == request
    assert len(place.affinity_keys()) == 1


def test_progress_leaves_at_once_and_the_result_only_when_the_store_knows(place: Place) -> None:
    assert place.fleet.redis is not None
    for server in place.servers:
        server.manner = "events"
        server.released.clear()
    body = fleets.message("tools/call", 1, name="ask")
    fields = {**fleets.ACCEPT, "MCP-Protocol-Version": sessionless.VERSION, "Mcp-Method": "tools/call"}
    with place.fleet.client(0) as client:
        client.send(actors_message.format_request("POST", "/mcp", client.authority, fields, body))
        client.until(sessionless.event(sessionless.PROGRESS) + b"\r\n")  # although it holds a word that is looked for
        assert client.is_silent(0.1)
        place.fleet.redis.execute("CLIENT", "PAUSE", 600, "WRITE")
        began = time.monotonic()
        for server in place.servers:
            server.released.set()
        client.until(b'"input_required"')
        assert time.monotonic() - began > 0.4, "the answer did not wait for the store"
        assert len(place.affinity_keys()) == 1
        client.until(b"0\r\n\r\n")


@pytest.mark.parametrize("framing", ["chunked", "counted", "until the end"])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_word_is_found_wherever_the_answer_is_cut(place: Place, framing: str, line_end: bytes) -> None:
    """Each cut is a write of its own; the last event has no blank line behind it."""
    first = b"data: " + sessionless.PROGRESS + line_end * 2
    last = b'event: message\ndata: {"id":1,"result":{"requestState":"%d"}}'
    cuts = [len(first) + last.index(b"requestState") + 6, len(first) - 1, len(first) + 3, len(first + last) - 2]
    heads = {
        "chunked": b"Transfer-Encoding: chunked",
        "counted": b"Content-Length: %d",
        "until the end": b"Connection: close",
    }
    said = b""

    async def act(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        head = heads[framing].replace(b"%d", str(len(said)).encode())
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + head + b"\r\n\r\n")
        for piece in (said[:cut], said[cut:]):
            await connection.send(actors_message.format_chunk(piece) if framing == "chunked" else piece)
            await asyncio.sleep(0.02)
        if framing == "chunked":
            await connection.send(actors_message.LAST_CHUNK)
        if framing == "until the end":
            await connection.close()
        return True

    for server in place.servers:
        server.act = act
    for number in range(len(cuts)):
        cut = cuts[number]
        said = first + last % time.monotonic_ns()
        answer = place.call(number % 2, "ask")
        assert answer.body == said
        assert len(place.affinity_keys()) == number + 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br"])
def test_a_compressed_answer_is_looked_into_and_passes_as_it_is(place: Place, coding: str) -> None:
    state = f"compressed with {coding}"
    said = json.dumps({"id": 1, "result": {"requestState": state, "padding": "x" * 1000}}).encode()
    body = {"gzip": gzip.compress(said), "deflate": zlib.compress(said), "br": b"\x1b\x00not known here"}[coding]

    async def act(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        fields = {**fleets.JSON, "Content-Encoding": coding}
        await connection.send(actors_message.format_response("200 OK", fields, body))
        return True

    for server in place.servers:
        server.act = act
    answer = place.call(0, "ask")
    assert (answer.body, answer.field("content-encoding")) == (body, coding)
    assert len(place.affinity_keys()) == (0 if coding == "br" else 1)


def test_text_about_states_hands_out_nothing(place: Place) -> None:
    for server in place.servers:
        server.padding = 'say "requestState" and "taskId"'
    answer = place.call(0, "other")
    assert result_of(answer)["padding"] == place.servers[0].padding
    assert place.affinity_keys() == []


def test_a_state_of_a_replica_that_is_gone_is_refused_by_another(place: Place) -> None:
    state, maker = place.ask(0)
    place.server(maker).kill()
    answer = place.call(1, "ask", requestState=state)
    assert answer.status == 400
    assert place.other(maker).name in answer.json()["error"]["message"]
    assert place.fleet.call(1, None).status == 200, "nothing else has changed"


def test_a_state_that_nobody_has_handed_out_goes_to_the_least_loaded(place: Place) -> None:
    answers = [place.call(0, "ask", requestState=f"unknown-{number}") for number in range(4)]
    assert [answer.status for answer in answers] == [400] * 4
    assert [len(server.got("POST")) for server in place.servers] == [2, 2]


def test_bodies_over_64_kib_are_not_searched_and_pass(place: Place) -> None:
    for server in place.servers:
        server.padding = "x" * 70_000
    answer = place.call(0, "ask")
    assert result_of(answer)["padding"] == "x" * 70_000
    assert place.affinity_keys() == []
    for server in place.servers:
        server.padding = ""
    state, _ = place.ask(0)
    answers = [place.call(0, "ask", requestState=state, more="x" * 70_000) for _ in range(4)]
    assert sorted(answer.status for answer in answers) == [200, 200, 400, 400], "the least loaded in turn"


def test_a_long_event_passes_and_the_next_one_is_searched(place: Place) -> None:
    for server in place.servers:
        server.manner = "events"

    async def act(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        head = actors_message.format_response("200 OK", {**sessionless.EVENTS, "Transfer-Encoding": "chunked"})
        long = b"data: " + b"x" * 200_000 + b"\n\n"
        result = sessionless.event(b'{"id":1,"result":{"requestState":"after the long one"}}')
        pieces = [actors_message.format_chunk(piece) for piece in (long[:90_000], long[90_000:], result)]
        await connection.send(head + b"".join(pieces) + actors_message.LAST_CHUNK)
        return True

    for server in place.servers:
        server.act = act
    answer = place.call(0, "ask")
    assert answer.body.count(b"x") == 200_000
    assert len(place.affinity_keys()) == 1


def test_a_task_is_asked_for_at_the_replica_that_runs_it(place: Place) -> None:
    owners = set()
    for number in range(6):
        task = result_of(place.call(number % 2, "start"))
        [owner] = [server.name for server in place.servers if task["taskId"] in server.tasks]
        owners.add(owner)
        name = f"=?base64?{base64.b64encode(task['taskId'].encode()).decode()}?="
        for proxy, method in ((0, "tasks/get"), (1, "tasks/update"), (0, "tasks/cancel"), (1, "tasks/get")):
            answer = place.post(proxy, fleets.message(method, 5, taskId=task["taskId"]), method, name)
            assert answer.status == 200, answer
            assert result_of(answer)["who"] == owner
    assert owners == {"server-0", "server-1"}
    assert place.fleet.redis is not None
    times = [place.fleet.redis.execute("PTTL", key) for key in place.affinity_keys()]
    assert len(times) == 6, "a task is remembered once, however often it is asked for"
    assert all(3_500_000 < left <= 3_600_000 for left in times), "as long as the task lives"


def test_sessions_of_the_other_era_know_no_affinity_by_name(place: Place) -> None:
    task = result_of(place.call(0, "start"))
    body = fleets.message("tasks/get", 5, taskId=task["taskId"])
    name = f"=?base64?{base64.b64encode(task['taskId'].encode()).decode()}?="
    answers = [place.fleet.post(0, body, Mcp_Method="tasks/get", Mcp_Name=name) for _ in range(4)]
    assert sorted(answer.status for answer in answers) == [200, 200, 400, 400], "the least loaded in turn"


def test_a_client_that_leaves_while_the_store_is_asked_hurts_nobody(place: Place) -> None:
    assert place.fleet.redis is not None
    body = fleets.message("tools/call", 1, name="ask")
    fields = {**fleets.ACCEPT, "MCP-Protocol-Version": sessionless.VERSION, "Mcp-Method": "tools/call"}
    place.fleet.redis.execute("CLIENT", "PAUSE", 300, "WRITE")
    with place.fleet.client(0) as client:
        client.send(actors_message.format_request("POST", "/mcp", client.authority, fields, body))
        fleets.await_that(lambda: bool(place.fleet.got("POST")), "the call arrived")
        time.sleep(0.05)
    fleets.await_that(lambda: place.fleet.metric("fastproxy_requests_in_flight") == 0, "the exchange is over")
    assert place.ask(0)[0]
    assert place.fleet.metric("fastproxy_relay_faults_total") == 0


def test_while_the_store_is_away_the_proxy_that_handed_it_out_knows_and_others_say_so() -> None:
    with redis_server.RedisServer() as redis, sessionless.place(redis=redis) as place:
        known = place.ask(0)
        redis.stop()
        unwritten = place.ask(0)
        for state, maker in (known, unwritten):
            assert result_of(place.call(0, "ask", requestState=state))["who"] == maker
            answer = place.call(1, "ask", requestState=state)
            assert (answer.status, answer.field("retry-after")) == (503, "1")
            assert answer.json()["error"]["data"]["reason"] == "session_store_unavailable"
        assert place.call(1, "other").status == 200, "what has no key needs no store"


def test_a_single_replica_needs_no_memory(redis: redis_server.RedisServer) -> None:
    with sessionless.place("--name", "single", redis=redis, servers=1) as place:
        state, maker = place.ask(0)
        assert result_of(place.call(1, "ask", requestState=state))["who"] == maker
        assert [key for key in redis.execute("KEYS", "fastproxy:single:*") if b"affinity" in key] == []


def test_with_the_embedded_store_every_worker_knows() -> None:
    with sessionless.place("--workers", "2", proxies=1) as place:
        states: list[tuple[str, str]] = []
        threads = [threading.Thread(target=lambda: states.append(place.ask(0))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(states) == 16
        for state, maker in states * 3:  # connections are shared out, so most of them come to both workers
            assert result_of(place.call(0, "ask", requestState=state))["who"] == maker
