"""2026-07-28 on both lanes: the same bytes to the replicas, the same bytes to the client, the same replica chosen.

Real: two running proxies, one without the fast lane, and sockets on both sides (lanes.py). The second replica of those
with two is the first under another name: the Host that it gets tells which of them was asked. How states and tasks find
their way through several proxies is tests/proxy/test_stateless_keys.py's.
"""

import asyncio
import gzip
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, chunked, saying

MODERN = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": "echo"}
STATE = b'{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required","requestState":"sealed-7"}}'
ASK_AGAIN = b'{"jsonrpc":"2.0","id":2,"method":"tools/call","params":{"name":"echo","requestState":"sealed-7"}}'
EVENT = b"event: message\r\ndata: %s\r\n\r\n"
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}'


@pytest.fixture(scope="module")
def pair() -> Iterator[Lanes]:
    """Both lanes, each in front of two replicas."""
    with told.Stage() as stage:
        replicas = [stage.origin, f"http://localhost:{stage.port}"]
        with (
            kit.proxies(backends=replicas, flags=told.QUIET) as (fast,),
            kit.proxies(backends=replicas, flags=[*told.QUIET, "--no-fast-lane"]) as (story,),
        ):
            yield Lanes(Lane(fast, stage), Lane(story, stage))


def warm(lane: Lane) -> None:
    """An idle connection to each of two replicas, which take turns."""
    lane.connect()
    lane.connect()


def hosts(lane: Lane) -> list[str | None]:
    """Which replica was asked, request by request, in the order in which they came."""
    return [request.field("Host") for request in lane.stage.requests]


ANSWERS = {
    "json": told.OK,
    "an id of its own": actors_message.format_response("200 OK", {**told.JSON, "Mcp-Session-Id": "x"}, told.RESULT),
    "accepted": actors_message.format_response("202 Accepted", {}, b""),
    "nothing": b"HTTP/1.1 204 No Content\r\n\r\n",
    "not found": actors_message.format_response("404 Not Found", {**told.JSON, "Mcp-Session-Id": "x"}, told.RESULT),
    "refused": actors_message.format_response("400 Bad Request", {**told.JSON, "Mcp-Session-Id": "x"}, told.RESULT),
    "a fault": actors_message.format_response("500 Internal Server Error", told.JSON, b"{}"),
    "events": b"".join(chunked(EVENT % PROGRESS, EVENT % told.RESULT)),
    "events in odd chunks": b"".join(chunked(b"data: ", b"1\n\nda", b"ta: 2\n\n: c\n\n", trailers=b"X-End: 1\r\n")),
    "a state": actors_message.format_response("200 OK", told.JSON, STATE),
    "a state in events": b"".join(chunked(EVENT % PROGRESS, EVENT % STATE)),
    "compressed": actors_message.format_response(
        "200 OK", {**told.JSON, "Content-Encoding": "gzip"}, gzip.compress(STATE, mtime=0)
    ),
}


@pytest.mark.parametrize("several", [False, True], ids=["one replica", "two replicas"])
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
def test_a_plain_call_is_the_same_on_both_lanes(lanes: Lanes, pair: Lanes, answer: bytes, several: bool) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        warm(lane)
        lane.play(saying(answer))
        with lane.client() as client:
            client.send(lane.post(fields=MODERN))
            seen = client.response().raw
        return seen, lane.requests()

    seen, (request,) = (pair if several else lanes).tell(tell, fast=1)
    assert b"mcp-session-id" not in request.lower()
    assert (b"Mcp-Session-Id: x" in seen) == (answer is ANSWERS["an id of its own"])


REQUESTS: dict[
    str, tuple[dict[str, str], bytes, int, int]
] = {  # fields, body, how many go fast: alone, of two replicas
    "a list": ({"Mcp-Method": "tools/list"}, b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}', 1, 1),
    "a method that nobody knows": ({"Mcp-Method": "x/y"}, told.CALL, 1, 1),
    "a version that nobody knows": ({"MCP-Protocol-Version": "2030-01-01"}, told.CALL, 1, 1),
    "a word in a list": ({"Mcp-Method": "tools/list"}, ASK_AGAIN, 1, 1),
    "a state": ({}, ASK_AGAIN, 1, 0),
    "a task": ({"Mcp-Method": "tasks/get", "Mcp-Name": "t-1"}, told.CALL, 1, 0),
    "an origin": ({"Origin": "http://localhost"}, told.CALL, 0, 0),
    "not JSON": ({}, b"\x00\x01", 1, 1),
}


@pytest.mark.parametrize("several", [False, True], ids=["one replica", "two replicas"])
@pytest.mark.parametrize("case", REQUESTS.values(), ids=REQUESTS.keys())
def test_what_ties_a_request_to_a_replica_is_the_storys(
    lanes: Lanes, pair: Lanes, case: tuple[dict[str, str], bytes, int, int], several: bool
) -> None:
    fields, body, alone, of_two = case

    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        warm(lane)
        with lane.client() as client:
            client.send(lane.post(body, {**MODERN, **fields}))
            return client.response().raw, lane.requests()

    (pair if several else lanes).tell(tell, fast=of_two if several else alone)


