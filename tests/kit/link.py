"""A network of links with words: `cut`, `lose`, `delay`, `heal`. In user space, over loopback, without privileges.

    with link.Network() as network:
        there = network.link("127.0.11.1", replica.port, to=("127.0.0.1", replica.port))
        there.lose(); …; there.heal()

    cut     connections are reset, new ones are refused: the far machine is down, or a firewall says so
    lose    no packet arrives, in neither direction: connections hang, new ones get no answer; after `heal` all that was
            sent arrives, as TCP would send it again
    delay   every byte and every end arrives so much later, in each direction; a connect itself takes no longer
    heal    as if nothing had been

A relay answers connects by itself, so whoever is behind it seems to listen always. Who kills what is behind a link cuts
the link first and heals it last; to the near side that is one and the same.

Packets of connects are lost by the kernel itself: the queue of the listening socket is made as short as can be, and
filled with connections of our own.
"""

import asyncio
import collections
import contextlib
import socket
import struct
import threading
import typing
from collections.abc import Callable, Coroutine

PIECE_BYTES = 65_536
BACKLOG = 512
VERB_SECONDS_MAX = 10.0
FULL_SECONDS = 0.05  # in which a connect over loopback that is going to succeed has
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


class Network:
    """Links, and the thread that carries what passes over them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="kit-links", daemon=True)
        self._links: list[Link] = []

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        for each in self._links:
            self.do(each.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(VERB_SECONDS_MAX)
        self._loop.close()

    def link(self, host: str, port: int, *, to: tuple[str, int]) -> "Link":
        """A way to `to` by an address of its own; port 0: any."""
        made = Link(self.do, host, port, to)
        self._links.append(made)
        self.do(made.open())
        return made

    def do(self, work: Coroutine[typing.Any, typing.Any, None]) -> None:
        """Done when this returns, from any thread but ours."""
        asyncio.run_coroutine_threadsafe(work, self._loop).result(VERB_SECONDS_MAX)


class Link:
    """See the module. `passed`: connections that were taken so far."""

    def __init__(
        self,
        do: Callable[[Coroutine[typing.Any, typing.Any, None]], None],
        host: str,
        port: int,
        to: tuple[str, int],
    ) -> None:
        self.host, self.port = host, port
        self.passed = 0
        self._do = do
        self._to = to
        self._delay_seconds = 0.0
        self._flows = asyncio.Event()
        self._flows.set()
        self._listener: socket.socket | None = None
        self._pairs: set[_Pair] = set()
        self._fillers: list[socket.socket] = []

    @property
    def authority(self) -> str:
        return f"{self.host}:{self.port}"

    # Verbs.

    def cut(self) -> None:
        self._do(self._cut())

    def lose(self) -> None:
        self._do(self._lose())

    def delay(self, seconds: float) -> None:
        self._do(self._set_delay(seconds))

    def heal(self) -> None:
        self._do(self._heal())

    # What they do, in the network's thread.

    async def open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((self.host, self.port))
        listener.listen(BACKLOG)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        self._accept_on()

    async def close(self) -> None:
        self._stop_accepting()
        self._empty_queue()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for pair in list(self._pairs):
            await pair.reset()

    async def _cut(self) -> None:
        await self.close()

    async def _lose(self) -> None:
        self._flows.clear()
        self._stop_accepting()
        assert self._listener is not None, "a link that is cut has nothing to lose"
        self._listener.listen(0)
        while await self._fills_queue():
            pass

    async def _set_delay(self, seconds: float) -> None:
        self._delay_seconds = seconds

    async def _heal(self) -> None:
        self._delay_seconds = 0.0
        self._flows.set()
        if self._listener is None:
            await self.open()
            return
        self._empty_queue()
        self._listener.listen(BACKLOG)
        self._accept_on()

    async def _fills_queue(self) -> bool:
        """Take another place in the queue. False: there was none."""
        filler = socket.socket()
        filler.setblocking(False)
        self._fillers.append(filler)
        try:
            async with asyncio.timeout(FULL_SECONDS):
                await asyncio.get_running_loop().sock_connect(filler, (self.host, self.port))
        except TimeoutError:
            self._fillers.pop().close()
            return False
        return True

    def _empty_queue(self) -> None:
        for filler in self._fillers:
            filler.close()  # whoever accepts it meets its end at once
        self._fillers.clear()

    # Carrying.

    def _accept_on(self) -> None:
        assert self._listener is not None
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

    def _stop_accepting(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        """In one step: an accept that is awaited may be cancelled with a connection in its hands."""
        try:
            near, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        self.passed += 1
        near.setblocking(False)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = _Pair(near, self._flows, lambda: self._delay_seconds, self._pairs.discard)
        self._pairs.add(pair)
        pair.start(self._to)


class _Pair:
    """One connection: the near socket, the far one, and what is under way between them."""

    def __init__(
        self,
        near: socket.socket,
        flows: asyncio.Event,
        delay: Callable[[], float],
        over: Callable[["_Pair"], None],
    ) -> None:
        self._near = near
        self._far = socket.socket()
        self._far.setblocking(False)
        self._flows = flows
        self._delay = delay
        self._over = over
        self._task: asyncio.Task[None] | None = None

    def start(self, to: tuple[str, int]) -> None:
        self._task = asyncio.create_task(self._carry(to))

    async def reset(self) -> None:
        """Both sides are reset, and what is under way is lost."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _carry(self, to: tuple[str, int]) -> None:
        try:
            await asyncio.get_running_loop().sock_connect(self._far, to)
            self._far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pour(self._near, self._far))
                both.create_task(self._pour(self._far, self._near))
        except* OSError:
            self._set_to_reset()
        except* asyncio.CancelledError:
            self._set_to_reset()
        finally:
            self._near.close()
            self._far.close()
            self._over(self)

    def _set_to_reset(self) -> None:
        for side in (self._near, self._far):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    async def _pour(self, source: socket.socket, sink: socket.socket) -> None:
        """Each piece when its time has come; the last one, b"", is the end."""
        loop = asyncio.get_running_loop()
        under_way: collections.deque[tuple[float, bytes]] = collections.deque()
        arrived = asyncio.Event()

        async def read() -> None:
            while True:
                await self._flows.wait()
                piece = await loop.sock_recv(source, PIECE_BYTES)
                under_way.append((loop.time() + self._delay(), piece))
                arrived.set()
                if not piece:
                    return

        async def write() -> None:
            while True:
                while not under_way:
                    arrived.clear()
                    await arrived.wait()
                due, piece = under_way.popleft()
                await asyncio.sleep(due - loop.time())
                await self._flows.wait()
                if not piece:
                    sink.shutdown(socket.SHUT_WR)
                    return
                await loop.sock_sendall(sink, piece)

        async with asyncio.TaskGroup() as both_ends:
            both_ends.create_task(read())
            both_ends.create_task(write())
