"""Clients' sessions: what this process knows of them, in front of the store that all replicas share.

    find      in memory, else one read of the store (one at a time per session), else None
    create    store first, then memory: another replica may be asked for the session the moment its id is known
    amend     compare-and-set in the store; whoever comes second looks at what the first has written, and decides anew
    forget    store first, then memory

A Session is the runtime part: its record as last seen, its calls under way, its stream. There are `sessions_max` of
them, the least recently used out first; one with a call or a stream is not put out. Nothing of it is needed to go on
elsewhere: restoring is one read of the store, and asks no backend anything.

What another replica writes is heard through the store's `watch`: the record is stale then, and read again at its next
use; at once when a stream or a call is open here, for a new leg may have to be listened to.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from fastproxy import errors
from fastproxy.session import record as plain
from fastproxy.session import store
from fastproxy.vmcp import record, voices

logger = logging.getLogger(__name__)

TOUCH_DELAY_SECONDS = 0.05  # renewals are collected for this long, to share a round trip
STALE_SECONDS_MAX = 0.1  # how long a request waits to have a stale record confirmed, should the store hang
VERIFY_SECONDS = 0.4  # after an update; a store's own writes are told from others' for 0.25 s
PASSED_MAX = 100  # sessions in use that are looked at for one that may go
AMENDS_MAX = 20  # tries of one change against others' changes
IN_USE_LOOKS_PER_TTL = 6
SAVE_AGAIN_SECONDS = 0.2  # while the store is away

StartTask = Callable[..., asyncio.Task[Any]]
Change = Callable[[record.VmcpRecord], record.VmcpRecord]


class Session:
    """One client's, in this process. What is None is made when it is needed: most sessions are idle."""

    __slots__ = ("calls", "expires_at", "opening", "record", "stale", "stream", "touch_at", "unsaved", "users")

    def __init__(self, session: record.VmcpRecord, expires_at: float, touch_at: float) -> None:
        self.record = session
        self.expires_at = expires_at
        self.touch_at = touch_at
        self.stale = False
        self.users = 0  # requests that are being served
        self.opening: dict[str, asyncio.Task[record.Leg]] | None = None
        self.calls: dict[bytes, voices.Call] | None = None  # under way, by the id that the client gave
        self.stream: voices.Stream | None = None  # the client's GET, when it is here
        self.unsaved: list[Change] | None = None  # changes that the store has yet to be told

    @property
    def session_id(self) -> str:
        return self.record.session_id

    def begin(self, call: voices.Call) -> None:
        """A request of the client is being served."""
        self.users += 1
        if self.calls is None:
            self.calls = {}
        self.calls.setdefault(call.request_id, call)

    def end(self, call: voices.Call) -> None:
        """It is over."""
        self.users -= 1
        if self.calls is not None and self.calls.get(call.request_id) is call:
            del self.calls[call.request_id]
            self.calls = self.calls or None

    @property
    def in_use(self) -> bool:
        """Has it anything here that must not be lost?"""
        return bool(self.users or self.stream is not None or self.opening or self.unsaved)


