"""The book of sessions: the route table in front of the store. Nobody else touches either.

    find      table, else store (one load at a time per session), else None
    create    store first, then table: another replica may be asked for the session the moment the client knows its id
    move      after a recovery: compare-and-set in the store, then table
    forget    store first, then table
    touched   the relay says that a session was used after a tenth of its TTL: collected, renewed in one round trip
    in use    a call or a stream is open: renewed for as long as it is

What another replica changes is heard through the store's `watch`: the entry goes, the next request loads it. After a
gap in that hearing everything is stale: asked of the store again at its next use, used as it is while the store is away.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.session import record, store

logger = logging.getLogger(__name__)

TOUCH_DELAY_SECONDS = 0.05  # renewals are collected for this long, to share a round trip


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a session lives, as far as the table knows."""

    session_id: str
    endpoint: int
    backend_session_id: str | None
    confirmed: bool
    sse: bool


class Book:
    """`locate(record)` answers the endpoint index of a record's replica, or None when there is no such replica."""

    def __init__(
        self,
        table: core.RouteTable,
        sessions: store.SessionStore,
        *,
        ttl_seconds: float,
        clock: Callable[[], int],
        locate: Callable[[record.SessionRecord], int | None],
        start_task: Callable[..., object],
    ) -> None:
        self.table = table
        self.store = sessions
        self.ttl_seconds = max(1, int(ttl_seconds + 0.999))
        self.touch_seconds = max(1, int(ttl_seconds / 10))
        self._clock = clock
        self._locate = locate
        self._start_task = start_task
        self._loading: dict[str, asyncio.Future[record.SessionRecord | None]] = {}
        self._changed_while_loading: set[str] = set()
        self._mapped: dict[bytes, str] = {}
        self._touched: set[str] = set()
        self._touching = False
        self.lookups = {"cache": 0, "store": 0, "missing": 0, "error": 0}
        self.created_total = 0
        sessions.watch(self._changed, table.mark_all_stale)

    async def find(self, session_id: str) -> Place | None:
        """Where the session lives; None: unknown, expired or ended. StoreUnavailable, RecordTooNew as the store says."""
        key = record.store_key(session_id)
        found = self.table.get(key.encode(), self._clock())
        if found is not None and not found[4] and not found[1] & core.HASHED:
            self.lookups["cache"] += 1
            if self._clock() >= found[3]:
                self.touched(key)
            return self._place(session_id, key, found[0], found[1])
        try:
            session = await self.load(session_id)
        except errors.StoreUnavailable:
            if found is not None and not found[1] & core.HASHED:
                self.lookups["cache"] += 1
                return self._place(session_id, key, found[0], found[1])
            self.lookups["error"] += 1
            raise
        except errors.StoreError:
            self.lookups["error"] += 1
            raise
        if session is None or session.session_id != session_id:
            self.table.remove(key.encode())
            self._mapped.pop(key.encode(), None)
            self.lookups["missing"] += 1
            return None
        self.lookups["store"] += 1
        place = self._enter(session, core.CONFIRMED)
        if key in self._changed_while_loading:
            self._changed(key)  # somebody changed it after we had read it: good for this request, not for the next
        return place

    async def load(self, session_id: str) -> record.SessionRecord | None:
        """The record itself; callers at the same moment share one load."""
        running = self._loading.get(session_id)
        if running is not None:
            return await asyncio.shield(running)
        future = asyncio.get_running_loop().create_future()
        self._loading[session_id] = future
        self._changed_while_loading.discard(record.store_key(session_id))
        try:
            session = await self.store.load(session_id)
        except BaseException as error:
            if isinstance(error, errors.FastproxyError):
                future.set_exception(error)
                future.exception()  # seen: it is not an error if nobody shared the load
            else:
                future.cancel()
            raise
        else:
            future.set_result(session)
            return session
        finally:
            del self._loading[session_id]

    async def create(self, session: record.SessionRecord) -> bool:
        """Remember a new session. False: its id is taken."""
        if not await self.store.create(session):
            return False
        self.created_total += 1
        self._enter(session, 0)
        return True

    async def move(self, session: record.SessionRecord, *, expected_generation: int) -> bool:
        """The session lives elsewhere now. False: it was moved or ended by somebody else meanwhile."""
        if not await self.store.update(session, expected_generation=expected_generation):
            return False
        self._enter(session, 0)
        return True

    async def forget(self, session_id: str) -> None:
        """The session has ended."""
        try:
            await self.store.delete(session_id)
        finally:
            self.drop(session_id)

    def drop(self, session_id: str) -> None:
        """The table's entry goes; the store is asked next time."""
        key = record.store_key(session_id).encode()
        self.table.remove(key)
        self._mapped.pop(key, None)

    def enter(self, session: record.SessionRecord) -> Place | None:
        """The table learns what a caller has just loaded."""
        return self._enter(session, core.CONFIRMED)

    def confirm(self, place: Place) -> None:
        """The session has had a 2xx answer."""
        key = record.store_key(place.session_id).encode()
        found = self.table.get(key, self._clock())
        if found is not None:
            self.table.set_flags(key, found[1] | core.CONFIRMED)

    def touched(self, key: str) -> None:
        """The session was used, and its TTL wants renewal."""
        now = self._clock()
        self.table.renew(key.encode(), now + self.ttl_seconds, now + self.touch_seconds)
        self._touched.add(key)
        if not self._touching:
            self._touching = True
            self._start_task(self._renew(), name="renew sessions")

    async def keep_in_use(self, in_use: Callable[[], Iterable[str]]) -> None:
        """For ever: renew the sessions that `in_use` names, whose calls or streams outlast a part of the TTL."""
        while True:
            await asyncio.sleep(self.ttl_seconds / 3)
            for session_id in in_use():
                self.touched(record.store_key(session_id))

    def _place(self, session_id: str, key: str, endpoint: int, flags: int) -> Place:
        return Place(
            session_id,
            endpoint,
            self._mapped.get(key.encode()) if flags & core.MAPPED else None,
            bool(flags & core.CONFIRMED),
            bool(flags & core.SSE),
        )

    def _enter(self, session: record.SessionRecord, flags: int) -> Place | None:
        endpoint = self._locate(session)
        if endpoint is None:
            return None
        key = record.store_key(session.session_id)
        place = key.encode()
        if session.backend_session_id is not None:
            flags |= core.MAPPED
            self._mapped[place] = session.backend_session_id
        else:
            self._mapped.pop(place, None)
        if session.transport == "sse":
            flags |= core.SSE
        if key != session.session_id:
            flags |= core.HASHED
        now = self._clock()
        evicted = self.table.put(
            place, endpoint, flags=flags, expires=now + self.ttl_seconds, touch_at=now + self.touch_seconds
        )
        if evicted is not None:
            self._mapped.pop(evicted, None)
        return self._place(session.session_id, key, endpoint, flags)

    def _changed(self, key: str) -> None:
        if self._loading:
            self._changed_while_loading.add(key)
        else:
            self._changed_while_loading.clear()
        self.table.remove(key.encode())
        self._mapped.pop(key.encode(), None)

    async def _renew(self) -> None:
        await asyncio.sleep(TOUCH_DELAY_SECONDS)
        self._touching = False
        keys, self._touched = self._touched, set()
        try:
            missing = await self.store.touch(sorted(keys))
        except errors.StoreError as error:
            logger.warning("sessions were not renewed: sessions=%d reason=%s", len(keys), error)
            return
        for key in missing:
            self._changed(key)
