"""How messages are framed on both sides: lengths, chunks and trailers, answers without a body, until the end, HTTP/1.0.

Real: the proxy's process on loopback, once with the fast lane and once without, and sockets on both sides that speak
the bytes given here. What a client sees and what a backend sees is compared byte for byte between the lanes.
"""

import asyncio

import pytest

from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, chunked, saying

EVENT = b'data: {"jsonrpc":"2.0","id":1,"result":{}}\n\n'


def forwarded(head: str, *, lane: Lane | None = None) -> bytes:
    """The lines that the proxy puts behind a request's own."""
    return (
        f"{head}X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: {told.HOST}\r\nX-Forwarded-Proto: http\r\n"
        f'Forwarded: for=127.0.0.1;host="{told.HOST}";proto=http\r\n'
    ).encode()


def test_a_small_call_passes_byte_for_byte_on_both_lanes(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        with lane.client() as client:
            client.send(lane.post(fields={"X-Own": "kept as  it is", "Accept": "*/*"}))
            return client.response().raw, lane.requests()

    answer, requests = lanes.tell(tell, fast=1)
    assert answer == told.OK
    head = (
        f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{lanes.fast.stage.port}\r\nMcp-Session-Id: {told.SESSION}\r\n"
        "Content-Type: application/json\r\nX-Own: kept as  it is\r\nAccept: */*\r\n"
    )
    # Content-Length comes first in what the client sends, so it does in what the backend gets.
    lines = head.replace("Mcp-Session-Id", f"Content-Length: {len(told.CALL)}\r\nMcp-Session-Id", 1)
    assert requests == [forwarded(lines) + b"\r\n" + told.CALL]


def test_many_requests_use_one_connection_on_each_side(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[list[bytes], int]:
        with lane.client() as client:
            answers = []
            for _ in range(20):
                client.send(lane.post())
                answers.append(client.response().raw)
        return answers, len(lane.stage.connections)

    answers, connections = lanes.tell(tell, fast=20)
    assert answers == [told.OK] * 20
    assert connections == 1


def test_pipelined_requests_are_answered_in_their_order(lanes: Lanes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await asyncio.sleep(0.02 if request.body.endswith(b"0}") else 0)
        await connection.send(actors_message.format_response("200 OK", {}, request.body))

    bodies = [b'{"jsonrpc":"2.0","method":"ping","id":%d}' % number for number in range(30)]

    def tell(lane: Lane) -> list[bytes]:
        lane.play(act)
        with lane.client() as client:
            client.send(b"".join(lane.post(body) for body in bodies))
            return [client.response().body for _ in bodies]

    assert lanes.tell(tell, fast=30) == bodies


def test_pipelined_requests_of_different_kinds_keep_their_order(lanes: Lanes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", {"X-Method": request.method}, request.body))

    def tell(lane: Lane) -> list[tuple[int, bytes]]:
        lane.play(act)
        with lane.client() as client:
            client.send(
                lane.post(b'{"a":1}')
                + lane.plain("GET", "/health")
                + lane.post(b"x" * 70_000)
                + lane.plain("POST", "/mcp", {"Transfer-Encoding": "chunked", "Mcp-Session-Id": "unknown"})
                + b"3\r\nabc\r\n0\r\n\r\n"
                + lane.post(b'{"b":2}')
            )
            answers = [client.response() for _ in range(5)]
        return [(answer.status, answer.body[:8]) for answer in answers]

    answers = lanes.tell(tell, fast=2)
    assert [status for status, _ in answers] == [200, 200, 200, 404, 200]
    assert [body for _, body in answers] == [b'{"a":1}', b"", b"x" * 8, b'{"jsonrp', b'{"b":2}']


@pytest.mark.parametrize("length", [1, 8_192, 8_193, 16_000, 16_384, 16_385, 65_535, 65_536, 65_537, 300_000])
def test_a_body_of_any_length_passes_whole_both_ways(lanes: Lanes, length: int) -> None:
    body = (b"0123456789" * (length // 10 + 1))[:length]

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await connection.send(actors_message.format_response("200 OK", {}, request.body))

    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.post(body))
            client.send(lane.post(b"{}"))
            return client.response().raw + client.response().raw, lane.requests()

    answers, requests = lanes.tell(tell)
    assert answers == actors_message.format_response("200 OK", {}, body) + actors_message.format_response(
        "200 OK", {}, b"{}"
    )
    assert requests[0].endswith(b"\r\n\r\n" + body)


def test_a_chunked_request_keeps_its_trailers_and_loses_its_chunk_sizes(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        with lane.client() as client:
            head = lane.plain("POST", "/mcp", {"Mcp-Session-Id": told.SESSION, "Transfer-Encoding": "chunked"})
            chunks = b'2;note=x\r\n{"\r\n5\r\na":1}\r\n0\r\nX-Checksum: 1\r\nContent-Length: 9\r\nHost: evil\r\n\r\n'
            client.send(head + chunks)
            return client.response().raw, lane.requests()

    answer, requests = lanes.tell(tell, fast=0)
    assert answer == told.OK
    message = actors_message.take(requests[0])
    assert message is not None
    assert message.body == b'{"a":1}'
    assert message.trailers == [("x-checksum", "1")]  # what frames or routes may not come late
    assert message.all("transfer-encoding") == ["chunked"]
    assert message.all("content-length") == []


def test_a_chunked_answer_passes_with_its_chunks_and_trailers(lanes: Lanes) -> None:
    pieces = chunked(EVENT, EVENT * 3, trailers=b"X-Checksum: 1\r\n")

    def tell(lane: Lane) -> bytes:
        lane.play(saying(b"".join(pieces)))
        with lane.client() as client:
            client.send(lane.post() * 2)
            return client.response().raw + client.response().raw

    answers = lanes.tell(tell, fast=2)
    message = actors_message.take(answers, answers="POST")
    assert message is not None
    assert message.body == EVENT * 4
    assert message.trailers == [("x-checksum", "1")]
    assert answers == message.raw * 2


CHUNKED_ANSWER = b"".join(chunked(b"data: 1\n\n", b"data: two\r\n\r\n", trailers=b"X-End: yes\r\n"))
COUNTED_ANSWER = actors_message.format_response("200 OK", {**told.JSON, "X-Own": "1"}, told.RESULT)


@pytest.mark.parametrize("answer", [CHUNKED_ANSWER, COUNTED_ANSWER], ids=["chunked", "counted"])
def test_an_answer_cut_at_every_byte_is_the_same_answer(lanes: Lanes, answer: bytes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        cut = int(request.body)
        await connection.send(answer[:cut])
        await asyncio.sleep(0.001)
        await connection.send(answer[cut:])

    def tell(lane: Lane) -> bytes:
        lane.play(act)
        seen = b""
        with lane.client() as client:
            for cut in range(1, len(answer)):
                client.send(lane.post(b"%d" % cut))
                seen += client.response().raw
        assert len(lane.stage.connections) == 1
        return seen

    whole = actors_message.take(lanes.tell(tell, fast=len(answer) - 1), answers="POST")
    assert whole is not None
    sent = actors_message.take(answer, answers="POST")
    assert sent is not None
    assert sorted(whole.fields) == sorted(sent.fields)
    assert (whole.body, whole.trailers, whole.start_line) == (sent.body, sent.trailers, sent.start_line)


@pytest.mark.parametrize("kind", ["counted", "chunked"])
def test_a_request_cut_at_every_byte_is_the_same_request(lanes: Lanes, kind: str) -> None:
    def tell(lane: Lane) -> set[bytes]:
        if kind == "counted":
            request = lane.post(b'{"id":1}')
        else:
            head = lane.plain("POST", "/mcp", {"Mcp-Session-Id": told.SESSION, "Transfer-Encoding": "chunked"})
            request = head + b'3;x=1\r\n{"i\r\n5\r\nd":1}\r\n0\r\nX-End: 1\r\n\r\n'
        with lane.client() as client:
            for cut in range(1, len(request)):
                client.send(request[:cut])
                if cut % 8 == 0:
                    assert client.is_silent(0.002)
                client.send_more(request[cut:])
                assert client.response().raw == told.OK
        seen = lane.requests()
        assert len(seen) == len(request) - 1
        return set(seen)

    assert len(lanes.tell(tell)) == 1


def test_one_byte_at_a_time_is_slow_but_whole(lanes: Lanes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_request()
        await connection.drip(CHUNKED_ANSWER, seconds=0.0005)

    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        lane.play(act)
        with lane.client() as client:
            client.send_slowly(lane.post(b'{"id":1}'), piece_bytes=1, seconds=0.0005)
            return client.response().raw, lane.requests()

    lanes.tell(tell, fast=1)


# ---- answers without a body


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\nX-Own: 1\r\n\r\n", id="HEAD with a length"),
        pytest.param("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", id="HEAD that would be chunked"),
        pytest.param("HEAD", b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\n", id="HEAD not found"),
        pytest.param("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: 1\r\n\r\n", id="304"),
        pytest.param("POST", b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n", id="204"),
        pytest.param("POST", b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n", id="202 of no bytes"),
        pytest.param("DELETE", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", id="DELETE"),
    ],
)
def test_an_answer_without_a_body_leaves_both_connections_in_use(lanes: Lanes, method: str, answer: bytes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        lane.play(actors_wire.answering(answer, told.OK))
        with lane.client() as client:
            request = lane.post() if method == "POST" else lane.plain(method, "/other")
            client.send(request)
            client.send(lane.post())
            seen = client.response().raw, client.response().raw
        assert len(lane.stage.connections) == 1
        assert seen[1] == told.OK
        return seen[0], lane.requests()

    head, _ = lanes.tell(tell)
    assert head.startswith(answer.partition(b"\r\n")[0])


# ---- HTTP/1.0, and answers until the end of the connection

UNTIL_END = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + told.RESULT


def test_an_answer_until_the_end_becomes_chunks_and_the_client_stays(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(saying(UNTIL_END[:60], UNTIL_END[60:], seconds=0.02, end=True))
        with lane.client() as client:
            client.send(lane.post() + lane.post())
            return client.response().raw + client.response().raw

    answers = lanes.tell(tell)
    message = actors_message.take(answers, answers="POST")
    assert message is not None
    assert message.start_line == "HTTP/1.1 200 OK"
    assert message.all("transfer-encoding") == ["chunked"]
    assert message.body == told.RESULT
    assert answers == message.raw * 2


@pytest.mark.parametrize("keeps", [True, False], ids=["keep-alive", "close"])
def test_a_client_of_http_1_0_gets_no_chunks(lanes: Lanes, keeps: bool) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(saying(CHUNKED_ANSWER))
        with lane.client() as client:
            request = lane.post().replace(b"HTTP/1.1", b"HTTP/1.0")
            if keeps:
                request = request.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
            client.send(request)
            return client.rest()

    seen = lanes.tell(tell, fast=0)
    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert b"Connection: close" in head
    assert body == b"data: 1\n\ndata: two\r\n\r\n"


def test_a_client_of_http_1_0_keeps_its_connection_when_it_asks_to(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        with lane.client() as client:
            request = lane.post().replace(b"HTTP/1.1", b"HTTP/1.0")
            kept = request.replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n")
            client.send(kept + kept + request)
            return client.rest(), lane.requests()

    seen, requests = lanes.tell(tell, fast=0)
    assert seen.count(b"HTTP/1.1 200 OK") == 3
    assert seen.count(b"Connection: keep-alive\r\n") == 2
    assert seen.count(b"Connection: close\r\n") == 1
    assert all(request.startswith(b"POST /mcp HTTP/1.1\r\n") for request in requests)


def test_a_backend_of_http_1_0_that_keeps_the_connection_is_asked_on_it_again(lanes: Lanes) -> None:
    kept = told.OK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1)

    def tell(lane: Lane) -> tuple[bytes, int]:
        lane.play(actors_wire.answering(kept, kept, told.OK.replace(b"HTTP/1.1", b"HTTP/1.0"), kept))
        with lane.client() as client:
            seen = b""
            for _ in range(4):
                client.send(lane.post())
                seen += client.response().raw
            return seen, len(lane.stage.connections)

    seen, connections = lanes.tell(tell)
    assert seen == told.OK * 4  # `Connection` is each hop's own
    assert connections == 2
