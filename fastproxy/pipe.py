"""The other direction: a stdio server on our own standard input and output that is really a server elsewhere.

    line in  --request-->  peer --> its result, or why there is none, as a line out under the client's id
             --notification, answer-->  peer.send
    what the server says beside answers, and unasked --> a line out, as it came

Both eras pass, and both transports of the older one: a server that does not know streamable HTTP is tried over
HTTP+SSE. A session that the server has forgotten is opened anew with the client's own `initialize`, since a client that
knows only pipes could not; a request that has surely not run is sent again, once.
"""

import asyncio
import contextlib
import logging
import signal
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

import msgspec
import uvloop

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.proxy import access, dialer, names, tasks
from fastproxy.stdio import message
from fastproxy.vmcp import connections, event_stream, peer, streamable

logger = logging.getLogger(__name__)

LINE_BYTES_MAX = 16 << 20
UNREAD_BYTES_MAX = 64 << 20  # of ours, by a client that does not read: then there is nothing left to do for it
NOTICE_SECONDS_MAX = 10.0  # for a notification, and for the end of the session
LINGER_SECONDS_MAX = 60.0  # for calls under way when the input has ended
AGAIN_SECONDS = (1.0, 2.0, 5.0, 15.0)  # between two tries at the server's own stream
_DEFAULT_PORTS = {"http": 80, "https": 443}
_UNKNOWN_TRANSPORT = (400, 404, 405, 406, 415)  # answers of HTTP+SSE servers to a POST (spec: backwards compatibility)

