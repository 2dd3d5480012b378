"""Headers that a configuration may add to requests, or let pass from client to backend. Sans-io."""

import re

from fastproxy.config import units

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff]([\x20-\x7e\x80-\xff\t]*[\x21-\x7e\x80-\xff])?")
VALUE_CHARACTERS_MAX = 8192  # half of what servers take as a whole head

# They are about one connection or one hop; a second opinion on them is how requests are smuggled.
_HOP = frozenset(
    {
        *("host", "connection", "keep-alive", "te", "trailer", "upgrade", "http2-settings", "transfer-encoding"),
        *("content-length", "forwarded", "x-real-ip"),
    }
)
_HOP_PREFIXES = ("proxy-", "x-forwarded-")
# Ours to set: they say what the body is and whose session it belongs to.
_PROTOCOL = frozenset(
    {
        "accept",
        "content-type",
        "content-encoding",
        "expect",
        "last-event-id",
        "mcp-session-id",
        "mcp-method",
        "mcp-name",
    }
)
_PROTOCOL_PREFIXES = ("mcp-protocol-", "mcp-param-")
_CREDENTIALS = frozenset({"authorization", "cookie"})


def read_name(value: object) -> str:
    """The name of a header."""
    word = units.read_text(value, expected="the name of a header")
    if not _TOKEN.fullmatch(word):
        raise units.WrongValue(f"expected the name of a header, got {units.quote(word)}")
    return word


def read_value(value: object) -> str:
    """The value of a header; never shown."""
    if not isinstance(value, str) or not _VALUE.fullmatch(value):
        raise units.WrongValue("expected the value of a header: text without line breaks, in quotes if it is a number")
    if len(value) > VALUE_CHARACTERS_MAX:
        raise units.WrongValue(f"expected at most {VALUE_CHARACTERS_MAX} characters, got {len(value)}")
    return value


def read_injected(value: object) -> str:
    """The name of a header that is set on requests to a backend."""
    name = read_name(value)
    if _is_among(name, _HOP | _PROTOCOL, _HOP_PREFIXES + _PROTOCOL_PREFIXES):
        raise units.WrongValue(f"expected a header that is not the proxy's own to set, got {units.quote(name)}")
    return name


def read_passed(value: object) -> str:
    """The name, in lower case, of a header that passes from a client's request to the backends'."""
    name = read_name(value).lower()
    if name in _CREDENTIALS:
        raise units.WrongValue(f"expected no credentials of the client's among them, got {units.quote(name)}")
    if _is_among(name, _HOP | _PROTOCOL, _HOP_PREFIXES + _PROTOCOL_PREFIXES):
        raise units.WrongValue(f"expected a header that may pass, got {units.quote(name)}")
    return name


def _is_among(name: str, names: frozenset[str], prefixes: tuple[str, ...]) -> bool:
    return name.lower() in names or name.lower().startswith(prefixes)


NAME = units.Kind("NAME", read_name, str)
VALUE = units.Kind("VALUE", read_value, str)
INJECTED = units.Kind("NAME", read_injected, str)
PASSED = units.Kind("NAME", read_passed, str)
