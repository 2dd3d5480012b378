"""What a client of 2026-07-28 repeats of its message in headers, held against the message (`x-mcp-header`). Pure.

    Mcp-Param-REGION: eu   <-   {"properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}

Who routes by such a header must be able to rely on it: one that differs from its argument, is missing, or is there
without its argument, is refused. Headers that no schema names are nobody's business.
"""

import base64
import binascii
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

DEPTH_MAX = 32  # of properties within properties; nobody has three
_PREFIX = b"mcp-param-"
_KINDS = ("string", "integer", "boolean")


class Mirror(msgspec.Struct, frozen=True):
    """An argument that is repeated in a header (lower case)."""

    header: bytes
    path: tuple[str, ...]


def find_mirrors(schema: Any, path: tuple[str, ...] = ()) -> Iterator[Mirror]:
    """Those of an input schema: along properties only, of plain values only."""
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict) or len(path) >= DEPTH_MAX:
        return
    for name, inner in properties.items():
        if not isinstance(inner, dict):
            continue
        header = inner.get("x-mcp-header")
        if isinstance(header, str) and inner.get("type") in _KINDS and header.isascii():
            yield Mirror(_PREFIX + header.lower().encode(), (*path, name))
        yield from find_mirrors(inner, (*path, name))


def find_difference(mirrors: tuple[Mirror, ...], arguments: Any, headers: Mapping[bytes, bytes]) -> str | None:
    """The first header that does not say what its argument says; None: all do."""
    for mirror in mirrors:
        value = arguments
        for name in mirror.path:
            value = value.get(name) if isinstance(value, dict) else None
        said = headers.get(mirror.header)
        if value is None and said is None:
            continue
        if value is None or said is None or not _agree(value, said.decode("latin-1")):
            return mirror.header.decode()
    return None


def _agree(value: object, said: str) -> bool:
    if isinstance(value, bool):
        return said == ("true" if value else "false")
    if isinstance(value, int | float):
        with contextlib.suppress(ValueError):
            return float(said) == value
        return False
    return decode(said) == value if isinstance(value, str) else True  # the server judges what its schema forbids


def decode(value: str) -> str | None:
    """A header's value: as it is, or Base64 of UTF-8 between sentinels (strict). None: malformed."""
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    with contextlib.suppress(binascii.Error, UnicodeDecodeError):
        return base64.b64decode(value[9:-2], validate=True).decode()
    return None
