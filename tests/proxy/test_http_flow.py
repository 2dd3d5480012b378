"""Bytes on their way: as they are, many in little memory, held back where a reader stops, events without delay.

Real: the proxy's processes, both lanes, sockets on both sides; memory is the resident size of the proxy's process.
FASTPROXY_TEST_BODY_BYTES sets how much is streamed (1 GiB: 1073741824); the default is 256 MiB, since what is to be
shown is that memory does not depend on it.
"""

import asyncio
import os
import statistics
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, chunked, saying

BODY_BYTES = int(os.environ.get("FASTPROXY_TEST_BODY_BYTES", 256 << 20))
GROWTH_BYTES_MAX = 512 << 10
PIECE = b"0123456789abcdef" * 4096
STALLED_BYTES = 64 << 20  # more than the kernel's buffers hold on the way to a reader
UNREAD_BYTES = 256 << 20  # and than those on the way to a backend, and the 32 MiB of its own

# What a proxy that decodes and encodes again would not give back as it came.
JSON_BODIES = {
    "a number beyond 64 bits": b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"method":"x"}',
    "a number with many digits": b'{"id":1,"x":1.00000000000000000001e400,"y":-0.0,"z":1E+2}',
    "a name twice": b'{"id":1,"a":1,"a":2,"id":1}',
    "escapes": rb'{"id":"\u0041\/\ud83d\ude00","x":"\ud800"}',
    "raw unicode": '{"id":"é😀","ключ":"值"}'.encode(),
    "order and blanks": b' {\t"z" : 1 ,\r\n "a":[ ] }\n',
    "not UTF-8": b'{"id":1,"x":"\xff\xfe"}',
    "not JSON": b"\x00\x01 not json",
    "deep": b"[" * 5000 + b"]" * 5000,
}


@pytest.mark.parametrize("body", JSON_BODIES.values(), ids=JSON_BODIES.keys())
def test_a_body_passes_as_it_is_both_ways(lanes: Lanes, body: bytes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", told.JSON, request.body))

    def tell(lane: Lane) -> tuple[bytes, bytes]:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(body))
            answer = client.response().body
        return answer, lane.stage.requests[0].body

    assert lanes.tell(tell, fast=1) == (body, body)


def test_a_body_of_four_mib_passes_as_it_is_both_ways(lanes: Lanes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"x","params":{"text":"' + os.urandom(2 << 20).hex().encode() + b'"}}'

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", told.JSON, request.body))

    def tell(lane: Lane) -> bool:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(body))
            return client.response().body == body == lane.stage.requests[0].body

    assert lanes.tell(tell)


def test_an_event_of_more_than_a_mib_passes_whole(lanes: Lanes) -> None:
    event = b"event: message\ndata: " + os.urandom(1 << 20).hex().encode() + b"\n\n"
    answer = b"".join(chunked(event, b"data: next\n\n"))

    def tell(lane: Lane) -> bytes:
        lane.play(saying(answer))
        with lane.client() as client:
            client.send(lane.post())
            return client.response().body

    assert lanes.tell(tell, fast=1) == event + b"data: next\n\n"


# ---- more than memory holds


class Growth:
    """How much the proxy has grown since the block began, looked at all the while."""

    def __init__(self, lane: Lane) -> None:
        self._proxy = lane.proxy
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="growth")
        self.begin_bytes = 0
        self.most_bytes = 0

    def __enter__(self) -> "Growth":
        self.begin_bytes = self.most_bytes = self._proxy.resident_bytes
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            self.most_bytes = max(self.most_bytes, self._proxy.resident_bytes)

    @property
    def bytes(self) -> int:
        return self.most_bytes - self.begin_bytes


@pytest.fixture(scope="module")
def wide() -> Iterator[Lanes]:
    """Proxies without a bound on bodies that a test could reach."""
    with told.lanes("--max-body", "8GiB") as both:
        yield both


def drink(client: kit.RawClient, wanted: int) -> int:
    """Read so many bytes, unless the end comes first, and forget them."""
    seen = 0
    receive = client._socket.recv_into
    buffer = bytearray(1 << 20)
    while seen < wanted:
        got = receive(buffer, min(len(buffer), wanted - seen))
        if not got:
            break
        seen += got
    return seen


