"""The session record: what one proxy replica tells all others (interface §4). Frozen, no live thing inside.

The stored form is JSON. A reader keeps members that it does not know, so that an older replica does not strip what a
newer one has written: `Stored` couples the typed record with those extra members.
"""

import hashlib
import re
from typing import Any

import msgspec

VERSION = 1


class SessionRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where a session lives. `session_id` is the client's id for ever; `backend_session_id` is None while equal to it."""

    v: int = VERSION
    session_id: str
    backend_pod: str | None = None
    backend_url: str  # scheme://host:port, no path
    backend_session_id: str | None = None
    transport: str = "streamable-http"  # or "sse"
    path: str = "/mcp"  # the path (with query, if any) on which the session was opened, as the client sent it
    protocol_version: str = ""
    initialize: dict[str, Any] = msgspec.field(default_factory=dict)
    created_at: str = ""  # RFC 3339
    updated_at: str = ""
    generation: int = 1


_PLAIN_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)


def store_key(session_id: str) -> str:
    """What names a session behind the prefix: the id itself, or the SHA-256 (hex) of an id that is long or unusual."""
    if _PLAIN_KEY.fullmatch(session_id):
        return session_id
    return hashlib.sha256(session_id.encode("latin-1")).hexdigest()
