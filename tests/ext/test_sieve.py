"""Answers that are searched as they pass: `seek`. What has no word leaves at once, what has one waits for `relay`.

Real: the relay on a uvloop, a client's socket and a backend's, written to in pieces that the test cuts. The handler is
a few lines of the test. Not here: what is remembered (tests/proxy/test_stateless_keys.py).
"""

import asyncio
import random
import socket
from collections.abc import Iterator

import pytest
import uvloop

from fastproxy._ext import core

WORDS = (b'"key"', b'"other"')
REQUEST = (
    b"POST / HTTP/1.1\r\nHost: a\r\nMCP-Protocol-Version: 2026-07-28\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)
PLAIN = b"data: 1\n\n"
HIT = b'data: {"key": 1}\n\n'


class Searching:
    """A handler that searches every answer. `found`: what it was shown; `held` makes it wait before it lets go."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.found: list[bytes] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.may_go = asyncio.Event()
        self.may_go.set()

    def begin(self, exchange: core.Exchange) -> None:
        self.tasks.add(asyncio.get_running_loop().create_task(self.tell(exchange)))

    async def tell(self, exchange: core.Exchange) -> None:
        upstream = await self.reactor.connect(self.endpoint, "127.0.0.1")
        await exchange.forward(upstream)
        exchange.seek(WORDS, self.on_word, self.limit)
        exchange.relay()

    def on_word(self, exchange: core.Exchange, text: bytes) -> None:
        self.found.append(text)
        self.tasks.add(asyncio.get_running_loop().create_task(self.let_go(exchange)))

    async def let_go(self, exchange: core.Exchange) -> None:
        await self.may_go.wait()
        if exchange.over is None:
            exchange.relay()


class Place:
    """A relay between a client's and a backend's socket, both in the test's hands."""

    async def open(self, limit: int = 4096) -> None:
        loop = asyncio.get_running_loop()
        self.handler = Searching(limit)
        self.reactor = self.handler.reactor = core.Reactor(loop, self.handler, core.RouteTable(10))  # type: ignore[attr-defined]
        self.accepted: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        server = await asyncio.start_server(lambda *ends: self.accepted.put_nowait(ends), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.server = server
        self.handler.endpoint = self.reactor.add_endpoint("http://b", None, b"b", b"", "127.0.0.1", port)  # type: ignore[attr-defined]
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        port = listening.getsockname()[1]
        self.reactor.listen(listening.detach(), "data")
        self.client, self.client_writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(self, head: bytes) -> asyncio.StreamWriter:
        """The request is on its way; the backend's end, that has said this head."""
        self.client_writer.write(REQUEST)
        reader, writer = await asyncio.wait_for(self.accepted.get(), 5)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n")
        await self.client.readuntil(b"\r\n\r\n")
        return writer

    async def silent(self, seconds: float = 0.05) -> bool:
        try:
            await asyncio.wait_for(self.client.readexactly(1), seconds)
        except TimeoutError:
            return True
        return False

    async def close(self) -> None:
        self.client_writer.close()
        self.server.close()
        await asyncio.gather(*self.handler.tasks)
        self.reactor.close()


def run(conversation: object, limit: int = 4096) -> None:
    async def told() -> None:
        place = Place()
        await place.open(limit)
        await conversation(place)  # type: ignore[operator]
        assert place.reactor.faults == 0
        await place.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(told())


EVENTS = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_a_whole_event_leaves_at_once_and_a_part_when_it_is_whole() -> None:
    async def conversation(place: Place) -> None:
        backend = await place.ask(EVENTS)
        backend.write(chunk(PLAIN + b"data: 2"))
        assert await place.client.readexactly(len(chunk(PLAIN))) == chunk(PLAIN)
        assert await place.silent()
        backend.write(chunk(b"\n\n"))
        whole = chunk(b"data: 2\n\n")
        assert await place.client.readexactly(len(whole)) == whole
        backend.write(b"0\r\n\r\n")
        assert await place.client.read() == b"0\r\n\r\n"
        assert place.handler.found == []

    run(conversation)


def test_an_event_with_a_word_waits_and_the_rest_is_searched_again() -> None:
    async def conversation(place: Place) -> None:
        place.handler.may_go.clear()
        backend = await place.ask(EVENTS)
        backend.write(chunk(HIT) + chunk(PLAIN + b'data: "oth'))
        assert await place.silent()
        assert place.handler.found == [HIT + PLAIN], "what has come with it waits with it"
        place.handler.may_go.set()
        assert await place.client.readexactly(len(chunk(HIT + PLAIN))) == chunk(HIT + PLAIN)
        place.handler.may_go.clear()
        backend.write(chunk(b'er"\n\n') + b"0\r\n\r\n")
        assert await place.silent()
        assert place.handler.found[1:] == [b'data: "other"\n\n']
        place.handler.may_go.set()
        assert await place.client.read() == chunk(b'data: "other"\n\n') + b"0\r\n\r\n"

    run(conversation)


def test_a_body_waits_for_its_end_and_keeps_its_length() -> None:
    async def conversation(place: Place) -> None:
        backend = await place.ask(b"Content-Type: application/json\r\nContent-Length: 9")
        backend.write(b'{"key"')
        assert await place.silent()
        backend.write(b":1}")
        assert await place.client.read() == b'{"key":1}'
        assert place.handler.found == [b'{"key":1}']

    run(conversation)


@pytest.mark.parametrize("length", [b"Content-Length: 300", b"Transfer-Encoding: chunked"])
def test_a_body_over_the_limit_passes_unsearched_and_without_delay(length: bytes) -> None:
    async def conversation(place: Place) -> None:
        frame = chunk if b"chunked" in length else bytes
        backend = await place.ask(b"Content-Type: application/json\r\n" + length)
        backend.write(frame(b"x" * 150))
        assert b"x" * 150 in await place.client.readuntil(b"x" * 150)
        backend.write(frame(b"y" * 145 + b'"key"') + (b"0\r\n\r\n" if frame is chunk else b""))
        assert b'"key"' in await place.client.read()
        assert place.handler.found == []

    run(conversation, limit=100)


def test_a_backend_that_breaks_off_is_seen_to_have_done_so() -> None:
    async def conversation(place: Place) -> None:
        backend = await place.ask(EVENTS)
        backend.write(chunk(PLAIN) + chunk(b"data: par"))
        await asyncio.sleep(0.05)
        backend.transport.abort()
        assert await place.client.read() == chunk(PLAIN), "and no last chunk"

    run(conversation)


def test_a_client_that_leaves_while_it_is_held_back_ends_it() -> None:
    async def conversation(place: Place) -> None:
        place.handler.may_go.clear()
        backend = await place.ask(EVENTS)
        backend.write(chunk(HIT))
        await asyncio.sleep(0.05)
        assert place.handler.found == [HIT]
        place.client_writer.transport.abort()
        await asyncio.sleep(0.05)
        assert place.reactor.in_flight == 0
        place.handler.may_go.set()

    run(conversation)


def pieces(generator: random.Random, data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = generator.choice([1, 2, 3, 7, 20, 100])
        yield data[at : at + size]
        at += size


@pytest.mark.parametrize("seed", range(12))
def test_however_it_is_cut_every_byte_passes_and_every_key_is_seen(seed: int) -> None:
    generator = random.Random(seed)
    end = generator.choice([b"\n", b"\r\n", b"\r"])
    events = []
    for number in range(40):
        text = generator.choice([b'{"key":%d}', b'"other" %d', b"%d key other", b"%d" + b"z" * 150]) % number
        events.append(b"event: message" + end + b"data: " + text + end * 2)
    whole = b"".join(events)
    hits = [event for event in events if b'"key"' in event or b'"other"' in event]

    async def conversation(place: Place) -> None:
        backend = await place.ask(EVENTS)
        for piece in pieces(generator, whole):
            backend.write(chunk(piece))
            if generator.random() < 0.2:
                await asyncio.sleep(0)
        backend.write(b"0\r\n\r\n")
        heard, at = b"", await place.client.read()
        while not at.startswith(b"0\r\n"):
            size, _, at = at.partition(b"\r\n")
            heard, at = heard + at[: int(size, 16)], at[int(size, 16) + 2 :]
        assert heard == whole
        assert all(any(hit.strip() in shown for shown in place.handler.found) for hit in hits)

    run(conversation, limit=120 if seed % 3 == 0 else 4096)
