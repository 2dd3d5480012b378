"""The session record: what one proxy replica tells all others (interface §4). Frozen, no live thing inside.

The stored form is JSON in the order of the members below. A reader keeps members that it does not know, so that an
older replica does not strip what a newer one has written: they travel in `SessionRecord.unknown`, byte for byte,
through `msgspec.structs.replace` and back into `encode`. Time comes in as an argument; nothing here asks a clock.

    bytes --decode--> SessionRecord --moved--> SessionRecord --encode--> bytes
"""

import datetime
import hashlib
import re
from typing import Any

import msgspec

from fastproxy import errors

VERSION = 1

_NAME_OF_UNKNOWN = "!unknown"  # never written: UNSET members are left out, and `encode` splices the others in


class BadRecord(errors.StoreError):
    """A stored value is not a record, or not whole. Stores count it and treat the session as missing."""

    reason = "bad_record"


class SessionRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where a session lives. `session_id` is the client's id for ever, `backend_session_id` None while equal."""

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
    unknown: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name=_NAME_OF_UNKNOWN)


class _Versioned(msgspec.Struct, gc=False):
    v: int


_KNOWN = frozenset(SessionRecord.__struct_encode_fields__) - {_NAME_OF_UNKNOWN}
_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(SessionRecord)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_version_decoder = msgspec.json.Decoder(_Versioned)
_PLAIN_KEY = re.compile(r"[A-Za-z0-9._~-]{1,128}", re.ASCII)
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 §5.5


def store_key(session_id: str) -> str:
    """What names a session behind the prefix: the id itself, or the SHA-256 (hex) of an id that is long or unusual."""
    if _PLAIN_KEY.fullmatch(session_id):
        return session_id
    return hashlib.sha256(session_id.encode("latin-1")).hexdigest()


def encode(session: SessionRecord) -> bytes:
    """The stored form; members that we do not know come last, as they were."""
    if session.unknown is msgspec.UNSET:
        return _encoder.encode(session)
    known = _encoder.encode(msgspec.structs.replace(session, unknown=msgspec.UNSET))
    return known[:-1] + b"," + _encoder.encode(session.unknown)[1:] if session.unknown else known


def decode(stored: bytes, *, key: str) -> SessionRecord:
    """The record stored under `key`. BadRecord: foreign or broken. RecordTooNew: written by a newer fastproxy."""
    try:
        members = _members_decoder.decode(stored)
        if _version_decoder.decode(stored).v > VERSION:  # first of all: a newer version may have changed any type
            raise errors.RecordTooNew(f"session record has version {bytes(members['v']).decode()}, we know {VERSION}")
        session = _record_decoder.decode(stored)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRecord(f"not a session record: {error}") from error
    if session.v < 1 or session.generation < 1:
        raise BadRecord(f"not a session record: v={session.v} generation={session.generation}")
    if not _is_id(session.session_id) or store_key(session.session_id) != key:
        raise BadRecord("not this session's record: it names another id")
    if not _is_speakable(session):
        raise BadRecord("not a session record: a member can't be said in a request's head")
    unknown = {name: msgspec.Raw(bytes(value)) for name, value in members.items() if name not in _KNOWN}
    return msgspec.structs.replace(session, unknown=unknown or msgspec.UNSET)


def moved(
    session: SessionRecord,
    *,
    backend_url: str,
    backend_pod: str | None,
    backend_session_id: str | None,
    protocol_version: str,
    unix_seconds: float,
) -> SessionRecord:
    """The next record of a session that a recovery has brought to another backend session."""
    return msgspec.structs.replace(
        session,
        backend_url=backend_url,
        backend_pod=backend_pod,
        backend_session_id=None if backend_session_id == session.session_id else backend_session_id,
        protocol_version=protocol_version,
        updated_at=timestamp(unix_seconds),
        generation=session.generation + 1,
    )


def renamed(session: SessionRecord, *, session_id: str, backend_session_id: str) -> SessionRecord:
    """A new session's record under an id of the proxy's own, since the backend's is taken or can't be used."""
    return msgspec.structs.replace(session, session_id=session_id, backend_session_id=backend_session_id)


def timestamp(unix_seconds: float) -> str:
    """RFC 3339 in UTC with milliseconds, the form of `created_at` and `updated_at`."""
    moment = datetime.datetime.fromtimestamp(unix_seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _is_speakable(session: SessionRecord) -> bool:
    # These travel in heads of our own (a recovery, a DELETE): Latin-1 there, and nothing that would end a line.
    values = (session.backend_session_id or "", session.protocol_version, session.path)
    return (
        all(_FIELD_VALUE.fullmatch(value) is not None for value in values)
        and session.path.startswith("/")
        and " " not in session.path
        and session.transport in ("streamable-http", "sse")
    )


def _is_id(session_id: str) -> bool:
    # Ids are bytes 0x21–0x7E on the wire (interface §3.2); anything else under our prefix is not ours.
    return bool(session_id) and session_id.isascii()
