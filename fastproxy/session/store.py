"""The port behind which sessions are kept, and its promises. Every implementation passes tests/contracts.

All methods raise StoreUnavailable when the store does not serve: it does not answer within its deadline (fails at once
while it is known to be away), or has begun to refuse us. Only `open` tells a refusal apart, as StoreRefused.
`key` below is `record.store_key(session_id)`: what names a session in stores and tables. No store writes a session id
into a log.

There are two kinds of record: of a session that lives at one backend (record.py), and of one that has legs at many
(vmcp/record.py). A store keeps one kind; how its records are written it is told by a Form.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

from fastproxy import errors
from fastproxy.session import record

# One finished operation: its name, how long it took, whether it was served. For metrics.
Observer = Callable[[str, float, bool], None]


def observe_nothing(operation: str, seconds: float, served: bool) -> None:
    """The observer of who does not count."""


class Kept(Protocol):
    """What a store looks at in a record."""

    @property
    def session_id(self) -> str: ...
    @property
    def created_at(self) -> str: ...
    @property
    def generation(self) -> int: ...


Record = TypeVar("Record", bound=Kept)


class Form(Protocol[Record]):
    """How one kind of record is written. `version`: the newest that can be read."""

    @property
    def version(self) -> int: ...

    def encode(self, session: Record, /) -> bytes: ...

    def decode(self, stored: bytes, /, *, key: str) -> Record:
        """BadRecord: foreign or broken. RecordTooNew: written by a newer fastproxy."""


class SessionForm:
    """That of record.py."""

    version = record.VERSION
    encode = staticmethod(record.encode)
    decode = staticmethod(record.decode)


class Found(msgspec.Struct, Generic[Record], frozen=True, gc=False):
    """A record, and how long it stays unless somebody renews it."""

    session: Record
    seconds_left: float


class RecordStore(Protocol[Record]):
    """Five operations on records, and what a fleet of proxies needs around them."""

    @property
    def errors_total(self) -> int:
        """Operations that were not served."""

    @property
    def bad_records_total(self) -> int:
        """Values met that were not records."""

    @property
    def available(self) -> bool:
        """The last that we know: the store serves us."""

    @property
    def seconds_since_return(self) -> float:
        """From the end of the last time that it was away, or took no writes; infinite when there was none."""

    @property
    def fault(self) -> errors.StoreError | None:
        """Why it is not available; StoreRefused when somebody has to do something about it."""

    async def open(self) -> None:
        """Connect and check what we may do there. StoreRefused: the credentials, the database or the peer are wrong
        (exit 1). StoreUnavailable: away; the store goes on trying by itself, and `available` turns true."""

    async def close(self) -> None:
        """Let go of every connection and task. Idempotent."""

    async def ping(self) -> None:
        """Answer or raise; `/readyz` asks."""

    async def create(self, session: Record) -> bool:
        """Store under its id if nobody holds it, with the full TTL. False: it is held."""

    async def load(self, session_id: str) -> Record | None:
        """The record, or None. A foreign or broken value counts (`bad_records_total`) and is None.
        RecordTooNew: v > VERSION."""

    async def find(self, session_id: str) -> Found[Record] | None:
        """As `load`, with the time that is left: who caches it must know when the next renewal is due."""

    async def update(self, session: Record, *, expected_generation: int) -> bool:
        """Replace if present and of that generation; restarts the TTL. Never brings back what was deleted.
        RecordTooNew: what is there has v > VERSION, and stays."""

    async def delete(self, session_id: str) -> bool:
        """Forget. True if it was there."""

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        """Restart the TTL of each, in one round trip; answers with the ids that are not there any more."""

    async def page(self, cursor: str | None, limit: int) -> tuple[list[Record], str | None]:
        """At most `limit` records and where to go on (None: that was all). A page may hold fewer, none even, and not
        be the last. Each session that stays appears at least once; records too new for us are left out.
        ValueError: not a cursor of ours."""

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """Take the right to recover a session, unless another owner holds it; ends by itself after `seconds`.
        The same owner may take it again, which starts the time anew."""

    async def release(self, session_id: str, owner: str) -> None:
        """Give the right back, if it is still ours."""

    async def remember(self, key: str, value: str, seconds: float) -> None:
        """Keep a short string for so long, for every proxy of the fleet; it takes the place of what was there. No
        session: it is on no page, and nobody hears of it. `key` is hexadecimal."""

    async def recall(self, key: str) -> str | None:
        """What was remembered; None when it has expired, or was never known."""

    async def share_news(self, member: str, news: str, gone: Sequence[str]) -> dict[str, str]:
        """Put a line where every proxy of the fleet sees it, in place of this member's last one; all members' lines.
        Those of `gone` are dropped, and all when nobody has written for a minute. No session. No spaces in it."""

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        """Call `changed(key)` for each record that somebody else has changed or removed, within a second, and when the
        store notices that one has expired, which may be late: a cache minds the TTL itself. Not for what this store
        object was asked to write. Call `broken()` when that knowledge is lost and again when it is back: what was
        cached before the later call must be revalidated once. To be called once, before `open`. Both callbacks are
        quick and never raise."""


SessionStore = RecordStore[record.SessionRecord]
"""Where the sessions of `serve` are kept."""


class Bus(Protocol):
    """A word from one process of the fleet to the others, on the store's own connections. Nothing is kept: who does not
    listen at that moment never hears it, and a word may come twice."""

    def listen(self, name: str, heard: Callable[[bytes], None]) -> None:
        """Call `heard` with what is told to all, and to `name`. Once, before `open`; quick, never raises."""

    async def tell(self, message: bytes, *, to: str | None = None) -> bool:
        """To all, the teller too; or to who listens by that name. False: nobody does. StoreUnavailable: untold."""