def test_a_method_without_its_header_is_searched_all_the_same(pair: Lanes) -> None:
    def tell(lane: Lane) -> list[bytes]:
        warm(lane)
        with lane.client() as client:
            for body in (told.CALL, ASK_AGAIN):
                client.send(lane.post(body, {"MCP-Protocol-Version": "2026-07-28"}))
                client.response()
        return sorted(lane.requests())

    pair.tell(tell, fast=1)


def test_equals_take_turns_on_both_lanes(pair: Lanes) -> None:
    def tell(lane: Lane) -> list[str | None]:
        warm(lane)
        asked = []
        with lane.client() as client:
            for _ in range(6):
                client.send(lane.post(fields=MODERN))
                client.response()
                asked.append(sorted(str(host) for host in hosts(lane)))
        counts: list[str | None] = [str(line) for line in asked]
        return counts

    pair.tell(tell, fast=6)


def test_the_busier_replica_is_not_asked(pair: Lanes) -> None:
    """Of two calls at once each replica gets one, whosever turn it is."""
    go_on = asyncio.Event()

    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        await asyncio.wait_for(go_on.wait(), 10)
        await connection.send(told.OK)

    def tell(lane: Lane) -> set[str | None]:
        warm(lane)
        go_on.clear()
        lane.play(act)
        with lane.client() as one, lane.client() as other:
            one.send(lane.post(fields=MODERN))
            lane.stage.await_requests(1)
            other.send(lane.post(fields=MODERN))
            lane.stage.await_requests(2)
            found = set(hosts(lane))
            assert lane.stage._loop is not None
            lane.stage._loop.call_soon_threadsafe(go_on.set)
            one.response()
            other.response()
        return found

    assert len(pair.tell(tell, fast=2)) == 2


@pytest.mark.parametrize("manner", ["json", "events", "compressed"])
def test_a_state_that_the_fast_lane_has_seen_leads_back(pair: Lanes, manner: str) -> None:
    """It is remembered before the client can read it, and found on the story's way back."""
    answer = ANSWERS[{"json": "a state", "events": "a state in events"}.get(manner, manner)]

    def tell(lane: Lane) -> list[int]:
        places = []
        with lane.client() as client:
            for _ in range(3):
                warm(lane)
                for connection in lane.stage.connections:
                    connection.requests.clear()
                lane.play(saying(answer))
                client.send(lane.post(fields=MODERN))
                assert client.response().status == 200
                lane.play(saying(told.OK))
                for _ in range(2):
                    client.send(lane.post(ASK_AGAIN, MODERN))
                    assert client.response().raw == told.OK
                places.append(len(set(hosts(lane))))
        return places

    assert pair.tell(tell, fast=3) == [1, 1, 1], "all three went to one replica, each time"


def test_a_body_that_comes_later_is_awaited_before_anybody_is_asked(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        warm(lane)
        whole = lane.post(fields=MODERN)
        with lane.client() as client:
            client.send(whole[:-10])
            assert client.is_silent(0.05)
            assert lane.stage.requests == []
            client.send_more(whole[-10:])
            return client.response().raw, lane.requests()

    assert lanes.tell(tell, fast=1)[0] == told.OK


def test_a_client_that_leaves_ends_the_backends_work(lanes: Lanes) -> None:
    """There is no session in which the answer could be fetched later (transports, 2026-07-28)."""
    ends: list[str] = []

    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        ends.append(await connection.await_end())

    def tell(lane: Lane) -> int:
        ends.clear()
        warm(lane)
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(fields=MODERN))
            lane.stage.await_requests(1)
        told.await_that(lambda: bool(ends), "the backend sees the end")
        return len(ends)

    assert lanes.tell(tell, fast=1) == 1


@pytest.mark.parametrize("several", [False, True], ids=["one replica", "two replicas"])
def test_a_replica_that_drops_the_call_is_not_asked_twice(lanes: Lanes, pair: Lanes, several: bool) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        await connection.reset()

    def tell(lane: Lane) -> tuple[bytes, int]:
        warm(lane)
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(fields=MODERN))
            return client.response().raw, len(lane.stage.requests)

    seen, count = (pair if several else lanes).tell(tell, fast=1)
    assert count == 1
    assert b"may_have_run" in seen


def test_a_replica_that_is_down_is_left_out_until_it_is_back(pair: Lanes) -> None:
    """Nobody listens any more: the lane's own connections are dead, and the story finds out about the rest."""

    def tell(lane: Lane) -> tuple[bytes, bytes]:
        warm(lane)
        lane.stage.hang_up()
        time.sleep(0.05)
        with lane.client() as client:
            client.send(lane.post(fields=MODERN))
            first = client.response().raw
            warm(lane)
            client.send(lane.post(fields=MODERN))
            return first, client.response().raw

    assert pair.tell(tell) == (told.OK, told.OK)
