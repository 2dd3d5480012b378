"""Requests of our own to one backend, over the relay's connections: kept, and pooled per backend, not per session.

    Line.send(request) -> Answer (status, fields) -> whole(), next_event() -> finish(): the connection serves again

The relay does the bytes (Reactor.call); here its faults get the names that this room acts on. Nothing is sent twice,
but by `send` when the request surely did not run, or when the caller says that it may be (`repeatable`): a kept
connection may be closed by the backend just as it is used.
"""

import re
from urllib.parse import urljoin, urlsplit

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import reply
from fastproxy.proxy import dialer
from fastproxy.vmcp import events

Fields = list[tuple[bytes, bytes]]

_TARGET = re.compile(r"/[!-~]{0,4095}")


class NotConnected(errors.FastproxyError):
    """Nobody took the connection: the request has not been sent."""

    reason = "backend_unreachable"


class Lost(errors.FastproxyError):
    """No whole answer came. `ran`: the request may have run."""

    reason = "backend_lost"

    def __init__(self, message: str, *, ran: bool = True) -> None:
        super().__init__(message)
        self.ran = ran


class TooSlow(Lost):
    """The relay has waited for the answer's head as long as it may."""

    reason = "backend_timeout"


class Malformed(Lost):
    """What came is no HTTP, or larger than anybody here would take."""

    reason = "backend_protocol_error"


class Answer:
    """The answer to one request. Who has one finishes or closes it; `is_event_stream`: it holds events."""

    __slots__ = ("_call", "fields", "is_event_stream", "status")

    def __init__(self, call: core.Exchange, head: core.AnswerHead) -> None:
        self.status = head.status
        self.fields = head.fields
        self._call: core.Exchange | None = call
        self.is_event_stream = (self.header(b"content-type") or "").lower().startswith("text/event-stream")

    def header(self, name: bytes) -> str | None:
        """The value of a field (`name` in lower case), None without it."""
        for known, value in self.fields:
            if known.lower() == name:
                return value.decode("latin-1")
        return None

    async def next_event(self, *, bytes_max: int) -> events.Event | None:
        """The next event, None at the stream's end. Lost; Malformed when it is larger."""
        if self._call is None:
            raise Lost("the answer was closed")
        try:
            event = await self._call.next_event(bytes_max)
        except (core.UpstreamLost, core.ExchangeOver) as error:
            raise _fault(error) from error
        return events.read(event) if event else None

    async def whole(self, *, bytes_max: int) -> bytes:
        """All of the body. Lost; Malformed when it is larger."""
        if self._call is None:
            raise Lost("the answer was closed")
        try:
            body, ended = await self._call.inspect(bytes_max + 1)
        except (core.UpstreamLost, core.ExchangeOver) as error:
            raise _fault(error) from error
        if len(body) > bytes_max or not ended:
            self.close()
            raise Malformed(f"an answer over {bytes_max} bytes")
        return body

    def finish(self) -> None:
        """What is left is not wanted; the connection serves again if the end comes soon."""
        call, self._call = self._call, None
        if call is not None and call.over is None:
            call.finish()

    def close(self) -> None:
        """What is left is not wanted, and the backend shall know: the connection goes. Nothing after `finish`."""
        call, self._call = self._call, None
        if call is not None and call.over is None:
            call.abort("closed")


class Line:
    """To one backend. `target`: path and query of its endpoint."""

    def __init__(self, endpoint: core.Endpoint, target: str, *, reactor: core.Reactor, dial: dialer.Dialer) -> None:
        self.endpoint = endpoint
        self.target = target
        self._reactor = reactor
        self._dialer = dial

    async def send(self, request: bytes, *, repeatable: bool = False) -> Answer:
        """A request that is whole, and its answer's head. NotConnected, Lost, TooSlow, Malformed."""
        upstream = self.endpoint.take_spare()
        if upstream is not None:
            try:
                return await self._ask(upstream, request)
            except Lost as lost:
                if type(lost) is not Lost or (lost.ran and not repeatable):
                    raise
        try:
            upstream = await self._dialer.connect(self.endpoint, fresh=True)
        except (dialer.Unreachable, reply.Refusal, RuntimeError) as error:  # the last: the relay is closed, we end
            raise NotConnected(str(error)) from error
        return await self._ask(upstream, request)

    async def _ask(self, upstream: core.Upstream, request: bytes) -> Answer:
        try:
            call, head = self._reactor.call(upstream, request)
        except RuntimeError as error:  # the relay is closed: we end
            raise NotConnected(str(error)) from error
        try:
            return Answer(call, await head)
        except (core.UpstreamLost, core.ExchangeOver) as error:
            raise _fault(error) from error
        except BaseException:
            if call.over is None:
                call.abort("given_up")
            raise

    def resolve(self, uri: str) -> str | None:
        """The target of what the backend calls so; None: it is not on its own origin, or no target at all."""
        origin = self.endpoint.url
        try:
            found, own = urlsplit(urljoin(origin + self.target, uri)), urlsplit(origin)
            port = found.port or {"http": 80, "https": 443}.get(found.scheme)
            same = (found.scheme, found.hostname, port) == (own.scheme, own.hostname, own.port)
        except ValueError:
            return None
        target = found.path + (f"?{found.query}" if found.query else "")
        return target if same and _TARGET.fullmatch(target) else None

    def head(self, method: bytes, fields: Fields, *, target: str | None = None) -> bytes:
        """A request's beginning, to which `render` adds. Fields come as the caller has them; Host is ours."""
        path = (self.target if target is None else target).encode("latin-1")
        first = b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method, path, self.endpoint.authority)
        return first + b"".join([b"%s: %s\r\n" % field for field in fields])


def render(head: bytes, fields: Fields, body: bytes | None = None) -> bytes:
    """A whole request. Without a body: one that has none."""
    more = b"".join([b"%s: %s\r\n" % field for field in fields])
    if body is None:
        return b"%s%s\r\n" % (head, more)
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (head, more, len(body), body)


def _fault(error: core.UpstreamLost | core.ExchangeOver) -> Lost:
    if isinstance(error, core.ExchangeOver):
        return Lost(f"the answer was closed ({error.reason})")
    if error.kind == "timeout":
        return TooSlow("no answer in time", ran=error.ran)
    if error.kind == "protocol":
        return Malformed(error.detail or "its answer is not HTTP/1.1", ran=error.ran)
    return Lost(error.detail or "the connection was lost", ran=error.ran)
