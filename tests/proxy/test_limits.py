"""Limits under a flood: who is beyond them is told so at once, and who was there before goes on.

Real: `fastproxy serve` on both lanes, sockets, descriptors. Replicas are scripted MCP servers (fleet.py), which count
how many calls they have at a time. Not covered: --max-sessions across workers (the store is one; test_workers.py).
"""

import asyncio
import concurrent.futures
import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import fleet as fleets

CROWD = 40


@contextlib.contextmanager
def limited(*flags: str, replicas: int = 2, fast: bool = True) -> Iterator[fleets.Fleet]:
    """One proxy with these flags."""
    with (
        fleets.replicas(replicas) as behind,
        fleets.fleet(*flags, proxies=1, behind=behind, fast=fast) as fleet,
    ):
        yield fleet
        fleets.assert_sound(fleet)


@pytest.fixture
def crowd() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        yield pool


class Desk:
    """What a replica does with tools/call: as many at a time as come, each until `open` or for so long."""

    def __init__(self, replicas: Sequence[fleets.Replica], *, seconds: float = 10.0) -> None:
        self.seconds = seconds
        self.now = self.most = self.begun = 0
        self.open = False
        for replica in replicas:
            replica.act = self.act

    async def act(
        self, replica: fleets.Replica, connection: actors_wire.Connection, request: actors_message.Message
    ) -> bool:
        if fleets.rpc_method(request) != "tools/call":
            return False
        self.now += 1
        self.begun += 1
        self.most = max(self.most, self.now)
        for _ in range(int(self.seconds / 0.02)):
            if self.open:
                break
            await asyncio.sleep(0.02)
        self.now -= 1
        return False


def reason_of(answer: actors_message.Message) -> str:
    """Of a refusal; empty for anything else."""
    return str(answer.json().get("error", {}).get("data", {}).get("reason", ""))


def refusals(fleet: fleets.Fleet, reason: str) -> int:
    return int(fleet.metric("fastproxy_refusals_total", reason=reason))


# ---- connections


def call_of(client: kit.RawClient, session: str) -> bytes:
    fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
    body = fleets.message("tools/call", 1, name="count")
    return actors_message.format_request("POST", "/mcp", client.authority, fields, body)


def call_on(client: kit.RawClient, session: str) -> int:
    """The count of a session, on a connection that is open."""
    client.send(call_of(client, session))
    return int(fleets.result_of(client.response())["count"])


