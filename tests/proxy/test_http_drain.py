"""How a proxy ends: what SIGTERM stops at once, what it lets finish, where a stream is cut, and with which exit code.

Real: one proxy per test with short drain times, a scripted backend, sockets, signals.
"""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, chunked

EVENT = b"event: message\ndata: {}\n\n"
STREAM = {"Accept": "text/event-stream"}


@contextlib.contextmanager
def draining(delay: str = "100ms", timeout: str = "10s", *flags: str) -> Iterator[Lane]:
    """A proxy of a session, ready to be told to end."""
    given = [*told.QUIET, "--drain-delay", delay, "--drain-timeout", timeout, *flags]
    with told.Stage() as stage, kit.proxies(backends=[stage], flags=given) as [proxy]:
        lane = Lane(proxy, stage)
        lane.open_session(told.SESSION)
        yield lane


class Held:
    """An act that sends a first part, and the rest when it is told to."""

    def __init__(self, first: bytes, rest: bytes = b"", *, end: bool = False) -> None:
        self.first = first
        self.rest = rest
        self.end = end
        self.came = threading.Event()
        self.go_on = threading.Event()

    async def __call__(self, connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        await connection.send(self.first)
        self.came.set()
        while not self.go_on.is_set():
            if connection.ended_by:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.01):
                    await connection.read_some()
        await connection.send(self.rest)
        if self.end:
            await connection.close()


def begin(lane: Lane, client: kit.RawClient, act: Held, request: bytes) -> None:
    lane.play(act)
    client.send(request)
    assert act.came.wait(5)