Message = message.Message


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is, and what every request carries."""

    url: str
    fields: tuple[tuple[bytes, bytes], ...] = ()
    ca: str | None = None
    response_seconds: float = 300.0
    log_level: str = "warning"


def run(target: Target) -> int:
    """Until the input ends; the exit code. StartError: it could not begin."""
    access.configure_logging(target.log_level, "text")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(target))


async def _main(target: Target) -> int:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(LINE_BYTES_MAX, loop=loop)
    try:
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        out, _ = await loop.connect_write_pipe(asyncio.Protocol, sys.stdout)
    except (OSError, ValueError) as error:
        raise errors.StartError(f"standard input and output must be pipes or sockets: {error}") from error
    pipe = Pipe(target, out)
    serving = loop.create_task(pipe.serve(reader), name="serve the pipe")
    for which in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(which, serving.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await serving
    finally:
        await pipe.close()
    return pipe.code


class Pipe:
    """One client on a pipe, one server behind a URL."""

    def __init__(self, target: Target, out: asyncio.WriteTransport) -> None:
        self.code = 0
        self._target = target
        self._out = out
        self._tasks = tasks.Tasks()
        self._reactor, line = _make_line(target, self._tasks.start)
        own = [*target.fields]
        self._streamable = streamable.StreamablePeer("server", line, fields=own, start_task=self._tasks.start)
        self._older = event_stream.EventStreamPeer("server", line, fields=own, start_task=self._tasks.start)
        self._peer: peer.Peer = self._streamable
        self._calls: dict[bytes, asyncio.Task[None]] = {}
        self._opening: Message | None = None
        self._opened: peer.Opened | None = None
        self._turn = asyncio.Lock()
        self._listening: asyncio.Task[None] | None = None

    async def serve(self, reader: asyncio.StreamReader) -> None:
        """Every line, to the end of the input; then what is under way is awaited."""
        while True:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError as end:
                line = end.partial
                if not line.strip():
                    break
            except asyncio.LimitOverrunError:
                raise errors.StartError(f"the client has sent a line of more than {LINE_BYTES_MAX} bytes") from None
            if line.strip():
                await self._hear(line)
        if self._calls:
            await asyncio.wait(self._calls.values(), timeout=LINGER_SECONDS_MAX)

    async def close(self) -> None:
        """The session ends, best effort."""
        if self._listening is not None:
            self._listening.cancel()
        if self._opened is not None and self._opened.session_id is not None:
            with contextlib.suppress(peer.BackendError):
                await self._peer.end(
                    self._opened.session_id,
                    protocol_version=self._opened.protocol_version,
                    headers=[],
                    seconds_max=NOTICE_SECONDS_MAX,
                )
        await self._tasks.stop()
        await self._peer.close()
        self._out.close()
        self._reactor.close()

    # ---- from the client

    async def _hear(self, line: bytes) -> None:
        said = message.read(line)
        if said is None:
            logger.warning("the client said what is no message: %r", line[:120].decode("utf-8", "replace"))
        elif said.method == "initialize" and said.id and message.PROTOCOL_VERSION not in said.meta():
            await self._answer(said, self._initialize(said))  # what comes after it needs its outcome
        elif said.is_request:
            call = self._tasks.start(self._answer(said, self._ask(said)), name="call")
            self._calls[said.id] = call
            call.add_done_callback(lambda _: self._calls.pop(said.id, None))
        elif said.method == "notifications/initialized":
            self._listening = self._tasks.start(self._listen(), name="listen")
        elif said.method == "notifications/cancelled":
            call_of = self._calls.get(bytes(said.params().get("requestId", b"")))
            if call_of is not None:
                call_of.cancel()  # which tells the server in the way of its era
        elif self._opened is not None:
            await self._send(line.strip())

    async def _answer(self, asked: Message, result: Awaitable[bytes]) -> None:
        try:
            text = message.result(asked.id, await result)
        except peer.Refused as refused:
            text = b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (asked.id, refused.error)
        except peer.BackendError as error:
            data: dict[str, object] = {"reason": error.reason}
            if error.may_have_run:
                data["may_have_run"] = True
            text = message.error(asked.id, -32603, str(error), data)
        self._write(text)

    async def _initialize(self, asked: Message) -> bytes:
        self._opening = asked
        return (await self._open()).result

    async def _open(self) -> peer.Opened:
        assert self._opening is not None
        params = bytes(self._opening.members.get("params", b"{}"))
        self._peer = self._streamable
        try:
            opened = await self._open_by(self._streamable, params)
        except (peer.WrongStatus, peer.Refused) as error:
            if error.status not in _UNKNOWN_TRANSPORT:
                raise
            try:
                opened = await self._open_by(self._older, params)
            except peer.BackendError:
                raise error from None  # it is neither; the first answer says more
            self._peer = self._older
        self._opened = opened
        return opened

    async def _open_by(self, kind: peer.Peer, params: bytes) -> peer.Opened:
        seconds = self._target.response_seconds
        return await kind.open(params, headers=[], on_message=self._write, seconds_max=seconds)

    async def _ask(self, asked: Message) -> bytes:
        version = message.text_in(asked.meta().get(message.PROTOCOL_VERSION))
        if version:
            return await self._request(asked, None, version)
        opened = self._opened
        if opened is None:
            return await self._request(asked, None, peer.LEGACY_VERSION)
        try:
            return await self._request(asked, opened.session_id, opened.protocol_version)
        except peer.SessionLost:
            opened = await self._reopen(opened)
            return await self._request(asked, opened.session_id, opened.protocol_version)

    async def _reopen(self, lost: peer.Opened) -> peer.Opened:
        async with self._turn:
            if self._opened is lost:
                logger.warning("the server has forgotten the session: it is opened anew")
                await self._open()
            assert self._opened is not None
            return self._opened

    async def _request(self, asked: Message, session_id: str | None, version: str) -> bytes:
        return await self._peer.request(
            asked.method,
            bytes(asked.members.get("params", b"")),
            leg_session_id=session_id,
            protocol_version=version,
            headers=[],
            on_message=self._write,
            seconds_max=self._target.response_seconds,
        )

    async def _send(self, text: bytes) -> None:
        assert self._opened is not None
        try:
            await self._peer.send(
                text,
                leg_session_id=self._opened.session_id,
                protocol_version=self._opened.protocol_version,
                headers=[],
                seconds_max=NOTICE_SECONDS_MAX,
            )
        except peer.BackendError as error:
            logger.warning("the server did not take a message of the client's: reason=%s", error)

    # ---- from the server

    async def _listen(self) -> None:
        """What it says unasked, for as long as there is a session."""
        tries = 0
        while True:
            opened = self._opened
            if opened is None:
                return
            began = time.monotonic()
            try:
                await self._peer.listen(
                    leg_session_id=opened.session_id,
                    protocol_version=opened.protocol_version,
                    headers=[],
                    on_message=self._write,
                )
            except peer.NoStream:
                return
            except peer.SessionLost:
                if opened.session_id is None:
                    return
            except peer.BackendError as error:
                logger.info("the server's stream ended: reason=%s", error)
            tries = 0 if time.monotonic() - began > AGAIN_SECONDS[-1] else tries
            await asyncio.sleep(AGAIN_SECONDS[min(tries, len(AGAIN_SECONDS) - 1)])
            tries += 1

    def _write(self, text: bytes) -> None:
        if self._out.get_write_buffer_size() > UNREAD_BYTES_MAX:
            logger.error("the client does not read: ending")
            self.code = 1
            self._out.abort()
            signal.raise_signal(signal.SIGTERM)
        elif not self._out.is_closing():
            self._out.write(message.as_line(text))


def _make_line(target: Target, start_task: Callable[..., asyncio.Task[None]]) -> tuple[core.Reactor, connections.Line]:
    parts = urlsplit(target.url)
    assert parts.hostname is not None
    reactor = core.Reactor(
        asyncio.get_running_loop(), None, core.RouteTable(1), response_seconds=target.response_seconds
    )
    hosts = names.Names(names.ask_system, clock=time.monotonic, start_task=start_task, on_moved=lambda host: None)
    context = None
    if parts.scheme == "https":
        try:
            context = ssl.create_default_context(cafile=target.ca)
        except (OSError, ssl.SSLError) as error:
            raise errors.StartError(f"cannot use --ca: {error}") from error
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    authority = parts.netloc.rpartition("@")[2].encode("ascii")
    origin = f"{parts.scheme}://{authority.decode()}"
    endpoint = reactor.add_endpoint(origin, None, authority, b"", parts.hostname, port, context)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return reactor, connections.Line(endpoint, path, reactor=reactor, dial=dialer.Dialer(reactor, hosts))
