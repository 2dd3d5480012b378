"""Sessions whose replica is gone or has forgotten them are opened anew (interface §3.4): when, how, and when not.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas that die and forget as real ones do.
Many requests at once, claims and ends in the middle: test_recovery_races.py.
"""

import json
import socket
import time

import pytest

from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def confirmed(fleet: Fleet, **params: object) -> str:
    """A session that both proxies know and that has had a 2xx answer through each."""
    session = fleet.open(**params)
    for proxy in (0, 1):
        fleet.count(proxy, session)
    return session


def test_a_session_of_a_replica_that_died_goes_on_at_another_under_its_own_id(fleet: Fleet) -> None:
    session = confirmed(fleet, text="é", big=123456789012345678901234567890)
    before = fleet.record(session)
    assert before is not None
    old = fleet.replica_of(session)
    new = fleet.other(old)
    new.requests.clear()
    old.kill()
    answer = fleet.call(0, session, 42, Authorization="Bearer abc", X_Custom="kept")
    assert (answer.status, answer.json()["id"]) == (200, 42)
    assert answer.all("mcp-session-id") == [session]
    result = fleets.result_of(answer)
    backend_id = str(result["session"])
    assert result == {"replica": new.name, "session": backend_id, "count": 1}
    assert backend_id != session

    opening, ready, call = new.requests
    assert opening.json()["method"] == "initialize"
    assert opening.json()["params"] == before["initialize"]
    assert opening.field("mcp-session-id") is None
    assert opening.field("content-type") == "application/json"
    assert set((opening.field("accept") or "").split(", ")) == {"application/json", "text/event-stream"}
    assert ready.json() == INITIALIZED
    assert [ready.field("mcp-session-id"), ready.field("mcp-protocol-version")] == [backend_id, fleets.PROTOCOL]
    assert call.field("mcp-session-id") == backend_id
    assert {request.field("authorization") for request in (opening, ready, call)} == {"Bearer abc"}
    assert {request.field("x-custom") for request in (opening, ready, call)} == {"kept"}
    assert {request.target for request in (opening, ready, call)} == {"/mcp"}

    after = fleet.record(session)
    assert after is not None
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"backend_url", "backend_session_id", "updated_at", "generation"}
    assert (after["backend_url"], after["backend_session_id"], after["generation"]) == (new.origin, backend_id, 2)
    assert fleet.redis is not None
    assert fleet.redis.execute("TTL", fleets.PREFIX + session) > 7100

    for proxy, count in ((1, 2), (0, 3), (1, 4)):
        answer = fleet.call(proxy, session)
        assert answer.all("mcp-session-id") == [session]
        assert fleets.result_of(answer) == {"replica": new.name, "session": backend_id, "count": count}
    assert len(fleet.got("POST", "initialize")) == 2
    assert fleet.metric("fastproxy_session_recoveries_total", reason="unreachable", outcome="recovered") >= 1
    assert delete(fleet, session).status == 200
    assert new.got("DELETE")[0].field("mcp-session-id") == backend_id


def delete(fleet: Fleet, session: str, proxy: int = 1) -> Message:
    return fleet.ask(proxy, "DELETE", "/mcp", {"Mcp-Session-Id": session})


def await_end(fleet: Fleet, proxy: int, session: str) -> None:
    fleets.await_that(lambda: fleet.call(proxy, session).status == 404, "ended there too", seconds_max=1.0)


def test_a_session_of_a_replica_that_was_replaced_goes_on(fleet: Fleet) -> None:
    session = confirmed(fleet)
    fleet.replica_of(session).restart()
    assert fleet.count(1, session) == 1
    assert fleet.count(0, session) == 2
    record = fleet.record(session)
    assert record is not None
    assert record["generation"] == 2


@pytest.mark.parametrize("proxy", [0, 1])
@pytest.mark.parametrize("manner", ["404", "400 typescript", "400 names it"])
def test_a_replica_that_has_forgotten_a_session_is_told_again(fleet: Fleet, manner: str, proxy: int) -> None:
    session = confirmed(fleet)
    for replica in fleet.replicas:
        replica.forgets = manner
        replica.forget()
    answer = fleet.call(proxy, session)
    assert answer.status == 200
    assert fleets.result_of(answer)["count"] == 1
    assert answer.all("mcp-session-id") == [session]
    assert fleet.count(1 - proxy, session) == 2
    assert len(fleet.got("POST", "initialize")) == 2
    assert len(fleet.got("POST", "notifications/initialized")) == 2


