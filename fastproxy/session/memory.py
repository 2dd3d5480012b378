"""The embedded store of `serve`: what shelf.py does, and each session as small as it can be.

What many sessions have in common (backend, path, revision, the encoded `initialize`) is one shared `_Common`, dropped
with its last session; a session itself is one flat `_Held` of 80 bytes plus its own strings.
"""

import time
import weakref
from collections.abc import Callable

import msgspec

from fastproxy.session import record, shelf

_COMMONS_MAX = 4_096  # kinds of sessions that are shared; a client that varies its `initialize` can't grow this table
_encoder = msgspec.json.Encoder()
_object_decoder = msgspec.json.Decoder(dict[str, object])
_unknown_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


class _Common(msgspec.Struct, frozen=True, weakref=True):
    """What the sessions of one client kind on one backend share."""

    v: int
    backend_pod: str | None
    backend_url: str
    transport: str
    path: str
    protocol_version: str
    initialize: bytes  # encoded: smaller than the object, and safe to share
    unknown: bytes


class _Held(shelf.Held, gc=False):
    session_id: str
    backend_session_id: str | None
    common: _Common
    created_at: str
    updated_at: str


class MemoryStore(shelf.Shelf[record.SessionRecord]):
    """The SessionStore of `serve` without a network."""

    def __init__(self, *, ttl_seconds: float, sessions_max: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(ttl_seconds=ttl_seconds, sessions_max=sessions_max, clock=clock)
        self._counts: dict[str, int] = {}  # by backend_url; a handful
        # By hash, for a key must not keep its value alive; two that collide are simply not shared.
        self._commons: weakref.WeakValueDictionary[int, _Common] = weakref.WeakValueDictionary()

    def count(self, backend_url: str) -> int:
        """Sessions that live on one backend."""
        return self._counts.get(backend_url, 0)

    def _enter(self, held: shelf.Held) -> None:
        super()._enter(held)
        self._add(held, 1)

    def _leave(self, held: shelf.Held) -> None:
        super()._leave(held)
        self._add(held, -1)

    def _add(self, held: shelf.Held, step: int) -> None:
        assert isinstance(held, _Held)
        backend_url = held.common.backend_url
        left = self._counts.get(backend_url, 0) + step
        if left:
            self._counts[backend_url] = left
        else:
            del self._counts[backend_url]

    def _pack(self, session: record.SessionRecord, now: float) -> shelf.Held:
        common = _Common(
            v=session.v,
            backend_pod=session.backend_pod,
            backend_url=session.backend_url,
            transport=session.transport,
            path=session.path,
            protocol_version=session.protocol_version,
            initialize=_encoder.encode(session.initialize),
            unknown=b"" if session.unknown is msgspec.UNSET else _encoder.encode(session.unknown),
        )
        return _Held(
            session_id=session.session_id,
            backend_session_id=session.backend_session_id,
            common=self._share(common),
            created_at=session.created_at,
            # Equal until the first recovery: one string then.
            updated_at=session.created_at if session.updated_at == session.created_at else session.updated_at,
            generation=session.generation,
            expires_at=self._expires_at(now),
        )

    def _share(self, common: _Common) -> _Common:
        number = hash(common)
        shared = self._commons.get(number)
        if shared is not None and shared == common:
            return shared
        if len(self._commons) < _COMMONS_MAX:
            self._commons[number] = common
        return common

    def _unpack(self, held: shelf.Held) -> record.SessionRecord:
        assert isinstance(held, _Held)
        common = held.common
        return record.SessionRecord(
            v=common.v,
            session_id=held.session_id,
            backend_pod=common.backend_pod,
            backend_url=common.backend_url,
            backend_session_id=held.backend_session_id,
            transport=common.transport,
            path=common.path,
            protocol_version=common.protocol_version,
            initialize=_object_decoder.decode(common.initialize),
            created_at=held.created_at,
            updated_at=held.updated_at,
            generation=held.generation,
            unknown=_unknown_decoder.decode(common.unknown) if common.unknown else msgspec.UNSET,
        )
