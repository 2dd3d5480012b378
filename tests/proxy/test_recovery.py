"""Sessions whose replica is gone or has forgotten them are opened anew (interface §3.4): when, how, and when not.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas that die and forget as real ones do.
Many requests at once, claims and ends in the middle: test_recovery_races.py. Its bounds: test_recovery_limits.py.
"""

import json

import pytest

from tests.kit import actors_message, actors_wire
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message

INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}


def test_a_session_of_a_replica_that_died_goes_on_at_another_under_its_own_id(fleet: Fleet) -> None:
    session = fleet.open_confirmed(text="é", big=123456789012345678901234567890)
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


def test_a_session_of_a_replica_that_was_replaced_goes_on(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    fleet.replica_of(session).restart()
    assert fleet.count(1, session) == 1
    assert fleet.count(0, session) == 2
    record = fleet.record(session)
    assert record is not None
    assert record["generation"] == 2


@pytest.mark.parametrize("proxy", [0, 1])
@pytest.mark.parametrize("manner", ["404", "400 typescript", "400 names it"])
def test_a_replica_that_has_forgotten_a_session_is_told_again(fleet: Fleet, manner: str, proxy: int) -> None:
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()

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
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()
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
    session = fleet.open_confirmed()
    fleet.replica_of(session).forget()
    with fleet.client(1) as stream:
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        head = stream.head()
        assert (head.status, head.field("content-type")) == (200, "text/event-stream")
        assert head.field("mcp-session-id") == session
        assert fleet.count(0, session) == 1
    assert len(fleet.got("POST", "initialize")) == 2


def test_members_that_we_do_not_know_survive_a_recovery(fleet: Fleet) -> None:
    session = fleet.open_confirmed()
    assert fleet.redis is not None
    stored = fleet.redis.execute("GET", fleets.PREFIX + session)
    extended = stored[:-1] + b',"x_future":{"a":[1,2.50,123456789012345678901234567890,"\\u00e9"]},"x2":null}'
    fleet.redis.execute("SET", fleets.PREFIX + session, extended, "EX", 500)
    fleet.replica_of(session).forget()
    assert fleet.count(1, session) == 1
    after = fleet.redis.execute("GET", fleets.PREFIX + session)
    assert after.endswith(b',"x_future":{"a":[1,2.50,123456789012345678901234567890,"\\u00e9"]},"x2":null}')
    assert json.loads(after)["generation"] == 2