@contextlib.contextmanager
def few_descriptors() -> Iterator[Callable[[], None]]:
    """256 for the processes that are started before what it yields is called; we have ours back then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))

    def inherit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    try:
        yield inherit
    finally:
        inherit()


def assert_turned_away(client: kit.RawClient) -> None:
    with client:
        answer = client.response()
        assert (answer.status, answer.field("retry-after"), answer.field("connection")) == (503, "1", "close")
        assert b"too many connections" in answer.body
        assert client.rest() == b""


def test_a_connection_too_many_is_told_so_and_closed_and_the_others_go_on() -> None:
    with limited("--max-connections", "4") as fleet, contextlib.ExitStack() as stack:
        session = fleet.open()
        clients = [stack.enter_context(fleet.client()) for _ in range(4)]
        assert [call_on(client, session) for client in clients] == [1, 2, 3, 4]
        for _ in range(100):  # more than are let linger
            assert_turned_away(fleet.client())
        assert [call_on(client, session) for client in clients] == [5, 6, 7, 8]
        assert fleet.metric("fastproxy_connections_turned_away_total") == 100
        assert fleet.metric("fastproxy_client_connections") == 4
        assert fleet.metric("fastproxy_client_connections_max") == 4
        clients[0].close()
        fleets.await_that(lambda: fleet.metric("fastproxy_client_connections") == 3, "one has left")
        assert fleet.count(0, session) == 9


def test_a_request_that_was_under_way_already_does_not_hide_the_answer() -> None:
    with limited("--max-connections", "1") as fleet, fleet.client() as first:
        assert first.request("POST", "/mcp", fleets.ACCEPT, fleets.message("tools/call")).status == 200
        for _ in range(20):
            with fleet.client() as client:
                client.send(actors_message.format_request("POST", "/mcp", client.authority, {}, b"x" * 100))
                assert client.response().status == 503


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "story"])
def test_a_call_whose_client_has_left_holds_its_place_until_it_is_done(fast: bool) -> None:
    with limited("--max-connections", "3", fast=fast) as fleet, fleet.client() as known:
        session = fleet.open()
        desk = Desk(fleet.replicas)
        clients = [fleet.client() for _ in range(2)]
        for client in clients:
            client.send(call_of(client, session))
        fleets.await_that(lambda: desk.now == 2, "both run")
        clients[0].reset()
        clients[1].close()  # which may be half a close: it is found out when there is something to say
        fleets.await_that(lambda: fleet.metric("fastproxy_calls_abandoned") == 1, "one has surely left")
        assert fleet.metric("fastproxy_client_connections") == 2
        assert_turned_away(fleet.client())
        assert known.request("GET", "/", {"Host": "elsewhere.test"}).status == 403, "who is in is served"
        desk.open = True
        fleets.await_that(lambda: fleet.metric("fastproxy_calls_abandoned") == 0, "it is done")
        fleets.await_that(lambda: fleet.metric("fastproxy_client_connections") == 1, "and so is the other")
        assert fleet.count(0, session) == 3


def test_a_flood_beyond_the_descriptors_finds_the_limit_first_and_known_sessions_go_on() -> None:
    with few_descriptors() as inherit, limited() as fleet, contextlib.ExitStack() as stack:
        inherit()
        (proxy,) = fleet.proxies
        session = fleet.open()
        known = stack.enter_context(fleet.client())
        assert call_on(known, session) == 1
        assert fleet.metric("fastproxy_client_connections_max") == (256 - 160) // 2
        flood = [fleet.client() for _ in range(400)]
        assert [call_on(known, session) for _ in range(20)] == list(range(2, 22))
        assert proxy.readiness()[0] == 200
        assert proxy.descriptors <= 256 - 8
        assert fleet.metric("fastproxy_connections_refused_total") == 0, "there was always a descriptor left"
        assert fleet.metric("fastproxy_connections_turned_away_total") >= 400 - 48
        for client in flood:
            client.close()
        fleets.await_that(lambda: fleet.metric("fastproxy_client_connections") == 1, "the flood is over")
        assert fleet.count(0, session) == 22


def test_idle_connections_to_replicas_give_way_when_there_is_no_other_descriptor() -> None:
    with few_descriptors() as inherit, limited("--max-connections", "45", replicas=6) as fleet:
        inherit()
        sessions = [fleet.open() for _ in range(24)]
        assert {home_of(fleet, session) for session in sessions} == {replica.origin for replica in fleet.replicas}
        desk = Desk(fleet.replicas, seconds=0.3)
        in_turn = sorted(sessions, key=lambda session: home_of(fleet, session))[::4]  # one of each replica
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(fleet.client()) for _ in range(40)]
            for session in in_turn:
                for client in clients:
                    client.send(call_of(client, session))
                counts = [fleets.result_of(client.response())["count"] for client in clients]
                assert sorted(counts) == list(range(1, 41)), "40 calls at a time"
        assert desk.most == 40
        assert fleet.metric("fastproxy_upstream_connections", state="idle") >= 160, "six times 40 would be too many"
        assert refusals(fleet, "backend_unreachable") == 0


def test_more_connections_than_descriptors_is_a_warning_at_start() -> None:
    with limited("--max-connections", "9000000") as fleet:
        assert "max_connections 9000000 may need 18000160 descriptors" in fleet.proxies[0].stderr


# ---- requests per replica


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "story"])
def test_a_replica_never_has_more_calls_than_it_may_whoever_floods_it(
    crowd: concurrent.futures.ThreadPoolExecutor, fast: bool
) -> None:
    with limited("--max-requests-per-backend", "3", replicas=1, fast=fast) as fleet:
        sessions = [fleet.open() for _ in range(8)]
        desk = Desk(fleet.replicas, seconds=0.1)
        calls = [crowd.submit(fleet.call, 0, sessions[number % 8], number) for number in range(200)]
        answers = [call.result() for call in calls]
        refused = [answer for answer in answers if reason_of(answer)]
        assert desk.most == 3, "the bound is met, and kept"
        assert {(answer.status, reason_of(answer)) for answer in refused} == {(200, "backend_overloaded")}
        assert refusals(fleet, "backend_overloaded") == len(refused)
        assert len(answers) - len(refused) == desk.begun
        ran = {session: 0 for session in sessions}
        for answer in answers:
            if not reason_of(answer):
                ran[fleets.result_of(answer)["session"]] += 1
        assert fleet.replicas[0].sessions == ran, "what was refused has not run"
        assert [fleet.count(0, session) for session in sessions] == [ran[session] + 1 for session in sessions]


@pytest.mark.parametrize("fast", [True, False], ids=["fast lane", "story"])
def test_what_is_no_call_passes_a_full_replica(crowd: concurrent.futures.ThreadPoolExecutor, fast: bool) -> None:
    with limited("--max-requests-per-backend", "1", replicas=1, fast=fast) as fleet:
        session, other = fleet.open(), fleet.open()
        desk = Desk(fleet.replicas)
        call = crowd.submit(fleet.call, 0, session)
        fleets.await_that(lambda: desk.now == 1, "the replica is full")
        answer = fleet.call(0, other, number=7)
        assert (answer.status, answer.json()["id"], reason_of(answer)) == (200, 7, "backend_overloaded")
        said = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}}).encode()
        large = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"text": "x" * 100_000}}).encode()
        cancelled = fleets.message("notifications/cancelled", None, requestId=1)
        for body in (said, large, cancelled):
            sent = len(fleet.replicas[0].requests)
            assert fleet.post(0, body, session).status in (200, 202)
            assert len(fleet.replicas[0].requests) == sent + 1
        with fleet.client() as listener:
            fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
            listener.send(actors_message.format_request("GET", "/mcp", listener.authority, fields))
            assert listener.head().status == 200, "a stream is no call"
        assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": other}).status == 200
        desk.open = True
        assert fleets.result_of(call.result())["session"] == session


def test_what_is_pinned_to_no_replica_goes_where_there_is_room(
    crowd: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with limited("--max-requests-per-backend", "1") as fleet:
        first, second = fleet.replicas
        session = fleet.open()
        home = next(replica for replica in fleet.replicas if replica.sessions)
        desk = Desk([home])
        call = crowd.submit(fleet.count, 0, session)
        fleets.await_that(lambda: desk.now == 1, "one is full")
        opened = [fleet.open() for _ in range(3)]
        assert {home_of(fleet, each) for each in opened} == {({first.origin, second.origin} - {home.origin}).pop()}
        modern = {"MCP_Protocol_Version": "2026-07-28"}
        assert fleet.call(0, None, **modern).status == 200
        both = Desk([fleet.other(home)])
        other = crowd.submit(fleet.count, 0, opened[0])
        fleets.await_that(lambda: both.now == 1, "both are full")
        refused = fleet.call(0, None, **modern)
        assert (refused.status, refused.field("retry-after"), reason_of(refused)) == (503, "1", "backend_overloaded")
        refused = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
        assert reason_of(refused) == "backend_overloaded"
        desk.open = both.open = True
        assert (call.result(), other.result()) == (1, 1)
        assert fleet.call(0, None, **modern).status == 200


def home_of(fleet: fleets.Fleet, session: str) -> str:
    record = fleet.proxies[0].session(session)
    assert record is not None
    return str(record["backend_url"])


# ---- new sessions


def test_a_flood_of_new_sessions_is_slowed_and_known_ones_go_on(
    crowd: concurrent.futures.ThreadPoolExecutor,
) -> None:
    rate = 10
    with limited("--max-new-sessions-per-second", str(rate)) as fleet:
        session = fleet.open()
        began = time.monotonic()
        body = fleets.message("initialize", 5, **fleets.INITIALIZE)
        attempts = [crowd.submit(fleet.post, 0, body) for _ in range(150)]
        counts = [fleet.count(0, session) for _ in range(20)]
        answers = [attempt.result() for attempt in attempts]
        seconds = time.monotonic() - began
        assert counts == list(range(1, 21))
        accepted = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(accepted) + len(refused) == 150
        assert rate - 1 <= len(accepted) <= rate + seconds * rate + 1
        assert {(reason_of(answer), answer.json()["id"], answer.field("retry-after")) for answer in refused} == {
            ("too_many_new_sessions", 5, "1")
        }
        assert len(fleet.got("POST", "initialize")) == len(accepted) + 1
        assert refusals(fleet, "too_many_new_sessions") == len(refused)
        time.sleep(1.1)  # as Retry-After says
        assert [fleet.post(0, body).status for _ in range(rate)] == [200] * rate


def test_streams_that_would_open_a_session_are_counted_with_them() -> None:
    with limited("--max-new-sessions-per-second", "2") as fleet, contextlib.ExitStack() as stack:

        def listen() -> int:
            client = stack.enter_context(fleet.client())
            fields = {"Accept": "text/event-stream"}
            client.send(actors_message.format_request("GET", "/sse", client.authority, fields))
            return client.head().status

        assert [listen() for _ in range(3)] == [200, 200, 429]


def test_as_many_sessions_as_there_may_be_stay_and_one_more_is_refused(
    crowd: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with limited("--max-sessions", "5") as fleet:
        sessions = [fleet.open() for _ in range(5)]
        body = fleets.message("initialize", 5, **fleets.INITIALIZE)
        answers = [attempt.result() for attempt in [crowd.submit(fleet.post, 0, body) for _ in range(60)]]
        assert {(answer.status, reason_of(answer), answer.field("retry-after")) for answer in answers} == {
            (503, "too_many_sessions", "1")
        }
        assert refusals(fleet, "too_many_sessions") == 60
        assert [fleet.count(0, session) for session in sessions] == [1] * 5
        assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": sessions[0]}).status == 200
        assert fleet.post(0, body).status == 200
