"""Connections to backends: which are kept and used again, and what a backend can do wrong with an answer.

Real: the proxy's processes, both lanes, scripted backends on loopback; a backlog that is full stands for a host that
does not answer. Where a request meets a connection that is just being closed: test_http_departures.
"""

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy.lanes import Lane, Lanes, saying

NOTIFICATION = b'{"jsonrpc":"2.0","method":"notifications/x"}'
MODERN = {"MCP-Protocol-Version": "2026-07-28"}


def error_of(answer: actors_message.Message) -> tuple[int, object]:
    """Status and `data` of the proxy's own answer; its id must be the request's."""
    said = json.loads(answer.body)
    assert said["id"] == 1
    assert said["error"]["code"] == -32603
    return answer.status, said["error"]["data"]


# ---- which connections are kept


def test_the_connection_that_was_used_last_is_used_first(lanes: Lanes) -> None:
    """So that those which a burst needed grow old and are closed."""

    async def act(connection: actors_wire.Connection) -> None:
        request = await connection.read_request()
        assert request is not None
        await asyncio.sleep(0.15 if request.body == b"slow" else 0)
        await connection.send(told.OK)

    def tell(lane: Lane) -> tuple[int, set[int]]:
        lane.play(act)
        with lane.client() as first, lane.client() as second, lane.client() as third:
            first.send(lane.post(b"slow"))
            second.send(lane.post(b"slow"))
            time.sleep(0.05)
            third.send(lane.post(b"slow"))
            for client in (first, second, third):
                assert client.response().raw == told.OK
            counts = [len(connection.requests) for connection in lane.stage.connections]
            for client in (first, second, third, first, second):
                client.send(lane.post())
                assert client.response().raw == told.OK
        busy = [len(c.requests) - n for c, n in zip(lane.stage.connections, counts, strict=True)]
        return len(busy), set(busy)

    assert lanes.tell(tell) == (3, {0, 5})


def test_an_idle_connection_is_closed_before_the_servers_of_the_python_sdk_would_close_it(lanes: Lanes) -> None:
    """They do after 5 s; one that is closed under a request is a request that may have to fail."""
    lane = lanes.fast
    lane.begin()
    begin = time.monotonic()
    connection = lane.stage.connections[-1]
    told.await_that(lambda: connection.ended_by is not None, "the proxy closes it", seconds_max=6)
    assert connection.ended_by == "client"
    assert 3.0 < time.monotonic() - begin < 4.9


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("Keep-Alive: timeout=2", False),
        ("Keep-Alive: timeout=4, max=100", False),
        ("Keep-Alive: max=5, timeout=1", False),
        ("Keep-Alive: timeout=60", True),
        ("Keep-Alive: max=5", True),
        ("Connection: close", False),
        ("Connection: X-A, Close", False),
        ("Connection: keep-alive", True),
    ],
)
def test_a_connection_is_kept_only_as_long_as_the_backend_would(lanes: Lanes, line: str, kept: bool) -> None:
    name, _, value = line.partition(": ")
    answer = actors_message.format_response("200 OK", {**told.JSON, name: value}, told.RESULT)

    def tell(lane: Lane) -> int:
        lane.play(saying(answer))
        with lane.client() as client:
            for _ in range(2):
                client.send(lane.post())
                assert client.response().raw == told.OK  # the client's connection is another matter
        return len(lane.stage.connections)

    assert lanes.tell(tell) == (1 if kept else 2)


# ---- more than was asked for

