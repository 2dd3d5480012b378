"""Books at their desks: a book with a real table and a real store, as each proxy has one, and several on one server.

`Held` is a real store whose answers a test may hold back, as a network does.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

from fastproxy._ext import core
from fastproxy.session import book, record, redis, redis_client
from tests.kit import redis_server
from tests.kit.coroutines import eventually

PLACES = ["http://127.0.0.2:1", "http://127.0.0.2:2"]


def session(session_id: str = "s-1", **members: Any) -> record.SessionRecord:
    return record.SessionRecord(session_id=session_id, **{"backend_url": PLACES[0], **members})


def moved(known: record.SessionRecord, place: int = 1, inner: str = "inner") -> record.SessionRecord:
    return record.moved(
        known,
        backend_url=PLACES[place],
        backend_pod=None,
        backend_session_id=inner,
        protocol_version="2025-06-18",
        unix_seconds=1.0,
    )


class Held(redis.RedisStore):
    """A store whose answers arrive when the test says so."""

    def __init__(self, *words: Any, **members: Any) -> None:
        super().__init__(*words, **members)
        self.gate = asyncio.Event()
        self.gate.set()
        self.answered = 0

    async def _attempt(self, work: Any) -> Any:
        result = await super()._attempt(work)
        self.answered += 1
        await self.gate.wait()
        return result


class Desk:
    """A book with its store, table and tasks: what a plane has of them."""

    def __init__(self, server: redis_server.RedisServer, *, capacity: int = 100, ttl_seconds: float = 7200) -> None:
        self.calls: list[str] = []
        self.store = Held(
            redis_client.Address(kind="redis", hosts=server.hosts),
            key_prefix="book:",
            ttl_seconds=ttl_seconds,
            observe=lambda operation, seconds, served: self.calls.append(operation),
        )
        self.table = core.RouteTable(capacity)
        self.tasks: set[asyncio.Task[Any]] = set()
        self.book = book.Book(
            self.table,
            self.store,
            ttl_seconds=ttl_seconds,
            clock=lambda: int(time.monotonic()),
            locate=lambda known: PLACES.index(known.backend_url) if known.backend_url in PLACES else None,
            start_task=self.start,
        )

    def start(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    async def close(self) -> None:
        self.store.gate.set()
        for task in list(self.tasks):
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.close()

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Answers of the store wait until the end of the block."""
        self.store.gate.clear()
        try:
            yield
        finally:
            self.store.gate.set()

    async def answered(self, act: Callable[[], Coroutine[Any, Any, Any]]) -> asyncio.Task[Any]:
        """Begin something, and wait until the store has answered it (the answer is held)."""
        before = self.store.answered
        task = asyncio.get_running_loop().create_task(act())
        await eventually(lambda: self.store.answered > before)
        return task


@contextlib.asynccontextmanager
async def desks(
    server: redis_server.RedisServer, count: int = 2, *, capacity: int = 100, ttl_seconds: float = 7200
) -> AsyncIterator[list[Desk]]:
    """So many books on one store that hear of each other's changes."""
    if not server.alive:
        server.start()
    server.execute("FLUSHALL")
    opened = [Desk(server, capacity=capacity, ttl_seconds=ttl_seconds) for _ in range(count)]
    try:
        for desk in opened:
            await desk.store.open()
        for desk in opened:
            watch = desk.store._watch
            assert watch is not None
            await eventually(lambda watch=watch: watch.complete)
        yield opened
    finally:
        for desk in opened:
            await desk.close()


def place_in(table: core.RouteTable) -> int | None:
    """The endpoint of s-1, as far as the table's word is taken without asking the store."""
    found = table.get(b"s-1", int(time.monotonic()))
    return found[0] if found is not None and not found[4] else None
