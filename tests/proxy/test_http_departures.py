"""Who leaves when: clients of both eras in every moment of an exchange, backends just as they are asked.

Real: the proxy's processes, both lanes, sockets on both sides. The moment in which a backend closes a kept connection
while a request is on its way to it is made by freezing the proxy (SIGSTOP): client and backend act meanwhile, and it
finds both when it wakes up. The backend counts what it has executed: nothing may run twice.
"""

import asyncio
import json
import time
from collections.abc import Callable

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, chunked

RECOVERED = {**told.JSON, "Mcp-Session-Id": "recovered"}
MODERN = {"MCP-Protocol-Version": "2026-07-28"}
LEAVES: dict[str, Callable[[kit.RawClient], None]] = {"close": kit.RawClient.close, "reset": kit.RawClient.reset}


class Watcher:
    """A backend's act that says when a request has come, waits for a word, and keeps how the connection ended."""

    def __init__(self, answer: bytes = told.OK, *, begin: bytes = b"") -> None:
        self.begin = begin
        self.answer = answer
        self.came = 0
        self.answered = 0
        self.ended: list[str] = []
        self.ended_after_seconds = 0.0
        self.go_on = False

    async def __call__(self, connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        if request is None:
            return
        if b"initialize" in request.body:  # a recovery of the proxy's
            await connection.send(actors_message.format_response("200 OK", RECOVERED, told.INITIALIZED))
            return
        self.came += 1
        await connection.send(self.begin)
        watch = asyncio.create_task(connection.await_end(), name="watch")
        begin = time.monotonic()
        while not self.go_on and not watch.done():  # noqa: ASYNC110 (set by the test's own thread)
            await asyncio.sleep(0.002)
        if watch.done():
            self.ended.append(watch.result())
            self.ended_after_seconds = time.monotonic() - begin
            return
        watch.cancel()
        await asyncio.wait([watch])
        await connection.send(self.answer)
        self.answered += 1

    def await_request(self, count: int = 1) -> None:
        told.await_that(lambda: self.came >= count, f"{count} requests at the backend")


def leave(lane: Lane, request: bytes, watcher: Watcher, manner: Callable[[kit.RawClient], None]) -> None:
    """A client that sends a request and leaves once the backend has it (and the client what it begins with)."""
    lane.play(watcher)
    client = lane.client()
    client.send(request)
    watcher.await_request()
    if watcher.begin:
        client.until(watcher.begin[-8:])
    manner(client)
    client.close()


def assert_quiet(lane: Lane) -> None:
    told.await_that(lambda: lane.metric("fastproxy_requests_in_flight") == 0, "nothing is in flight")
    assert lane.metric("fastproxy_relay_faults_total") == 0


@pytest.mark.parametrize("manner", LEAVES.values(), ids=LEAVES.keys())
@pytest.mark.parametrize("begin", [b"", b"".join(chunked(b"data: 1\n\n")[:2])], ids=["silent", "within the answer"])
def test_the_work_of_a_legacy_call_goes_on_without_its_client(
    lanes: Lanes, manner: Callable[[kit.RawClient], None], begin: bytes
) -> None:
    """The answer is read to its end, and the connection is used again."""
    rest = b"".join(chunked(b"data: 1\n\n", b"data: 2\n\n" * 50_000)[2:])

    def tell(lane: Lane) -> tuple[int, int]:
        watcher = Watcher(rest if begin else told.OK, begin=begin)
        leave(lane, lane.post(), watcher, manner)
        time.sleep(0.05)
        watcher.go_on = True
        told.await_that(lambda: watcher.answered == 1, "the answer is out")
        assert_quiet(lane)
        lane.play(actors_wire.answering(told.OK))
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK
        assert watcher.ended == []
        return watcher.came, len(lane.stage.connections)

    assert lanes.tell(tell) == (1, 1)


def test_a_legacy_client_that_leaves_before_its_session_is_found_forgotten_costs_nothing(lanes: Lanes) -> None:
    """The backend answers 404; the session is opened anew, but nobody is left for whom the call could be repeated.

    Only a reset says that a client has gone for good: one that closes may have closed its own side alone.
    """

    def tell(lane: Lane) -> int:
        lane.open_session("2" * 32)
        watcher = Watcher(actors_message.format_response("404 Not Found", {}, b"{}"))
        leave(lane, lane.post(b"x" * 100_000), watcher, kit.RawClient.reset)
        time.sleep(0.05)
        watcher.go_on = True
        told.await_that(lambda: watcher.answered >= 1, "the answer is out")
        lane.play(actors_wire.answering(told.OK))
        assert_quiet(lane)
        with lane.client() as client:
            assert client.request("GET", "/health").raw == told.OK
        return watcher.came

    assert lanes.tell(tell) == 1


@pytest.mark.parametrize("manner", LEAVES.values(), ids=LEAVES.keys())
@pytest.mark.parametrize("begin", [b"", b"".join(chunked(b"data: 1\n\n")[:2])], ids=["silent", "streaming"])
@pytest.mark.parametrize("kind", ["a modern call", "a GET stream"])
def test_a_modern_call_and_a_get_stream_end_at_once_with_their_client(
    lanes: Lanes, manner: Callable[[kit.RawClient], None], begin: bytes, kind: str
) -> None:
    def tell(lane: Lane) -> list[str]:
        watcher = Watcher(begin=begin)
        if kind == "a modern call":
            request = lane.post(fields=MODERN)
        else:
            request = lane.plain("GET", "/mcp", {"Accept": "text/event-stream", "Mcp-Session-Id": lane.session})
        leave(lane, request, watcher, manner)
        told.await_that(lambda: len(watcher.ended) == 1, "the backend's end")
        assert watcher.ended_after_seconds < 1.0
        assert_quiet(lane)
        return watcher.ended

    assert lanes.tell(tell, fast=1 if kind == "a modern call" else 0) in (["client"], ["reset"])


@pytest.mark.parametrize("manner", LEAVES.values(), ids=LEAVES.keys())
@pytest.mark.parametrize("fields", [{}, MODERN], ids=["legacy", "modern"])
def test_a_client_that_leaves_within_its_body_is_forgotten(
    lanes: Lanes, manner: Callable[[kit.RawClient], None], fields: dict[str, str]
) -> None:
    """Whatever the backend got was not whole, so it can't have run."""

    def tell(lane: Lane) -> int:
        client = lane.client()
        client.send(lane.post(b"x" * 500_000, fields)[:300_000])
        told.await_that(lambda: any(len(c.received) > 200_000 for c in lane.stage.connections), "most of it")
        manner(client)
        client.close()
        told.await_that(lambda: all(c.ended_by for c in lane.stage.connections if c.received), "the backend's end")
        assert_quiet(lane)
        return len(lane.requests())

    assert lanes.tell(tell) == 0


def test_a_client_that_half_closes_after_a_call_gets_its_answer(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        watcher = Watcher()
        lane.play(watcher)
        with lane.client() as client:
            client.send(lane.post())
            client.half_close()
            watcher.await_request()
            time.sleep(0.05)
            watcher.go_on = True
            return client.rest()

    seen = lanes.tell(tell)
    assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
    assert seen.endswith(told.RESULT)


# ---- backends that close a kept connection just as they are asked


class Frozen:
    """The proxy sleeps while the others act, and finds the client's request and the backend's end together."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane

    def __enter__(self) -> None:
        self.lane.proxy.freeze()
        time.sleep(0.02)

    def __exit__(self, *exception: object) -> None:
        time.sleep(0.02)
        self.lane.proxy.thaw()


class Ending:
    """An act that answers once, then ends the connection in some manner when it is told to."""

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self.now = False
        self.done = False
        self.executed = 0
        self.late: list[bytes] = []

    async def __call__(self, connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        self.executed += 1
        await connection.send(told.OK)
        if self.executed > 1:
            return
        while not self.now:  # noqa: ASYNC110 (set by the test's own thread)
            await asyncio.sleep(0.002)
        if self.manner == "close":
            await connection.close()
        elif self.manner == "reset":
            await connection.reset()
        elif self.manner == "half-close":
            await connection.half_close()
        self.done = True
        if self.manner == "half-close":  # and reads on, as a server may that ends in its own time
            while piece := await connection.read_some():
                self.late.append(piece)


@pytest.mark.parametrize("length", [60, 200_000], ids=["small", "large"])
def test_a_request_that_met_a_closing_connection_is_sent_again(lanes: Lanes, length: int) -> None:
    """Nobody can have run it: the connection was closed before it came."""

    def tell(lane: Lane) -> tuple[bytes, int, int]:
        act = Ending("close")
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK
            with Frozen(lane):
                client.send(
                    lane.post(b"x" * length)
                )  # first in the proxy's queue, so the fast lane takes the connection
                time.sleep(0.02)
                act.now = True
                told.await_that(lambda: act.done, "the backend has closed")
            answer = client.response().raw
        return answer, act.executed, len(lane.stage.connections)

    assert lanes.tell(tell, fast=2 if length == 60 else 1) == (told.OK, 2, 2)


@pytest.mark.parametrize("manner", ["half-close", "reset"])
def test_a_request_on_a_connection_that_ends_without_proof_may_have_run(lanes: Lanes, manner: str) -> None:
    """Half-closed: the backend reads on, and has the request. Reset: who can say what it had read before?

    Told on the fast lane alone: the story looks at a connection after the backend's end has come to it.
    """
    lane = lanes.fast
    lane.begin()
    act = Ending(manner)
    lane.play(act)
    with lane.client() as client:
        client.send(lane.post())
        assert client.response().raw == told.OK
        before = lane.fast_requests
        with Frozen(lane):
            client.send(lane.post())
            time.sleep(0.02)
            act.now = True
            told.await_that(lambda: act.done, "the backend has ended")
        answer = client.response()
    assert lane.fast_requests == before + 1
    if manner == "half-close":
        assert answer.json()["error"]["data"] == {"reason": "backend_lost", "may_have_run": True}
        told.await_that(lambda: bool(act.late), "the request at the backend")
        assert act.late[0].startswith(b"POST /mcp")
        assert act.executed == 1
    else:  # the reset was here before the request left: not a byte of it has been sent
        assert answer.raw == told.OK
        assert act.executed == 2


@pytest.mark.parametrize("manner", ["close", "reset", "cut in the head"])
def test_a_backend_that_goes_with_the_request_may_have_run_it(lanes: Lanes, manner: str) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        if manner == "reset":
            await connection.reset()
        elif manner == "cut in the head":
            await connection.send(b"HTTP/1.1 200 OK\r\nContent-Le")
        await connection.close()

    def tell(lane: Lane) -> tuple[int, object, int]:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post())
            answer = client.response()
            lane.play(actors_wire.answering(told.OK))
            client.send(lane.post())
            assert client.response().raw == told.OK
        return answer.status, json.loads(answer.body)["error"]["data"], len(lane.requests())

    reason = "backend_protocol_error" if manner == "cut in the head" else "backend_lost"
    assert lanes.tell(tell, fast=1) == (200, {"reason": reason, "may_have_run": True}, 2)


@pytest.mark.parametrize("manner", ["close", "reset"])
@pytest.mark.parametrize("framing", ["counted", "chunked", "inspected"])
def test_an_answer_that_is_cut_off_is_seen_to_be_cut_off(lanes: Lanes, manner: str, framing: str) -> None:
    """`inspected`: a 400 whose body the proxy looks into before it lets it pass."""
    fields = {"Content-Length": "100"} if framing != "chunked" else {"Transfer-Encoding": "chunked"}
    status = "400 Bad Request" if framing == "inspected" else "200 OK"
    begin = actors_message.format_response(status, fields, b"" if framing == "chunked" else b'{"jso')
    begin += b'5\r\n{"jso' if framing == "chunked" else b""

    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        await connection.send(begin)
        await asyncio.sleep(0.02)
        await (connection.reset() if manner == "reset" else connection.close())

    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK  # the session is known to the backend
            lane.stage.hang_up()
            lane.play(act)
            client.send(lane.post())
            return client.response().raw if framing == "inspected" else client.rest()

    seen = lanes.tell(tell)
    if framing == "inspected":
        assert b'"reason":"backend_lost"' in seen
    else:
        assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
        assert actors_message.take(seen, answers="POST") is None
