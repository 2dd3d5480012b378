"""One store lent to several over real channels, as the supervisor lends it to its workers, but within one process.

async with lent(memory.MemoryStore(…), 2) as (here, there): …
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import Any, TypeVar

import msgspec

from fastproxy import errors
from fastproxy.proxy import channel, tasks
from fastproxy.session import shared, store

Expected = TypeVar("Expected")
ANSWER_SECONDS_MAX = 5.0

_questions = msgspec.msgpack.Decoder(shared.Question)
_notices = msgspec.msgpack.Decoder(shared.Changed | shared.Gap)


class Pair:
    """A worker's end and the supervisor's end of one channel, and the worker's store."""

    def __init__(self, host: shared.Host, started: tasks.Tasks) -> None:
        self._host = host
        self.store = shared.SharedStore(self._ask)
        self.lost = 0
        self.worker = channel.Channel(
            _notices, serve=self._refuse, hear=self.store.hear, lost=self._lose, start_task=started.start
        )
        self.supervisor = channel.Channel(
            _questions, serve=self._answer, hear=print, lost=self._dismiss, start_task=started.start
        )

    async def open(self) -> None:
        ours, theirs = socket.socketpair()
        await self.supervisor.open(ours)
        await self.worker.open(theirs)
        self._host.admit(self, self.supervisor.tell)

    def close(self) -> None:
        self.worker.close()

    async def _ask(self, question: shared.Question, expected: type[Expected]) -> Expected:
        try:
            return await self.worker.ask(question, expected, seconds_max=ANSWER_SECONDS_MAX)
        except channel.ChannelLost as error:
            raise errors.StoreUnavailable(str(error)) from error

    def _answer(self, question: shared.Question) -> Awaitable[object]:
        return self._host.answer(self, question)

    async def _refuse(self, question: Any) -> object:
        raise AssertionError(f"nobody asks a worker here: {question}")

    def _lose(self) -> None:
        self.lost += 1

    def _dismiss(self) -> None:
        self._host.dismiss(self)


@contextlib.asynccontextmanager
async def paired(inner: store.SessionStore, count: int) -> AsyncIterator[list[Pair]]:
    """So many open pairs on one store."""
    started = tasks.Tasks()
    host = shared.Host(inner)
    pairs = [Pair(host, started) for _ in range(count)]
    try:
        for pair in pairs:
            await pair.open()
            await pair.store.open()
        yield pairs
    finally:
        for pair in pairs:
            pair.close()
        await started.stop()
        await asyncio.sleep(0.01)  # both ends hear that it is over


@contextlib.asynccontextmanager
async def lent(inner: store.SessionStore, count: int) -> AsyncIterator[list[shared.SharedStore]]:
    """So many stores of one."""
    async with paired(inner, count) as pairs:
        yield [pair.store for pair in pairs]