def test_a_recovered_session_is_recovered_again(fleet: Fleet) -> None:
    session = confirmed(fleet)
    for generation in (2, 3, 4, 5, 6, 7, 8, 9, 10):
        fleet.replica_of(session).forget()
        assert fleet.count(generation % 2, session) == 1
        assert fleet.count((generation + 1) % 2, session) == 2
        record = fleet.record(session)
        assert record is not None
        assert record["generation"] == generation
    assert len(fleet.got("POST", "initialize")) == 10


def test_a_backend_that_hands_out_the_same_id_again_is_recovered_once_for_both_proxies(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        replica.ids = lambda: "always-the-same"
    session = confirmed(fleet)
    home = fleet.replica_of(session)
    for replica in fleet.replicas:
        replica.requests.clear()
    fleet.other(home).kill()
    home.forget()
    assert fleet.count(0, session) == 1
    assert fleet.count(1, session) == 2
    assert len(home.got("POST", "initialize")) == 1
    record = fleet.record(session)
    assert record is not None
    assert (record["backend_session_id"], record["generation"]) == (None, 2)


def test_a_400_before_the_first_success_is_the_backends_word(fleet: Fleet) -> None:
    session = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE)).field("mcp-session-id") or ""
    home = fleet.replica_of(session)
    home.forgets = "400 typescript"
    home.forget()
    answer = fleet.call(0, session)
    assert answer.status == 400
    assert answer.json()["error"]["code"] == -32000
    assert answer.all("mcp-session-id") == [session], "not the phantom that came with it"
    assert len(fleet.got("POST", "initialize")) == 1


def test_after_a_recovery_a_400_is_again_the_backends_word_until_there_was_a_success(fleet: Fleet) -> None:
    session = confirmed(fleet)

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "tools/call":
            return False
        replica.forgets = "400 typescript"
        await connection.send(replica.unknown(request, ""))
        return True

    for replica in fleet.replicas:
        replica.act = refuse
    assert [fleet.call(0, session).status for _ in range(4)] == [400] * 4
    assert len(fleet.got("POST", "initialize")) == 2, "one recovery, not one for each request"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad params"}}', id="another code"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":{"code":-32000}}', id="a result"),
        pytest.param(b'{"error":{"code":"-32000","message":null}}', id="a code that is text"),
        pytest.param(b"Bad Request: Unsupported content", id="text"),
        pytest.param(b"", id="nothing"),
        pytest.param(b'{"error":{"code":-32000,"message":"' + b"x" * 1_000_000 + b'"}}', id="too much to be read"),
    ],
)
def test_another_400_passes_as_it_is(fleet: Fleet, answer: bytes) -> None:
    session = confirmed(fleet)
    raw = actors_message.format_response("400 Bad Request", fleets.JSON, answer)

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        await connection.send(raw)
        return True

    for replica in fleet.replicas:
        replica.act = refuse
    for proxy in (0, 1):
        found = fleet.call(proxy, session)
        assert (found.status, found.body) == (400, answer)
    assert len(fleet.got("POST", "initialize")) == 1


@pytest.mark.parametrize("target", ["/other", "/mcp/", "/mcp/more", "/.well-known/oauth-protected-resource/mcp"])
def test_a_404_on_another_path_passes(fleet: Fleet, target: str) -> None:
    session = confirmed(fleet)
    raw = actors_message.format_response("404 Not Found", {"Content-Type": "text/plain"}, b"no such page")

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if request.target == "/mcp":
            return False
        await connection.send(raw)
        return True

    for replica in fleet.replicas:
        replica.act = refuse
    for proxy in (0, 1):
        answer = fleet.post(proxy, fleets.message("ping"), session, target=target)
        assert (answer.status, answer.body) == (404, b"no such page")
    assert len(fleet.got("POST", "initialize")) == 1
    assert fleet.count(0, session) == 3


