"""Sessions of our own at legacy backends, in which calls of 2026-07-28 clients are made: they have none themselves.

One per principal and backend in each process; clients without a name share one. It declares all that a client may be
able to do; whether the client of a call can do it is looked at when the backend asks (parking.py). Its own stream is
listened to, since some servers ask there: whose call that concerns can be told as long as there is but one.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import backends, connections, era, faults, legs, parking, peer

logger = logging.getLogger(__name__)

END_SECONDS_MAX = 1.0
LISTEN_PAUSE_SECONDS = 1.0  # between two streams
NOBODY = "it can't be told which client this is for"
PRINCIPALS_MAX = 10_000
_LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")
_CAPABILITIES = {"sampling": {"tools": {}}, "elicitation": {"form": {}, "url": {}}, "roots": {"listChanged": False}}


class _Session:
    """One. `level`: the lowest that somebody wants to hear of."""

    def __init__(self, opened: peer.Opened) -> None:
        self.opened = opened
        self.level: str | None = None
        self.listening: asyncio.Task[None] | None = None

    def close(self) -> None:
        """It is not used any more."""
        if self.listening is not None:
            self.listening.cancel()


class Berths:
    """All of one process. `hear(backend_id, session_id, message)`: what comes on no call's own stream; False: whose it
    is can't be told."""

    def __init__(
        self, *, hear: Callable[[str, str | None, bytes], bool], start_task: Callable[..., asyncio.Task[Any]]
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
            session.close()

    async def close(self, find: Callable[[str], backends.Backend | None]) -> None:
        """End them all, best effort."""
        ending = []
        for (backend_id, _), session in self._sessions.items():
            session.close()
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
                self._heard(backend, known.opened, message)

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
                self._sessions.pop(next(iter(self._sessions))).close()
            session = self._sessions[key] = _Session(opened)
            if opened.session_id is not None:
                name = f"listen to a session at {backend.id}"
                session.listening = self._start_task(self._listen(backend, opened), name=name)
            return session
        finally:
            self._opening.pop(key, None)

    # ---- what it says on no call's stream

    async def _listen(self, backend: backends.Backend, opened: peer.Opened) -> None:
        """For as long as it has a stream for that."""
        while True:
            try:
                await backend.peer.listen(
                    leg_session_id=opened.session_id,
                    protocol_version=opened.protocol_version,
                    headers=[],
                    on_message=lambda message: self._heard(backend, opened, message),
                )
            except (peer.NoStream, peer.SessionLost, peer.Unauthorized) as error:
                logger.debug("a session has no stream: backend=%s reason=%s", backend.id, error)
                return
            except peer.BackendError as error:
                logger.debug("a session's stream is lost: backend=%s reason=%s", backend.id, error)
            await asyncio.sleep(LISTEN_PAUSE_SECONDS)

    def _heard(self, backend: backends.Backend, opened: peer.Opened, data: bytes) -> None:
        message = peer.read_message(data)
        if message is None or not message.method_name:
            return
        if message.method_name.endswith("/list_changed"):
            backend.refresh(message.method_name)
        elif not bytes(message.id):
            if message.method_name == "notifications/progress":  # a log message could be of anybody's call
                self._hear(backend.id, opened.session_id, data)
        elif message.method_name == "ping":
            self._answer(backend, opened, peer.write_result(bytes(message.id), b"{}"))
        elif not self._hear(backend.id, opened.session_id, data):
            refusal = peer.write_error(bytes(message.id), faults.INTERNAL_ERROR, NOBODY)
            self._answer(backend, opened, refusal)

    def _answer(self, backend: backends.Backend, opened: peer.Opened, message: bytes) -> None:
        self._start_task(self._send(backend, opened, message), name=f"answer {backend.id}")

    async def _send(self, backend: backends.Backend, opened: peer.Opened, message: bytes) -> None:
        await backend.peer.send(
            message,
            leg_session_id=opened.session_id,
            protocol_version=opened.protocol_version,
            headers=[],
            seconds_max=backend.timeout_seconds,
        )

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