async def pour(connection: actors_wire.Connection, framing: str) -> None:
    """An answer of BODY_BYTES."""
    if await connection.read_request() is None:
        return
    if framing == "chunked":
        await connection.send(actors_message.format_response("200 OK", told.EVENTS))
        piece = actors_message.format_chunk(PIECE)
    else:
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % BODY_BYTES)
        piece = PIECE
    for _ in range(BODY_BYTES // len(PIECE)):
        await connection.send(piece)
    if framing == "chunked":
        await connection.send(actors_message.LAST_CHUNK)


@pytest.mark.parametrize("framing", ["counted", "chunked"])
def test_a_great_answer_streams_in_little_memory(wide: Lanes, framing: str) -> None:
    def tell(lane: Lane) -> bool:
        with lane.client() as client:  # what is allocated once is not what grows with the body
            client.send(lane.post(b"x" * 200_000))
            assert client.response().raw == told.OK
        lane.play(lambda connection: pour(connection, framing))
        with lane.client() as client, Growth(lane) as growth:
            client.send(lane.post())
            client.head()
            count = BODY_BYTES // len(PIECE)
            whole = count * len(actors_message.format_chunk(PIECE)) + 5 if framing == "chunked" else BODY_BYTES
            seen = len(client.buffer) + drink(client, whole - len(client.buffer))
        assert seen == whole
        assert growth.bytes < GROWTH_BYTES_MAX, f"{growth.bytes} bytes more"
        return True

    wide.tell(tell, fast=1)


@pytest.mark.parametrize("framing", ["counted", "chunked"])
def test_a_great_request_streams_in_little_memory(wide: Lanes, framing: str) -> None:
    got = [0]

    async def swallow(connection: actors_wire.Connection) -> None:
        head = await connection.read_head()
        if head is None:
            return
        tail = bytes(connection.received[-5:])
        got[0] = len(connection.received) - len(head)
        while got[0] < BODY_BYTES or (b"chunked" in head and not tail.endswith(b"0\r\n\r\n")):
            data = await connection.read_some()
            if not data:
                return
            got[0] += len(data)
            tail = (tail + data)[-5:]
            connection.received.clear()
        connection.received[:] = b"\r\n\r\n"
        await connection.send(told.OK)
        await connection.close()

    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.post(b"x" * 200_000))
            assert client.response().raw == told.OK
        lane.play(swallow)
        with lane.client() as client, Growth(lane) as growth:
            fields = {"Mcp-Session-Id": lane.session}
            if framing == "chunked":
                client.send(lane.plain("POST", "/mcp", {**fields, "Transfer-Encoding": "chunked"}))
                piece = actors_message.format_chunk(PIECE)
            else:
                client.send(lane.plain("POST", "/mcp", {**fields, "Content-Length": str(BODY_BYTES)}))
                piece = PIECE
            for _ in range(BODY_BYTES // len(PIECE)):
                client.send_more(piece)
            if framing == "chunked":
                client.send_more(actors_message.LAST_CHUNK)
            answer = client.response(seconds_max=60).raw
        assert got[0] >= BODY_BYTES
        assert growth.bytes < GROWTH_BYTES_MAX + (256 << 10), f"{growth.bytes} bytes more"  # --replay-body is kept
        return answer

    assert wide.tell(tell) == told.OK


@pytest.mark.parametrize("framing", ["counted", "chunked", "until the end"])
def test_a_reader_that_stops_costs_little_memory_and_nobody_else_waits(lanes: Lanes, framing: str) -> None:
    """The backend is held back; when the reader goes on, it gets every byte."""
    sent = [0]

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        if request.body != b"much":
            return await connection.send(told.OK)
        head = {"counted": f"Content-Length: {STALLED_BYTES}", "chunked": "Transfer-Encoding: chunked"}
        line = head.get(framing, "Connection: close")
        await connection.send(f"HTTP/1.1 200 OK\r\n{line}\r\n\r\n".encode())
        piece = actors_message.format_chunk(PIECE) if framing == "chunked" else PIECE
        sent[0] = 0
        for _ in range(STALLED_BYTES // len(PIECE)):
            await connection.send(piece)
            sent[0] += len(PIECE)
        if framing == "chunked":
            await connection.send(actors_message.LAST_CHUNK)
        if framing == "until the end":
            await connection.close()
        return None

    def tell(lane: Lane) -> int:
        lane.play(act)
        with lane.client(receive_buffer_bytes=65_536) as slow, Growth(lane) as growth:
            slow.send(lane.post(b"much"))
            slow.head()
            time.sleep(0.3)
            stopped_at = sent[0]
            with lane.client() as other:
                for _ in range(50):
                    other.send(lane.post())
                    assert other.response(seconds_max=1).raw == told.OK
            assert sent[0] == stopped_at < STALLED_BYTES
            assert growth.bytes < GROWTH_BYTES_MAX, f"{growth.bytes} bytes more"
            slow.send_more(lane.post())  # waits for its turn
            seen = len(slow.buffer) + drink(slow, STALLED_BYTES - len(slow.buffer))
            slow.buffer = b""
            slow.until(told.RESULT)
        assert seen >= STALLED_BYTES
        return growth.bytes < GROWTH_BYTES_MAX + (1 << 20)

    lanes.tell(tell)


def test_a_backend_that_stops_reading_holds_the_sender_back(wide: Lanes) -> None:
    go_on = threading.Event()

    async def act(connection: actors_wire.Connection) -> None:
        head = await connection.read_head()
        if head is None:
            return
        while not go_on.is_set():  # noqa: ASYNC110 (set by the test's own thread)
            await asyncio.sleep(0.005)
        request_bytes = len(head) + UNREAD_BYTES
        while len(connection.received) < request_bytes:
            if not await connection.read_some():
                return
        await connection.send(told.OK)

    def tell(lane: Lane) -> bytes:
        go_on.clear()
        lane.play(act)
        with lane.client() as client, Growth(lane) as growth:
            client.send(lane.plain("POST", "/mcp", {"Content-Length": str(UNREAD_BYTES)}))
            client._socket.setblocking(False)
            sent = 0
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                try:
                    sent += client._socket.send(PIECE)
                except BlockingIOError:
                    time.sleep(0.01)
            client._socket.setblocking(True)
            assert sent < UNREAD_BYTES
            go_on.set()
            while sent < UNREAD_BYTES:
                client.send_more(PIECE[: min(len(PIECE), UNREAD_BYTES - sent)])
                sent += min(len(PIECE), UNREAD_BYTES - sent)
            answer = client.response(seconds_max=30).raw
        assert growth.bytes < GROWTH_BYTES_MAX + (256 << 10), f"{growth.bytes} bytes more"
        return answer

    assert wide.tell(tell) == told.OK


# ---- events do not wait


@pytest.mark.parametrize("kind", ["a call", "a stream"])
def test_an_event_leaves_as_soon_as_it_has_come(lanes: Lanes, kind: str) -> None:
    """Half of 100 events take less than 2 ms from the backend's write to the client's read; a timer would show."""
    sent: list[float] = []

    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        await connection.send(actors_message.format_response("200 OK", told.EVENTS))
        for number in range(100):
            sent.append(time.monotonic())
            await connection.send(actors_message.format_chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.003)
        await connection.send(actors_message.LAST_CHUNK)

    def tell(lane: Lane) -> int:
        sent.clear()
        lane.play(act)
        delays = []
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": lane.session}
        with lane.client() as client:
            client.send(lane.post() if kind == "a call" else lane.plain("GET", "/mcp", fields))
            for number in range(100):
                client.until(b"data: %d\n\n" % number)
                delays.append(time.monotonic() - sent[number])
            client.until(b"0\r\n\r\n")
        assert statistics.median(delays) < 0.002, delays
        return len(delays)

    assert lanes.tell(tell, fast=1 if kind == "a call" else 0) == 100


def test_the_head_of_a_stream_leaves_before_its_first_event(lanes: Lanes) -> None:
    head, event, end = chunked(b"data: 1\n\n")

    def tell(lane: Lane) -> bytes:
        lane.play(saying(head, event, end, seconds=0.15))
        with lane.client() as client:
            client.send(lane.post())
            begin = time.monotonic()
            seen = client.head().raw
            assert time.monotonic() - begin < 0.1
            assert client.is_silent(0.02)
            client.until(end)
        return seen

    assert (
        lanes.tell(tell, fast=1)
        == b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )


# ---- answers that come early


@pytest.mark.parametrize("manner", ["reads on", "stops reading", "closes"])
def test_an_answer_that_comes_while_the_body_is_sent_is_seen(lanes: Lanes, manner: str) -> None:
    """A backend that refuses a body need not read it; its word reaches the client all the same."""
    refusal = actors_message.format_response("413 Content Too Large", {"Connection": "close"}, b"too much")

    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_head() is None:
            return
        await connection.send(refusal)
        if manner == "reads on":
            await connection.await_end()
        elif manner == "closes":
            await asyncio.sleep(0.05)
            await connection.close()
        else:
            await asyncio.sleep(1)

    def tell(lane: Lane) -> bytes:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.plain("POST", "/mcp", {"Content-Length": "6000000"}))
            for _ in range(60):
                client.send_more(b"x" * 100_000)
            return client.response().body

    assert lanes.tell(tell) == b"too much"
