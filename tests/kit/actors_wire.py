"""The network's two edges, speaking bytes: `RawClient` towards the proxy, `ScriptedBackend` behind it.

Neither is a mock of our code: they are peers that do what real peers do on bad days, at the moment that the test
says. The client is blocking; the backend runs an event loop in a thread of its own, one coroutine of the test's per
connection, and keeps what it got.
"""

import asyncio
import contextlib
import socket
import struct
import threading
import time
import typing
import urllib.parse
from collections.abc import Awaitable, Callable, Iterator, Mapping

from tests.kit import actors, actors_message

WAIT_SECONDS_MAX = 10.0
READ_BYTES = 65_536
Found = typing.TypeVar("Found")
LINGER_ZERO = struct.pack("ii", 1, 0)  # close() then sends RST instead of FIN


class RawClient:
    """A connection on which the test decides each byte. Reading is bounded in time; bytes left over are kept."""

    def __init__(
        self, url: str, *, seconds_max: float = WAIT_SECONDS_MAX, receive_buffer_bytes: int | None = None
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.authority = parts.netloc
        self.buffer = b""
        self.ended = False
        self._awaited: list[str] = []  # methods of requests whose responses have not been read
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:  # before connect, or the window is announced already
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(seconds_max)
        self._socket.connect((parts.hostname, parts.port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Sending.

    def send(self, data: bytes) -> None:
        """These bytes, which begin one request. Its method matters for HEAD, whose response has no body."""
        self._awaited.append("HEAD" if data.startswith(b"HEAD ") else "GET")
        self._socket.sendall(data)

    def send_more(self, data: bytes) -> None:
        """The next piece of a request that `send` began."""
        self._socket.sendall(data)

    def send_slowly(self, data: bytes, *, piece_bytes: int, seconds: float) -> None:
        """In pieces, with pauses between them."""
        self._awaited.append("GET")
        for begin in range(0, len(data), piece_bytes):
            self._socket.sendall(data[begin : begin + piece_bytes])
            time.sleep(seconds)

    def request(
        self, method: str, target: str, fields: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> actors_message.Message:
        """A plain request and its whole response."""
        self.send(actors_message.format_request(method, target, self.authority, fields, body))
        return self.response()

    # Reading.

    def response(self, *, seconds_max: float = WAIT_SECONDS_MAX) -> actors_message.Message:
        """The next whole response, interim ones (1xx) too."""
        method = self._awaited[0] if self._awaited else "GET"
        message = self._read_while(
            lambda: actors_message.take(self.buffer, answers=method, at_end=self.ended), seconds_max, "a response"
        )
        self.buffer = self.buffer[len(message.raw) :]
        if message.status >= 200 and self._awaited:
            self._awaited.pop(0)
        return message

    def head(self, *, seconds_max: float = WAIT_SECONDS_MAX) -> actors_message.Message:
        """Only the head of the next response, as soon as it is there; its body stays to be read."""
        head = self.until(b"\r\n\r\n", seconds_max=seconds_max)
        start_line, fields = actors_message.parse_head(head)
        return actors_message.Message(start_line, fields, b"", head, [])

    def until(self, marker: bytes, *, seconds_max: float = WAIT_SECONDS_MAX) -> bytes:
        """Everything up to and including the marker."""

        def found() -> bytes | None:
            at = self.buffer.find(marker)
            return None if at < 0 else self.buffer[: at + len(marker)]

        piece = self._read_while(found, seconds_max, repr(marker))
        self.buffer = self.buffer[len(piece) :]
        return piece

    def rest(self, *, seconds_max: float = WAIT_SECONDS_MAX) -> bytes:
        """Everything up to the end of the connection."""
        everything = self._read_while(lambda: self.buffer if self.ended else None, seconds_max, "the end")
        self.buffer = b""
        return everything

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long, neither bytes nor the end."""
        if self.buffer:
            return False
        self._socket.settimeout(seconds)
        try:
            data = self._socket.recv(READ_BYTES)
        except TimeoutError:
            return True
        self.buffer, self.ended = data, not data
        return False

    def _read_while(self, found: Callable[[], Found | None], seconds_max: float, wanted: str) -> Found:
        deadline = time.monotonic() + seconds_max
        while (result := found()) is None:
            if self.ended:
                raise actors.KitError(f"the connection ended before {wanted}; it said {self.buffer[:500]!r}")
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            try:
                data = self._socket.recv(READ_BYTES)
            except TimeoutError:
                raise actors.KitError(f"no {wanted} within {seconds_max} s; it said {self.buffer[:500]!r}") from None
            self.buffer += data
            self.ended = not data
        return result

    # Ending.

    def half_close(self) -> None:
        """FIN from our side; reading goes on."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._socket.close()

    def close(self) -> None:
        self._socket.close()


class Connection:
    """One connection that a `ScriptedBackend` accepted, and the verbs of a script. `received`: every byte that came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()
        self.requests: list[actors_message.Message] = []
        self.ended_by: str | None = None  # client (FIN), reset (RST), script; None while it lives
        self._reader = reader
        self._writer = writer
        self._taken = 0

    async def read_some(self) -> bytes:
        """Whatever comes next; empty at the end."""
        try:
            data = await self._reader.read(READ_BYTES)
        except ConnectionResetError:
            self.ended_by = "reset"
            return b""
        if not data and self.ended_by is None:
            self.ended_by = "client"
        self.received += data
        return data

    async def read_head(self) -> bytes | None:
        """The head of the next request, its body unread; None when the client has gone."""
        while (at := self.received.find(b"\r\n\r\n", self._taken)) < 0:
            if not await self.read_some():
                return None
        head = bytes(self.received[self._taken : at + 4])
        self._taken = at + 4
        return head

    async def read_request(self) -> actors_message.Message | None:
        """The next whole request; None when the client has gone."""
        while (message := actors_message.take(bytes(self.received[self._taken :]))) is None:
            if not await self.read_some():
                return None
        self._taken += len(message.raw)
        self.requests.append(message)
        return message

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    async def drip(self, data: bytes, *, piece_bytes: int = 1, seconds: float = 0.005) -> None:
        """In pieces, with pauses between them."""
        for begin in range(0, len(data), piece_bytes):
            await self.send(data[begin : begin + piece_bytes])
            await asyncio.sleep(seconds)

    async def await_end(self) -> str:
        """Say nothing until the client goes; how it went."""
        while await self.read_some():
            pass
        return self.ended_by or "client"

    async def half_close(self) -> None:
        """FIN from our side; reading goes on."""
        self._writer.write_eof()

    async def reset(self) -> None:
        """RST."""
        self.ended_by = self.ended_by or "script"
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._writer.transport.abort()

    async def close(self) -> None:
        self.ended_by = self.ended_by or "script"
        self._writer.close()


Script = Callable[[Connection], Awaitable[None]]


class ScriptedBackend:
    """A TCP server on loopback; each connection is a run of `script`. Use as a context manager.

    What it got: `connections` in order of arrival, `requests` over all of them. A script that raises fails the test
    at the end.
    """

    def __init__(self, script: Script, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self.script = script
        self.host = host
        self.port = port
        self.connections: list[Connection] = []
        self.failures: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = threading.Event()
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve()), name="kit-scripted-backend", daemon=True
        )

    def __enter__(self) -> typing.Self:
        self._thread.start()
        self._running.wait(WAIT_SECONDS_MAX)
        if self.failures:
            raise self.failures[0]
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.stop()
        if error is None and self.failures:
            raise actors.KitError(f"a script failed: {self.failures[0]!r}") from self.failures[0]

    def stop(self) -> None:
        """Close the listener and every connection: from now on a connect is refused."""
        if self._loop is not None and self._stop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def requests(self) -> list[actors_message.Message]:
        return [request for connection in self.connections for request in connection.requests]

    def await_connections(self, count: int, seconds_max: float = WAIT_SECONDS_MAX) -> list[Connection]:
        _await(lambda: len(self.connections) >= count, seconds_max, f"{count} connections, got {len(self.connections)}")
        return self.connections

    def await_requests(self, count: int, seconds_max: float = WAIT_SECONDS_MAX) -> list[actors_message.Message]:
        _await(lambda: len(self.requests) >= count, seconds_max, f"{count} requests, got {len(self.requests)}")
        return self.requests

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        try:
            server = await asyncio.start_server(self._accept, self.host, self.port, limit=2**24)
        except OSError as error:
            self.failures.append(error)
            self._running.set()
            return
        self.port = server.sockets[0].getsockname()[1]
        self._running.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(reader, writer)
        self.connections.append(connection)
        task = asyncio.create_task(self._run(connection), name=f"script {len(self.connections)}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, connection: Connection) -> None:
        try:
            await self.script(connection)
        except Exception as error:  # the script is the test's; what it raises is told at the end
            self.failures.append(error)
        finally:
            await connection.close()


def answering(*responses: bytes) -> Script:
    """A script: the n-th request on a connection gets the n-th of these byte strings, the last one again and again."""

    async def script(connection: Connection) -> None:
        for number in range(2**31):
            if await connection.read_request() is None:
                return
            await connection.send(responses[min(number, len(responses) - 1)])

    return script


def _await(holds: Callable[[], bool], seconds_max: float, wanted: str) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        if time.monotonic() > deadline:
            raise actors.KitError(f"not within {seconds_max} s: {wanted}")
        time.sleep(0.005)


@contextlib.contextmanager
def scripted(*scripts: Script) -> Iterator[list[ScriptedBackend]]:
    """One backend per script, running."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ScriptedBackend(script)) for script in scripts]