def test_the_path_of_a_session_is_compared_without_its_query(fleet: Fleet) -> None:
    answer = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE), target="/mcp?tenant=a")
    session = answer.field("mcp-session-id") or ""
    record = fleet.record(session)
    assert record is not None
    assert record["path"] == "/mcp?tenant=a"
    fleet.replica_of(session).forget()
    assert fleet.post(1, fleets.message("ping"), session, target="/mcp?tenant=b").status == 200
    assert [request.target for request in fleet.got("POST", "initialize")] == ["/mcp?tenant=a"] * 2
    assert [request.target for request in fleet.got("POST", "notifications/initialized")] == ["/mcp?tenant=a"]


def test_a_second_404_goes_to_the_client(fleet: Fleet) -> None:
    session = confirmed(fleet)
    body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32001,"message":"no such thing"}}'

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "tools/call":
            return False
        await connection.send(actors_message.format_response("404 Not Found", fleets.JSON, body))
        return True

    for replica in fleet.replicas:
        replica.act = refuse
        replica.requests.clear()
    answer = fleet.call(0, session)
    assert (answer.status, answer.body) == (404, body)
    assert len(fleet.got("POST", "initialize")) == 1
    assert len(fleet.got("POST", "tools/call")) == 2
    assert fleet.record(session) is not None, "only DELETE and expiry end a session"


def test_a_get_stream_is_recovered(fleet: Fleet) -> None:
    session = confirmed(fleet)
    fleet.replica_of(session).forget()
    with fleet.client(1) as stream:
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        head = stream.head()
        assert (head.status, head.field("content-type")) == (200, "text/event-stream")
        assert head.field("mcp-session-id") == session
        assert fleet.count(0, session) == 1
    assert len(fleet.got("POST", "initialize")) == 2


@pytest.mark.parametrize(
    ("size_bytes", "loss"),
    [(70_000, "forgotten"), (200_000, "forgotten"), (262_144, "forgotten"), (200_000, "killed")],
)
def test_a_body_that_was_kept_is_sent_again_whole(fleet: Fleet, size_bytes: int, loss: str) -> None:
    session = confirmed(fleet)
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
    session = confirmed(fleet)
    bare = len(fleets.message("tools/call", 1, text=""))
    body = fleets.message("tools/call", 1, text="x" * (size_bytes - bare))
    fleet.replica_of(session).forget()
    answer = fleet.post(0, body, session)
    assert answer.json()["error"]["code"] == -32603
    assert answer.json()["error"]["data"] == {"reason": "backend_lost", "may_have_run": True}
    assert len(fleet.got("POST", "initialize")) == 2
    assert fleet.count(0, session) == 1
    assert fleet.count(1, session) == 2


def test_a_large_body_for_a_replica_that_died_is_sent_to_the_new_one(fleet: Fleet) -> None:
    session = confirmed(fleet)
    body = fleets.message("tools/call", 1, text="x" * 2_000_000)
    home = fleet.replica_of(session)
    home.kill()
    assert fleets.result_of(fleet.post(1, body, session))["count"] == 1
    assert [call.body == body for call in fleet.other(home).got("POST", "tools/call")] == [True]


def test_when_no_replica_takes_the_session_the_answer_says_so_and_the_session_stays(fleet: Fleet) -> None:
    session = confirmed(fleet)
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
    session = confirmed(fleet)
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
    session = confirmed(fleet)
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


def test_members_that_we_do_not_know_survive_a_recovery(fleet: Fleet) -> None:
    session = confirmed(fleet)
    assert fleet.redis is not None
    stored = fleet.redis.execute("GET", fleets.PREFIX + session)
    extended = stored[:-1] + b',"x_future":{"a":[1,2.50,123456789012345678901234567890,"\\u00e9"]},"x2":null}'
    fleet.redis.execute("SET", fleets.PREFIX + session, extended, "EX", 500)
    fleet.replica_of(session).forget()
    assert fleet.count(1, session) == 1
    after = fleet.redis.execute("GET", fleets.PREFIX + session)
    assert after.endswith(b',"x_future":{"a":[1,2.50,123456789012345678901234567890,"\\u00e9"]},"x2":null}')
    assert json.loads(after)["generation"] == 2


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
