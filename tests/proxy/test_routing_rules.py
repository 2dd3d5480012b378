"""Who gets a request: the five rules of interface §3.1, first match wins, both eras on one port.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas that say who they are. Not here: how
sessions begin (test_session_opening.py), legacy HTTP+SSE (test_session_legacy.py), policies (test_routing_policies.py).
"""

import pytest

from tests.kit import actors_message, actors_wire
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet


async def say_phantom(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
    """The manner of the Python SDK's servers: a fresh id on a refusal, dead at birth."""
    body = b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Missing session ID"}}'
    fields = {**fleets.JSON, "Mcp-Session-Id": "phantom"}
    await connection.send(actors_message.format_response("400 Bad Request", fields, body))
    return True


def test_every_request_of_a_session_reaches_its_replica_through_either_proxy(fleet: Fleet) -> None:
    sessions = [*fleet.open_everywhere(), *fleet.open_everywhere()]
    homes = {session: fleet.replica_of(session).name for session in sessions}
    assert sorted(homes.values()) == ["replica-0", "replica-0", "replica-1", "replica-1"]
    for count in range(1, 4):
        for number, session in enumerate(sessions):
            result = fleets.result_of(fleet.call((number + count) % 2, session))
            assert result == {"replica": homes[session], "session": session, "count": count}
    assert {answer.field("mcp-session-id") for answer in (fleet.call(0, sessions[0]), fleet.call(1, sessions[0]))} == {
        sessions[0]
    }


def test_the_lanes_are_what_their_names_say(fleet: Fleet) -> None:
    session = fleet.open()
    before = fleet.metric("fastproxy_fast_lane_requests_total")
    fleet.count(0, session)
    fleet.count(0, session)
    assert fleet.metric("fastproxy_fast_lane_requests_total") - before == (2 if fleet.fast else 0)


@pytest.mark.parametrize("version", ["2026-07-28", "2099-01-01", "2025-11-26", "draft", ""])
def test_a_revision_without_sessions_is_nobodys_session_and_names_none(fleet: Fleet, version: str) -> None:
    session = fleet.open()
    for replica in fleet.replicas:
        replica.requests.clear()
    answers = [fleet.call(0, session, MCP_Protocol_Version=version) for _ in range(4)]
    assert [answer.status for answer in answers] == [200] * 4
    for replica in fleet.replicas:
        asked = replica.got("POST")
        assert len(asked) == 2, "the least loaded in turn, not the session's"
        assert [request.field("mcp-session-id") for request in asked] == [None, None]
        assert [request.field("mcp-protocol-version") for request in asked] == [version, version]


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_a_revision_with_sessions_keeps_to_them(fleet: Fleet, version: str) -> None:
    session = fleet.open()
    answers = [fleets.result_of(fleet.call(number % 2, session, MCP_Protocol_Version=version)) for number in range(4)]
    assert [answer["count"] for answer in answers] == [1, 2, 3, 4]


def test_an_initialize_of_a_revision_without_sessions_opens_none(fleet: Fleet) -> None:
    answer = fleet.post(0, fleets.message("initialize", 1), MCP_Protocol_Version="2026-07-28")
    assert answer.status == 200
    assert fleet.stored() == []


def test_errors_of_a_revision_without_sessions_pass_untouched(fleet: Fleet) -> None:
    body = b'{"jsonrpc":"2.0","id":7,"error":{"code":-32601,"message":"no"}}'
    raw = actors_message.format_response("404 Not Found", fleets.JSON, body)

    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        await connection.send(raw)
        return True

    session = fleet.open()
    for replica in fleet.replicas:
        replica.act = refuse
    answer = fleet.call(0, session, 7, MCP_Protocol_Version="2026-07-28")
    assert (answer.status, answer.body) == (404, body)
    assert len(fleet.got("POST", "initialize")) == 1, "a 404 of that era is no loss of a session"


def test_a_dead_id_on_a_refusal_of_a_request_without_one_is_taken_off(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        replica.act = say_phantom
    for version in ({}, {"MCP_Protocol_Version": "2026-07-28"}):
        answer = fleet.call(0, None, **version)
        assert answer.status == 400
        assert answer.all("mcp-session-id") == []
    assert fleet.call(0, "phantom").status == 404


def test_a_dead_id_is_taken_off_for_a_client_whose_own_id_was_not_forwarded(fleet: Fleet) -> None:
    session = fleet.open()
    for replica in fleet.replicas:
        replica.act = say_phantom
    answer = fleet.call(0, session, MCP_Protocol_Version="2026-07-28")
    assert answer.status == 400
    assert answer.all("mcp-session-id") == []


def test_an_id_on_an_answer_that_opens_nothing_is_not_learned(fleet: Fleet) -> None:
    async def hand_out(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        fields = {**fleets.JSON, "Mcp-Session-Id": "handed-out"}
        await connection.send(actors_message.format_response("200 OK", fields, b'{"jsonrpc":"2.0","id":1,"result":{}}'))
        return True

    for replica in fleet.replicas:
        replica.act = hand_out
    assert fleet.call(0, None).field("mcp-session-id") == "handed-out"
    assert fleet.record("handed-out") is None
    assert fleet.call(1, "handed-out").status == 404


@pytest.mark.parametrize(
    ("method", "target", "fields", "body"),
    [
        pytest.param("OPTIONS", "/mcp", {"Access-Control-Request-Method": "POST"}, None, id="options"),
        pytest.param("GET", "/.well-known/oauth-protected-resource/mcp", {}, None, id="well-known"),
        pytest.param("GET", "/other?sessionId=unknown", {"Accept": "text/html"}, None, id="another path"),
        pytest.param("POST", "/mcp", fleets.ACCEPT, b'{"jsonrpc":"2.0","id":1,"method":"ping"}', id="no session"),
        pytest.param("POST", "/mcp", fleets.ACCEPT, b'[{"jsonrpc":"2.0","id":1,"method":"initialize"}]', id="batch"),
        pytest.param("POST", "/mcp", fleets.ACCEPT, b"initialize", id="no JSON"),
        pytest.param("POST", "/mcp", fleets.ACCEPT, b"", id="nothing"),
        pytest.param("PUT", "/mcp", {}, b"\x00\xff", id="bytes"),
    ],
)
def test_what_belongs_to_nobody_goes_to_the_least_loaded_in_turn(
    fleet: Fleet, method: str, target: str, fields: dict[str, str], body: bytes | None
) -> None:
    async def echo(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
        await connection.send(actors_message.format_response("200 OK", {"Content-Type": "text/plain"}, request.body))
        return True

    for replica in fleet.replicas:
        replica.act = echo
    for _ in range(4):
        answer = fleet.ask(0, method, target, fields, body)
        assert answer.status == 200
        assert answer.body == (body or b"")
    for replica in fleet.replicas:
        assert [request.target for request in replica.got(method)] == [target, target]


def test_a_request_without_a_session_avoids_the_busy_replica(fleet: Fleet) -> None:
    session = fleet.open()
    busy = fleet.replica_of(session)
    fleet.other(busy).requests.clear()
    with fleet.client() as stream:
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        assert stream.head().status == 200
        for _ in range(3):
            assert fleets.result_of(fleet.call(0, None))["replica"] == fleet.other(busy).name


def test_the_sessions_of_a_batch_and_of_large_bodies_are_kept(fleet: Fleet) -> None:
    session = fleet.open()
    home = fleet.replica_of(session)
    home.act = _accept
    large = fleets.message("tools/call", 1, text="x" * 300_000)
    for body in (b'[{"jsonrpc":"2.0","method":"initialize"}]', large, b"initialize"):
        assert fleet.post(1, body, session).status == 202
        assert home.requests[-1].body == body
        assert home.requests[-1].field("mcp-session-id") == session


async def _accept(replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message) -> bool:
    await connection.send(actors_message.format_response("202 Accepted"))
    return True