class Sessions:
    """All that this process knows. `on_changed` hears of a session with something open here whose record is another
    now; `on_ended` of one that is over."""

    def __init__(
        self,
        kept: store.RecordStore[record.VmcpRecord],
        *,
        ttl_seconds: float,
        sessions_max: int,
        alone: bool,
        start_task: StartTask,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`alone`: nobody else writes to this store."""
        self.store = kept
        self.ttl_seconds = max(1, math.ceil(ttl_seconds))
        self.touch_seconds = ttl_seconds / 10
        self.sessions_max = sessions_max
        self.on_changed: Callable[[Session], None] = _ignore
        self.on_ended: Callable[[Session], None] = _ignore
        self.lookups = {"cache": 0, "store": 0, "missing": 0, "error": 0}
        self.created_total = 0
        self.evicted_total = 0
        self._alone = alone
        self._start_task = start_task
        self._clock = clock
        self._held: dict[str, Session] = {}  # by store key; the last used at the end
        self._loads: dict[str, asyncio.Task[Session | None]] = {}
        self._news: dict[str, int] = {}  # of loads under way: how often they were outdated meanwhile
        self._touched: set[str] = set()
        self._touching = False
        self._saving = False
        self._unverified: dict[str, tuple[Session, int]] = {}
        kept.watch(self._heard, self._lost_track)

    def __len__(self) -> int:
        return len(self._held)

    def at_hand(self, session_id: str) -> Session | None:
        """The session if it is in memory; nothing is asked, and nothing renewed."""
        session = self._held.get(plain.store_key(session_id))
        return session if session is not None and session.session_id == session_id else None

    def __contains__(self, session_id: str) -> bool:
        """Is it in memory, by an id that is a key as it stands?"""
        return session_id in self._held

    def held(self) -> list[Session]:
        """Those in memory."""
        return list(self._held.values())

    # ---- what the story asks and says

    async def find(self, session_id: str) -> Session | None:
        """The session; None: unknown, expired or ended. StoreUnavailable, RecordTooNew: the store says."""
        key = session_id
        session = self._held.get(key)
        now = self._clock()
        if session is None:
            key = plain.store_key(session_id)
            session = self._held.get(key)
        elif session.session_id != session_id:
            self.lookups["missing"] += 1
            return None  # a plain id that reads like the digest of another
        if session is None or session.stale or now >= session.expires_at:
            return await self._find_in_store(session_id, key, session)
        self.lookups["cache"] += 1
        if now >= session.touch_at:
            self._touch(key, session, now)
        del self._held[key]
        self._held[key] = session
        return session

    async def create(self, new: record.VmcpRecord) -> Session | None:
        """A new session. None: its id is taken. StoreUnavailable, StoreFull."""
        if not await self.store.create(new):
            return None
        self.created_total += 1
        return self._hold(plain.store_key(new.session_id), new, self.ttl_seconds)

    async def amend(self, session: Session, change: Change) -> bool:
        """Write a change of the record, which `change` makes of any state of it (the same object: nothing to do).
        False: the session has ended. While the store is away the change holds here, and is written when it is back."""
        for _ in range(AMENDS_MAX):
            before = session.record
            changed = change(before)
            if changed is before:
                return True
            changed = record.following(changed, unix_seconds=time.time())
            try:
                written = await self.store.update(changed, expected_generation=before.generation)
                found = None if written else await self.store.find(session.session_id)
            except errors.StoreUnavailable as error:
                self._keep(session, change, error)
                return True
            if written:
                if session.record.generation <= changed.generation:
                    session.record = changed
                self._verify_soon(session)
                return True
            if found is None or found.session.session_id != session.session_id:
                self._drop(session)
                return False
            if found.session.generation >= session.record.generation:
                session.record = found.session
        raise errors.StoreUnavailable(f"a session changes too fast: {AMENDS_MAX} attempts")

    async def forget(self, session_id: str) -> None:
        """The session has ended."""
        session = self._held.get(plain.store_key(session_id))
        try:
            await self.store.delete(session_id)
        finally:
            if session is not None:
                self._drop(session)

    # ---- renewal

    def _touch(self, key: str, session: Session, now: float) -> None:
        session.touch_at = now + self.touch_seconds
        session.expires_at = now + self.ttl_seconds
        self._touched.add(session.session_id)
        if not self._touching:
            self._touching = True
            self._start_task(self._renew(), name="renew sessions")

    async def _renew(self) -> None:
        await asyncio.sleep(TOUCH_DELAY_SECONDS)
        self._touching = False
        session_ids, self._touched = self._touched, set()
        try:
            missing = await self.store.touch(sorted(session_ids))
        except errors.StoreError as error:
            logger.warning("sessions were not renewed: sessions=%d reason=%s", len(session_ids), error)
            return
        for session_id in missing:
            session = self._held.get(plain.store_key(session_id))
            if session is not None and not session.unsaved:
                self._drop(session)

    async def keep_in_use(self) -> None:
        """For ever: renew the sessions whose calls or streams outlast a part of the TTL; let go of the expired."""
        while True:
            await asyncio.sleep(min(self.ttl_seconds / IN_USE_LOOKS_PER_TTL, 60.0))
            now = self._clock()
            for key, session in list(self._held.items()):
                if session.in_use:
                    if now >= session.touch_at:
                        self._touch(key, session, now)
                elif now >= session.expires_at:
                    self._held.pop(key, None)

    # ---- the store behind

    async def _find_in_store(self, session_id: str, key: str, known: Session | None) -> Session | None:
        load = self._loads.get(session_id)
        if load is None:
            load = self._loads[session_id] = self._start_task(self._load(session_id, key), name="load a session")
        usable = known is not None and self._clock() < known.expires_at
        try:
            if usable:
                done, _ = await asyncio.wait({load}, timeout=STALE_SECONDS_MAX)
                if not done:
                    self.lookups["cache"] += 1
                    return known
            session = await asyncio.shield(load)
        except errors.StoreError as error:
            if usable and isinstance(error, errors.StoreUnavailable):
                self.lookups["cache"] += 1
                return known
            self.lookups["error"] += 1
            raise
        self.lookups["missing" if session is None else "store"] += 1
        return session

    async def _load(self, session_id: str, key: str) -> Session | None:
        try:
            while True:
                self._news[key] = 0
                found = await self.store.find(session_id)
                if not self._news[key]:
                    break
            known = self._held.get(key)
            if found is None or found.session.session_id != session_id:
                if known is not None:
                    if known.unsaved:
                        return known
                    self._drop(known)
                return None
            return self._hold(key, found.session, found.seconds_left)
        finally:
            self._news.pop(key, None)
            self._loads.pop(session_id, None)

    def _hold(self, key: str, found: record.VmcpRecord, seconds_left: float) -> Session:
        now = self._clock()
        expires_at, touch_at = now + seconds_left, now + seconds_left - self.ttl_seconds + self.touch_seconds
        session = self._held.pop(key, None)
        if session is None:
            session = Session(found, expires_at, touch_at)
            self._make_room()
        else:
            session.expires_at, session.touch_at, session.stale = expires_at, touch_at, False
            if not session.unsaved:
                session.record = found
        self._held[key] = session
        return session

    def _make_room(self) -> None:
        """The least recently used goes. Those in use are passed over, so many at a time; the bound yields to them."""
        passed = 0
        while len(self._held) >= self.sessions_max and passed < min(len(self._held), PASSED_MAX):
            key = next(iter(self._held))
            session = self._held.pop(key)
            if session.in_use:
                self._held[key] = session
                passed += 1
            else:
                self.evicted_total += 1

    def _drop(self, session: Session) -> None:
        """It is over, here too."""
        key = plain.store_key(session.session_id)
        if self._held.get(key) is session:
            del self._held[key]
        self.on_ended(session)

    def _verify_soon(self, session: Session) -> None:
        """A store may tell of our update and of an end right behind it as of one change, which passes for ours alone
        (redis_watch.Echoes). So it is asked once more, when nothing passes for ours any longer."""
        if self._alone:
            return
        if not self._unverified:
            self._start_task(self._verify(), name="verify sessions")
        self._unverified[session.session_id] = (session, session.record.generation)

    async def _verify(self) -> None:
        await asyncio.sleep(VERIFY_SECONDS)
        unverified, self._unverified = self._unverified, {}
        for session, generation in unverified.values():
            if session.record.generation != generation or session.stale:
                continue
            try:
                found = await self.store.load(session.session_id)
            except errors.StoreError:
                return  # what is heard has a gap then, and all is stale
            if found is None or found.generation != generation:
                self._heard(plain.store_key(session.session_id))

    # ---- what others do

    def _heard(self, key: str) -> None:
        if key in self._news:
            self._news[key] += 1
        session = self._held.get(key)
        if session is None:
            return
        session.stale = True
        if session.in_use:
            self._start_task(self._look_again(session), name="look at a session again")

    def _lost_track(self) -> None:
        for key in self._news:
            self._news[key] += 1
        for session in self._held.values():
            session.stale = True

    async def _look_again(self, session: Session) -> None:
        before = session.record
        try:
            found = await self._find_in_store(session.session_id, plain.store_key(session.session_id), session)
        except errors.StoreError:
            return  # it stays stale
        if found is session and session.record is not before:
            self.on_changed(session)

    # ---- while the store is away

    def _keep(self, session: Session, change: Change, error: errors.StoreUnavailable) -> None:
        logger.warning("a session's change waits for the store: reason=%s", error)
        session.record = record.following(change(session.record), unix_seconds=time.time())
        session.unsaved = [*(session.unsaved or ()), change]
        if not self._saving:
            self._saving = True
            self._start_task(self._save_later(), name="save sessions")

    async def _save_later(self) -> None:
        try:
            while True:
                await asyncio.sleep(SAVE_AGAIN_SECONDS)
                waiting = [session for session in self._held.values() if session.unsaved]
                if not waiting:
                    return
                if self.store.available:
                    for session in waiting:
                        await self._save(session)
        finally:
            self._saving = False

    async def _save(self, session: Session) -> None:
        """What was changed here meanwhile, upon what the store has by now."""
        changes, session.unsaved = session.unsaved or [], None
        try:
            found = await self.store.load(session.session_id)
        except errors.StoreError:
            session.unsaved = changes
            return
        if found is None:
            self._drop(session)
            return
        session.record = found
        for change in changes:
            await self.amend(session, change)
        self.on_changed(session)


def _ignore(_session: Session) -> None:
    """Nobody cares."""
