"""New sessions while the store is away: kept in memory, written when it is back (unless `--store-required`).

A SessionStore around a SessionStore. What the inner store could not be told is *pending* here, by store key:

- **created**: a record that nobody else knows yet. load, update, delete, touch and claim of it are answered here.
- **deleted**: a session that was ended; it is never seen again here, whatever the inner store still has.

While anything is pending, one task tries to write it, deletions before anything else, for a key may have been ended and
then opened anew. A record that meets another holder of its id, or that has expired meanwhile, is lost and counted.
An `update` of a session that only the inner store has can't be compared with what is there, and stays StoreUnavailable.
A write that was cut short may have happened; so a conflict with the very record that we wanted to write is none.
"""

import asyncio
import contextlib
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from fastproxy import errors
from fastproxy.session import circuit, record, store

logger = logging.getLogger(__name__)

# Ten thousand records of about 1 KB; an outage longer than that many new sessions is no longer a passing one.
PENDING_MAX = 10_000
# After an outage, until what is not there is taken to be unknown: the others notice the store's return some probes
# later (of a Cluster that has lost a master, up to two seconds), and have their pending to write. A client that is told
# 404 gives up its session for good; one whose session is unknown indeed waits for that word, after an outage only.
SETTLE_SECONDS = 2.0
_LOOK_SECONDS = 0.1  # meanwhile
# For so long a write that was taken vouches for the next ones: of many unknown sessions at once few cost a write.
VOUCHED_SECONDS = 0.1
_CLOSE_SECONDS_MAX = 2.0
_WRITES_AT_ONCE = 32  # as many as RedisStore has connections
_PAGE_OF_PENDING = "pending:"
_PAGE_OF_INNER = "stored:"


Sought = TypeVar("Sought")
Record = TypeVar("Record", bound=store.Kept)


class _Created(msgspec.Struct, Generic[Record]):
    """A session that is only here. An update replaces `session`; a touch moves `expires_at`."""

    session: Record
    expires_at: float
    written_generation: int = 0  # what the inner store has of it, while it is being written


