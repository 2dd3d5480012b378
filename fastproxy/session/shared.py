"""One store, shared by the workers of one proxy: it lives in the supervisor, who lends it to each of them.

    worker: SharedStore --question--> supervisor: Host --> MemoryStore, RedisStore, OutageBuffer
                        <--Changed---      (to every other worker, at once)
                        <----Gap-----      (to all)

A worker asks only for what its route table does not know: a session that it meets for the first time, a new one, an
end, a renewal a tenth of the TTL. What one worker changes is told to the others before it has its own answer, and what
expires or is changed by other proxies is told to all, so the promises of store.py hold.

A Redis is lent, too, though each worker could speak to it: while it is away new sessions are kept in memory
(outage.py), and a client's next request may reach any worker. Two workers with a buffer each would refuse what the
other has accepted.

How a question travels is not known here (proxy/channel.py). Records travel in their stored form, unknown members and
all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from fastproxy import errors
from fastproxy.session import record, store

Expected = TypeVar("Expected")


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """By its name; the members follow in their order."""


class Create(_Message, frozen=True, gc=False):
    key: str
    session: bytes


class Find(_Message, frozen=True, gc=False):
    session_id: str


class Update(_Message, frozen=True, gc=False):
    key: str
    session: bytes
    expected_generation: int


class Delete(_Message, frozen=True, gc=False):
    session_id: str


class Touch(_Message, frozen=True, gc=False):
    session_ids: list[str]


class Page(_Message, frozen=True, gc=False):
    cursor: str | None
    limit: int


class Claim(_Message, frozen=True, gc=False):
    session_id: str
    owner: str
    seconds: float


class Release(_Message, frozen=True, gc=False):
    session_id: str
    owner: str


class Remember(_Message, frozen=True, gc=False):
    key: str
    value: str
    seconds: float


class Recall(_Message, frozen=True, gc=False):
    key: str


class ShareNews(_Message, frozen=True, gc=False):
    member: str
    news: str
    gone: list[str]


class Ping(_Message, frozen=True, gc=False):
    pass


class Changed(_Message, frozen=True, gc=False):
    """Told, not asked: the keys of records that somebody else has changed or removed, or that have expired."""

    keys: list[str]


class Gap(_Message, frozen=True, gc=False):
    """Told: changes may have been missed, or will be; or are heard again from now on."""


Question = Create | Find | Update | Delete | Touch | Page | Claim | Release | Remember | Recall | ShareNews | Ping


class Ask(Protocol):
    """Puts a question to the Host. StoreUnavailable: it does not answer."""

    def __call__(self, question: Question, expected: type[Expected], /) -> Awaitable[Expected]: ...


class SharedStore:
    """A worker's SessionStore."""

    def __init__(self, ask: Ask) -> None:
        self.errors_total = 0
        self.bad_records_total = 0
        self._ask_host = ask
        self._fault: errors.StoreError | None = None
        self._changed: Callable[[str], None] = _ignore
        self._broken: Callable[[], None] = _ignore_gap

    @property
    def available(self) -> bool:
        return self._fault is None

    @property
    def seconds_since_return(self) -> float:
        return float("inf")  # the store behind the Host minds it

    @property
    def fault(self) -> errors.StoreError | None:
        return self._fault

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        self._changed, self._broken = changed, broken

    def hear(self, notice: Changed | Gap) -> None:
        """The Host says what is no longer as this worker knows it."""
        if isinstance(notice, Gap):
            self._broken()
        else:
            for key in notice.keys:
                self._changed(key)

    async def open(self) -> None:
        pass  # the supervisor has opened the store that it lends, and knows whether it serves

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        await self._ask(Ping(), bool)

    async def create(self, session: record.SessionRecord) -> bool:
        return await self._ask(Create(record.store_key(session.session_id), record.encode(session)), bool)

    async def load(self, session_id: str) -> record.SessionRecord | None:
        found = await self.find(session_id)
        return None if found is None else found.session

    async def find(self, session_id: str) -> store.Found[record.SessionRecord] | None:
        stored, seconds_left = await self._ask(Find(session_id), tuple[bytes, float])
        return store.Found(record.decode(stored, key=record.store_key(session_id)), seconds_left) if stored else None

    async def update(self, session: record.SessionRecord, *, expected_generation: int) -> bool:
        key = record.store_key(session.session_id)
        return await self._ask(Update(key, record.encode(session), expected_generation), bool)

    async def delete(self, session_id: str) -> bool:
        return await self._ask(Delete(session_id), bool)

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        return await self._ask(Touch(list(session_ids)), list[str])

    async def page(self, cursor: str | None, limit: int) -> tuple[list[record.SessionRecord], str | None]:
        stored, following = await self._ask(Page(cursor, limit), tuple[list[tuple[str, bytes]], str | None])
        return [record.decode(body, key=key) for key, body in stored], following

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        return await self._ask(Claim(session_id, owner, seconds), bool)

    async def release(self, session_id: str, owner: str) -> None:
        await self._ask(Release(session_id, owner), bool)

    async def remember(self, key: str, value: str, seconds: float) -> None:
        await self._ask(Remember(key, value, seconds), bool)

    async def recall(self, key: str) -> str | None:
        return await self._ask(Recall(key), str) or None

    async def share_news(self, member: str, news: str, gone: Sequence[str]) -> dict[str, str]:
        return await self._ask(ShareNews(member, news, list(gone)), dict[str, str])

    async def _ask(self, question: Question, expected: type[Expected]) -> Expected:
        try:
            answer = await self._ask_host(question, expected)
        except errors.StoreError as error:
            self.errors_total += 1
            if isinstance(error, errors.StoreUnavailable):
                self._fault = error
            raise
        self._fault = None
        return answer


