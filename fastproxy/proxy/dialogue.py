"""Requests of the proxy's own to a backend: the replayed handshake, a DELETE, a probe. One request, one connection.

Small messages at rare moments, so this is plain asyncio over the same scanners as the relay; nothing of a client's
exchange passes here. Every wait has a deadline.
"""

import asyncio
import ssl

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import envelope

ANSWER_BYTES_MAX = 1 << 20  # an `initialize` result with long instructions is some ten KiB
_READ_BYTES = 65536


class DialogueFailed(errors.FastproxyError):
    """No whole, sound answer came."""

    reason = "backend_unreachable"


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


async def _read_answer(reader: asyncio.StreamReader, method: bytes) -> Answer:
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
            break
    body = _Body(head)
    events = any(n.lower() == b"content-type" and v.lower().startswith(b"text/event-stream") for n, v in head.fields)
    data = data[head.size :]
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
            self.done = self._left is not None and len(self.text) >= self._left


def _first_result(stream: bytes) -> bytes:
    for message in envelope.event_messages(stream):
        result, error = envelope.outcome(message)
        if result is not None or error is not None:
            return message
    return b""
