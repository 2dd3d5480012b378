"""The legs of a client's session: its own session at each backend that it has called.

    find    the leg in the record, else a new one: `initialize` with what the client said of itself, the leg into the
            record (compare-and-set), then its level of logging and what it has subscribed to
    renew   the backend has forgotten it: a new one in its place, unless somebody else has put one there already
    end     DELETE at the backend, best effort

One leg is opened at a time per session and backend in this process. Two replicas may open the same one at once: the
record keeps the first that is written, and the loser's is ended at the backend, never called.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from fastproxy.mcp import reply, revision
from fastproxy.vmcp import backends, connections, offers, peer, record, sessions

logger = logging.getLogger(__name__)

END_SECONDS_MAX = 5.0
TAKE_UP_SECONDS_MAX = 10.0  # for the settings of a leg that is made anew


class Legs:
    """`hears(session_id, backend, message)` is told what a backend says beside answers. `opened` counts."""

    def __init__(
        self,
        known: sessions.Sessions,
        *,
        replica: str,
        hears: Callable[[str, backends.Backend, bytes], None],
        locate: Callable[[str], str | None],
        on_opened: Callable[[sessions.Session], None],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        """`locate(uri)`: the backend of a resource; `on_opened(session)`: its record has another leg now."""
        self._sessions = known
        self._replica = replica
        self._hears = hears
        self._locate = locate
        self._on_opened = on_opened
        self._start_task = start_task
        self.opened: dict[tuple[str, str], int] = {}  # by (backend, why)

    async def find(
        self, session: sessions.Session, backend: backends.Backend, fields: connections.Fields
    ) -> record.Leg:
        """The session's leg at that backend. BackendError: it can't be opened; Refusal: the session has ended."""
        leg = session.record.leg(backend.id)
        if leg is not None:
            return leg
        return await self._open_once(session, backend, fields, instead_of=None)

    async def renew(
        self, session: sessions.Session, backend: backends.Backend, lost: record.Leg, fields: connections.Fields
    ) -> record.Leg:
        """The leg that takes the place of one that the backend has forgotten."""
        leg = session.record.leg(backend.id)
        if leg is not None and leg != lost:
            return leg  # somebody was faster
        return await self._open_once(session, backend, fields, instead_of=leg)

    async def end(self, legs: Iterable[record.Leg], find: Callable[[str], backends.Backend | None]) -> None:
        """At their backends, all at once."""
        known = [(find(leg.backend_id), leg) for leg in legs]
        await asyncio.gather(*(self._end(backend, leg) for backend, leg in known if backend is not None))

    # ---- one leg

    async def _open_once(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        fields: connections.Fields,
        *,
        instead_of: record.Leg | None,
    ) -> record.Leg:
        if session.opening is None:
            session.opening = {}
        opening = session.opening.get(backend.id)
        if opening is None:
            opening = session.opening[backend.id] = self._start_task(
                self._open(session, backend, fields, instead_of), name=f"open a leg at {backend.id}"
            )
        return await asyncio.shield(opening)

    async def _open(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        fields: connections.Fields,
        instead_of: record.Leg | None,
    ) -> record.Leg:
        try:
            leg = await self._open_at(session, backend, fields)
            self._count(backend.id, "first" if instead_of is None else "lost")
            if not await self._sessions.amend(session, lambda kept: record.with_leg(kept, leg, instead_of=instead_of)):
                await self._end(backend, leg)
                raise reply.session_not_found()
            holder = session.record.leg(backend.id)
            if holder is not None and holder != leg:
                logger.info("another replica has opened the same leg: backend=%s", backend.id)
                self._start_task(self._end(backend, leg), name="end a leg")
                return holder
            if instead_of is not None:
                logger.info("a leg was opened anew: backend=%s", backend.id)
            await self._take_up(session, backend, leg, fields)
            self._on_opened(session)
            return leg
        finally:
            if session.opening is not None:
                session.opening.pop(backend.id, None)
                session.opening = session.opening or None

    async def _open_at(
        self, session: sessions.Session, backend: backends.Backend, fields: connections.Fields
    ) -> record.Leg:
        kept, session_id = session.record, session.session_id
        version = kept.protocol_version if revision.has_sessions(kept.protocol_version) else peer.LEGACY_VERSION
        params = b'{"protocolVersion":%s,"capabilities":%s,"clientInfo":%s}' % (
            msgspec.json.encode(version),
            bytes(kept.client_capabilities),
            bytes(kept.client_info),
        )
        opened = await backend.peer.open(
            params,
            headers=fields,
            on_message=lambda message: self._hears(session_id, backend, message),
            seconds_max=backend.timeout_seconds,
        )
        bound = backend.transport != "streamable-http"
        return record.Leg(
            backend.id,
            opened.session_id,
            sys.intern(opened.protocol_version),
            self._replica if bound else msgspec.UNSET,
        )

    async def _take_up(
        self, session: sessions.Session, backend: backends.Backend, leg: record.Leg, fields: connections.Fields
    ) -> None:
        """What the client has set for its session holds for a leg that is made later, too."""
        kept, session_id = session.record, session.session_id
        wanted = []
        if kept.log_level is not None and has_logging(backend.offers):
            wanted.append(("logging/setLevel", {"level": kept.log_level}))
        for uri in kept.subscriptions:
            if self._locate(uri) == backend.id:
                wanted.append(("resources/subscribe", {"uri": uri}))
        for method, params in wanted:
            try:
                await backend.peer.request(
                    method,
                    msgspec.json.encode(params),
                    leg_session_id=leg.backend_session_id,
                    protocol_version=leg.protocol_version,
                    headers=fields,
                    on_message=lambda message: self._hears(session_id, backend, message),
                    seconds_max=min(backend.timeout_seconds, TAKE_UP_SECONDS_MAX),
                )
            except peer.BackendError as error:
                logger.warning("a leg was not told %s: backend=%s reason=%s", method, backend.id, error)

    async def _end(self, backend: backends.Backend, leg: record.Leg) -> None:
        if leg.backend_session_id is None:
            return
        if leg.replica not in (msgspec.UNSET, self._replica):
            return  # its holder notices that the session has ended
        try:
            await backend.peer.end(
                leg.backend_session_id,
                protocol_version=leg.protocol_version,
                headers=[],
                seconds_max=END_SECONDS_MAX,
            )
        except peer.BackendError as error:
            logger.info("a leg was not ended: backend=%s reason=%s", backend.id, error)

    def _count(self, backend_id: str, why: str) -> None:
        self.opened[backend_id, why] = self.opened.get((backend_id, why), 0) + 1


def has_logging(offered: offers.Offers | None) -> bool:
    """Does the backend take a level of logging?"""
    return offered is not None and "logging" in offered.capabilities
