"""What can be said to a client, and where: in the answer to one of its requests, or on the stream that it has opened.

    Call      one request under way: messages before its answer make it an event stream, the answer alone is JSON
    Stream    the client's GET: everything that belongs to no request

A message is a JSON-RPC message in bytes. A client that does not take what it is told loses what is not an answer: no
more than LAG_BYTES_MAX waits for one, whatever a backend says.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from fastproxy._ext import core
from fastproxy.vmcp import record

JSON = (b"Content-Type", b"application/json")
EVENTS = [
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
]
KEEP_ALIVE = b": keep-alive\n\n"

Fields = list[tuple[bytes, bytes]]


def event(message: bytes) -> bytes:
    """A message as an event. Line breaks between its tokens may stand in it; in an event each needs a line."""
    if b"\n" in message or b"\r" in message:
        message = message.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\ndata: ")
    return b"event: message\ndata: " + message + b"\n\n"


class Voice(Protocol):
    """Where something can be said to a client."""

    def say(self, message: bytes) -> bool:
        """False: nobody hears it."""


class Call:
    """One request of a client. `token`: its progressToken as the client wrote it; `backend_id`: who is asked. The
    client of one that another replica has passed on is spoken to through `elsewhere`."""

    __slots__ = (
        "backend_id",
        "cancelled",
        "elsewhere",
        "exchange",
        "fields",
        "opened",
        "over",
        "request_id",
        "takes_events",
        "task",
        "token",
    )

    def __init__(self, exchange: core.Exchange | None, request_id: bytes, fields: Fields) -> None:
        self.exchange = exchange
        self.request_id = request_id
        self.fields = fields  # of its answer's head
        self.token = b""
        self.backend_id = ""
        self.takes_events = True
        self.opened = False
        self.over = False
        self.cancelled = False
        self.elsewhere: Callable[[bytes], None] | None = None
        self.task: asyncio.Task[None] | None = None

    def goes_to(self, backend_id: str, endpoint: core.Endpoint | None) -> None:
        """Who is asked; metrics name it."""
        self.backend_id = backend_id
        if self.exchange is not None and endpoint is not None:
            self.exchange.charge(endpoint)

    def say(self, message: bytes) -> bool:
        """Before the answer."""
        if self.elsewhere is not None:
            self.elsewhere(message)
            return True
        if self.over or self.exchange is None or self.exchange.over is not None or not self.takes_events:
            return False
        try:
            if not self.opened:
                self.opened = True
                self.exchange.open_stream(200, [*EVENTS, *self.fields])
            if self.exchange.lags:
                return False
            self.exchange.send(event(message))
        except core.ExchangeOver:
            return False
        return True

    def tell(self, message: bytes) -> None:
        """The same, whether it is heard or not."""
        self.say(message)

    def answer(self, message: bytes) -> None:
        """The last word. ExchangeOver: nobody is left."""
        assert self.exchange is not None
        self.over = True
        if not self.opened:
            self.exchange.answer(200, [JSON, *self.fields], message)
            return
        self.exchange.send(event(message))
        self.exchange.close_stream()

    def hush(self) -> None:
        """There will be no answer: the client has cancelled it."""
        self.over = True
        if self.exchange is None or self.exchange.over is not None:
            return
        if self.opened:
            self.exchange.close_stream()
        else:
            self.exchange.answer(202, self.fields, b"")

    def cancel(self) -> None:
        """The client no longer wants it: the backend is told."""
        if self.task is not None and not self.over:
            self.cancelled = True
            self.task.cancel()


class Stream:
    """A client's GET. `listening`: the streams of legs that are merged into it."""

    __slots__ = ("closed", "exchange", "listening", "opened_at", "spoke_at", "watched")

    def __init__(self, exchange: core.Exchange, fields: Fields, on_closed: Callable[["Stream"], None]) -> None:
        self.exchange = exchange
        self.listening: dict[str, tuple[record.Leg, asyncio.Task[None]]] = {}
        self.watched: dict[str, Callable[[], None]] = {}  # a URI at a backend without sessions: how to let go of it
        self.opened_at = time.time()
        self.spoke_at = time.monotonic()
        self.closed = False
        exchange.on_end = lambda _: on_closed(self)
        exchange.open_stream(200, [*EVENTS, *fields])

    def say(self, message: bytes) -> bool:
        """Anything but an answer."""
        return self._send(event(message))

    def keep_alive(self) -> None:
        """A word that means nothing, so that nobody in between takes it for dead."""
        self._send(KEEP_ALIVE)

    def close(self) -> None:
        """Cleanly: another stream has taken its place, or the session is over."""
        if self.exchange.over is None:
            self.exchange.cut()

    def _send(self, data: bytes) -> bool:
        if self.closed or self.exchange.over is not None or self.exchange.lags:
            return False
        try:
            self.exchange.send(data)
        except core.ExchangeOver:
            return False
        return True
