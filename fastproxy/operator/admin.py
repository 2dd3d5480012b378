"""The operator's own admin address: is it alive, is it ready, how much has it to do. HTTP by hand, as three pages need
it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import fastproxy
from fastproxy import errors
from fastproxy.config import address
from fastproxy.operator.mirror import Key, Mirror
from fastproxy.operator.queue import WorkQueue

HEAD_BYTES_MAX = 8192
SECONDS_MAX = 5.0


class Subject(Protocol):
    """What the pages are about."""

    mirror: Mirror
    queue: WorkQueue[Key]
    passes: int
    failures: int

    @property
    def listed(self) -> bool: ...


@contextlib.asynccontextmanager
async def serving(subject: Subject, where: address.Address) -> AsyncIterator[None]:
    """While in this block. Its first line on standard output says where."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            async with asyncio.timeout(SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_answer(head, subject))
                await writer.drain()
        writer.close()

    try:
        server = await asyncio.start_server(answer, where.host, where.port, limit=HEAD_BYTES_MAX)
    except OSError as error:
        raise errors.StartError(f"cannot listen on {where}: {error.strerror or error}") from error
    port = server.sockets[0].getsockname()[1]
    print(f"fastproxy: admin on http://{address.bracket(where.host)}:{port}", flush=True)
    try:
        yield
    finally:
        server.close()


def _answer(head: bytes, subject: Subject) -> bytes:
    words = head.split(b"\r\n", 1)[0].split(b" ")
    path = words[1].split(b"?")[0] if len(words) == 3 else b""
    if words[0] not in (b"GET", b"HEAD"):
        return _write(405, "text/plain", "method not allowed\n")
    if path == b"/healthz":
        return _write(200, "text/plain", "ok\n")
    if path == b"/readyz":
        ready = subject.listed
        reasons = "[]" if ready else '["listing"]'
        return _write(
            200 if ready else 503, "application/json", f'{{"ready":{str(ready).lower()},"reasons":{reasons}}}\n'
        )
    if path == b"/metrics":
        return _write(200, "text/plain; version=0.0.4", _measure(subject))
    return _write(404, "text/plain", "not found: /healthz, /readyz and /metrics are here\n")


def _measure(subject: Subject) -> str:
    rows = (
        ("resources", "gauge", "Resources that are known.", len(subject.mirror.resources)),
        ("objects", "gauge", "Objects that belong to them.", len(subject.mirror.owned)),
        ("queue", "gauge", "Resources that are to be looked at.", len(subject.queue)),
        ("delayed", "gauge", "Resources that failed and wait.", subject.queue.delayed),
        ("passes_total", "counter", "Looks at a resource.", subject.passes),
        ("failures_total", "counter", "Looks that have to be repeated.", subject.failures),
    )
    lines = [
        f"# HELP fastproxy_operator_{name} {text}\n# TYPE fastproxy_operator_{name} {type_}\n"
        f"fastproxy_operator_{name} {value}\n"
        for name, type_, text, value in rows
    ]
    return "".join(lines)


def _write(status: int, content_type: str, body: str) -> bytes:
    reason = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}[status]
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body.encode())}\r\n"
        f"Server: fastproxy/{fastproxy.__version__}\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()
