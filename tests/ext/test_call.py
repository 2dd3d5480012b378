"""Requests of the house's own: `Reactor.call`, `inspect`, `next_event`, `finish`.

Real: the relay on a uvloop, a server's socket that says what the test tells it. Not here: how the story uses them.
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from fastproxy._ext import core
from tests.kit import coroutines

REQUEST = b"POST /mcp HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


class Silent:
    """No client ever comes."""

    def begin(self, exchange: core.Exchange) -> None:
        raise AssertionError("nobody listens")

    resume = touch = access = begin


class Backend:
    """Says the pieces of an answer one after another, for each request on a connection anew."""

    def __init__(self, *pieces: bytes, hangs_up: bool = False) -> None:
        self.pieces = pieces
        self.hangs_up = hangs_up
        self.connections = 0
        self.heard: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            self.heard.append(head + await reader.readexactly(2))
            for piece in self.pieces:
                writer.write(piece)
                await asyncio.sleep(0.005)
            if self.hangs_up:
                break
        writer.close()


class Stage:
    """One reactor, one backend."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.reactor = core.Reactor(
            asyncio.get_running_loop(), Silent(), core.RouteTable(10), response_seconds=0.3, linger_seconds=0.3
        )
        self.endpoint: core.Endpoint

    async def open(self) -> None:
        self.server = await asyncio.start_server(self.backend.serve, "127.0.0.1", 0)
        port = self.server.sockets[0].getsockname()[1]
        self.endpoint = self.reactor.add_endpoint(f"http://127.0.0.1:{port}", None, b"a", b"", "127.0.0.1", port)

    async def call(self) -> tuple[core.Exchange, core.AnswerHead]:
        upstream = self.endpoint.take_spare() or await self.reactor.connect(self.endpoint, "127.0.0.1")
        call, answer = self.reactor.call(upstream, REQUEST)
        return call, await answer


def play(backend: Backend, act: Callable[[Stage], Awaitable[None]]) -> Stage:
    async def go() -> Stage:
        stage = Stage(backend)
        await stage.open()
        try:
            async with asyncio.timeout(10):
                await act(stage)
        finally:
            stage.reactor.close()
            stage.server.close()
        return stage

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(go())


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_a_whole_answer_is_read_and_the_connection_serves_again() -> None:
    async def act(stage: Stage) -> None:
        for _ in range(3):
            call, answer = await stage.call()
            assert answer.status == 200
            assert await call.inspect(1 << 20) == (b'{"a":1}', True)
            call.finish()
            assert call.over == "done"
        assert stage.endpoint.in_flight == 0

    backend = Backend(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", b'{"a"', b":1}")
    play(backend, act)
    assert backend.connections == 1
    assert backend.heard == [REQUEST] * 3


@pytest.mark.parametrize("size", [1, 3, 1000], ids=["byte by byte", "three bytes", "whole"])
def test_events_come_whole_however_they_are_cut(size: int) -> None:
    text = b'event: message\r\ndata: {"a":1}\r\n\r\n:\n\ndata: 2\n\ndata: 3\r\rdata: half'

    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        events = []
        while event := await call.next_event(1000):
            events.append(event)
        assert events == [b'event: message\r\ndata: {"a":1}\r\n\r\n', b":\n\n", b"data: 2\n\n", b"data: 3\r\r"]
        call.finish()
        assert stage.endpoint.spare_count == 1

    pieces = [chunk(text[i : i + size]) for i in range(0, len(text), size)]
    play(Backend(EVENTS, *pieces, b"0\r\n\r\n"), act)


def test_what_nobody_wants_is_read_to_its_end_so_that_the_connection_serves_again() -> None:
    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        assert await call.next_event(1000) == b"data: 1\n\n"
        call.finish()
        assert call.over is None
        await coroutines.eventually(lambda: call.over is not None)
        assert call.over == "done"
        assert stage.endpoint.spare_count == 1

    play(Backend(EVENTS, chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n"), b"0\r\n\r\n"), act)


def test_an_answer_that_never_ends_is_let_go_of_soon() -> None:
    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        assert await call.next_event(1000) == b"data: 1\n\n"
        call.finish()
        await coroutines.eventually(lambda: call.over is not None)
        assert call.over == "finished"
        assert (stage.endpoint.in_flight, stage.endpoint.spare_count) == (0, 0)

    play(Backend(EVENTS, chunk(b"data: 1\n\n"), chunk(b"data: 2\n\n")), act)


def test_an_event_over_the_bound_ends_the_call() -> None:
    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        with pytest.raises(core.UpstreamLost, match="too large"):
            await call.next_event(1000)
        assert call.over == "protocol"

    play(Backend(EVENTS, chunk(b"data: " + b"x" * 2000)), act)


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        pytest.param(Backend(), "timeout", id="silent"),
        pytest.param(Backend(hangs_up=True), "lost", id="hangs up"),
        pytest.param(Backend(b"220 mail.example SMTP\r\n\r\n"), "protocol", id="no HTTP"),
    ],
)
def test_without_an_answer_the_caller_learns_why(backend: Backend, kind: str) -> None:
    async def act(stage: Stage) -> None:
        with pytest.raises(core.UpstreamLost) as lost:
            await stage.call()
        assert (lost.value.kind, lost.value.ran) == (kind, True)
        assert stage.endpoint.in_flight == 0

    play(backend, act)


def test_an_answer_that_breaks_off_is_lost() -> None:
    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        assert await call.next_event(1000) == b"data: 1\n\n"
        with pytest.raises(core.UpstreamLost, match="in the middle"):
            await call.next_event(1000)
        assert call.over == "lost"

    play(Backend(EVENTS, chunk(b"data: 1\n\n"), hangs_up=True), act)


def test_a_closed_reactor_ends_what_is_waited_for() -> None:
    async def act(stage: Stage) -> None:
        call, _ = await stage.call()
        waiting = asyncio.ensure_future(call.next_event(1000))
        stage.reactor.close()
        with pytest.raises(core.ExchangeOver):
            await waiting

    play(Backend(EVENTS), act)
