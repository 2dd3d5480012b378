"""Answers of the house's own that are sent piece by piece: `open_stream`, `send`, `taken`, `close_stream`.

Real: the relay on a uvloop, a client's socket. The handler is a few lines of the test. Not here: answers relayed from a
backend (tests/proxy/test_http_*).
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import uvloop

from fastproxy._ext import core

EVENTS = [(b"Content-Type", b"text/event-stream")]
Story = Callable[[core.Exchange], Awaitable[None]]


class Handler:
    """Tells `story` for each request."""

    def __init__(self, story: Story) -> None:
        self.story = story
        self.ended: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()

    def begin(self, exchange: core.Exchange) -> None:
        exchange.on_end = self.end
        self.tasks.add(asyncio.get_running_loop().create_task(self.tell(exchange)))

    def end(self, exchange: core.Exchange) -> None:
        self.ended.append(str(exchange.over))
        self.over.set()

    async def tell(self, exchange: core.Exchange) -> None:
        try:
            await self.story(exchange)
        except core.ExchangeOver:
            return


async def converse(story: Story, request: bytes, *, read: bool = True) -> tuple[bytes, Handler, core.Reactor]:
    """What a client that sends `request` reads until the connection ends."""
    loop = asyncio.get_running_loop()
    handler = Handler(story)
    reactor = core.Reactor(loop, handler, core.RouteTable(10), idle_seconds=0.3)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    port = listening.getsockname()[1]
    reactor.listen(listening.detach(), "data")
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    heard = await asyncio.wait_for(reader.read(), 10) if read else b""
    if not read:
        writer.transport.abort()
        await asyncio.wait_for(handler.over.wait(), 5)
    await asyncio.gather(*handler.tasks)
    writer.close()
    reactor.close()
    return heard, handler, reactor


def run(story: Story, request: bytes, *, read: bool = True) -> tuple[bytes, Handler, core.Reactor]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(converse(story, request, read=read))


async def two_events(exchange: core.Exchange) -> None:
    exchange.open_stream(200, EVENTS)
    assert exchange.send(b"data: 1\n\n")
    await asyncio.sleep(0)
    exchange.send(b"data: 2\n\n")
    exchange.close_stream()


def test_pieces_are_chunks_and_the_connection_lives_on() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    heard, handler, reactor = run(two_events, request)
    body = b"9\r\ndata: 1\n\n\r\n9\r\ndata: 2\n\n\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
    assert heard == head + b"\r\n" + body + head + b"Connection: close\r\n\r\n" + body
    assert handler.ended == ["done", "done"]
    assert reactor.streams_open == 0


def test_a_client_of_http_1_0_gets_no_chunks() -> None:
    heard, _, _ = run(two_events, b"GET / HTTP/1.0\r\n\r\n")
    assert heard.endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")
    assert b"chunked" not in heard


def test_a_client_that_leaves_ends_the_stream() -> None:
    async def endless(exchange: core.Exchange) -> None:
        exchange.open_stream(200, EVENTS)
        while True:
            exchange.send(b": still here\n\n")
            await asyncio.sleep(0.01)

    _, handler, reactor = run(endless, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", read=False)
    assert handler.ended == ["client_gone"]
    assert reactor.streams_open == 0


def test_a_client_that_lags_is_waited_for() -> None:
    async def flood(exchange: core.Exchange) -> None:
        exchange.open_stream(200, EVENTS)
        lagged = 0
        for _ in range(200):
            if not exchange.send(b"data: " + b"x" * 65000 + b"\n\n"):
                lagged += 1
                await exchange.taken()
        assert lagged
        exchange.close_stream()

    heard, handler, _ = run(flood, b"GET / HTTP/1.0\r\n\r\n")
    assert len(heard) > 200 * 65000
    assert handler.ended == ["done"]


def test_a_drain_ends_it_after_a_whole_event() -> None:
    async def half(exchange: core.Exchange) -> None:
        exchange.open_stream(200, EVENTS)
        exchange.send(b"data: 1\n\n")
        exchange.cut()

    heard, handler, _ = run(half, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert heard.endswith(b"data: 1\n\n\r\n0\r\n\r\n")
    assert handler.ended == ["drained"]
