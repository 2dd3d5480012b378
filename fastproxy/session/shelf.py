"""The embedded store, whatever the records are: in this process's memory, bounded, gone with the process.

A million sessions must stay affordable and must never stall the loop. So:

- How a record lies here its kind of store says (`_pack`, `_unpack`): memory.py shares what many have in common.
- Sessions lie in many small dicts ("shards"): a dict that grows past its size is rehashed whole, a pause of tens of
  milliseconds at a million entries, of a few hundred microseconds at 4,000.
- Expiry is lazy (an expired session is treated as missing where it is met) plus a sweep of at most one shard per
  operation. Each shard knows a time before which nothing in it can expire, so that a sweep in vain is rare.

Live sessions are never evicted: beyond the bound `create` raises StoreFull.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar, cast

import msgspec

from fastproxy import errors
from fastproxy.session import memos, record, store

Record = TypeVar("Record", bound=store.Kept)

_SHARDS = 256  # 4,000 sessions in each at a million; a power of two
_SWEEP_ENTRIES_MAX = 8_192  # looked at by one `create` that finds the store full: about 0.3 ms
_MEMOS_MAX = 100_000  # some 30 MiB
_CLAIMS_PURGE_MIN = 64  # claims that ended unreleased are dropped each time their number has doubled
_SWEEPS_PER_TTL = 64  # a shard is swept no oftener: an expired session is kept at most 1/64 of the TTL too long


class Held(msgspec.Struct, gc=False):
    """One session. Replaced whole by an update, so that only `expires_at` ever changes in place."""

    generation: int
    expires_at: float


class _Shard:
    """A small table and the time before which nothing in it expires."""

    __slots__ = ("earliest_expiry", "held", "sweep_at")

    def __init__(self) -> None:
        self.held: dict[str, Held] = {}
        self.earliest_expiry = float("inf")
        self.sweep_at = 0.0


class Shelf(Generic[Record]):
    """A RecordStore without a network: it is always available, and nobody else writes to it."""

    def __init__(self, *, ttl_seconds: float, sessions_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.errors_total = 0
        self.bad_records_total = 0
        self.expired_total = 0
        self._ttl_seconds = ttl_seconds
        self._sessions_max = sessions_max
        self._clock = clock
        self._shards = [_Shard() for _ in range(_SHARDS)]
        self._count = 0
        self._sweep_cursor = 0
        self._claims: dict[str, tuple[str, float]] = {}
        self._claims_purge_at = _CLAIMS_PURGE_MIN
        self._memos = memos.Memos(memos_max=_MEMOS_MAX, clock=clock)
        self._news: dict[str, str] = {}
        self._changed: Callable[[str], None] | None = None
        self._ear: tuple[str, Callable[[bytes], None]] | None = None

    def __len__(self) -> int:
        """Sessions held, those included that have expired and not been swept yet."""
        return self._count

    @property
    def available(self) -> bool:
        return True

    @property
    def seconds_since_return(self) -> float:
        return float("inf")

    @property
    def fault(self) -> errors.StoreError | None:
        return None

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        self._changed = changed  # only expiry happens behind the owner's back; nothing is ever missed

    async def create(self, session: Record) -> bool:
        now = self._sweep_one_shard()
        key = record.store_key(session.session_id)
        if self._find(key, now) is not None:
            return False
        if self._count >= self._sessions_max and not self._make_room(now):
            self.errors_total += 1
            raise errors.StoreFull(f"session store is full: {self._sessions_max} sessions (raise --max-sessions)")
        shard = self._shard(key)
        shard.held[key] = self._pack(session, now)
        self._enter(shard.held[key])
        shard.earliest_expiry = min(shard.earliest_expiry, now + self._ttl_seconds)
        return True

    async def load(self, session_id: str) -> Record | None:
        now = self._sweep_one_shard()
        held = self._find(record.store_key(session_id), now)
        return None if held is None else self._unpack(held)

    async def find(self, session_id: str) -> store.Found[Record] | None:
        now = self._sweep_one_shard()
        held = self._find(record.store_key(session_id), now)
        return None if held is None else store.Found(self._unpack(held), held.expires_at - now)

    async def update(self, session: Record, *, expected_generation: int) -> bool:
        now = self._sweep_one_shard()
        key = record.store_key(session.session_id)
        held = self._find(key, now)
        if held is None or held.generation != expected_generation:
            return False
        self._leave(held)
        following = self._shard(key).held[key] = self._pack(session, now)
        self._enter(following)
        return True

    async def delete(self, session_id: str) -> bool:
        now = self._sweep_one_shard()
        key = record.store_key(session_id)
        if self._find(key, now) is None:
            return False
        self._drop(self._shard(key), key)
        return True

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        now = self._sweep_one_shard()
        missing = []
        for session_id in session_ids:
            held = self._find(record.store_key(session_id), now)
            if held is None:
                missing.append(session_id)
            else:
                held.expires_at = now + self._ttl_seconds
        return missing

    async def page(self, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """The cursor is a shard and the last key read in it; keys are read in order within a shard."""
        now = self._sweep_one_shard()
        first, after = _parse_cursor(cursor)
        records: list[Record] = []
        for number in range(first, _SHARDS):
            held = self._shards[number].held
            for key in sorted(key for key in held if key > after):
                if len(records) == limit:
                    return records, f"{number}:{after}"
                after = key
                if held[key].expires_at > now:
                    records.append(self._unpack(held[key]))
            after = ""
        return records, None

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        now = self._clock()
        key = record.store_key(session_id)
        holder, until = self._claims.get(key, (owner, now))
        if holder != owner and until > now:
            return False
        self._claims[key] = (owner, now + seconds)
        if len(self._claims) >= self._claims_purge_at:
            self._claims = {key: claim for key, claim in self._claims.items() if claim[1] > now}
            self._claims_purge_at = max(_CLAIMS_PURGE_MIN, 2 * len(self._claims))
        return True

    async def release(self, session_id: str, owner: str) -> None:
        key = record.store_key(session_id)
        if self._claims.get(key, ("", 0.0))[0] == owner:
            del self._claims[key]

    async def remember(self, key: str, value: str, seconds: float) -> None:
        self._memos.put(key, value, seconds)

    async def recall(self, key: str) -> str | None:
        return self._memos.get(key)

    async def share_news(self, member: str, news: str, gone: Sequence[str]) -> dict[str, str]:
        self._news = {name: line for name, line in self._news.items() if name not in gone} | {member: news}
        return dict(self._news)

    def listen(self, name: str, heard: Callable[[bytes], None]) -> None:
        self._ear = (name, heard)

    async def tell(self, message: bytes, *, to: str | None = None) -> bool:
        if self._ear is None or to not in (None, self._ear[0]):
            return False
        asyncio.get_running_loop().call_soon(self._ear[1], message)
        return True

    def _shard(self, key: str) -> _Shard:
        return self._shards[hash(key) & (_SHARDS - 1)]

    def _find(self, key: str, now: float) -> Held | None:
        shard = self._shard(key)
        held = shard.held.get(key)
        if held is None or held.expires_at > now:
            return held
        self._expire(shard, key)
        return None

    def _drop(self, shard: _Shard, key: str) -> None:
        self._leave(shard.held.pop(key))

    def _enter(self, held: Held) -> None:
        self._count += 1

    def _leave(self, held: Held) -> None:
        self._count -= 1

    def _expire(self, shard: _Shard, key: str) -> None:
        self._drop(shard, key)
        self.expired_total += 1
        if self._changed is not None:
            self._changed(key)

    def _sweep_one_shard(self) -> float:
        now = self._clock()
        self._sweep_cursor = (self._sweep_cursor + 1) & (_SHARDS - 1)
        shard = self._shards[self._sweep_cursor]
        if shard.earliest_expiry <= now and shard.sweep_at <= now:
            self._sweep(shard, now)
        return now

    def _sweep(self, shard: _Shard, now: float) -> None:
        for key in [key for key, held in shard.held.items() if held.expires_at <= now]:
            self._expire(shard, key)
        shard.earliest_expiry = min((held.expires_at for held in shard.held.values()), default=float("inf"))
        shard.sweep_at = now + self._ttl_seconds / _SWEEPS_PER_TTL

    def _make_room(self, now: float) -> bool:
        """Sweep until something has gone, within a budget; a later `create` goes on where this one stopped."""
        budget = _SWEEP_ENTRIES_MAX
        for shard in self._shards_from_cursor():
            if shard.earliest_expiry <= now:
                budget -= len(shard.held)
                self._sweep(shard, now)
            if self._count < self._sessions_max:
                return True
            if budget <= 0:
                break
        return False

    def _shards_from_cursor(self) -> Iterator[_Shard]:
        for _ in range(_SHARDS):
            self._sweep_cursor = (self._sweep_cursor + 1) & (_SHARDS - 1)
            yield self._shards[self._sweep_cursor]

    def _expires_at(self, now: float) -> float:
        return now + self._ttl_seconds

    def _pack(self, session: Record, now: float) -> Held:
        raise NotImplementedError

    def _unpack(self, held: Held) -> Record:
        raise NotImplementedError


class WholeShelf(Shelf[Record]):
    """Each record as it is: frozen, and often the very object that its user holds as well."""

    def _pack(self, session: Record, now: float) -> Held:
        return _Whole(session.generation, self._expires_at(now), session)

    def _unpack(self, held: Held) -> Record:
        assert isinstance(held, _Whole)
        return cast(Record, held.session)


class _Whole(Held, gc=False):
    session: object


def _parse_cursor(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return 0, ""
    number, separator, after = cursor.partition(":")
    if not (separator and number.isascii() and number.isdigit() and int(number) < _SHARDS):
        raise ValueError("not a cursor of this store")
    return int(number), after