def refuses_connections(lane: Lane) -> bool:
    host, port = lane.proxy.origin.removeprefix("http://").split(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_an_idle_proxy_ends_after_the_delay_with_0() -> None:
    with draining("300ms") as lane, lane.client() as idle:
        idle.send(lane.post())
        assert idle.response().raw == told.OK
        begin_seconds = time.monotonic()
        lane.proxy.signal(signal.SIGTERM)
        told.await_that(lambda: lane.proxy.readiness()[0] == 503, "readiness says so", seconds_max=0.25)
        with lane.client() as late:  # for the delay all goes on
            late.send(lane.post())
            assert late.response().raw == told.OK
        assert idle.rest() == b""
        assert lane.proxy.wait(5) == 0
        assert 0.25 < time.monotonic() - begin_seconds < 3  # it may have been asked once more on its idle connection


@pytest.mark.parametrize("manner", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_finishes_and_its_connection_closes(manner: signal.Signals) -> None:
    with draining() as lane, lane.client() as client:
        act = Held(b"", told.OK)
        begin(lane, client, act, lane.post())
        lane.proxy.signal(manner)
        told.await_that(lambda: refuses_connections(lane), "no new connections")
        assert lane.proxy.alive
        act.go_on.set()
        assert client.rest() == told.OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        assert lane.proxy.wait(5) == 0


def test_a_large_answer_to_a_slow_reader_finishes() -> None:
    """The exchange is over when its last piece is in our buffer; the process may not be over before it is sent."""
    body = b"0123456789abcdef" * (4 << 16)
    with draining() as lane, lane.client(receive_buffer_bytes=16_384) as client:
        act = Held(b"", actors_message.format_response("200 OK", {}, body))
        begin(lane, client, act, lane.post())
        lane.proxy.signal(signal.SIGTERM)
        told.await_that(lambda: refuses_connections(lane), "no new connections")
        act.go_on.set()
        time.sleep(0.3)
        seen = b""
        while not seen.endswith(b"\r\n\r\n" + body):
            piece = client._socket.recv(30_000)
            assert piece, f"cut off after {len(seen)} bytes"
            seen += piece
            time.sleep(0.001)
        assert lane.proxy.wait(5) == 0


def test_a_request_on_a_connection_that_lives_is_served_with_close() -> None:
    """A head that was on its way when the drain began."""
    with draining() as lane, lane.client() as client, lane.client() as other:
        client.send(lane.post()[:40])
        act = Held(b"", told.OK)
        begin(lane, other, act, lane.post())
        lane.proxy.signal(signal.SIGTERM)
        told.await_that(lambda: refuses_connections(lane), "no new connections")
        lane.play(told.saying(told.OK))
        client.send_more(lane.post()[40:])
        assert client.rest() == told.OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        act.go_on.set()
        assert other.rest().endswith(told.RESULT)
        assert lane.proxy.wait(5) == 0


def test_an_idle_connection_is_served_once_more_and_told_to_close() -> None:
    """Closed at once, it would take a request with it that is on its way."""
    with draining() as lane, lane.client() as first, lane.client() as second:
        for client in (first, second):
            client.send(lane.post())
            assert client.response().raw == told.OK
        lane.proxy.signal(signal.SIGTERM)
        told.await_that(lambda: refuses_connections(lane), "no new connections")
        first.send(lane.post())
        assert first.rest() == told.OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
        assert second.rest() == b"", "in the end it is closed"
        assert lane.proxy.wait(5) == 0


@pytest.mark.parametrize("lane_flag", [(), ("--no-fast-lane",)], ids=["fast lane", "story"])
def test_a_call_that_is_answered_by_a_stream_after_the_drain_has_begun_has_its_answer(
    lane_flag: tuple[str, ...],
) -> None:
    """Progress first, then the result: nothing of it is cut, as of a stream that is only listened to."""
    with draining("100ms", "10s", *lane_flag) as lane, lane.client() as client:
        act = Held(b"", EVENTS_HEAD + EVENTS_ONE + EVENTS_ONE + actors_message.LAST_CHUNK)
        begin(lane, client, act, lane.post())
        lane.proxy.signal(signal.SIGTERM)
        told.await_that(lambda: refuses_connections(lane), "no new connections")
        time.sleep(0.2)
        act.go_on.set()
        whole = actors_message.take(client.rest(), answers="POST")
        assert whole is not None and whole.body == EVENT + EVENT
        assert lane.proxy.wait(5) == 0


def test_a_call_whose_client_has_left_finishes() -> None:
    """Its client does not wait for it any more, but what it does at the backend is not to be cut off."""
    with draining() as lane:
        client = lane.client()
        act = Held(b"", told.OK)
        begin(lane, client, act, lane.post())
        client.reset()
        lane.proxy.signal(signal.SIGTERM)
        time.sleep(0.5)
        assert lane.proxy.alive
        assert [connection.ended_by for connection in lane.stage.connections] == [None]
        act.go_on.set()
        assert lane.proxy.wait(5) == 0


def test_whom_the_kernel_has_accepted_is_served() -> None:
    """Their requests lie in the backlog of a socket that is about to be closed."""
    with draining("150ms") as lane:
        lane.proxy.signal(signal.SIGTERM)
        time.sleep(0.05)
        lane.proxy.freeze()
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(lane.client()) for _ in range(100)]
            for client in clients:
                client.send(lane.post())
            time.sleep(0.2)  # by now the listening socket should have been closed
            lane.proxy.thaw()
            closing = told.OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
            assert {client.rest() for client in clients} <= {told.OK, closing}
        assert lane.proxy.wait(5) == 0


def test_a_second_signal_ends_at_once_with_1() -> None:
    with draining("5s") as lane, lane.client() as client:
        begin(lane, client, Held(b"", told.OK), lane.post())
        lane.proxy.signal(signal.SIGTERM)
        time.sleep(0.2)
        assert lane.proxy.alive
        begin_seconds = time.monotonic()
        lane.proxy.signal(signal.SIGTERM)
        assert lane.proxy.wait(5) == 1
        assert time.monotonic() - begin_seconds < 1.5


def test_a_call_that_outlasts_the_timeout_is_cut() -> None:
    with draining("0s", "500ms") as lane, lane.client() as client:
        begin(lane, client, Held(b"", told.OK), lane.post())
        begin_seconds = time.monotonic()
        lane.proxy.signal(signal.SIGTERM)
        assert lane.proxy.wait(5) == 0
        assert time.monotonic() - begin_seconds < 3
        assert client.rest() == b""


def test_the_admin_can_drain_too() -> None:
    with draining("300ms") as lane:
        assert lane.proxy.drain() in (200, 202, 204)
        assert lane.proxy.wait(5) == 0


# ---- streams

EVENTS_HEAD, EVENTS_ONE, _ = chunked(EVENT)
UNTIL_END = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


def halves(chunk: bytes) -> list[bytes]:
    """The event in two chunks."""
    middle = len(EVENT) // 2
    return [actors_message.format_chunk(EVENT[:middle]), actors_message.format_chunk(EVENT[middle:])]


FIRST_PARTS = {
    "after an event": (EVENTS_HEAD + EVENTS_ONE, b""),
    "before the first event": (EVENTS_HEAD, b""),
    "after an event of many chunks": (
        EVENTS_HEAD + b"".join(actors_message.format_chunk(EVENT[at : at + 1]) for at in range(len(EVENT))),
        b"",
    ),
    "within an event": (EVENTS_HEAD + halves(EVENT)[0], halves(EVENT)[1]),
    "within a chunk": (EVENTS_HEAD + EVENTS_ONE[:9], EVENTS_ONE[9:]),
    "within the size of a chunk": (EVENTS_HEAD + EVENTS_ONE + EVENTS_ONE[:1], EVENTS_ONE[1:]),
    "within the end of a chunk": (EVENTS_HEAD + EVENTS_ONE[:-1], EVENTS_ONE[-1:]),
    "within an event of a stream until the end": (UNTIL_END + EVENT + EVENT[:5], EVENT[5:]),
    "after an event of a stream until the end": (UNTIL_END + EVENT, b""),
    "events that end with carriage returns": (
        EVENTS_HEAD + actors_message.format_chunk(b"data: 1\r\n\r\ndata: 2\r\n"),
        actors_message.format_chunk(b"\r\n"),
    ),
    "two events and the beginning of a third": (
        EVENTS_HEAD + actors_message.format_chunk(EVENT + EVENT + EVENT[:4]),
        actors_message.format_chunk(EVENT[4:]),
    ),
}


@pytest.mark.parametrize("kind", ["GET", "POST"], ids=["a stream", "a call on the fast lane"])
@pytest.mark.parametrize(("first", "rest"), FIRST_PARTS.values(), ids=FIRST_PARTS.keys())
def test_a_stream_ends_after_a_whole_event(first: bytes, rest: bytes, kind: str) -> None:
    """With its final chunk; what the backend still says of the event under way is waited for."""
    with draining("50ms", "10s" if kind == "GET" else "300ms") as lane, lane.client() as client:
        act = Held(first, rest)
        fields = {**STREAM, "Mcp-Session-Id": lane.session}
        begin(lane, client, act, lane.plain("GET", "/mcp", fields) if kind == "GET" else lane.post())
        head = client.head()
        assert head.all("transfer-encoding") == ["chunked"]
        begin_seconds = time.monotonic()
        lane.proxy.signal(signal.SIGTERM)
        if rest:
            time.sleep(0.1 if kind == "GET" else 0.4)
            assert lane.proxy.alive
            act.go_on.set()
        seen = client.rest()
        whole = actors_message.take(head.raw + seen, answers="GET")
        assert whole is not None, f"not ended cleanly: {seen!r}"
        assert len(whole.raw) == len(head.raw + seen)
        assert whole.body == b"" or whole.body.endswith((b"\n\n", b"\r\n\r\n"))
        assert lane.proxy.wait(5) == 0
        assert time.monotonic() - begin_seconds < 2.5


def test_a_stream_that_goes_on_talking_is_cut_between_two_events() -> None:
    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        await connection.send(EVENTS_HEAD)
        for number in range(5000):
            event = b"data: %d " % number + b"x" * (number * 37 % 5000) + b"\n\n"
            await connection.drip(actors_message.format_chunk(event), piece_bytes=700, seconds=0.0005)

    with draining("50ms", "400ms") as lane, lane.client() as client:
        lane.play(act)
        client.send(lane.post())
        head = client.head()
        lane.proxy.signal(signal.SIGTERM)
        seen = client.rest()
        whole = actors_message.take(head.raw + seen, answers="GET")
        assert whole is not None
        assert whole.body.endswith(b"\n\n")
        numbers = [int(line.split(b" ")[1]) for line in whole.body.split(b"\n\n") if line]
        assert numbers == list(range(len(numbers)))
        assert lane.proxy.wait(5) == 0


def test_a_stream_to_a_client_of_http_1_0_ends_after_a_whole_event() -> None:
    with draining("50ms", "10s") as lane, lane.client() as client:
        act = Held(EVENTS_HEAD + EVENTS_ONE + halves(EVENT)[0], halves(EVENT)[1])
        request = lane.plain("GET", "/mcp", {**STREAM, "Mcp-Session-Id": lane.session})
        begin(lane, client, act, request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        lane.proxy.signal(signal.SIGTERM)
        time.sleep(0.15)
        act.go_on.set()
        assert client.rest().partition(b"\r\n\r\n")[2] == EVENT + EVENT
        assert lane.proxy.wait(5) == 0


def test_a_reader_that_has_stopped_does_not_keep_the_process() -> None:
    with draining("0s", "300ms") as lane, lane.client(receive_buffer_bytes=4096) as client:
        act = Held(EVENTS_HEAD + EVENTS_ONE * 200_000)
        lane.play(act)
        client.send(lane.post())
        client.head()
        time.sleep(0.2)
        lane.proxy.signal(signal.SIGTERM)
        assert lane.proxy.wait(4) == 0
