"""What of a message's body stands in its head too, as 2026-07-28 has it: Mcp-Method, Mcp-Name; how a value is written.
Pure."""

import msgspec

Fields = list[tuple[bytes, bytes]]

_NAMED_BY = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class _Named(msgspec.Struct):
    name: object = None
    uri: object = None
    taskId: object = None


def fields(method: str, params: bytes) -> Fields:
    """The routing headers of a request, out of what its body says."""
    found = [(b"Mcp-Method", header_value(method))]
    member = "taskId" if method.startswith("tasks/") else _NAMED_BY.get(method)
    if member is None or not params:
        return found
    try:
        named = getattr(msgspec.json.decode(params, type=_Named), member)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return found  # the backend says what is wrong with them
    return [*found, (b"Mcp-Name", header_value(named))] if isinstance(named, str) else found


def header_value(text: str) -> bytes:
    """A value as the revision writes it into a header: as it is, or in the base64 form when it could not pass so."""
    plain = text.isascii() and text.isprintable() and text == text.strip() and not text.startswith("=?base64?")
    if plain:
        return text.encode("ascii")
    return b"=?base64?" + msgspec.json.encode(text.encode("utf-8"))[1:-1] + b"?="
