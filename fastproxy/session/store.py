"""The port behind which sessions are kept, and its promises. Every implementation passes tests/contracts.

All methods raise StoreUnavailable when the store does not answer within its deadline, StoreRefused when it answers
that it will not serve us. `key` below is `record.store_key(session_id)`: what names a session in stores and tables.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from fastproxy.session import record


class SessionStore(Protocol):
    """Five operations on records, and what a fleet of proxies needs around them."""

    async def open(self) -> None:
        """Connect. StoreRefused: the credentials, the database or the peer are wrong (exit 1). Away: StoreUnavailable."""

    async def close(self) -> None:
        """Let go of every connection. Idempotent."""

    async def ping(self) -> None:
        """Answer or raise; `/readyz` asks."""

    async def create(self, session: record.SessionRecord) -> bool:
        """Store under its id if nobody holds it, with the full TTL. False: it is held."""

    async def load(self, session_id: str) -> record.SessionRecord | None:
        """The record, or None. A foreign or broken value counts (`bad_records`) and is None. RecordTooNew: v > VERSION."""

    async def update(self, session: record.SessionRecord, *, expected_generation: int) -> bool:
        """Replace if present and of that generation; restarts the TTL. Never brings back what was deleted."""

    async def delete(self, session_id: str) -> bool:
        """Forget. True if it was there."""

    async def touch(self, session_ids: Sequence[str]) -> list[str]:
        """Restart the TTL of each, in one round trip; answers with the ids that are not there any more."""

    async def page(self, cursor: str | None, limit: int) -> tuple[list[record.SessionRecord], str | None]:
        """Some records and where to go on (None: that was all). Each session that stays appears at least once."""

    async def claim(self, session_id: str, owner: str, seconds: float) -> bool:
        """Take the right to recover a session, unless another owner holds it; ends by itself after `seconds`."""

    async def release(self, session_id: str, owner: str) -> None:
        """Give the right back, if it is still ours."""

    def watch(self, changed: Callable[[str], None], broken: Callable[[], None]) -> None:
        """Call `changed(key)` for each record that somebody else has changed or removed (within a second), and
        `broken()` after any gap in that knowledge: everything cached must then be revalidated."""
