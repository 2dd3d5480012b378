"""A TCP relay that deals connections out to several targets in turn, and can spoil what it relays.

It stands where a Service of Kubernetes stands: in front of two proxies, so that a client which knows one address
speaks to both. It is an actor at the network's edge: it knows nothing of HTTP but where a header line starts and
ends.

`request_edit` and `response_edit` get each piece as it arrives and give the piece to send on. A head of a test client
comes in one piece (it is one write of less than a loopback segment), so a header can be taken out here; a body's
length must not change. A defect of this kind shows what a suite notices and what it does not.

The relay runs in a thread with a loop of its own, so that blocking tests can use it. What it has accepted is counted
per target.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

PIECE_BYTES = 65536
START_SECONDS_MAX = 10.0

Edit = Callable[[bytes], bytes]


def unedited(piece: bytes) -> bytes:
    return piece


def one_request_per_connection(piece: bytes) -> bytes:
    """Ask the target to close after its answer, so that the next request goes to the next target."""
    return re.sub(rb"(?i)(\r\nconnection: *)keep-alive\r\n", rb"\1close\r\n", piece, count=1)


def without_header(name: str) -> Edit:
    """Take a header out of each head that passes."""
    pattern = re.compile(rb"(?i)\r\n" + re.escape(name.encode()) + rb":[^\r\n]*")
    return lambda piece: pattern.sub(b"", piece, count=1)


class Splitter:
    """Listens on a free loopback port while its `with` block lasts; without targets it hangs up on everybody."""

    def __init__(
        self,
        targets: Sequence[tuple[str, int]],
        *,
        request_edit: Edit = unedited,
        response_edit: Edit = unedited,
        keeps_target_open: bool = False,
    ) -> None:
        self.port = 0
        self.connections = [0] * len(targets)  # accepted so far, per target
        self._targets = list(targets)
        self._request_edit = request_edit
        self._response_edit = response_edit
        self._keeps_target_open = keeps_target_open  # a defect: the target never hears that the client has gone
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), name="splitter")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(START_SECONDS_MAX):
            raise TimeoutError(f"splitter does not listen after {START_SECONDS_MAX} s")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        relays: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            relay = asyncio.get_running_loop().create_task(self._relay(reader, writer), name="splitter-relay")
            relays.add(relay)
            relay.add_done_callback(relays.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stop.wait()
        server.close()
        for relay in relays:
            relay.cancel()
        await asyncio.gather(*relays, return_exceptions=True)

    async def _relay(self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        if not self._targets:
            client_writer.transport.abort()
            return
        turn = sum(self.connections) % len(self._targets)
        self.connections[turn] += 1
        try:
            target_reader, target_writer = await asyncio.open_connection(*self._targets[turn])
        except OSError:
            client_writer.transport.abort()
            return
        upward = asyncio.create_task(_pour(client_reader, target_writer, self._request_edit), name="splitter-up")
        pouring_down = _pour(target_reader, client_writer, self._response_edit, self._keeps_target_open)
        downward = asyncio.create_task(pouring_down, name="splitter-down")
        try:
            waits_for = {downward} if self._keeps_target_open else {upward, downward}
            await asyncio.wait(waits_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in (upward, downward):
                direction.cancel()
            await asyncio.gather(upward, downward, return_exceptions=True)
            for writer in (client_writer, target_writer):
                writer.close()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, edit: Edit, drains: bool = False) -> None:
    """Pour until `reader` ends or `writer` is gone; with `drains`, read on to the end for nobody."""
    with contextlib.suppress(ConnectionError):  # a peer that resets has ended its direction, like one that closes
        while piece := await reader.read(PIECE_BYTES):
            try:
                writer.write(edit(piece))
                await writer.drain()
            except ConnectionError:
                if not drains:
                    return
