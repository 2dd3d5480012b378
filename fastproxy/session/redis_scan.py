"""Walking all sessions of a Redis in pages: SCAN gives no exact counts, a page has an exact limit.

A cursor says where to go on, in a form that survives in a URL: which node, the server's own cursor there, and the keys
that this server has already named but that no longer fitted into the page.
"""

import re
from collections.abc import Awaitable, Callable

import msgspec

# (node, the server's cursor there, how many keys to look at) -> (the server's next cursor, names of keys)
Scan = Callable[[str, int, int], Awaitable[tuple[int, list[bytes]]]]

PAGE_RECORDS_MAX = 1_000
_SCANS_PER_PAGE_MAX = 100  # a page among millions of foreign keys may come back empty, rather than late
_SCAN_KEYS_MIN = 10  # asked of the server at once; the overhang, and with it the cursor, stays near this
_SCAN_KEYS_MAX = 200

_CURSOR = re.compile(r"(end|\d{1,20})(?:@([A-Za-z0-9.:\[\]_-]+))?(?:!([A-Za-z0-9._~,-]+))?", re.ASCII)
_KEY = re.compile(rb"[A-Za-z0-9._~-]{1,128}")


class Cursor(msgspec.Struct, frozen=True):
    """A place between two pages. `place` None: this node has named all its keys."""

    node: str = ""
    place: int | None = 0
    keys: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = "end" if self.place is None else str(self.place)
        return place + (f"@{self.node}" if self.node else "") + ("!" + ",".join(self.keys) if self.keys else "")

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """ValueError: not a cursor of ours."""
        parts = _CURSOR.fullmatch(text)
        if parts is None:
            raise ValueError("not a cursor of this store")
        place, node, keys = parts.groups()
        return cls(
            node=node or "",
            place=None if place == "end" else int(place),
            keys=tuple(keys.split(",")) if keys else (),
        )


def pattern(prefix: str) -> str:
    """The glob that matches every key under the prefix, whatever characters the prefix has."""
    return re.sub(r"([\\*?\[\]^])", r"\\\1", prefix) + "*"


async def walk(
    start: Cursor | None, limit: int, *, nodes: list[str], prefix: str, scan: Scan
) -> tuple[list[str], Cursor | None]:
    """The store keys of one page, and where the next begins (None: that was all)."""
    here = start or Cursor(node=min(nodes, default=""))
    keys = dict.fromkeys(here.keys)
    node, place = here.node, here.place
    for scans in range(_SCANS_PER_PAGE_MAX):
        if len(keys) >= limit:
            break
        if place is None:
            following = _next_node(nodes, node)
            if following is None:
                break
            node, place = following, 0
        place, names = await scan(node, place, _keys_to_ask(limit - len(keys), scans))
        keys |= dict.fromkeys(_session_keys(names, prefix))
        place = place or None
    fitting, rest = list(keys)[:limit], tuple(keys)[limit:]
    if place is None and not rest and _next_node(nodes, node) is None:
        return fitting, None
    return fitting, Cursor(node=node, place=place, keys=rest)


def _session_keys(names: list[bytes], prefix: str) -> list[str]:
    """Those of the server's key names that can be sessions', without the prefix."""
    start = len(prefix.encode())
    keys = (name[start:] for name in names)
    return [key.decode() for key in keys if _KEY.fullmatch(key)]


def _next_node(nodes: list[str], node: str) -> str | None:
    """The nodes are walked in the order of their names, which is stable while they come and go."""
    return next((other for other in sorted(nodes) if other > node), None)


def _keys_to_ask(wanted: int, scans: int) -> int:
    """How many keys the next SCAN should look at; more and more while it finds none of ours."""
    return min(max(wanted, _SCAN_KEYS_MIN) << min(scans, 8), max(wanted, _SCAN_KEYS_MAX))
