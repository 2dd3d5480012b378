"""The envelope of a JSON-RPC message: method, id, and the params of an `initialize`. Nothing else of a body is decoded.

A body that is no single JSON object (a batch, text, anything) has no envelope; the backend judges it, not the proxy.
"""

import json
from collections.abc import Iterator
from typing import Any

import msgspec


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """`id` is the id's own JSON text, None without one, with null, or with one that JSON-RPC does not know."""

    method: str | None
    id: bytes | None

    @property
    def is_request(self) -> bool:
        """Does somebody wait for an answer to it?"""
        return self.method is not None and self.id is not None


class _Wire(msgspec.Struct, gc=False):
    method: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")


class _Initialize(msgspec.Struct, gc=False):
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class _Outcome(msgspec.Struct, gc=False):
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


def _refuse_constant(name: str) -> object:
    """Python's own reader takes NaN for a number."""
    raise ValueError(name)


_json = json.JSONDecoder(parse_constant=_refuse_constant)
_decoder = msgspec.json.Decoder(_Wire)
_initialize_decoder = msgspec.json.Decoder(_Initialize)
_outcome_decoder = msgspec.json.Decoder(_Outcome)


def read(body: bytes) -> Envelope | None:
    """The envelope of a body that is a JSON object, else None."""
    try:
        wire = _decoder.decode(body)
        # What was skipped over is not known to be text yet, and an id will be repeated in an answer of ours.
        method = msgspec.json.decode(wire.method, type=str) if bytes(wire.method)[:1] == b'"' else None
        bytes(wire.id).decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    id_text = bytes(wire.id)
    return Envelope(method, id_text if id_text[:1] and id_text[:1] in b'"-0123456789' else None)


def read_beginning(body: bytes) -> Envelope | None:
    """What the first bytes of a long message tell; None when its id is not among them, or the message is no object.

    The SDKs differ: Python's of 2.x, Go's, Rust's and Java's say the id before the params, Python's of 1.x and
    TypeScript's after. Who gives an id and is not seen to be an answer is taken for a request, as most are."""
    method, number = None, None
    for name, value, raw in _members(body.decode("utf-8", "replace")):
        if name == "id":
            told = isinstance(value, str | int | float) and not isinstance(value, bool) and raw.encode() in body
            number = raw.encode() if told else None
        elif name == "method":
            method = value if isinstance(value, str) else None
        elif name in ("result", "error"):
            return None if number is None else Envelope(None, number)
    return None if number is None else Envelope(method or "", number)


def _members(text: str) -> Iterator[tuple[str, object, str]]:
    """Name, value and its text for each member of a JSON object, up to where it is cut off; what is cut off has a name,
    and no value."""
    position = _after_blank(text, 0)
    while text[position : position + 1] in ("{", ","):
        try:
            name, position = _json.raw_decode(text, _after_blank(text, position + 1))
            colon = _after_blank(text, position)
            if not isinstance(name, str) or text[colon : colon + 1] != ":":
                return
            begin = _after_blank(text, colon + 1)
        except (ValueError, RecursionError):
            return
        try:
            value, end = _json.raw_decode(text, begin)
        except (ValueError, RecursionError):
            yield name, None, ""
            return
        position = _after_blank(text, end)
        whole = text[position : position + 1] in (",", "}")
        yield (name, value, text[begin:end]) if whole else (name, None, "")  # perhaps the beginning of a number


def _after_blank(text: str, position: int) -> int:
    while text[position : position + 1] in (" ", "\t", "\r", "\n") and position < len(text):
        position += 1
    return position


def initialize_params(body: bytes) -> dict[str, Any]:
    """The params of an `initialize`; empty when they are not an object."""
    try:
        return _initialize_decoder.decode(body).params
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}


def outcome(message: bytes) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """(result, error) of a JSON-RPC answer; (None, None) when it is none."""
    try:
        found = _outcome_decoder.decode(message)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None, None
    return found.result, found.error


def event_messages(stream: bytes) -> list[bytes]:
    """The data of each whole event in the beginning of an event stream (WHATWG HTML §9.2.6)."""
    text = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    messages = []
    for event in text.split(b"\n\n")[:-1]:
        lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
        if lines:
            messages.append(b"\n".join(lines))
    return messages


def endpoint_of(event: bytes) -> bytes | None:
    """The URI in the `endpoint` event of legacy HTTP+SSE, None when this is another event."""
    text = event.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    lines = text.split(b"\n")
    if not any(line.removeprefix(b"event:").strip() == b"endpoint" for line in lines if line.startswith(b"event:")):
        return None
    data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
    return b"\n".join(data) if data else None
