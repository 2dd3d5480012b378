"""What is refused before anybody is asked: its status, that the connection ends, and that the answer can be read.

Real: the proxy's processes, both lanes, and a client's socket that speaks the bytes given here; no request in this file
may reach the backend. Each refusal is read to the end of the connection, so that a reset would fail the test.
"""

import socket
import time
from collections.abc import Iterator

import pytest

from tests.kit import actors
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes

LINE = b"POST /mcp HTTP/1.1\r\n"
HOST = b"Host: localhost\r\n"
FULL = LINE + HOST + b"Content-Length: 2\r\n"
CHUNKED = LINE + HOST + b"Transfer-Encoding: chunked\r\n"


def request(*lines: bytes, body: bytes = b"") -> bytes:
    return b"".join(lines) + b"\r\n" + body


def repeated(line: bytes) -> bytes:
    return request(LINE, HOST if not line.startswith(b"Host") else b"", line, line, body=b"{}")


MALFORMED = {
    "a repeated Mcp-Session-Id": repeated(b"Mcp-Session-Id: a\r\n"),
    "a repeated MCP-Protocol-Version": repeated(b"MCP-Protocol-Version: 2025-06-18\r\n"),
    "a repeated Mcp-Method": repeated(b"Mcp-Method: tools/call\r\n"),
    "a repeated Mcp-Name": repeated(b"Mcp-Name: echo\r\n"),
    "a repeated Authorization": repeated(b"Authorization: Bearer a\r\n"),
    "a repeated Host": repeated(b"Host: localhost\r\n"),
    "a repeated Content-Length": repeated(b"Content-Length: 2\r\n"),
    "repeated in other letters": request(LINE, HOST, b"Mcp-Session-Id: a\r\nMCP-SESSION-ID: a\r\n"),
    "Content-Length as a list": request(LINE, HOST, b"Content-Length: 2, 2\r\n", body=b"{}"),
    "Content-Length with a sign": request(LINE, HOST, b"Content-Length: +2\r\n", body=b"{}"),
    "Content-Length in hex": request(LINE, HOST, b"Content-Length: 0x2\r\n", body=b"{}"),
    "Content-Length below zero": request(LINE, HOST, b"Content-Length: -1\r\n"),
    "an empty Content-Length": request(LINE, HOST, b"Content-Length:\r\n"),
    "a Content-Length beyond all numbers": request(LINE, HOST, b"Content-Length: 99999999999999999999\r\n"),
    "both lengths": request(FULL, b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    "both lengths, the other way round": request(CHUNKED, b"Content-Length: 2\r\n", body=b"0\r\n\r\n"),
    "chunks in HTTP/1.0": request(CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0"), body=b"0\r\n\r\n"),
    "chunked twice": request(CHUNKED, b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n"),
    "a bare line feed after the request line": b"POST /mcp HTTP/1.1\nHost: localhost\r\n\r\n",
    "a bare line feed after a field": LINE + b"Host: localhost\nX: 1\r\n\r\n",
    "a bare line feed as the empty line": LINE + HOST + b"\n",
    "a bare carriage return in a value": request(LINE, HOST, b"X: a\rb\r\n"),
    "a bare carriage return before a name": request(LINE, HOST, b"\rX: a\r\n"),
    "a folded line": request(LINE, HOST, b"X: a\r\n b\r\n"),
    "a folded first line": request(LINE, b" X: a\r\n", HOST),
    "white space before a colon": request(LINE, HOST, b"X : a\r\n"),
    "a tab before a colon": request(LINE, HOST, b"Content-Length\t: 2\r\n", body=b"{}"),
    "no colon": request(LINE, HOST, b"X\r\n"),
    "an empty name": request(LINE, HOST, b": a\r\n"),
    "a zero byte in a value": request(LINE, HOST, b"X: a\0b\r\n"),
    "an escape in a value": request(LINE, HOST, b"X: a\x1b[2Jb\r\n"),
    "a delete in a value": request(LINE, HOST, b"X: a\x7fb\r\n"),
    "a byte that no name has": request(LINE, HOST, b"X\xe9: a\r\n"),
    "a control byte in the target": request(b"POST /m\x01cp HTTP/1.1\r\n", HOST),
    "a target that is not ASCII": request("POST /mcpé HTTP/1.1\r\n".encode(), HOST),
    "two spaces in the request line": request(b"POST  /mcp HTTP/1.1\r\n", HOST),
    "white space before the method": request(b" POST /mcp HTTP/1.1\r\n", HOST),
    "white space after the version": request(b"POST /mcp HTTP/1.1 \r\n", HOST),
    "a request line of HTTP/0.9": b"GET /\r\n\r\n",
    "a version in small letters": request(b"GET / http/1.1\r\n", HOST),
    "no Host": LINE + b"\r\n",
    "a Host with a path": request(LINE, b"Host: localhost/x\r\n"),
    "a Host with a user": request(LINE, b"Host: me@localhost\r\n"),
    "a Host with a quote": request(LINE, b'Host: local"host\r\n'),
    "a target without a slash": request(b"GET mcp HTTP/1.1\r\n", HOST),
    "CONNECT": request(b"CONNECT localhost:443 HTTP/1.1\r\n", HOST),
    "an absolute target of another host": request(b"GET http://other/mcp HTTP/1.1\r\n", HOST),
    "a star that is not of OPTIONS": request(b"GET * HTTP/1.1\r\n", HOST),
    "a chunk size that is no number": request(CHUNKED, body=b"zz\r\n"),
    "a chunk size with a sign": request(CHUNKED, body=b"+2\r\n{}\r\n0\r\n\r\n"),
    "a chunk size in C": request(CHUNKED, body=b"0x2\r\n{}\r\n0\r\n\r\n"),
    "a chunk size with a space": request(CHUNKED, body=b"2 \r\n{}\r\n0\r\n\r\n"),
    "a chunk size beyond all numbers": request(CHUNKED, body=b"fffffffffffffffff\r\n"),
    "no chunk size": request(CHUNKED, body=b"\r\n{}\r\n"),
    "a chunk that is longer than it says": request(CHUNKED, body=b"2\r\n{}}\r\n0\r\n\r\n"),
    "a bare line feed after a chunk size": request(CHUNKED, body=b"2\n{}\r\n0\r\n\r\n"),
    "a bare line feed after a chunk": request(CHUNKED, body=b"2\r\n{}\n0\r\n\r\n"),
    "a line feed in a chunk extension": request(CHUNKED, body=b"2;a=\n\r\n{}\r\n0\r\n\r\n"),
    "a control byte in a trailer": request(CHUNKED, body=b"0\r\nX: \x00\r\n\r\n"),
    "a chunk extension without an end": request(CHUNKED, body=b"2;" + b"x" * 5000),
    "trailers without an end": request(CHUNKED, body=b"0\r\n" + b"X: y\r\n" * 3000),
    "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "garbage": b"\x00\x01\x02\x03\xff\xfe" * 20,
    "lines that are empty": b"\r\n" * 10,
    "a mail server's client": b"EHLO example.com\r\n",
}
OTHERS = {
    "gzip, chunked": (501, request(LINE, HOST, b"Transfer-Encoding: gzip, chunked\r\n")),
    "identity": (501, request(LINE, HOST, b"Transfer-Encoding: identity\r\n")),
    "a coding with a letter too many": (501, request(LINE, HOST, b"Transfer-Encoding: xchunked\r\n")),
    "a coding with a parameter": (501, request(LINE, HOST, b"Transfer-Encoding: chunked;q=1\r\n")),
    "HTTP/2.0": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/1.2": (505, request(b"GET / HTTP/1.2\r\n", HOST)),
    "HTTP/3.0": (505, request(b"GET / HTTP/3.0\r\n", HOST)),
    "a request line too long": (414, b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n"),
    "a request line without an end": (414, b"GET /" + b"a" * 40_000),
    "a head too large": (431, request(LINE, HOST, b"X: " + b"a" * 40_000 + b"\r\n")),
    "a head without an end": (431, LINE + HOST + b"X: abc\r\n" * 6_000),
    "too many fields": (431, request(LINE, HOST, b"X: abc\r\n" * 500)),
    "a name too long": (431, request(LINE, HOST, b"X" * 2_000 + b": 1\r\n")),
    "a body that is too large by its length": (413, request(LINE, HOST, b"Content-Length: 9000000\r\n", body=b"{}")),
    "an expectation that nobody has": (417, request(FULL, b"Expect: a-miracle\r\n", body=b"{}")),
}


def refused(lanes: Lanes, data: bytes) -> bytes:
    """All that a client gets for these bytes: one answer, then the end."""

    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(data)
            seen = client.rest()
        assert lane.requests() == []
        return seen

    return lanes.tell(tell, fast=0)


def assert_refusal(seen: bytes, status: int) -> None:
    head, _, body = seen.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), seen
    assert b"\r\nConnection: close" in head
    assert f"\r\nContent-Length: {len(body)}\r\n".encode() in head + b"\r\n"
    assert seen.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_two_parsers_could_read_differently_is_refused(lanes: Lanes, data: bytes) -> None:
    assert_refusal(refused(lanes, data), 400)


@pytest.mark.parametrize(("status", "data"), OTHERS.values(), ids=OTHERS.keys())
def test_what_is_beyond_a_limit_is_refused_with_its_status(lanes: Lanes, status: int, data: bytes) -> None:
    assert_refusal(refused(lanes, data), status)


@pytest.mark.parametrize("name", ["garbage", "a folded line", "a repeated Host", "both lengths", "no Host"])
def test_a_refusal_after_a_good_request_does_not_touch_that_one(lanes: Lanes, name: str) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.post() + MALFORMED[name])
            return client.rest()

    seen = lanes.tell(tell, fast=1)
    assert seen.startswith(told.OK)
    assert_refusal(seen.removeprefix(told.OK), 400)


def test_nothing_behind_a_refused_request_is_read_as_a_request(lanes: Lanes) -> None:
    """The smuggled request lies where one parser sees a body and another a request."""
    hidden = b"POST /hidden HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"
    assert_refusal(refused(lanes, request(FULL, b"Transfer-Encoding: chunked\r\n", body=b"0\r\n\r\n" + hidden)), 400)


@pytest.mark.parametrize(
    "status_and_data", [OTHERS["a body that is too large by its length"], (400, MALFORMED["no Host"])]
)
def test_the_answer_can_be_read_while_the_client_is_still_sending(
    lanes: Lanes, status_and_data: tuple[int, bytes]
) -> None:
    """Bytes that meet a closed socket would be answered by a reset, which takes an unread answer with it."""
    status, data = status_and_data

    def tell(lane: Lane) -> bytes:
        with lane.client(receive_buffer_bytes=4096) as client:
            client.send(data)
            for _ in range(100):
                client.send_more(b"x" * 50_000)
            return client.rest()

    assert_refusal(lanes.tell(tell), status)


def test_the_answer_can_be_read_by_who_sends_slowly_and_reads_last(lanes: Lanes) -> None:
    """Longer than a connection is kept open for who says nothing more."""
    with lanes.fast.client(receive_buffer_bytes=4096) as client:
        client.send(OTHERS["a body that is too large by its length"][1])
        for _ in range(35):
            time.sleep(0.1)
            client.send_more(b"x" * 50_000)
        assert_refusal(client.rest(), 413)


def test_a_chunked_body_is_refused_once_it_is_too_large(lanes: Lanes) -> None:
    """8 MiB pass, one byte more does not; the backend sees that the request was never whole."""
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"

    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(CHUNKED + b"\r\n")
            for _ in range(128):
                client.send_more(chunk)
            client.send_more(b"1\r\nx\r\n0\r\n\r\n")
            seen = client.rest()
        assert lane.requests() == []
        return seen

    assert_refusal(lanes.tell(tell), 413)


def test_a_chunk_that_breaks_after_the_backend_has_the_beginning_is_refused(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(CHUNKED + b"\r\n")
            client.send_more(b"20000\r\n" + b"x" * 131_072 + b"\r\n")
            told.await_that(lambda: any(c.received for c in lane.stage.connections), "the backend has some of it")
            client.send_more(b"nonsense\r\n")
            seen = client.rest()
        assert lane.requests() == []
        return seen

    assert_refusal(lanes.tell(tell), 400)


def test_a_body_of_the_greatest_length_passes(lanes: Lanes) -> None:
    def tell(lane: Lane) -> int:
        with lane.client() as client:
            client.send(lane.post(b"x" * (8 << 20)))
            assert client.response().raw == told.OK
        return len(lane.stage.requests[0].body)

    assert lanes.tell(tell) == 8 << 20


# ---- who is slow


@pytest.fixture(scope="module")
def hasty() -> Iterator[Lanes]:
    """Proxies that wait for nobody."""
    times = ["--header-timeout", "300ms", "--body-timeout", "300ms", "--idle-timeout", "400ms"]
    with told.lanes(*times) as both:
        yield both


SLOW = {
    "a head": LINE + b"Host: loc",
    "a first byte": b"P",
    "a small body of a session": None,
    "a body": request(LINE, HOST, b"Content-Length: 100\r\n", body=b"{"),
    "a large body": request(LINE, HOST, b"Content-Length: 100000\r\n", body=b"{" * 70_000),
    "a chunked body": request(CHUNKED, body=b"5\r\nab"),
}


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW.keys())
def test_who_is_too_slow_is_told(hasty: Lanes, data: bytes | None) -> None:
    def tell(lane: Lane) -> tuple[bytes, bool]:
        with lane.client() as client:
            client.send(lane.post()[:-1] if data is None else data)
            begin = time.monotonic()
            seen = client.rest(seconds_max=4)
            return seen, 0.25 < time.monotonic() - begin < 2.5

    seen, in_time = hasty.tell(tell)
    assert_refusal(seen, 408)
    assert in_time


def test_a_head_must_be_whole_in_time_however_often_a_byte_comes(hasty: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(LINE)
            for _ in range(12):
                client.send_more(b"X: 1\r\n")
                if not client.is_silent(0.08):
                    break
            return client.rest()

    assert_refusal(hasty.tell(tell), 408)


@pytest.mark.parametrize("length", [12, 70_000], ids=["small", "large"])
def test_a_body_may_take_long_as_long_as_something_comes(hasty: Lanes, length: int) -> None:
    """The limit is between two pieces; on both lanes."""

    def tell(lane: Lane) -> bytes:
        request = lane.post(b"x" * length)
        with lane.client() as client:
            client.send(request[:-12])
            for at in range(-12, 0, 2):
                time.sleep(0.12)
                client.send_more(request[at : at + 2 or None])
            return client.response().raw

    assert hasty.tell(tell) == told.OK


def test_an_idle_connection_is_closed_without_a_word(hasty: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK
            return client.rest(seconds_max=3)

    assert hasty.tell(tell, fast=1) == b""


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(hasty: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            return client.rest(seconds_max=3)

    assert hasty.tell(tell) == b""


# ---- who leaves


@pytest.mark.parametrize("data", [b"", b"P", LINE, FULL, FULL + b"\r\n", FULL + b"\r\n{"])
@pytest.mark.parametrize("manner", ["close", "reset", "half-close"])
def test_who_leaves_in_the_middle_of_a_request_is_not_answered(lanes: Lanes, data: bytes, manner: str) -> None:
    def tell(lane: Lane) -> bytes:
        with lane.client() as client:
            if data:
                client.send(data)
            if manner == "close":
                client.close()
            elif manner == "reset":
                client.reset()
            else:
                client.half_close()
                assert client.rest() == b""
        told.await_that(lambda: lane.metric("fastproxy_requests_in_flight") == 0, "nothing is in flight")
        assert lane.requests() == []
        return b""

    lanes.tell(tell)


def test_a_port_that_is_scanned_is_none_the_worse(lanes: Lanes) -> None:
    def tell(lane: Lane) -> bytes:
        host, port = lane.proxy.origin.removeprefix("http://").split(":")
        for _ in range(200):
            socket.create_connection((host, int(port))).close()
        with lane.client() as client:
            client.send(lane.post())
            return client.response().raw

    assert lanes.tell(tell, fast=1) == told.OK
    assert isinstance(lanes.fast.proxy, actors.Process)
    assert lanes.fast.proxy.alive
