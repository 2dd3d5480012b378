"""The book of sessions: the route table in front of the store. Nobody else touches either.

    find      table, else store (one load at a time per session), else None
    create    store first, then table: another replica may be asked for the session the moment the client knows its id
    move      after a recovery: compare-and-set in the store, then table
    forget    store first, then table
    touched   the relay says that a session was used after a tenth of its TTL: collected, renewed in one round trip
    in use    a call or a stream is open: renewed for as long as it is

What another replica writes is heard through the store's `watch`, which does not say what it was: a renewal, a move, an
end. So the entry turns stale, and the book looks at the record soon after. After a gap in that hearing everything is
stale. A stale entry is asked of the store again at its next use, and used as it is while the store is away: news of a
renewal must not cost a session its place when the store goes away right behind it.

What an outdated look (looks.py) has seen never enters the table: a load looks again, and after a few times in vain is
good for its request alone.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.session import looks, record, store

logger = logging.getLogger(__name__)

TOUCH_DELAY_SECONDS = 0.05  # renewals are collected for this long, to share a round trip
STALE_SECONDS_MAX = 0.1  # how long a request waits to have a stale entry confirmed; a store that hangs costs no more
VERIFY_SECONDS = 0.4  # after an update; a store's own writes are told from others' for 0.25 s
HEARD_DELAY_SECONDS = 0.05  # from the news to the look at the record: news of one session often come in twos
HEARD_AT_ONCE = 32  # looks at the store at a time, so that requests' own loads get their turn
LOOKS_MAX = 3  # of one load, while what it sees is outdated at once
IN_USE_LOOKS_PER_TTL = 6  # a session that a stream holds open is renewed while five sixths of its TTL are left
ALIASES_PURGE_MIN = 1024

# The table's flags hold the last three bits of a record's generation: enough to tell "moved since I looked" from not.
GENERATION_SHIFT = 4
GENERATION_MASK = 7

StartTask = Callable[..., asyncio.Task[Any]]


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a session lives, as far as the table knows. `generation` is the record's, its last three bits."""

    session_id: str
    endpoint: int
    backend_session_id: str | None
    confirmed: bool
    sse: bool
    generation: int

    def is_of(self, session: record.SessionRecord) -> bool:
        """Is this the record's generation?"""
        return self.generation == session.generation & GENERATION_MASK


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
        start_task: StartTask,
    ) -> None:
        self.table = table
        self.store = sessions
        self.ttl_seconds = max(1, math.ceil(ttl_seconds))
        # Seconds of the relay's clock are whole, so that one more is needed for a tenth to have passed for certain.
        # Below ten seconds that would leave no time to renew: there it is once a second.
        self.touch_seconds = math.ceil(ttl_seconds / 10) + 1 if ttl_seconds >= 10 else 1
        self._clock = clock
        self._locate = locate
        self._start_task = start_task
        self._looks = looks.Looks()
        self._loads: dict[str, asyncio.Task[Place | None]] = {}
        self.aliases: dict[bytes, str] = {}  # the backend's ids that differ; the fast lane reads it too
        self._aliases_purge_at = ALIASES_PURGE_MIN
        self._touched: set[str] = set()
        self._touching = False
        self._heard_of: dict[str, tuple[int, int]] = {}  # entries that are stale by news: their endpoint and flags
        self._looking_after = False
        self.lookups = {"cache": 0, "store": 0, "missing": 0, "error": 0}
        self.created_total = 0
        sessions.watch(self._heard, self._lost_track)

    # ---- what the story asks and says

    async def find(self, session_id: str) -> Place | None:
        """Where the session lives; None: unknown, expired or ended. StoreUnavailable, RecordTooNew: the store says."""
        key = record.store_key(session_id)
        found = self.table.get(key.encode(), self._clock())
        cached: Place | None = None
        if found is not None:
            endpoint, flags, _, touch_at, stale = found
            if bool(flags & core.HASHED) != (key != session_id):
                self.lookups["missing"] += 1
                return None  # a plain id that reads like the digest of another
            cached = self._place(session_id, key, endpoint, flags)
            if not stale:
                self.lookups["cache"] += 1
                if self._clock() >= touch_at:
                    self.touched(key)
                return cached
        return await self._find_in_store(session_id, key, cached)

    def place_by(self, session_id: str, endpoint: int, flags: int) -> Place:
        """Where the fast lane found the session, by the entry that it went by; the table may know better since."""
        return self._place(session_id, record.store_key(session_id), endpoint, flags)

    async def load(self, session_id: str) -> record.SessionRecord | None:
        """The record as it is in the store now."""
        return await self.store.load(session_id)

    async def create(self, session: record.SessionRecord) -> bool:
        """Remember a new session. False: its id is taken."""
        with self._looks.looking(record.store_key(session.session_id)) as look:
            if not await self.store.create(session):
                return False
            self.created_total += 1
            self._looks.outdate(look.key, but=look)
            self._enter(session, 0, look)
        return True

    async def move(self, session: record.SessionRecord, *, expected_generation: int) -> Place | None:
        """The session lives elsewhere now: there. None: it was moved or ended by somebody else meanwhile."""
        with self._looks.looking(record.store_key(session.session_id)) as look:
            if not await self.store.update(session, expected_generation=expected_generation):
                return None
            self._looks.outdate(look.key, but=look)
            self._start_task(self._verify(session), name="verify a moved session")
            return self._enter(session, 0, look)

    async def forget(self, session_id: str) -> None:
        """The session has ended."""
        try:
            await self.store.delete(session_id)
        finally:
            self.drop(session_id)

    def drop(self, session_id: str) -> None:
        """The table's entry goes; the store is asked next time."""
        self._changed(record.store_key(session_id))

    def confirm(self, place: Place) -> None:
        """The session has had a 2xx answer at that place."""
        key = record.store_key(place.session_id).encode()
        found = self.table.get(key, self._clock())
        if found is not None and _generation(found[1]) == place.generation:
            self.table.set_flags(key, found[1] | core.CONFIRMED)

    # ---- renewal

    def touched(self, key: str) -> None:
        """The session was used, and its TTL wants renewal."""
        now = self._clock()
        self.table.renew(key.encode(), now + self.ttl_seconds, now + self.touch_seconds)
        self._renew_soon(key)

    async def keep_in_use(self, in_use: Callable[[], Iterable[str]]) -> None:
        """For ever: renew the sessions that `in_use` names, whose calls or streams outlast a part of the TTL."""
        while True:
            await asyncio.sleep(self.ttl_seconds / IN_USE_LOOKS_PER_TTL)
            for session_id in set(in_use()):
                key = record.store_key(session_id)
                found = self.table.get(key.encode(), self._clock())
                if found is None or found[4]:
                    self._renew_soon(key)  # and stays unknown, or stale: a renewal tells nothing of where it lives
                elif self._clock() >= found[3]:
                    self.touched(key)

    def _renew_soon(self, key: str) -> None:
        self._touched.add(key)
        if not self._touching:
            self._touching = True
            self._start_task(self._renew(), name="renew sessions")

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

    # ---- the store behind the table

    async def _find_in_store(self, session_id: str, key: str, cached: Place | None) -> Place | None:
        load = self._loads.get(session_id)
        if load is None:
            load = self._start_task(self._load_place(session_id, key), name="load a session")
            self._loads[session_id] = load
        if cached is not None:
            done, _ = await asyncio.wait({load}, timeout=STALE_SECONDS_MAX)
            if not done:
                self.lookups["cache"] += 1
                return cached
        try:
            place = await asyncio.shield(load)
        except errors.StoreUnavailable:
            if cached is not None:
                self.lookups["cache"] += 1
                return cached
            self.lookups["error"] += 1
            raise
        except errors.StoreError:
            self.lookups["error"] += 1
            raise
        self.lookups["missing" if place is None else "store"] += 1
        return place

    async def _load_place(self, session_id: str, key: str) -> Place | None:
        try:
            place: Place | None = None
            for _ in range(LOOKS_MAX):
                with self._looks.looking(key) as look:
                    found = await self.store.find(session_id)
                    if found is None or found.session.session_id != session_id:
                        self._remove(key)
                        return None
                    place = self._enter(found.session, core.CONFIRMED, look, found.seconds_left)
                if not look.outdated:
                    break
            return place
        finally:
            del self._loads[session_id]

    async def _verify(self, session: record.SessionRecord) -> None:
        """A store may tell of our update and of an end right behind it as of one change, which passes for ours alone
        (redis_watch.Echoes). So it is asked once more, when nothing passes for ours any longer."""
        await asyncio.sleep(VERIFY_SECONDS)
        try:
            found = await self.store.load(session.session_id)
        except errors.StoreUnavailable:
            return  # what is heard has a gap then, and all is stale
        except errors.StoreError:
            found = None
        if found is None or found.generation != session.generation:
            self.drop(session.session_id)

    def _changed(self, key: str) -> None:
        self._looks.outdate(key)
        self._remove(key)

    def _heard(self, key: str) -> None:
        """Somebody else has written the record, or it is gone."""
        self._looks.outdate(key)
        entry = self.table.mark_stale(key.encode())
        if entry is None:
            return
        self._heard_of[key] = entry
        if not self._looking_after:
            self._looking_after = True
            self._start_task(self._look_after(), name="look at what was heard of")

    @property
    def doubts(self) -> bool:
        """Are there entries of which it is not known whether they have ended?"""
        return self._looking_after

    async def _look_after(self) -> None:
        """Whether what was heard of is still where the table says; if not, the table hears of it before a client asks,
        and an ended session is no longer counted."""
        try:
            await asyncio.sleep(HEARD_DELAY_SECONDS)
            while self._heard_of:
                some = [self._heard_of.popitem() for _ in range(min(HEARD_AT_ONCE, len(self._heard_of)))]
                await asyncio.gather(*(self._look_at(key, endpoint, flags) for key, (endpoint, flags) in some))
        finally:
            self._looking_after = False

    async def _look_at(self, key: str, endpoint: int, flags: int) -> None:
        with self._looks.looking(key) as look:
            try:
                found = await self.store.find(key)  # an id's key names its record as the id does
            except errors.StoreError:
                return  # it stays stale: whoever asks for it next is told why
            if look.outdated:
                return  # the news that made it so have it looked at again, or what is there now is newer
            if found is None or record.store_key(found.session.session_id) != key:
                self._remove(key)
            elif _generation(flags) == found.session.generation & GENERATION_MASK and endpoint == self._locate(
                found.session
            ):
                self.table.renew(key.encode(), *self._times(found.seconds_left))
            elif self._enter(found.session, core.CONFIRMED, look, found.seconds_left) is None:
                self._remove(key)

    def _remove(self, key: str) -> None:
        self.table.remove(key.encode())
        self.aliases.pop(key.encode(), None)

    def _lost_track(self) -> None:
        self._looks.outdate_all()
        self.table.mark_all_stale()

    # ---- the table

    def _place(self, session_id: str, key: str, endpoint: int, flags: int) -> Place:
        return Place(
            session_id,
            endpoint,
            self.aliases.get(key.encode()) if flags & core.MAPPED else None,
            bool(flags & core.CONFIRMED),
            bool(flags & core.SSE),
            _generation(flags),
        )

    def _enter(
        self, session: record.SessionRecord, flags: int, look: looks.Look, seconds_left: float | None = None
    ) -> Place | None:
        """The session's place, in the table too unless the look is outdated. None: no such replica."""
        endpoint = self._locate(session)
        if endpoint is None:
            return None
        flags |= (session.generation & GENERATION_MASK) << GENERATION_SHIFT
        if session.transport == "sse":
            flags |= core.SSE
        if not look.outdated:
            self._put(session, endpoint, flags, self.ttl_seconds if seconds_left is None else seconds_left)
        return Place(
            session.session_id,
            endpoint,
            session.backend_session_id,
            bool(flags & core.CONFIRMED),
            bool(flags & core.SSE),
            _generation(flags),
        )

    def _put(self, session: record.SessionRecord, endpoint: int, flags: int, seconds_left: float) -> None:
        key = record.store_key(session.session_id)
        place = key.encode()
        if session.backend_session_id is not None:
            flags |= core.MAPPED
            self._map(place, session.backend_session_id)
        else:
            self.aliases.pop(place, None)
        if key != session.session_id:
            flags |= core.HASHED
        expires, touch_at = self._times(seconds_left)
        evicted = self.table.put(place, endpoint, flags=flags, expires=expires, touch_at=touch_at)
        if evicted is not None:
            self.aliases.pop(evicted, None)
        if touch_at <= self._clock():
            self.touched(key)

    def _times(self, seconds_left: float) -> tuple[int, int]:
        """When an entry expires, and when its renewal is due."""
        now = self._clock()
        # Another replica may have renewed it long ago: its next renewal is due by that one's clock, not by this load.
        used_seconds_ago = max(0.0, self.ttl_seconds - seconds_left)
        touch_at = now + max(0, math.ceil(self.touch_seconds - used_seconds_ago))
        return now + max(1, math.ceil(seconds_left)), touch_at

    def _map(self, place: bytes, backend_session_id: str) -> None:
        self.aliases[place] = backend_session_id
        if len(self.aliases) >= self._aliases_purge_at:  # entries expire in the table without a word
            for key in [key for key in self.aliases if key != place and key not in self.table]:
                del self.aliases[key]
            self._aliases_purge_at = max(ALIASES_PURGE_MIN, 2 * len(self.aliases))


def _generation(flags: int) -> int:
    return flags >> GENERATION_SHIFT & GENERATION_MASK
