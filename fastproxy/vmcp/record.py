"""The session record of vMCP: what one replica tells all others of a client's session (issue: one session, many legs).

    {"v","session_id","protocol_version","client_info","client_capabilities","principal","created_at","updated_at",
     "generation","backends":[{"backend_id","backend_session_id","protocol_version"}],"secret",…}

A leg is the client's session at one backend. It is written when it is opened, so that any replica goes on with it by
its id. `secret` seals the ids under which a backend's requests reach the client (hub.py); it is of no use without
the session's id. Frozen; time comes in as an argument; members that are not known here travel in `unknown`, as in
session/record.py, whose promises hold here too.
"""

import re
import sys

import msgspec

from fastproxy import errors
from fastproxy.session import record as plain

VERSION = 1
BACKENDS_MAX = 1000
_NAME_OF_UNKNOWN = "!unknown"
_FIELD_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 §5.5


class Leg(msgspec.Struct, frozen=True, gc=False):
    """The client's session at one backend. `backend_session_id` None: it hands out none. `replica`: who holds a leg
    that is a connection or a process, and so can't be gone on with elsewhere."""

    backend_id: str
    backend_session_id: str | None = None
    protocol_version: str = ""
    replica: str | msgspec.UnsetType = msgspec.UNSET


class VmcpRecord(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A client's session. `generation` grows with each write."""

    v: int = VERSION
    session_id: str
    protocol_version: str = ""
    client_info: msgspec.Raw = msgspec.Raw(b"{}")
    client_capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    principal: str | None = None
    created_at: str = ""
    updated_at: str = ""
    generation: int = 1
    backends: tuple[Leg, ...] = ()
    secret: str = ""
    log_level: str | None = None
    subscriptions: tuple[str, ...] = ()
    unknown: dict[str, msgspec.Raw] | msgspec.UnsetType = msgspec.field(default=msgspec.UNSET, name=_NAME_OF_UNKNOWN)

    def leg(self, backend_id: str) -> Leg | None:
        """The leg at that backend."""
        for leg in self.backends:
            if leg.backend_id == backend_id:
                return leg
        return None


class _Versioned(msgspec.Struct, gc=False):
    v: int


_KNOWN = frozenset(VmcpRecord.__struct_encode_fields__) - {_NAME_OF_UNKNOWN}
_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(VmcpRecord)
_members_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_version_decoder = msgspec.json.Decoder(_Versioned)


class Form:
    """How stores write it."""

    version = VERSION

    @staticmethod
    def encode(session: VmcpRecord) -> bytes:
        """The stored form; members that we do not know come last, as they were."""
        if session.unknown is msgspec.UNSET:
            return _encoder.encode(session)
        known = _encoder.encode(msgspec.structs.replace(session, unknown=msgspec.UNSET))
        return known[:-1] + b"," + _encoder.encode(session.unknown)[1:] if session.unknown else known

    @staticmethod
    def decode(stored: bytes, *, key: str) -> VmcpRecord:
        """BadRecord: foreign or broken. RecordTooNew: written by a newer fastproxy."""
        try:
            members = _members_decoder.decode(stored)
            if _version_decoder.decode(stored).v > VERSION:
                raise errors.RecordTooNew(f"session record is of a later version than {VERSION}")
            session = _record_decoder.decode(stored)
            _check(session, key)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise plain.BadRecord(f"not a session record: {error}") from error
        unknown = {name: msgspec.Raw(bytes(value)) for name, value in members.items() if name not in _KNOWN}
        # A Raw out of a decoder keeps the whole stored text alive.
        return msgspec.structs.replace(
            session,
            client_info=msgspec.Raw(bytes(session.client_info)),
            client_capabilities=msgspec.Raw(bytes(session.client_capabilities)),
            backends=tuple(map(_shared, session.backends)),
            unknown=unknown or msgspec.UNSET,
        )


def _shared(leg: Leg) -> Leg:
    """The same, with what many legs have in common only once in memory."""
    return Leg(sys.intern(leg.backend_id), leg.backend_session_id, sys.intern(leg.protocol_version), leg.replica)


def _check(session: VmcpRecord, key: str) -> None:
    if session.v < 1 or session.generation < 1:
        raise plain.BadRecord(f"not a session record: v={session.v} generation={session.generation}")
    if not session.session_id.isascii() or plain.store_key(session.session_id) != key:
        raise plain.BadRecord("not this session's record: it names another id")
    if len(session.backends) > BACKENDS_MAX:
        raise plain.BadRecord(f"not a session record: {len(session.backends)} legs")
    words = [session.protocol_version]
    for leg in session.backends:
        words += [leg.backend_session_id or "", leg.protocol_version]
    if not all(_FIELD_VALUE.fullmatch(word) for word in words):  # these travel in heads of ours
        raise plain.BadRecord("not a session record: a member can't be said in a request's head")
    msgspec.json.decode(session.client_info, type=dict)
    msgspec.json.decode(session.client_capabilities, type=dict)


def with_leg(session: VmcpRecord, leg: Leg, *, instead_of: Leg | None) -> VmcpRecord:
    """The record with this leg, if what it has at that backend is still `instead_of`; else as it is."""
    if session.leg(leg.backend_id) != instead_of:
        return session
    others = tuple(other for other in session.backends if other.backend_id != leg.backend_id)
    return msgspec.structs.replace(session, backends=(*others, leg))


def following(session: VmcpRecord, *, unix_seconds: float) -> VmcpRecord:
    """The same as the next generation."""
    return msgspec.structs.replace(session, generation=session.generation + 1, updated_at=plain.timestamp(unix_seconds))
