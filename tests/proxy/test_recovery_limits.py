"""Where recovery ends (interface §3.4): bodies that were not kept, replicas that take nobody, `not-found`, time.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas that die and forget as real ones do.
"""

import json
import socket
import time

import pytest

from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


def await_end(fleet: Fleet, proxy: int, session: str) -> None:
    fleets.await_that(lambda: fleet.call(proxy, session).status == 404, "ended there too", seconds_max=1.0)


@pytest.mark.parametrize(
    ("size_bytes", "loss"),
    [(70_000, "forgotten"), (200_000, "forgotten"), (262_144, "forgotten"), (200_000, "killed")],
)
def test_a_body_that_was_kept_is_sent_again_whole(fleet: Fleet, size_bytes: int, loss: str) -> None:
    session = fleet.open_confirmed()
    bare = len(fleets.message("tools/call", 1, text=""))
    body = fleets.message("tools/call", 1, text="x" * (size_bytes - bare))
    home = fleet.replica_of(session)
    home.forget() if loss == "forgotten" else home.kill()
    for replica in fleet.replicas:
        replica.requests.clear()
    assert fleets.result_of(fleet.post(0, body, session))["count"] == 1
    calls = fleet.got("POST", "tools/call")
    assert [call.body for call in calls] == [body] * (2 if loss == "forgotten" else 1)


@pytest.mark.parametrize("size_bytes", [262_145, 1_000_000])
def test_a_body_that_was_not_kept_is_lost_but_the_session_is_not(fleet: Fleet, size_bytes: int) -> None:
    session = fleet.open_confirmed()
    bare = len(fleets.message("tools/call", 1, text=""))
    body = fleets.message("tools/call", 1, text="x" * (size_bytes - bare))
    fleet.replica_of(session).forget()
    answer = fleet.post(0, body, session)
    assert (answer.status, answer.json()["id"], answer.json()["error"]["code"]) == (200, 1, -32603)
    assert answer.json()["error"]["data"] == {"reason": "backend_lost", "may_have_run": True}
    assert len(fleet.got("POST", "initialize")) == 2
    assert fleet.count(0, session) == 1
    assert fleet.count(1, session) == 2


