"""Calls over HTTP: a POST that waits, as JSON or as an event stream, and streams of events in general.

A stream that its client does not read holds up the process that feeds it (`hold`, `release`), which is one client's
own; where it is shared, nobody is held up, and a client that lags too far behind loses its stream.
"""

import asyncio
import contextlib
from collections.abc import Callable

from fastproxy._ext import core
from fastproxy.stdio import ledger, message
from fastproxy.wire import request as requests

SILENCE_SECONDS_MAX = 15.0  # between two pieces of a stream, for clients and balancers that time out (mcp.md §1.3)
LAG_BYTES_MAX = 4 << 20  # what a client of a shared process may leave unread beside what the kernel holds

Fields = list[tuple[bytes, bytes]]

JSON = [(b"Content-Type", b"application/json")]
EVENTS = [
    (b"Content-Type", b"text/event-stream"),
    (b"Cache-Control", b"no-cache, no-transform"),
    (b"X-Accel-Buffering", b"no"),
]
CANCELLED = -32800  # outside of what JSON-RPC and the protocol reserve; language servers use it for the same
_KEEP_ALIVE = b": keep-alive\r\n\r\n"


def event(text: bytes, kind: bytes = b"message") -> bytes:
    """A message as an event: one line, as it came."""
    return b"event: %s\r\ndata: %s\r\n\r\n" % (kind, text)


def accepted(request: requests.Request) -> tuple[bool, bool]:
    """May the answer be JSON, may it be events?"""
    accept = ",".join(request.all(b"accept")).lower()
    anything = not accept or "*/*" in accept
    return anything or "application/json" in accept, anything or "text/event-stream" in accept


def loss(number: bytes, detail: str, *, ran: bool) -> bytes:
    """What a client is told whose call has lost its server."""
    if not ran:
        return message.error(number, -32603, f"the MCP server is gone: {detail}", {"reason": "backend_unreachable"})
    what = f"the MCP server was lost before it answered; the request may have run: {detail}"
    return message.error(number, -32603, what, {"reason": "backend_lost", "may_have_run": True})


class Brake:
    """What a stream does about a client that lags. Of a shared process: nothing, until it lags too far."""

    def hold(self) -> None:
        """Somebody lags."""

    def release(self) -> None:
        """Not any more."""

    lag_bytes_max: int = LAG_BYTES_MAX


class Stream:
    """An event stream to a client: `send` never waits. `over`: nothing can be said there any more."""

    def __init__(
        self, exchange: core.Exchange, brake: Brake, start_task: Callable[..., object], fields: Fields | None = None
    ) -> None:
        self._exchange = exchange
        self._brake = brake
        self._start_task = start_task
        self._lagging = False
        self._unread = 0
        self._spoke_at = asyncio.get_running_loop().time()
        exchange.open_stream(200, EVENTS + (fields or []))

    @property
    def over(self) -> bool:
        """Has it ended?"""
        return self._exchange.over is not None

    def send(self, data: bytes) -> None:
        """Whole events."""
        if self.over:
            return
        self._spoke_at = asyncio.get_running_loop().time()
        try:
            taken = self._exchange.send(data)
        except core.ExchangeOver:
            return
        if taken or self.over:
            return
        self._unread += len(data)
        if not self._lagging:
            self._lagging = True
            self._brake.hold()
            self._start_task(self._await_client(), name="await a client that lags")
        elif self._unread > self._brake.lag_bytes_max:
            self._exchange.abort("client_lags")

    async def _await_client(self) -> None:
        try:
            with contextlib.suppress(core.ExchangeOver):
                await self._exchange.taken()
        finally:
            self._lagging = False
            self._unread = 0
            self._brake.release()

    def keep_alive(self, now: float) -> None:
        """A comment, if nothing has been said for long."""
        if now - self._spoke_at >= SILENCE_SECONDS_MAX and not self._lagging:
            self.send(_KEEP_ALIVE)

    def close(self) -> None:
        """No more comes."""
        if not self.over:
            with contextlib.suppress(core.ExchangeOver):
                self._exchange.close_stream()


class Post(ledger.Call):
    """A request that came by POST. It is answered with JSON if nothing had to be said before, else with events."""

    def __init__(
        self,
        owner: object,
        asked: message.Message,
        exchange: core.Exchange,
        *,
        accepts: tuple[bool, bool],
        brake: Brake,
        start_task: Callable[..., object],
    ) -> None:
        super().__init__(owner, asked)
        self.exchange = exchange
        self.stream: Stream | None = None
        self.on_settled: Callable[[Post, message.Message | None], None] = lambda call, answer: None
        self.fields: Fields = []
        self.cancelled_at: float | None = None
        self._accepts_json, self.accepts_events = accepts
        self._brake = brake
        self._start_task = start_task
        self._began = asyncio.get_running_loop().time()

    @property
    def over(self) -> bool:
        """Is nobody there to hear it?"""
        return self.exchange.over is not None

    def tell(self, text: bytes) -> None:
        if not self.over and self.accepts_events:
            self._open().send(event(text))

    def settle(self, answer: message.Message, text: bytes) -> None:
        self.on_settled(self, answer)
        self.reply(self.status(answer), text)

    def status(self, answer: message.Message) -> int:
        """Of the HTTP answer, if it has not begun."""
        return 200

    def lost(self, detail: str, *, ran: bool) -> None:
        self.on_settled(self, None)
        self.reply(200, loss(self.id, detail, ran=ran))

    def reply(self, status: int, text: bytes) -> None:
        """The last word."""
        if self.over:
            return
        if self.stream is None and self._accepts_json:
            with contextlib.suppress(core.ExchangeOver):
                self.exchange.answer(status, JSON + self.fields, text)
            return
        stream = self._open()
        stream.send(event(text))
        stream.close()

    def give_up(self) -> None:
        """Its client has cancelled it, and the server says nothing more about it, as it should (spec: cancellation)."""
        self.on_settled(self, None)
        self.reply(200, message.error(self.id, CANCELLED, "the request was cancelled"))

    def keep_alive(self, now: float) -> None:
        """A call that takes long: its head goes out, and a comment now and then."""
        if self.stream is not None:
            self.stream.keep_alive(now)
        elif now - self._began >= SILENCE_SECONDS_MAX and self.accepts_events and not self.over:
            self._open().send(_KEEP_ALIVE)

    def _open(self) -> Stream:
        if self.stream is None:
            self.stream = Stream(self.exchange, self._brake, self._start_task, self.fields)
        return self.stream