SECOND = actors_message.format_response("200 OK", {"X-Answer": "second"}, b"not yours")
EXTRA = {
    "another answer": (told.OK, SECOND),
    "bytes": (told.OK, b"\r\n"),
    "a body of 204": (b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", b"not yours"),
    "a body of 304": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b"not yours"),
    "a body of HEAD": (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", b"not yours"),
    "more than its length": (actors_message.format_response("200 OK", {"Content-Length": "2"}, b"ok"), b"not yours"),
    "more than its chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("seconds", [None, 0.0, 0.02], ids=["in one piece", "at once", "later"])
@pytest.mark.parametrize(("answer", "extra"), EXTRA.values(), ids=EXTRA.keys())
def test_what_nobody_asked_for_never_becomes_the_next_answer(
    lanes: Lanes, answer: bytes, extra: bytes, seconds: float | None
) -> None:
    """The connection is given up."""

    def tell(lane: Lane) -> tuple[bytes, int]:
        lane.play(saying(answer + extra) if seconds is None else saying(answer, extra, seconds=seconds))
        with lane.client() as client:
            client.send(lane.plain("HEAD", "/x") if answer is EXTRA["a body of HEAD"][0] else lane.post())
            first = client.response().raw
            time.sleep(0.05)
            lane.play(saying(told.OK))
            client.send(lane.post())
            assert client.response().raw == told.OK
        return first, len(lane.stage.connections)

    first, connections = lanes.tell(tell)
    assert b"not yours" not in first
    assert connections == 2


def test_a_backend_that_speaks_before_it_is_asked_is_not_listened_to(lanes: Lanes) -> None:
    """What it says on a connection that waits is no answer to the request that comes next."""

    def tell(lane: Lane) -> tuple[bytes, int]:
        lane.play(saying(told.OK, SECOND, seconds=0.1))
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK
            time.sleep(0.2)
            lane.play(saying(told.OK))
            client.send(lane.post())
            return client.response().raw, len(lane.stage.connections)

    assert lanes.tell(tell) == (told.OK, 2)


# ---- answers that are none

GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "bytes": b"\x00\x01\x02" * 10,
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/0.9": b"<html>hello</html>",
    "an interim answer for ever": b"HTTP/1.1 099 Odd\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "both lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "a length with a sign": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "another coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "a bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
    "a head over 64 KiB": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "a head without an end": b"HTTP/1.1 200 OK\r\n" + b"X: abc\r\n" * 20_000,
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE.keys())
def test_an_answer_that_is_not_http_is_a_protocol_error(lanes: Lanes, answer: bytes) -> None:
    def tell(lane: Lane) -> tuple[object, object, int]:
        lane.play(saying(answer))
        with lane.client() as client:
            client.send(lane.post())
            legacy = error_of(client.response())
            client.send(lane.post(fields=MODERN))
            modern = error_of(client.response())
            count = len(lane.requests())
            lane.play(saying(told.OK))
            client.send(lane.post())
            assert client.response().raw == told.OK
        return legacy, modern, count

    data = {"reason": "backend_protocol_error", "may_have_run": True}
    assert lanes.tell(tell) == ((200, data), (502, data), 2)


def test_a_head_of_nearly_64_kib_passes(lanes: Lanes) -> None:
    answer = b"HTTP/1.1 200 OK\r\nX: " + b"a" * 65_000 + b"\r\nContent-Length: 2\r\n\r\nok"

    def tell(lane: Lane) -> bytes:
        lane.play(saying(answer))
        with lane.client() as client:
            client.send(lane.post())
            return client.response().raw

    assert lanes.tell(tell, fast=1) == answer


@pytest.mark.parametrize("rest", [b"zz\r\n", b"5\r\nabcde!", b"5\nabcde\r\n0\r\n\r\n", b"0\r\nX y\r\n\r\n"])
def test_an_answer_whose_chunks_break_is_seen_to_be_cut_off(lanes: Lanes, rest: bytes) -> None:
    begin = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"

    def tell(lane: Lane) -> bytes:
        lane.play(saying(begin, rest, seconds=0.02))
        with lane.client() as client:
            client.send(lane.post())
            return client.rest()

    seen = lanes.tell(tell, fast=1)
    assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\n0\r\n" not in seen


# ---- nobody there


@pytest.fixture(scope="module")
def impatient() -> Iterator[Lanes]:
    """Proxies that wait neither for a connection nor for an answer."""
    with told.lanes("--connect-timeout", "300ms", "--response-timeout", "300ms") as both:
        yield both


@pytest.mark.parametrize("begin", [b"", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_an_answer_that_does_not_come_in_time_is_a_timeout(impatient: Lanes, begin: bytes) -> None:
    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_request() is not None:
            await connection.send(begin)
            await connection.await_end()

    def tell(lane: Lane) -> tuple[object, object, int, set[str | None]]:
        lane.play(act)
        started = time.monotonic()
        with lane.client() as client:
            client.send(lane.post())
            while (answer := client.response()).status == 102:
                pass
            legacy = error_of(answer)
            assert 0.2 < time.monotonic() - started < 2
            client.send(lane.post(fields=MODERN))
            while (answer := client.response()).status == 102:
                pass
            modern = error_of(answer)
        told.await_that(lambda: all(c.ended_by for c in lane.stage.connections), "both connections are given up")
        return legacy, modern, len(lane.requests()), {c.ended_by for c in lane.stage.connections}

    data = {"reason": "backend_timeout", "may_have_run": True}
    legacy, modern, count, _ = impatient.tell(tell)
    assert (legacy, modern, count) == ((200, data), (504, data), 2)


def test_the_body_of_an_answer_may_take_longer_than_its_head(impatient: Lanes) -> None:
    pieces = told.chunked(b"data: 1\n\n", b"data: 2\n\n")

    def tell(lane: Lane) -> bytes:
        lane.play(saying(*pieces, seconds=0.5))
        with lane.client() as client:
            client.send(lane.post())
            return client.response().body

    assert impatient.tell(tell, fast=1) == b"data: 1\n\ndata: 2\n\n"


@contextlib.contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose backlog is full: a connect to it is neither accepted nor refused."""
    with socket.socket() as listening, contextlib.ExitStack() as stack:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        port = listening.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        time.sleep(0.05)
        yield port


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize("kind", ["refused", "no answer", "no such name"])
def test_a_backend_that_cannot_be_reached_is_said_to_be_unreachable(kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "no answer":
            place = f"http://127.0.0.1:{stack.enter_context(deaf_port())}"
        else:
            place = f"http://127.0.0.1:{free_port()}" if kind == "refused" else "http://nobody.invalid:80"
        flags = [*told.QUIET, "--connect-timeout", "300ms"]
        [proxy] = stack.enter_context(kit.proxies(backends=[place], flags=flags, await_readyz=False))
        with kit.RawClient(proxy.origin) as client:
            started = time.monotonic()
            legacy = client.request("POST", "/mcp", told.JSON, told.CALL)
            seconds = time.monotonic() - started
            notification = client.request("POST", "/mcp", told.JSON, NOTIFICATION)
        words = {"backend_unreachable"} | ({"backend_unavailable"} if kind == "no such name" else set())
        assert error_of(legacy) in [(200, {"reason": word}) for word in words]
        assert seconds < 2
        # By now it counts as failed (a name without an address is no replica at all): either word is right.
        reason = json.loads(notification.body)["error"]["data"]["reason"]
        assert (notification.status, reason) in ((502, "backend_unreachable"), (503, "backend_unavailable"))


def test_a_request_goes_to_the_next_replica_when_the_first_cannot_be_reached() -> None:
    with (
        told.Stage() as stage,
        kit.proxies(backends=[f"http://127.0.0.1:{free_port()}", stage], flags=told.QUIET) as [proxy],
    ):
        with kit.RawClient(proxy.origin) as client:
            for _ in range(4):
                assert client.request("POST", "/mcp", told.JSON, told.CALL).raw == told.OK
        assert len(stage.requests) == 4