def test_a_large_body_for_a_replica_that_died_is_sent_to_the_new_one(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    body = fleets.message("tools/call", 1, text="x" * 2_000_000)
    home = fleet.replica_of(session)
    home.kill()
    assert fleets.result_of(fleet.post(1, body, session))["count"] == 1
    assert [call.body == body for call in fleet.other(home).got("POST", "tools/call")] == [True]


def test_a_large_request_is_refused_in_band_when_its_id_comes_first(fleet: Fleet) -> None:
    """As the Python SDK 2.x writes it. Behind the params, as TypeScript's has it, the id is known to nobody by then."""
    session = fleet.open_confirmed()
    for replica in fleet.replicas:
        replica.kill()
    params = {"name": "put", "arguments": {"file": "x" * 300_000}}
    first = {"jsonrpc": "2.0", "id": "a-1", "method": "tools/call", "params": params}
    last = {"method": "tools/call", "params": params, "jsonrpc": "2.0", "id": "a-1"}
    for said, status, number in ((first, 200, "a-1"), (last, 502, None)):
        answer = fleet.post(0, json.dumps(said).encode(), session)
        assert (answer.status, answer.json().get("id")) == (status, number)
        assert answer.json()["error"]["data"] == {"reason": "backend_unreachable"}
    chunks = b"".join(
        actors_message.format_chunk(piece) for piece in (json.dumps(first).encode()[:9], json.dumps(first).encode()[9:])
    )
    with fleet.client() as client:
        fields = {**fleets.ACCEPT, "Mcp-Session-Id": session, "Transfer-Encoding": "chunked"}
        client.send(actors_message.format_request("POST", "/mcp", client.authority, fields) + chunks + b"0\r\n\r\n")
        answer = client.response()
        assert (answer.status, answer.json()["id"]) == (200, "a-1")


def test_when_no_replica_takes_the_session_the_answer_says_so_and_the_session_stays(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    for replica in fleet.replicas:
        replica.kill()
    answer = fleet.call(0, session, "a")
    assert (answer.status, answer.json()["id"]) == (200, "a")
    assert answer.json()["error"]["data"] == {"reason": "backend_unreachable"}
    answer = fleet.post(0, fleets.message("notifications/x", None), session)
    assert (answer.status, answer.json()["error"]["data"]) == (502, {"reason": "backend_unreachable"})
    assert fleet.record(session) is not None
    for replica in fleet.replicas:
        replica.start()
    fleets.await_that(lambda: "result" in fleet.call(0, session).json(), "it goes on", seconds_max=3.0)
    assert fleet.count(1, session) >= 2


def test_a_replica_that_refuses_the_replay_is_passed_over(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    home = fleet.replica_of(session)

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "initialize":
            return False
        await connection.send(actors_message.format_response("503 Busy", fleets.JSON, b"{}"))
        return True

    home.forget()
    for refusing in fleet.replicas:
        session_now = fleet.record(session)
        assert session_now is not None
        for replica in fleet.replicas:
            replica.act = refuse if replica is refusing else None
            replica.forget()
        assert fleet.count(0, session) == 1
        assert fleet.replica_of(session) is fleet.other(refusing)


def test_a_half_opened_session_is_ended_again(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    home = fleet.replica_of(session)

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "notifications/initialized":
            return False
        await connection.send(actors_message.format_response("500 Broken", {}, b""))
        return True

    for replica in fleet.replicas:
        replica.act = refuse
        replica.requests.clear()
    home.forget()
    answer = fleet.call(0, session)
    assert answer.json()["error"]["data"] == {"reason": "backend_unreachable"}
    assert len(fleet.got("POST", "initialize")) == 2
    assert len(fleet.got("DELETE")) == 2
    assert not [replica.sessions for replica in fleet.replicas if replica.sessions]


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_with_not_found_a_loss_ends_the_session(redis: redis_server.RedisServer, fast: bool) -> None:
    flags = ("--on-backend-loss", "not-found", "--key-prefix", f"lost-{fast}:")
    with fleets.fleet(*flags, redis=redis, fast=fast) as fleet:
        for loss in ("404", "400 typescript", "killed"):
            answer = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
            session = answer.field("mcp-session-id") or ""
            for proxy in (0, 1):
                fleet.count(proxy, session)
            home = next(replica for replica in fleet.replicas if session in replica.sessions)
            if loss == "killed":
                home.kill()
            else:
                home.forgets = loss
                home.forget()
            answer = fleet.call(0, session, 5)
            assert answer.status == 404
            assert answer.body == b'{"jsonrpc":"2.0","id":5,"error":{"code":-32001,"message":"Session not found"}}'
            assert redis.execute("EXISTS", f"lost-{fast}:" + session) == 0
            await_end(fleet, 1, session)
        assert len(fleet.got("POST", "initialize")) == 3
        fleets.assert_sound(fleet)


def test_a_replica_that_cannot_be_reached_costs_one_connect_timeout_at_most(redis: redis_server.RedisServer) -> None:
    """A machine that drops packets: a listener whose queue is full takes no connection and refuses none."""
    with FullListener() as full, fleets.replicas(1) as (replica,):
        flags = ("--connect-timeout", "500ms", "--key-prefix", "full:")
        with fleets.fleet(*flags, redis=redis, proxies=1, behind=[replica]) as fleet:
            session = fleet.open()
            record = json.loads(redis.execute("GET", "full:" + session))
            redis.execute("SET", "full:" + session, json.dumps({**record, "backend_url": full}), "EX", 100)
            time.sleep(0.1)
            began = time.monotonic()
            assert fleet.count(0, session) == 1
            assert 0.4 < time.monotonic() - began < 2.0


class FullListener:
    """A listening socket whose queue of unaccepted connections is full."""

    def __enter__(self) -> str:
        self._sockets = [socket.socket()]
        self._sockets[0].bind(("127.0.0.1", 0))
        self._sockets[0].listen(0)
        name = self._sockets[0].getsockname()
        for _ in range(3):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(name)
            self._sockets.append(one)
        return f"http://127.0.0.1:{name[1]}"

    def __exit__(self, *exception: object) -> None:
        for one in self._sockets:
            one.close()