class Host:
    """The supervisor's side: serves every worker's SharedStore from one store. To be made before that is opened."""

    def __init__(self, inner: store.SessionStore) -> None:
        self._inner = inner
        self._members: dict[object, Callable[[Changed | Gap], None]] = {}
        self._changed: list[str] = []
        inner.watch(self._on_change, self._on_gap)

    def admit(self, member: object, tell: Callable[[Changed | Gap], None]) -> None:
        """From now on this worker hears what others change."""
        self._members[member] = tell

    def dismiss(self, member: object) -> None:
        """It is gone. What it had claimed ends by itself."""
        self._members.pop(member, None)

    async def answer(self, member: object, question: Question) -> object:
        """What a SharedStore is answered; the store's errors as they are."""
        inner = self._inner
        match question:
            case Find():
                found = await inner.find(question.session_id)
                return (b"", 0.0) if found is None else (record.encode(found.session), found.seconds_left)
            case Create():
                return await inner.create(record.decode(question.session, key=question.key))
            case Touch():
                return await inner.touch(question.session_ids)
            case Update():
                moved = record.decode(question.session, key=question.key)
                done = await inner.update(moved, expected_generation=question.expected_generation)
                return self._report(member, question.key, done)
            case Delete():
                done = await inner.delete(question.session_id)
                return self._report(member, record.store_key(question.session_id), done)
            case Claim():
                return await inner.claim(question.session_id, question.owner, question.seconds)
            case Release():
                await inner.release(question.session_id, question.owner)
                return True
            case Remember():
                await inner.remember(question.key, question.value, question.seconds)
                return True
            case Recall():
                return await inner.recall(question.key) or ""
            case ShareNews():
                return await inner.share_news(question.member, question.news, question.gone)
            case Page():
                sessions, following = await inner.page(question.cursor, question.limit)
                return [(record.store_key(one.session_id), record.encode(one)) for one in sessions], following
            case Ping():
                await inner.ping()
                return True

    def _report(self, writer: object, key: str, done: bool) -> bool:
        """A worker has changed a record: the others hear of it before the worker has its answer."""
        if done:
            notice = Changed([key])
            for member, tell in self._members.items():
                if member is not writer:
                    tell(notice)
        return done

    def _on_change(self, key: str) -> None:
        """Something expired, or another proxy has changed it."""
        # A sweep meets thousands in one go: one notice for all of them.
        if not self._changed:
            asyncio.get_running_loop().call_soon(self._tell_changed)
        self._changed.append(key)

    def _tell_changed(self) -> None:
        notice, self._changed = Changed(self._changed), []
        self._tell_all(notice)

    def _on_gap(self) -> None:
        self._tell_all(Gap())

    def _tell_all(self, notice: Changed | Gap) -> None:
        for tell in self._members.values():
            tell(notice)


def _ignore(_key: str) -> None:
    """Nobody watches."""


def _ignore_gap() -> None:
    """Nobody watches."""
