"""`Expect: 100-continue`, and answers before the answer (1xx).

Real: the proxy's processes, both lanes, sockets on both sides.
"""

import asyncio

from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, saying

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECTS = {"Expect": "100-continue"}


def test_a_client_that_waits_is_told_to_continue_once(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        request = lane.post(fields=EXPECTS)
        head, body = request[: -len(told.CALL)], told.CALL
        with lane.client() as client:
            client.send(head)
            assert client.head().raw == CONTINUE
            client.send_more(body[:10])
            assert client.is_silent(0.03)
            client.send_more(body[10:])
            return client.response().raw, lane.requests()

    answer, requests = lanes.tell(tell, fast=0)
    assert answer == told.OK
    assert b"expect" not in requests[0].lower()  # the proxy has answered it


def test_a_client_that_does_not_wait_is_not_told(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, list[bytes]]:
        with lane.client() as client:
            client.send(lane.post(fields=EXPECTS))
            return client.response().raw, lane.requests()

    answer, requests = lanes.tell(tell, fast=0)
    assert answer == told.OK
    assert len(requests) == 1


def test_a_chunked_body_is_waited_for_too(lanes: Lanes) -> None:
    def tell(lane: Lane) -> tuple[bytes, bytes]:
        head = lane.plain("POST", "/mcp", {**EXPECTS, "Transfer-Encoding": "chunked", "Mcp-Session-Id": lane.session})
        with lane.client() as client:
            client.send(head)
            assert client.head().raw == CONTINUE
            client.send_more(b"2\r\n{}\r\n0\r\n\r\n")
            return client.response().raw, lane.requests()[0]

    answer, request = lanes.tell(tell)
    assert answer == told.OK
    assert request.endswith(b"\r\n\r\n2\r\n{}\r\n0\r\n\r\n")


def test_a_final_answer_comes_without_a_continue_and_ends_the_connection(lanes: Lanes) -> None:
    """An unknown session needs no body to be refused; whether the client sends it then can't be known."""

    def tell(lane: Lane) -> bytes:
        length = {"Content-Length": "200000"}
        with lane.client() as client:
            client.send(lane.plain("POST", "/mcp", {**EXPECTS, **length, "Mcp-Session-Id": "unknown"}))
            return client.rest()

    seen = lanes.tell(tell)
    assert seen.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"\r\nConnection: close\r\n" in seen


def test_a_client_of_http_1_0_is_never_told_to_continue(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        request = lane.post(fields=EXPECTS).replace(b"HTTP/1.1", b"HTTP/1.0")
        with lane.client() as client:
            client.send(request[:-5])
            assert client.is_silent(0.03)
            client.send_more(request[-5:])
            return client.rest()

    assert lanes.tell(tell).startswith(b"HTTP/1.1 200 OK\r\n")


def test_an_expectation_without_a_body_waits_for_nothing(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.plain("GET", "/x", EXPECTS))
            return client.response().raw

    assert lanes.tell(tell) == told.OK


def test_another_expectation_is_refused(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.post(fields={"Expect": "200-maybe"}))
            return client.rest()

    seen = lanes.tell(tell)
    assert seen.startswith(b"HTTP/1.1 417 Expectation Failed\r\n")
    assert b"\r\nConnection: close\r\n" in seen


# ---- what a backend says before its answer

HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nMcp-Session-Id: not-yet\r\nConnection: close\r\n\r\n"


def test_early_hints_pass_at_once_and_a_continue_does_not(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(saying(CONTINUE, HINTS, CONTINUE + HINTS + told.OK, seconds=0.03))
        with lane.client() as client:
            client.send(lane.post())
            hints = client.head(seconds_max=2)
            assert client.is_silent(0.01)
            assert client.head().raw == hints.raw
            client.send_more(lane.post())  # the connection goes on
            answer = client.response().raw
            assert client.head().raw == hints.raw
        return hints.raw + answer

    assert lanes.tell(tell, fast=2) == (b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n" + told.OK)


def test_a_client_of_http_1_0_sees_only_the_answer(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(saying(HINTS + told.OK))
        with lane.client() as client:
            client.send(lane.post().replace(b"HTTP/1.1", b"HTTP/1.0"))
            return client.rest()

    assert lanes.tell(tell).count(b"HTTP/1.1") == 1


def test_a_backend_that_switches_protocols_unasked_is_a_protocol_error(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        lane.play(
            saying(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x05")
        )
        with lane.client() as client:
            client.send(lane.post(fields={"Connection": "Upgrade", "Upgrade": "websocket"}))
            return client.response().body

    assert b'"reason":"backend_protocol_error"' in lanes.tell(tell, fast=1)


def test_an_answer_may_come_before_the_body_that_was_called_for(lanes: Lanes) -> None:
    """The client was told to continue, so its body comes all the same; it is read, and the connection lives on."""

    async def act(connection: actors_wire.Connection) -> None:
        await connection.read_head()
        await connection.send(actors_message.format_response("401 Unauthorized", {"Connection": "close"}))
        await asyncio.sleep(0.1)
        await connection.close()

    def tell(lane: Lane) -> tuple[bytes, bytes]:
        lane.play(act)
        with lane.client() as client:
            client.send(lane.plain("POST", "/mcp", {**EXPECTS, "Content-Length": "90000"}))
            assert client.head().raw == CONTINUE
            refused = client.response().raw
            lane.play(actors_wire.answering(told.OK))
            client.send_more(b"x" * 90_000)
            client.send(lane.post())
            return refused, client.response().raw

    assert lanes.tell(tell) == (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", told.OK)
