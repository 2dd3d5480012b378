"""How sessions end: DELETE, by whom it is seen, and what keeps a session (interface §3.1).

Real: two proxies on one Redis, with and without the fast lane; scripted replicas. Expiry: test_session_expiry.py.
"""

import time

import pytest

from tests.kit import actors_message, actors_wire
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


def delete(fleet: Fleet, proxy: int, session: str) -> Message:
    return fleet.ask(proxy, "DELETE", "/mcp", {"Mcp-Session-Id": session})


def answer_deletes(fleet: Fleet, status: str) -> None:
    async def act(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if request.method != "DELETE":
            return False
        await connection.send(actors_message.format_response(status, {"X-Own": "word"}, b"said"))
        return True

    for replica in fleet.replicas:
        replica.act = act


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "204 No Content", "404 Not Found"])
def test_a_session_that_the_backend_has_ended_is_ended_everywhere_before_the_answer_leaves(
    fleet: Fleet, status: str
) -> None:
    session = fleet.open()
    assert [fleet.count(proxy, session) for proxy in (0, 1)] == [1, 2]
    answer_deletes(fleet, status)
    answer = delete(fleet, 0, session)
    assert answer.status == int(status[:3])
    assert answer.field("x-own") == "word"
    assert answer.body == (b"" if status.startswith("204") else b"said")
    assert fleet.record(session) is None
    assert fleet.call(0, session).status == 404
    fleets.await_that(lambda: fleet.call(1, session).status == 404, "the other proxy follows", seconds_max=1.0)
    assert len(fleet.got("POST", "initialize")) == 1, "an end starts no recovery"


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "500 Internal Server Error", "503 Busy", "400 Bad"])
def test_a_session_that_the_backend_keeps_goes_on(fleet: Fleet, status: str) -> None:
    session = fleet.open()
    answer_deletes(fleet, status)
    answer = delete(fleet, 1, session)
    assert (answer.status, answer.body) == (int(status[:3]), b"said")
    assert fleet.record(session) is not None
    assert [fleet.count(proxy, session) for proxy in (0, 1)] == [1, 2]


def test_an_end_at_a_replica_that_is_gone_keeps_the_session_and_recovers_nothing(fleet: Fleet) -> None:
    session = fleet.open()
    fleet.replica_of(session).kill()
    answer = delete(fleet, 0, session)
    assert answer.status == 502
    assert answer.json()["error"]["data"] == {"reason": "backend_unreachable"}
    assert "id" not in answer.json()
    assert fleet.record(session) is not None
    assert len(fleet.got("POST", "initialize")) == 1
    assert fleet.count(1, session) == 1, "a call brings it back"


def test_an_end_at_a_replica_that_has_forgotten_ends_it_for_good(fleet: Fleet) -> None:
    session = fleet.open()
    fleet.replica_of(session).forget()
    assert delete(fleet, 1, session).status == 404
    assert fleet.record(session) is None
    fleets.await_that(lambda: fleet.call(0, session).status == 404, "the other proxy follows", seconds_max=1.0)
    assert len(fleet.got("POST", "initialize")) == 1


def test_an_ended_session_is_no_longer_asked_for(fleet: Fleet) -> None:
    session = fleet.open()
    assert delete(fleet, 0, session).status == 200
    assert delete(fleet, 0, session).status == 404
    fleets.await_that(lambda: delete(fleet, 1, session).status == 404, "gone there too", seconds_max=1.0)
    for replica in fleet.replicas:
        replica.requests.clear()
    assert fleet.call(1, session).status == 404
    assert not fleet.got("POST")


def test_the_other_proxy_follows_within_a_second_every_time(fleet: Fleet) -> None:
    late = 0.0
    for number in range(25):
        session = fleet.open(number % 2)
        fleet.count((number + 1) % 2, session)
        assert delete(fleet, number % 2, session).status == 200
        began = time.monotonic()
        while fleet.call((number + 1) % 2, session).status != 404:
            assert time.monotonic() - began < 1.0
        late = max(late, time.monotonic() - began)
    assert late < 1.0


def test_a_stream_of_a_session_that_is_ended_is_the_backends_to_close(fleet: Fleet) -> None:
    session = fleet.open()
    with fleet.client(1) as stream:
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        assert stream.head().status == 200
        assert delete(fleet, 0, session).status == 200
        assert stream.is_silent(0.2)


def test_a_session_can_be_ended_through_the_admin_address_at_the_backend_too(fleet: Fleet) -> None:
    session = fleet.open()
    home = fleet.replica_of(session)
    fleet.count(1, session)
    assert fleet.proxies[0].end_session(session) == 204
    assert home.got("DELETE")[0].field("mcp-session-id") == session
    assert home.got("DELETE")[0].field("mcp-protocol-version") == fleets.PROTOCOL
    assert session not in home.sessions
    assert fleet.call(0, session).status == 404
    fleets.await_that(lambda: fleet.call(1, session).status == 404, "the other proxy follows", seconds_max=1.0)
