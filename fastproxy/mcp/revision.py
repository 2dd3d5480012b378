"""One row per protocol revision. The only file that compares dates.

`sessions`: the era in which a server hands out an id at `initialize` (2024-11-05 … 2025-11-25). A version that is not
listed belongs to the era without sessions: newer revisions are forwarded, and judged by the backend (spec 2026-07-28).
"""

import msgspec


class Revision(msgspec.Struct, frozen=True):
    """What a proxy must know of one revision of the protocol."""

    name: str
    sessions: bool


REVISIONS = {
    row.name: row
    for row in (
        Revision("2024-11-05", sessions=True),
        Revision("2025-03-26", sessions=True),
        Revision("2025-06-18", sessions=True),
        Revision("2025-11-25", sessions=True),
        Revision("2026-07-28", sessions=False),
    )
}


def has_sessions(version: str | None) -> bool:
    """Does a request with this MCP-Protocol-Version belong to the era of sessions? Without the header it does."""
    if version is None:
        return True
    row = REVISIONS.get(version)
    return row is not None and row.sessions
