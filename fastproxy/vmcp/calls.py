"""One call at one backend on behalf of a client's session: the leg, the question, and what is done when it goes wrong.

    admit (circuit) -> the leg, opened if need be -> the backend -> its result, byte for byte
                            ^                            | it does not know the session
                            '--- opened anew, once ------'

A call that the backend has refused for want of the session has not run, and is repeated; nothing else is. A leg that
only another replica can reach is called through that replica (bus.py); when it is gone, so is the leg.
"""

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.vmcp import (
    backends,
    bridge,
    bus,
    connections,
    hub,
    legs,
    peer,
    record,
    rounds,
    sessions,
    voices,
    words,
)

logger = logging.getLogger(__name__)

OnMessage = peer.OnMessage


class Unavailable(peer.BackendError):
    """The backend's circuit is open: it was not asked."""

    reason = "backend_unavailable"


class _Awaited(msgspec.Struct):
    """A call that another replica makes for us."""

    done: asyncio.Future[words.Done]
    on_message: OnMessage


class Calls:
    """Made by the story, and by composite tools."""

    def __init__(
        self,
        known: sessions.Sessions,
        group: backends.Backends,
        legs_of: legs.Legs,
        hub_of: hub.Hub,
        fleet: bus.Bus,
        *,
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._sessions = known
        self._backends = group
        self._legs = legs_of
        self._hub = hub_of
        self._bus = fleet
        self._start_task = start_task
        self._numbers = itertools.count(1)
        self._awaited: dict[str, _Awaited] = {}
        fleet.on(words.Forwarded, lambda word: start_task(self._serve_forwarded(word), name="a call for a replica"))
        fleet.on(words.Beside, self._hear_beside)
        fleet.on(words.Done, self._hear_done)
        fleet.on(words.Passed, lambda word: start_task(self._serve_passed(word), name="a message for a replica"))

    async def ask(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        method: str,
        params: bytes,
        *,
        fields: connections.Fields,
        call: voices.Call | None,
        on_message: OnMessage | None = None,
    ) -> bytes:
        """The result. BackendError of any kind, Refusal when the session has ended. `on_message` hears what comes
        beside the answer; without it the client does, through the hub."""
        if not backend.admit():
            raise Unavailable(backend.id, "its last calls got no answer; it is left alone for a while")
        try:
            if rounds.is_needed(backend, session.record.protocol_version):
                return await self._ask_modern(session, backend, method, params, fields, call, on_message)
            leg = await self._legs.find(session, backend, fields)
            try:
                result = await self._ask_leg(session, backend, leg, method, params, fields, call, on_message)
            except peer.SessionLost as lost:
                logger.info("a leg is lost: backend=%s reason=%s", backend.id, lost)
                leg = await self._legs.renew(session, backend, leg, fields)
                result = await self._ask_leg(session, backend, leg, method, params, fields, call, on_message)
        except peer.BackendError as error:
            backend.note_failure(error.reason)
            raise
        backend.note_success()
        return result

    async def _ask_modern(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        method: str,
        params: bytes,
        fields: connections.Fields,
        call: voices.Call | None,
        on_message: OnMessage | None,
    ) -> bytes:
        """A backend that has no sessions: there is no leg, and the client is asked between two rounds."""
        kept = session.record
        result = await rounds.run(
            backend,
            method,
            params,
            caller=bridge.Caller(kept.client_info, kept.client_capabilities, kept.log_level),
            headers=fields,
            ask=lambda asked: self._hub.ask(session, asked, call),
            on_message=on_message or (lambda message: self._hub.hear(kept.session_id, backend, message, call)),
        )
        backend.note_success()
        return result

    async def _ask_leg(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        leg: record.Leg,
        method: str,
        params: bytes,
        fields: connections.Fields,
        call: voices.Call | None,
        on_message: OnMessage | None,
    ) -> bytes:
        if leg.replica not in (msgspec.UNSET, self._bus.replica):
            return await self._ask_holder(session, backend, leg, method, params, call, on_message)
        session_id = session.session_id
        return await backend.peer.request(
            method,
            params,
            leg_session_id=leg.backend_session_id,
            protocol_version=leg.protocol_version,
            headers=fields,
            on_message=on_message or (lambda message: self._hub.hear(session_id, backend, message, call)),
            seconds_max=backend.timeout_seconds,
        )

    # ---- legs that live elsewhere

    async def _ask_holder(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        leg: record.Leg,
        method: str,
        params: bytes,
        call: voices.Call | None,
        on_message: OnMessage | None,
    ) -> bytes:
        if len(params) > bus.MESSAGE_BYTES_MAX:
            raise peer.BackendError(backend.id, "too large to be passed on to the replica that holds the leg")
        number = f"{self._bus.replica}-{next(self._numbers)}"
        request_id, token = (call.request_id, call.token) if call is not None else (b"", b"")
        word = words.Forwarded(
            self._bus.replica, number, session.session_id, backend.id, method, params, request_id, token
        )
        # What is said beside the answer has been through the holder's hub, and is the client's as it comes.
        hears = on_message or (call.tell if call is not None else peer.ignore)
        awaited = _Awaited(asyncio.get_running_loop().create_future(), hears)
        self._awaited[number] = awaited
        try:
            if not await self._bus.reach(word, str(leg.replica)):
                raise peer.SessionLost(backend.id, "the replica that held the leg is gone")
            async with asyncio.timeout(backend.timeout_seconds):
                done = await awaited.done
        except asyncio.CancelledError:
            if request_id:
                self._bus.tell(words.Cancelled(session.session_id, request_id), to=str(leg.replica))
            raise
        except errors.StoreUnavailable as error:
            raise peer.BackendError(backend.id, "the replica that holds the leg can't be asked now") from error
        except TimeoutError as error:
            raise peer.BackendError(
                backend.id, "no answer in time", reason="backend_timeout", may_have_run=True
            ) from error
        finally:
            del self._awaited[number]
        return _result_of(backend.id, done)

    async def _serve_forwarded(self, word: words.Forwarded) -> None:
        """Another replica's client calls a leg of ours."""

        call: voices.Call | None = None

        def tell_beside(message: bytes) -> None:
            self._bus.tell(words.Beside(word.number, message), to=word.asker)

        try:
            session = await self._sessions.find(word.session_id)
            backend = self._backends.get(word.backend_id)
            leg = session.record.leg(word.backend_id) if session is not None else None
            if session is None or backend is None or leg is None or leg.replica != self._bus.replica:
                raise peer.SessionLost(word.backend_id, "the leg is not here any more")
            call = voices.Call(None, word.request_id, [])
            call.token, call.backend_id, call.elsewhere = word.token, word.backend_id, tell_beside
            session.begin(call)
            call.task = asyncio.current_task()
            try:
                result = await self._ask_leg(session, backend, leg, word.method, word.params, [], call, None)
            finally:
                session.end(call)
            done = words.Done(word.number, result, b"", "", "", False)
        except peer.Refused as error:
            done = words.Done(word.number, b"", error.error, error.reason, "", False)
        except peer.BackendError as error:
            done = words.Done(word.number, b"", b"", error.reason, str(error), error.may_have_run)
        except errors.StoreError as error:
            done = words.Done(word.number, b"", b"", error.reason, str(error), False)
        except asyncio.CancelledError:
            if call is None or not call.cancelled:
                raise
            return  # its client has cancelled it: nobody waits for the end
        self._bus.tell(done, to=word.asker)

    async def _serve_passed(self, word: words.Passed) -> None:
        session = await self._sessions.find(word.session_id)
        backend = self._backends.get(word.backend_id)
        leg = session.record.leg(word.backend_id) if session is not None else None
        if backend is not None and leg is not None and leg.replica == self._bus.replica:
            await self._hub.send(backend, leg, word.message)

    def _hear_beside(self, word: words.Beside) -> None:
        awaited = self._awaited.get(word.number)
        if awaited is not None:
            awaited.on_message(word.message)

    def _hear_done(self, word: words.Done) -> None:
        awaited = self._awaited.get(word.number)
        if awaited is not None and not awaited.done.done():
            awaited.done.set_result(word)


def _result_of(backend: str, done: words.Done) -> bytes:
    if done.error:
        raise peer.Refused(backend, done.error)
    if done.reason == peer.SessionLost.reason:
        raise peer.SessionLost(backend, done.detail)
    if done.reason:
        raise peer.BackendError(backend, done.detail, reason=done.reason, may_have_run=done.may_have_run)
    return done.result
