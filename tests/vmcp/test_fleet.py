"""Three vMCP processes on one Redis, real servers of every kind behind them, real clients that change process at every
request: each server's own counter goes on, and what servers say on their own finds the client.

Real: everything; each is a process of its own. Which process a request meets is drawn by lot in the client (tests/kit).
Not here: what is aggregated and how it is called (test_catalog), one backend at a time (test_real_backends).
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import redis_server
from tests.vmcp import fleet, raw

KINDS = ("mcp2-sse", "mcp1-json", "fastmcp-sse", "mcp2-stateless", "mcp1-httpsse", "mcp2-stdio")
COUNTING = tuple(kind for kind in KINDS if kind != "mcp2-stateless")


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(redis: redis_server.RedisServer) -> Iterator[fleet.Place]:
    with fleet.running(redis, KINDS) as running:
        yield running


@pytest.mark.parametrize("sdk", ["mcp2", "ts1"])
def test_every_backends_own_counter_goes_on_whichever_process_is_asked(place: fleet.Place, sdk: str) -> None:
    with place.client(sdk) as client:
        for number in range(1, 6):
            for kind in COUNTING:
                answer = client.call(place.name(kind, "counter"))
                assert (kind, answer.text) == (kind, str(number))
        targets = {each["target"] for each in client.exchanges if each["rpc"] == "tools/call"}
        assert targets == {0, 1, 2}


def test_a_session_has_one_leg_per_backend_that_it_has_called(place: fleet.Place) -> None:
    with place.client("mcp2") as client:
        session_id = client.session_id
        assert session_id is not None
        assert place.legs(session_id) == {}
        client.call(place.name("mcp2-sse", "counter"))
        client.call(place.name("mcp1-json", "counter"))
        client.call(place.name("mcp2-sse", "counter"))
        assert set(place.legs(session_id)) == {"mcp2sse", "mcp1json"}


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-httpsse", "mcp2-stdio"])
@pytest.mark.parametrize("sdk", ["mcp2", "ts1"])
def test_progress_and_log_reach_the_call_that_they_belong_to(place: fleet.Place, sdk: str, kind: str) -> None:
    with place.client(sdk) as client:
        answer = client.call(place.name(kind, "progress"), steps=3)
        assert answer.text == "3 steps"
        assert [step["progress"] for step in answer.progress] == [1, 2, 3]
        client.call(place.name(kind, "log"), text="a line")
        heard = client.notifications(1)
        assert any("a line" in str(each) for each in heard), heard


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-httpsse", "mcp2-stdio"])
@pytest.mark.parametrize("sdk", ["mcp1", "ts1"])
def test_a_backend_asks_the_client_and_gets_its_answer(place: fleet.Place, sdk: str, kind: str) -> None:
    """The answer is posted to any of the processes; the question came by the one that makes the call."""
    with place.client(sdk) as client:
        for number in range(3):
            assert client.call(place.name(kind, "sample"), prompt=f"say {number}").text
            assert client.call(place.name(kind, "elicit"), message=f"name {number}?").text
        assert len(client.asked) == 6


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-json"])
def test_what_belongs_to_no_call_comes_on_the_clients_stream(place: fleet.Place, kind: str) -> None:
    """The leg is opened by whichever process is asked first; the one that has the client's stream listens to it."""
    with place.client("ts1") as client:
        client.await_stream()
        client.call(place.name(kind, "counter"))
        heard: list[kit.clients.Entry] = []
        for _ in range(20):  # what is said before the leg's own stream is open is lost, as it is without vMCP
            client.call(place.name(kind, "notify"), kind="updated")
            heard = client.notifications(1, seconds_max=0.5)
            if heard:
                break
        assert "notifications/resources/updated" in str(heard)


def test_the_newest_stream_of_a_session_wins_on_whichever_process(place: fleet.Place) -> None:
    session_id = raw.initialize(place.members[0].origin)
    older, newer = (raw.stream(member.origin, session_id) for member in place.members[:2])
    with older as first, newer as second:
        assert first.read_to_end(seconds_max=5.0) is not None
        assert second.is_open()


def test_a_call_that_its_client_cancels_is_cancelled_at_the_backend(place: fleet.Place) -> None:
    """The notification goes to any of the processes; what is left open at the backend is what was before."""
    tool = place.name("mcp2-sse", "slow")
    with place.client("mcp2") as client:
        client.call(place.name("mcp2-sse", "counter"))
        before = calls_at(place, "mcp2sse")
        under_way = [client.begin_call(tool, seconds=60) for _ in range(3)]
        fleet.await_that(lambda: calls_at(place, "mcp2sse") >= before + 3, "the calls are there")
        for pending in under_way:
            client.abandon(pending)
        fleet.await_that(lambda: calls_at(place, "mcp2sse") <= before, "no call is left")
        assert client.call(place.name("mcp2-sse", "counter")).text == "2"


