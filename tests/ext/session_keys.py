"""Session keys in every shape that servers hand out, and a table's two verbs in short form."""

import base64
import string

from hypothesis import strategies as st

from fastproxy._ext import core

FOREVER = 2**32 - 1
BASE32 = string.ascii_uppercase + "234567"

hex_digits = st.text("0123456789abcdef", min_size=32, max_size=32)


def hyphenated(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


shapes_of_keys = st.one_of(
    hex_digits,
    hex_digits.map(hyphenated),
    hex_digits.map(lambda digits: "mcp-session-" + hyphenated(digits)),
    st.binary(min_size=16, max_size=16).map(lambda raw: base64.urlsafe_b64encode(raw).decode().rstrip("=")),
    st.text(BASE32, min_size=26, max_size=26),
    # Nearly one of these: of the right length, with something that must keep it from being packed.
    hex_digits.map(str.upper),
    hex_digits.map(lambda digits: hyphenated(digits).replace("-", "_")),
    hex_digits.map(lambda digits: "MCP-session-" + hyphenated(digits)),
    st.text(string.ascii_letters + string.digits + "-_", min_size=22, max_size=22),
    st.text(BASE32 + "01", min_size=26, max_size=26),
    st.text(string.printable, min_size=1, max_size=128),
    st.text("\0a", min_size=1, max_size=18),
).map(str.encode)


def list_all(table: core.RouteTable, page: int) -> list[bytes]:
    found, after = table.keys(page)
    while after:
        more, after = table.keys(page, after)
        found += more
    return found


def put(
    table: core.RouteTable, key: bytes, endpoint: int = 0, *, flags: int = 0, expires: int = FOREVER
) -> bytes | None:
    return table.put(key, endpoint, flags=flags, expires=expires, touch_at=0)
