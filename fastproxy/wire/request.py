"""A request's head as the story reads it: text with a lookup by name; bytes are Latin-1, as HTTP has them. Sans-io."""

import re
from urllib.parse import parse_qsl, urlsplit

import msgspec

# What a request of the proxy's own may not take over from a client's: framing, hop-by-hop, and what the proxy sets.
_OWN = frozenset(
    b"host connection content-length content-type transfer-encoding keep-alive te trailer upgrade expect accept "
    b"accept-encoding forwarded x-forwarded-for x-forwarded-host x-forwarded-proto mcp-session-id "
    b"mcp-protocol-version mcp-method mcp-name last-event-id origin".split()
)


class Request(msgspec.Struct, frozen=True, gc=False):
    """Method, target and fields of a request; `headers` maps lower-case names to their first values."""

    method: str
    target: str
    fields: list[tuple[bytes, bytes]]
    headers: dict[bytes, bytes]

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    def header(self, name: bytes) -> str | None:
        """The value of a field, None without it."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def all(self, name: bytes) -> list[str]:
        """The values of every field of that name."""
        return [value.decode("latin-1") for known, value in self.fields if known.lower() == name]

    def wants_events(self) -> bool:
        """Does it ask for an event stream?"""
        return any("text/event-stream" in value.lower() for value in self.all(b"accept"))

    def fields_to_pass_on(self) -> list[tuple[bytes, bytes]]:
        """Fields that a request of our own on the client's behalf carries too, credentials above all."""
        named = {token.strip().lower() for value in self.all(b"connection") for token in value.encode().split(b",")}
        return [
            (name, value)
            for name, value in self.fields
            if name.lower() not in _OWN and name.lower() not in named and not name.lower().startswith(b"proxy-")
        ]


def read(method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> Request:
    """The request of a head."""
    return of(method.decode("latin-1"), target, fields)


def of(method: str, target: bytes, fields: list[tuple[bytes, bytes]]) -> Request:
    """The same, of a method that is text already."""
    headers = {name.lower(): value for name, value in reversed(fields)}
    return Request(method, target.decode("latin-1"), fields, headers)


_SESSION_ID = re.compile(r"[!-~]{1,1024}")


def is_session_id(text: str) -> bool:
    """Visible ASCII, 1 to 1024 bytes (spec 2025-11-25, transports)."""
    return _SESSION_ID.fullmatch(text) is not None


_SESSION_PARAMETERS = ("sessionId", "session_id")


def session_parameter(target: str) -> str | None:
    """The session id in the query of a legacy HTTP+SSE endpoint (`sessionId` of TypeScript, `session_id` of Python)."""
    for name, value in parse_qsl(urlsplit(target).query, keep_blank_values=True, encoding="latin-1"):
        if name in _SESSION_PARAMETERS:
            return value
    return None


def with_session_parameter(target: str, session_id: str) -> str:
    """The same target with another session id in its query."""
    head, mark, query = target.partition("?")
    parts = []
    for part in query.split("&"):
        name, equals, _ = part.partition("=")
        parts.append(f"{name}={session_id}" if equals and name in _SESSION_PARAMETERS else part)
    return head + mark + "&".join(parts)