class OutageBuffer(Generic[Record]):
    """See the module. `pending` and `lost_total` are for metrics."""

    def __init__(
        self,
        inner: store.RecordStore[Record],
        *,
        ttl_seconds: float,
        pending_max: int = PENDING_MAX,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lost_total = 0
        self._inner = inner
        self._ttl_seconds = ttl_seconds
        self._pending_max = pending_max
        self._clock = clock
        self._created: dict[str, _Created[Record]] = {}
        self._deleted: dict[str, str] = {}  # store key: session id
        self._claims: dict[str, tuple[str, float]] = {}
        self._changed: Callable[[str], None] = _ignore
        self._writing: asyncio.Task[None] | None = None
        self._vouched_until = float("-inf")

    @property
    def pending(self) -> int:
        """Writes that the inner store has yet to be told."""
        return len(self._created) + len(self._deleted)

    @property
    def available(self) -> bool:
        return self._inner.available

    @property
    def seconds_since_return(self) -> float:
        return self._inner.seconds_since_return

    @property
    def fault(self) -> errors.StoreError | None:
        return self._inner.fault

    @property
    def errors_total(self) -> int:
        return self._inner.errors_total

    @property
    def bad_records_total(self) -> int:
        return self._inner.bad_records_total

    async def open(self) -> None:
        await self._inner.open()

    async def close(self) -> None:
        await self._stop_writing()
        if self.pending and self._inner.available:
            with contextlib.suppress(TimeoutError, errors.StoreUnavailable):
                async with asyncio.timeout(_CLOSE_SECONDS_MAX):
                    await self._write_all()
        if self.pending:
            logger.warning("store=closed pending_lost=%d", self.pending)
            self.lost_total += self.pending
            self._created.clear()
            self._deleted.clear()
        await self._inner.close()

    async def ping(self) -> None:
        await self._inner.ping()

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        self._changed = changed
        self._inner.watch(changed, broken)

    async def create(self, session: Record) -> bool:
        key = record.store_key(session.session_id)
        if self._find(key) is not None:
            return False
        if key not in self._deleted:
            try:
                return await self._inner.create(session)
            except errors.StoreUnavailable as error:
                self._check_room(error)
        self._created[key] = _Created(session, self._clock() + self._ttl_seconds)
        self._write_soon()
        return True

    async def load(self, session_id: str) -> Record | None:
        key = record.store_key(session_id)
        created = self._find(key)
        if created is not None:
            return created.session
        if key in self._deleted:
            return None
        return await self._look_until_settled(lambda: self._inner.load(session_id))

    async def find(self, session_id: str) -> store.Found[Record] | None:
        key = record.store_key(session_id)
        created = self._find(key)
        if created is not None:
            return store.Found(created.session, created.expires_at - self._clock())
        if key in self._deleted:
            return None
        return await self._look_until_settled(lambda: self._inner.find(session_id))

    async def update(self, session: Record, *, expected_generation: int) -> bool:
        key = record.store_key(session.session_id)
        created = self._find(key)
        if created is None:
            if key in self._deleted:
                return False
            return await self._inner.update(session, expected_generation=expected_generation)
        if created.session.generation != expected_generation:
            return False
        created.session = session
        created.expires_at = self._clock() + self._ttl_seconds
        return True

    async def delete(self, session_id: str) -> bool:
        key = record.store_key(session_id)
        created = self._find(key)
        if created is None and key in self._deleted:
            return False
        if created is None:
            try:
                return await self._inner.delete(session_id)
            except errors.StoreUnavailable as error:
                self._check_room(error)
        else:
            del self._created[key]
        # Even a record that was only here: its creation may have been cut short after the store had obeyed.
        self._deleted[key] = session_id
        self._write_soon()
        return True

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        missing: list[str] = []
        elsewhere: list[str] = []
        for session_id in session_ids:
            key = record.store_key(session_id)
            created = self._find(key)
            if created is not None:
                created.expires_at = self._clock() + self._ttl_seconds
            elif key in self._deleted:
                missing.append(session_id)
            else:
                elsewhere.append(session_id)
        return missing + (await self._inner.touch(elsewhere) if elsewhere else [])

    async def page(self, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """The pending first, in the order of their keys; what is written between two pages appears among the stored."""
        if cursor is not None and cursor.startswith(_PAGE_OF_INNER):
            return await self._page_of_inner(cursor.removeprefix(_PAGE_OF_INNER), limit)
        if cursor is not None and not cursor.startswith(_PAGE_OF_PENDING):
            raise ValueError("not a cursor of this store")
        after = "" if cursor is None else cursor.removeprefix(_PAGE_OF_PENDING)
        keys = sorted(key for key in list(self._created) if key > after and self._find(key) is not None)
        if not keys:
            return await self._page_of_inner(None, limit)
        following = f"{_PAGE_OF_PENDING}{keys[:limit][-1]}"
        return [self._created[key].session for key in keys[:limit]], following

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        key = record.store_key(session_id)
        if self._find(key) is None:
            return await self._inner.claim(session_id, owner, seconds)
        holder, until = self._claims.get(key, (owner, 0.0))
        if holder != owner and until > self._clock():
            return False
        self._claims[key] = (owner, self._clock() + seconds)
        return True

    async def release(self, session_id: str, owner: str) -> None:
        key = record.store_key(session_id)
        if key not in self._claims:
            await self._inner.release(session_id, owner)
        elif self._claims[key][0] == owner:
            del self._claims[key]

    async def remember(self, key: str, value: str, seconds: float) -> None:
        await self._inner.remember(key, value, seconds)  # not worth an outage: who asked keeps a copy

    async def recall(self, key: str) -> str | None:
        return await self._inner.recall(key)

    async def share_news(self, member: str, news: str, gone: Sequence[str]) -> dict[str, str]:
        return await self._inner.share_news(member, news, gone)

    async def _page_of_inner(self, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        records, following = await self._inner.page(cursor, limit)
        alive = [session for session in records if record.store_key(session.session_id) not in self._deleted]
        return alive, None if following is None else _PAGE_OF_INNER + following

    async def _look_until_settled(self, look: Callable[[], Awaitable[Sought | None]]) -> Sought | None:
        found = await look()
        if found is None:
            await self._expect_writes()
        while found is None and self._inner.seconds_since_return < SETTLE_SECONDS:
            await asyncio.sleep(_LOOK_SECONDS)
            found = await look()
        return found

    async def _expect_writes(self) -> None:
        """StoreUnavailable: the store serves reads and takes no writes. Then the others have sessions pending of which
        it knows nothing, and to call one unknown would end it."""
        if self._clock() >= self._vouched_until:
            await self._inner.ping()
            self._vouched_until = self._clock() + VOUCHED_SECONDS

    def _check_room(self, error: errors.StoreError) -> None:
        if self.pending >= self._pending_max:
            raise errors.StoreUnavailable(f"{error}; {self.pending} sessions wait for it already") from error

    def _find(self, key: str) -> _Created[Record] | None:
        created = self._created.get(key)
        if created is None or created.expires_at > self._clock():
            return created
        self._lose(key)
        return None

    def _lose(self, key: str) -> None:
        del self._created[key]
        self._claims.pop(key, None)
        self.lost_total += 1
        self._changed(key)

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_until_done(), name="session-store-outage")

    async def _stop_writing(self) -> None:
        writing = self._writing
        if writing is not None:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await writing

    async def _write_until_done(self) -> None:
        """The inner store fails at once while it is away, so that trying often is cheap."""
        lost_before, pending_most = self.lost_total, self.pending
        try:
            while self.pending:
                pending_most = max(pending_most, self.pending)
                try:
                    await self._write_all()
                except errors.StoreUnavailable:
                    await asyncio.sleep(circuit.jittered(2 * circuit.BACKOFF_SECONDS_MIN))
            logger.info("store=caught_up pending_most=%d lost=%d", pending_most, self.lost_total - lost_before)
        finally:
            self._writing = None

    async def _write_all(self) -> None:
        while self.pending:
            while self._deleted:
                await _all_of(self._write_deleted(key) for key in _first(self._deleted))
            await _all_of(self._write_created(key, self._created[key]) for key in _first(self._created))

    async def _write_deleted(self, key: str) -> None:
        await self._inner.delete(self._deleted[key])
        del self._deleted[key]

    async def _write_created(self, key: str, created: _Created[Record]) -> None:
        if self._find(key) is not created:
            return  # expired
        session = created.session
        try:
            if created.written_generation:
                written = await self._inner.update(session, expected_generation=created.written_generation)
            else:
                written = await self._inner.create(session) or await self._write_over_ours(session)
        except errors.RecordTooNew:
            written = False
        if self._created.get(key) is not created:
            return  # ended meanwhile: the deletion that is pending now removes what was written
        if not written:
            self._lose(key)
        elif created.session is session:
            del self._created[key]
            self._claims.pop(key, None)
        else:
            created.written_generation = session.generation  # updated meanwhile: once more

    async def _write_over_ours(self, session: Record) -> bool:
        """Somebody holds the id. If it is this session, written by an attempt that was cut short, go on from there."""
        held = await self._inner.load(session.session_id)
        if held is None or held.created_at != session.created_at or held.generation > session.generation:
            return False
        return held == session or await self._inner.update(session, expected_generation=held.generation)


def _first(pending: Iterable[str]) -> list[str]:
    return list(itertools.islice(pending, _WRITES_AT_ONCE))


async def _all_of(writes: Iterable[Coroutine[object, object, None]]) -> None:
    """Each of them to its end; then the first failure, if any."""
    for outcome in await asyncio.gather(*writes, return_exceptions=True):
        if outcome is not None:
            raise outcome


def _ignore(key: str) -> None:
    """Nobody watches."""
