"""Requests of the proxy's own to a backend: the replayed handshake, a DELETE, a probe. One request, one connection.

    ask           a whole answer                       open_events   an answer whose events are read one by one

Small messages at rare moments, so this is plain asyncio over the same scanners as the relay; nothing of a client's
exchange passes here. Every wait has a deadline, but that for the next event of a stream: it is the reader's.
"""

import asyncio
import socket
import ssl

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import envelope

ANSWER_BYTES_MAX = 1 << 20  # an `initialize` result with long instructions is some ten KiB
_READ_BYTES = 65536
# A peer that vanishes without a word would be listened to for ever: its kernel is asked whether it is there.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))


class DialogueFailed(errors.FastproxyError):
    """No whole, sound answer came."""

    reason = "backend_unreachable"


class NotConnected(DialogueFailed):
    """Nobody took the connection."""


class TooSlow(DialogueFailed):
    """No head of an answer came within `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s")
        self.seconds = seconds


class Answer(msgspec.Struct, frozen=True):
    """A backend's answer. `message`: the JSON-RPC message in it, from JSON or from the first event with a result."""

    status: int
    fields: list[tuple[bytes, bytes]]
    message: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of a field, without regard to case."""
        for known, value in self.fields:
            if known.lower() == name:
                return value
        return None


async def ask(
    address: str,
    port: int,
    *,
    method: str,
    target: str,
    authority: bytes,
    fields: list[tuple[bytes, bytes]],
    body: bytes = b"",
    tls: ssl.SSLContext | None = None,
    hostname: str = "",
    seconds_max: float,
) -> Answer:
    """One request to a literal address, and its answer. DialogueFailed in every other case."""
    try:
        async with asyncio.timeout(seconds_max):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=hostname if tls is not None else None, limit=_READ_BYTES
            )
            try:
                head = b"%s %s HTTP/1.1\r\nHost: %s\r\n" % (method.encode(), target.encode("latin-1"), authority)
                head += b"".join(b"%s: %s\r\n" % field for field in fields)
                writer.write(head + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body)
                return await _read_answer(reader, method.encode())
            finally:
                writer.transport.abort()
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError, core.HttpError) as error:
        raise DialogueFailed(f"{type(error).__name__}: {error}") from error
    except TimeoutError as error:
        raise DialogueFailed(f"no whole answer within {seconds_max:g} s") from error


class EventStream:
    """An answer to be read as it comes. Who has one closes it."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: core.ResponseHead, data: bytes
    ) -> None:
        self.status = head.status
        self.fields = head.fields
        self.events = _is_event_stream(head)
        self._counted = head.length is not None or head.chunked
        self._reader = reader
        self._writer = writer
        self._body = _Body(head)
        self._body.feed(data)

    async def next_event(self) -> bytes:
        """The next whole event, with the blank line that ends it; empty at the end of the stream."""
        while True:
            end = core.event_end(self._body.text)
            if end >= 0:
                event, self._body.text = self._body.text[:end], self._body.text[end:]
                if event.strip(b"\r\n"):  # else the LF of a CRLF whose CR has ended the event
                    return event
                continue
            if not await self._read_on():
                return b""

    async def rest(self) -> bytes:
        """What is left of the body."""
        while await self._read_on():
            pass
        return self._body.text

    def close(self) -> None:
        """At once, without a word."""
        self._writer.transport.abort()

    async def _read_on(self) -> bool:
        if self._body.done:
            return False
        if len(self._body.text) > ANSWER_BYTES_MAX:
            raise DialogueFailed(f"an event over {ANSWER_BYTES_MAX} bytes")
        try:
            data = await self._reader.read(_READ_BYTES)
            if data:
                self._body.feed(data)
            elif self._counted:
                raise DialogueFailed("the connection ended in the middle of the answer")
        except (OSError, ssl.SSLError, core.HttpError) as error:
            raise DialogueFailed(f"{type(error).__name__}: {error}") from error
        return bool(data)


async def open_events(
    address: str,
    port: int,
    *,
    request: bytes,
    tls: ssl.SSLContext | None = None,
    hostname: str = "",
    connect_seconds_max: float,
    head_seconds_max: float,
) -> EventStream:
    """Send a request that is whole as it is; the head of its answer is read. NotConnected, TooSlow, DialogueFailed."""
    try:
        async with asyncio.timeout(connect_seconds_max):
            reader, writer = await asyncio.open_connection(
                address, port, ssl=tls, server_hostname=hostname if tls is not None else None, limit=_READ_BYTES
            )
    except (OSError, ssl.SSLError) as error:  # the deadline's too
        raise NotConnected(f"{type(error).__name__}: {error}") from error
    try:
        async with asyncio.timeout(head_seconds_max):
            end = writer.get_extra_info("socket")
            end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEP_ALIVE:
                end.setsockopt(socket.IPPROTO_TCP, option, value)
            writer.write(request)
            head, data = await _read_head(reader, b"POST")
            return EventStream(reader, writer, head, data)
    except BaseException as error:
        writer.transport.abort()
        if isinstance(error, TimeoutError):
            raise TooSlow(head_seconds_max) from error
        if isinstance(error, (OSError, ssl.SSLError, core.HttpError)):
            raise DialogueFailed(f"{type(error).__name__}: {error}") from error
        raise


async def _read_head(reader: asyncio.StreamReader, method: bytes) -> tuple[core.ResponseHead, bytes]:
    """The head of the final answer, and what has come of the body."""
    data = b""
    while True:
        piece = await reader.read(_READ_BYTES)
        if not piece:
            raise DialogueFailed("the connection ended before an answer")
        data += piece
        head = core.scan_response(data, 65536, method)
        while head is not None and head.status < 200:
            data = data[head.size :]
            head = core.scan_response(data, 65536, method)
        if head is not None:
            return head, data[head.size :]


def _is_event_stream(head: core.ResponseHead) -> bool:
    return any(n.lower() == b"content-type" and v.lower().startswith(b"text/event-stream") for n, v in head.fields)


async def _read_answer(reader: asyncio.StreamReader, method: bytes) -> Answer:
    head, data = await _read_head(reader, method)
    body = _Body(head)
    events = _is_event_stream(head)
    if method == b"HEAD" or head.status in (204, 304):
        return Answer(head.status, head.fields, b"")
    while True:
        body.feed(data)
        message = _first_result(body.text) if events else b""
        if message or body.done:
            return Answer(head.status, head.fields, message if events else body.text)
        if len(body.text) > ANSWER_BYTES_MAX:
            raise DialogueFailed(f"an answer over {ANSWER_BYTES_MAX} bytes")
        data = await reader.read(_READ_BYTES)
        if not data:
            if head.length is None and not head.chunked:
                return Answer(head.status, head.fields, _first_result(body.text) if events else body.text)
            raise DialogueFailed("the connection ended in the middle of the answer")


class _Body:
    """A body as it comes: counted, chunked, or until the end of the connection."""

    def __init__(self, head: core.ResponseHead) -> None:
        self._left = head.length
        self._scanner = core.ChunkScanner() if head.chunked else None
        self.text = b""
        self.done = head.length == 0 and not head.chunked

    def feed(self, data: bytes) -> None:
        if self._scanner is not None:
            payload, _, self.done = self._scanner.feed(data)
            self.text += payload
        else:
            self.text += data
            if self._left is not None:
                self._left -= len(data)
                self.done = self._left <= 0


def _first_result(stream: bytes) -> bytes:
    for message in envelope.event_messages(stream):
        result, error = envelope.outcome(message)
        if result is not None or error is not None:
            return message
    return b""
