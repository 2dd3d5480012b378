"""Sessions of our own at legacy backends, in which calls of 2026-07-28 clients are made: they have none themselves.

One per principal and backend in each process; clients without a name share one. It declares all that a client may be
able to do; whether the client of a call can do it is looked at when the backend asks (parking.py).
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import backends, connections, era, legs, parking, peer

logger = logging.getLogger(__name__)

END_SECONDS_MAX = 1.0
PRINCIPALS_MAX = 10_000
_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_CAPABILITIES = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": False}}


class _Session:
    """One. `level`: the lowest that somebody wants to hear of."""

    def __init__(self, opened: peer.Opened) -> None:
        self.opened = opened
        self.level: str | None = None


class Berths:
    """All of one process. `hear(backend_id, session_id, message)`: what comes on no call's own stream."""

    def __init__(
        self, *, hear: Callable[[str, str | None, bytes], object], start_task: Callable[..., asyncio.Task[Any]]
    ) -> None:
        self._hear = hear
        self._start_task = start_task
        self._sessions: dict[tuple[str, str], _Session] = {}
        self._opening: dict[tuple[str, str], asyncio.Task[_Session]] = {}

    async def find(self, backend: backends.Backend, visit: parking.Visit, fields: connections.Fields) -> parking.Berth:
        """Where a call of this principal is made. BackendError."""
        key = (backend.id, visit.principal)
        session = self._sessions.get(key)
        if session is None:
            opening = self._opening.get(key)
            if opening is None:
                opening = self._opening[key] = self._start_task(
                    self._open(backend, key, fields), name=f"open a session at {backend.id}"
                )
            session = await asyncio.shield(opening)
        await self._lower_level(backend, session, visit.caller.log_level)
        return parking.Berth(backend, session.opened.session_id, session.opened.protocol_version, fields)

    def forget(self, berth: parking.Berth, principal: str) -> None:
        """The backend does not know it any more."""
        key = (berth.backend.id, principal)
        session = self._sessions.get(key)
        if session is not None and session.opened.session_id == berth.session_id:
            del self._sessions[key]

    async def close(self, find: Callable[[str], backends.Backend | None]) -> None:
        """End them all, best effort."""
        ending = []
        for (backend_id, _), session in self._sessions.items():
            backend, session_id = find(backend_id), session.opened.session_id
            if backend is not None and session_id is not None:
                ending.append(
                    backend.peer.end(
                        session_id,
                        protocol_version=session.opened.protocol_version,
                        headers=[],
                        seconds_max=END_SECONDS_MAX,
                    )
                )
        self._sessions.clear()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _open(self, backend: backends.Backend, key: tuple[str, str], fields: connections.Fields) -> _Session:
        def hear(message: bytes) -> None:
            known = self._sessions.get(key)
            if known is not None:
                self._hear(backend.id, known.opened.session_id, message)

        try:
            params = msgspec.json.encode(
                {
                    "protocolVersion": peer.LEGACY_VERSION,
                    "capabilities": _CAPABILITIES,
                    "clientInfo": era.client_info(),
                }
            )
            opened = await backend.peer.open(
                params, headers=fields, on_message=hear, seconds_max=backend.timeout_seconds
            )
            if len(self._sessions) >= PRINCIPALS_MAX:
                self._sessions.pop(next(iter(self._sessions)))
            session = self._sessions[key] = _Session(opened)
            return session
        finally:
            self._opening.pop(key, None)

    async def _lower_level(self, backend: backends.Backend, session: _Session, wanted: str | None) -> None:
        """The backend's level is its session's, and so everybody's: the lowest holds, and each call hears its own."""
        if wanted not in _LEVELS or not legs.has_logging(backend.offers):
            return
        if session.level is not None and _LEVELS.index(session.level) <= _LEVELS.index(wanted):
            return
        session.level = wanted
        try:
            await backend.peer.request(
                "logging/setLevel",
                msgspec.json.encode({"level": wanted}),
                leg_session_id=session.opened.session_id,
                protocol_version=session.opened.protocol_version,
                headers=[],
                on_message=peer.ignore,
                seconds_max=backend.timeout_seconds,
            )
        except peer.Refused as error:
            logger.info("a backend takes no level of logging: backend=%s reason=%s", backend.id, error)
        except peer.SessionLost:
            return  # the call that follows finds out, too