def test_a_call_of_a_leg_that_lives_elsewhere_is_cancelled_there(place: fleet.Place) -> None:
    """HTTP+SSE: one process has the stream. A call and its cancellation come by others."""
    tool = place.name("mcp1-httpsse", "progress")
    first, second, third = place.members
    session_id = raw.initialize(first.origin)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {"steps": 1}}}
    assert raw.post(first.origin, json.dumps(body), session_id=session_id)[0] == 200
    long = {"name": tool, "arguments": {"steps": 600, "seconds": 0.1}, "_meta": {"progressToken": "mine"}}
    asked = json.dumps({**body, "id": "long", "params": long})
    with raw.stream(second.origin, session_id, body=asked) as stream:
        told = [stream.next_message() for _ in range(3)]
        assert [each["params"]["progress"] for each in told] == [1, 2, 3]
        cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "long"}}
        assert raw.post(third.origin, json.dumps(cancelled), session_id=session_id)[0] == 202
        with pytest.raises(EOFError):
            for _ in range(100):
                stream.next_message()
    assert raw.post(third.origin, json.dumps(body), session_id=session_id)[0] == 200


def calls_at(place: fleet.Place, backend: str) -> int:
    """Posts that are under way at a backend, what processes listen to by themselves among them."""
    return sum(row["calls"] for member in place.members for row in member.backends() if row["name"] == backend)


def test_a_backend_that_asks_where_nobody_listens_is_told_so_at_once(place: fleet.Place) -> None:
    """The client takes no events, and has no stream open: the call goes on without its answer."""
    session_id = raw.initialize(place.members[0].origin, elicitation={}, sampling={})
    params = {"name": place.name("mcp2-sse", "elicit"), "arguments": {"message": "name?"}}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
    started = time.monotonic()
    status, headers, answer = raw.post(
        place.members[1].origin, body, session_id=session_id, headers={"Accept": "application/json"}
    )
    assert time.monotonic() - started < 15, "not the backend's own time limit"
    assert (status, headers["content-type"]) == (200, "application/json")
    assert b"no stream open" in answer, "the server tells its caller what it was told"


def test_a_forged_answer_reaches_no_backend(place: fleet.Place) -> None:
    """Ids of a backend's requests are sealed: what a client made up is dropped, and the call goes on."""
    with place.client("mcp1") as client:
        assert client.session_id is not None
        for forged in ("1", '"fp.AAAA"', '"fp.' + "A" * 80 + '"'):
            status = raw.post(
                place.members[0].origin,
                f'{{"jsonrpc":"2.0","id":{forged},"result":{{}}}}',
                session_id=client.session_id,
            )[0]
            assert status == 202
        assert client.call(place.name("mcp2-sse", "counter")).text == "1"


def test_an_ended_session_is_unknown_everywhere_and_its_legs_are_ended(place: fleet.Place) -> None:
    with place.client("mcp2", terminate=False) as client:
        session_id = client.session_id
        assert session_id is not None
        client.call(place.name("mcp2-sse", "counter"))
        leg = place.legs(session_id)["mcp2sse"]
        status, _, _ = raw.post(place.members[1].origin, None, session_id=session_id, method="DELETE")
        assert status == 204
        for member in place.members:
            fleet.await_that(
                lambda member=member: (
                    raw.post(member.origin, '{"jsonrpc":"2.0","id":1,"method":"ping"}', session_id=session_id)[0] == 404
                ),
                "it is unknown",
                2.0,
            )
        backend = place.backends["mcp2-sse"].origin
        fleet.await_that(
            lambda: raw.post(backend, '{"jsonrpc":"2.0","id":1,"method":"ping"}', session_id=leg)[0] == 404,
            "the backend has ended it",
        )


@pytest.mark.parametrize("sdk", ["mcp2", "ts2"])
def test_a_client_without_sessions_uses_every_backend_through_any_process(place: fleet.Place, sdk: str) -> None:
    """Its calls at a backend with sessions share one per process; a retry finds the process that waits."""
    with place.client(sdk, mode="2026-07-28") as client:
        assert client.protocol == "2026-07-28"
        names = {tool["name"] for tool in client.ask("list_tools")["tools"]}
        for kind in KINDS:
            assert place.name(kind, "echo") in names
            assert client.call(place.name(kind, "echo"), value=kind).text == f'"{kind}"'
        answer = client.call(place.name("mcp1-httpsse", "progress"), steps=2)
        assert [step["progress"] for step in answer.progress] == [1, 2]
        for number in range(4):
            asked = client.call(place.name("mcp1-httpsse", "sample"), prompt=f"say {number}")
            assert f"say {number}" in asked.text
            assert client.call(place.name("mcp1-httpsse", "elicit"), message="name?").text
