"""Calls of 2026-07-28 clients at backends with sessions: parked while the client is asked something.

    call --> the backend, in a session; its stream stays open
         <-- "input required" + state, when the backend asks the client for something in the middle
    the call again, with answers and state --> the answers to the backend --> its result, or the next question

The session's call can't be begun twice, so it waits here, in this process, for WAIT_SECONDS_MAX at most. The state that
the client gets names this process and the call, and nobody can guess it; another replica that is sent the retry hands
it over here (errands.py). It is bound to the caller and to what was asked: whoever finds a state has nothing.
"""

import asyncio
import hashlib
import itertools
import logging
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import backends, bridge, connections, inquiries, messages, peer

logger = logging.getLogger(__name__)

WAIT_SECONDS_MAX = 600.0  # as the SDKs' own states hold
PARKED_MAX = 2_000  # each is a connection to a backend
GATHER_SECONDS = 0.01  # after a question: a backend that has several asks them at once
STATE_MARK = "fp1"


class UnknownState(Exception):
    """The state is of no call that waits: made up, of another's, used, or too old."""


class NotDeclared(Exception):
    """The backend asked for something that the client can't do."""

    def __init__(self, required: dict[str, object]) -> None:
        super().__init__("the backend needs a capability that the client has not declared")
        self.required = required


class Visit(msgspec.Struct, frozen=True):
    """A modern call, or its retry: who asks what of whom."""

    method: str
    params: bytes
    principal: str
    caller: bridge.Caller

    @property
    def digest(self) -> bytes:
        """Of what must be the same when it comes again."""
        members = bridge.read_members(self.params)
        kept = [bytes(members.get(name, b"")) for name in ("name", "uri", "arguments")]
        whole = b"\0".join([self.principal.encode(), self.method.encode(), *kept])
        return hashlib.blake2b(whole, digest_size=16).digest()


class Berth(msgspec.Struct, frozen=True):
    """The session at the backend in which a call is made."""

    backend: backends.Backend
    session_id: str | None
    protocol_version: str
    headers: connections.Fields


class _Call:
    """One, from its beginning to its result."""

    def __init__(self, visit: Visit, berth: Berth) -> None:
        self.visit = visit
        self.berth = berth
        self.token = messages.asked_token(visit.params)
        self.state = ""
        self.on_message: peer.OnMessage = peer.ignore
        self.asked: dict[str, tuple[inquiries.Inquiry, bytes]] = {}  # by key: the question, the id of the request
        self.refused: dict[str, object] | None = None  # what the client can't do
        self.news = asyncio.Event()
        self.parked_until: asyncio.TimerHandle | None = None
        self.numbers = itertools.count(1)
        self.work: asyncio.Task[bytes]


class Parking:
    """All of one process. `place` is its name among the replicas; `server_info` what we call ourselves, as JSON."""

    def __init__(self, place: str, *, server_info: bytes, start_task: Callable[..., asyncio.Task[Any]]) -> None:
        self.place = place
        self._server_info = server_info
        self._start_task = start_task
        self._parked: dict[str, _Call] = {}
        self._under_way: dict[tuple[str, str | None], list[_Call]] = {}

    def __len__(self) -> int:
        return len(self._parked)

    # ---- what the front asks

    async def begin(self, visit: Visit, berth: Berth, *, on_message: peer.OnMessage) -> bytes:
        """The modern result of a call: complete, or what the client is asked. Refused, with the backend's error;
        other BackendErrors; NotDeclared. Who gives up waiting ends the call at the backend, too."""
        if len(self._parked) >= PARKED_MAX:
            raise peer.BackendError(berth.backend.id, "too many calls wait for their clients", reason="too_many_calls")
        call = _Call(visit, berth)
        call.on_message = on_message
        call.work = self._start_task(self._work(call), name=f"call {berth.backend.id}")
        return await self._attend(call)

    async def resume(self, visit: Visit, state: str, *, on_message: peer.OnMessage) -> bytes:
        """As `begin`, for a call that waits here. UnknownState."""
        responses, _ = inquiries.read_responses(visit.params)
        call = self._parked.get(state)
        if call is None or call.visit.digest != visit.digest:
            raise UnknownState
        del self._parked[state]
        assert call.parked_until is not None
        call.parked_until.cancel()
        call.on_message = on_message
        call.visit = msgspec.structs.replace(call.visit, caller=visit.caller)
        call.news.clear()
        for key in [key for key in call.asked if key in responses]:
            _, request_id = call.asked.pop(key)
            self._start_task(self._tell(call, peer.write_result(request_id, responses[key])), name="answer a backend")
        return await self._attend(call)

    def place_of(self, state: str) -> str | None:
        """The replica where the call of this state waits; None: it is no state of ours."""
        mark, _, rest = state.partition(".")
        place, _, secret = rest.rpartition(".")
        return place if mark == STATE_MARK and place and secret else None

    def hear(self, backend_id: str, session_id: str | None, data: bytes) -> bool:
        """Something came on a session's own stream. It is of the call whose progress it tells, else of the only one
        there that does not wait for its client. False: it may be anybody's, and the wrong one must not be asked."""
        calls = self._under_way.get((backend_id, session_id), [])
        message = peer.read_message(data)
        if message is None:
            return False
        if message.method_name == "notifications/progress":
            token = messages.token_of(bytes(message.params))
            calls = [call for call in calls if token and call.token == token]
        else:
            calls = [call for call in calls if call.state not in self._parked]
        if len(calls) != 1:
            return False
        self._heard(calls[0], data)
        return True

    async def close(self) -> None:
        """Nobody will come again for what waits."""
        for state in list(self._parked):
            self._expire(state)

    # ---- one call

    async def _work(self, call: _Call) -> bytes:
        berth = call.berth
        key = (berth.backend.id, berth.session_id)
        self._under_way.setdefault(key, []).append(call)
        try:
            return await berth.backend.peer.request(
                call.visit.method,
                bridge.to_legacy_params(call.visit.params),
                leg_session_id=berth.session_id,
                protocol_version=berth.protocol_version,
                headers=berth.headers,
                on_message=lambda data: self._heard(call, data),
                seconds_max=berth.backend.timeout_seconds + WAIT_SECONDS_MAX,
            )
        finally:
            self._under_way[key].remove(call)
            if not self._under_way[key]:
                del self._under_way[key]
            call.news.set()

    async def _attend(self, call: _Call) -> bytes:
        """Until there is something to tell the client."""
        timeout_seconds = call.berth.backend.timeout_seconds
        try:
            async with asyncio.timeout(None if call.asked else timeout_seconds):
                while not call.work.done() and not call.asked and call.refused is None:
                    call.news.clear()
                    await call.news.wait()
                if not call.work.done():
                    await asyncio.sleep(GATHER_SECONDS)
        except TimeoutError as error:
            call.work.cancel()
            detail = f"no answer within {timeout_seconds:g} s"
            raise peer.BackendError(
                call.berth.backend.id, detail, reason="backend_timeout", may_have_run=True
            ) from error
        except asyncio.CancelledError:
            call.work.cancel()
            raise
        if call.refused is not None:  # whatever the backend makes of it: the client shall know why
            call.work.cancel()
            raise NotDeclared(call.refused)
        if call.work.done():
            return self._conclude(call)
        return self._park(call)

    def _conclude(self, call: _Call) -> bytes:
        if call.work.cancelled():  # by us: the client's answer did not reach the backend
            detail = "the call was given up: an answer did not reach the backend"
            raise peer.BackendError(call.berth.backend.id, detail, reason="backend_lost", may_have_run=True)
        try:
            return bridge.to_modern_result(call.visit.method, call.work.result(), self._server_info)
        except peer.Refused as error:
            visits = inquiries.urls_required(error.data) if error.code == inquiries.URLS_REQUIRED else []
            missing = [inquiries.missing_capability(call.visit.caller.capabilities, each) for each in visits]
            refused = next((each for each in missing if each is not None), None)
            if refused is not None:
                raise NotDeclared(refused) from error
            if visits:  # nothing waits: once the addresses have been visited the call is made anew
                return inquiries.write_input_required(visits, None, self._server_info)
            status, translated = bridge.to_modern_error(error.error)
            raise peer.Refused(error.backend, translated, status=status) from error

    def _park(self, call: _Call) -> bytes:
        call.state = f"{STATE_MARK}.{self.place}.{secrets.token_urlsafe(24)}"
        self._parked[call.state] = call
        call.on_message = peer.ignore
        loop = asyncio.get_running_loop()
        call.parked_until = loop.call_later(WAIT_SECONDS_MAX, self._expire, call.state)
        asked = [inquiry for inquiry, _ in call.asked.values()]
        return inquiries.write_input_required(asked, call.state, self._server_info)

    def _expire(self, state: str) -> None:
        call = self._parked.pop(state, None)
        if call is None:
            return
        if call.parked_until is not None:
            call.parked_until.cancel()
        logger.info("a parked call was given up: backend=%s method=%s", call.berth.backend.id, call.visit.method)
        call.work.cancel()  # which tells the backend

    # ---- what the backend says meanwhile

    def _heard(self, call: _Call, data: bytes) -> None:
        message = peer.read_message(data)
        if message is None:
            return
        if not bytes(message.id):
            if message.method_name != "notifications/message" or bridge.passes(
                bytes(message.params), call.visit.caller.log_level
            ):
                call.on_message(bridge.to_other_notification(data))
            return
        self._asked(call, message)

    def _asked(self, call: _Call, message: peer.Message) -> None:
        request_id = bytes(message.id)
        if message.method_name == "ping":
            self._start_task(self._tell(call, peer.write_result(request_id, b"{}")), name="answer a backend")
            return
        inquiry = inquiries.Inquiry(
            f"{message.method_name.partition('/')[0]}-{next(call.numbers)}",
            message.method_name,
            bytes(message.params) or b"{}",
        )
        refused = None
        if inquiry.method not in inquiries.METHODS or len(call.asked) >= inquiries.INQUIRIES_MAX:
            why = "a client of this revision can't be asked that"
        else:
            refused = inquiries.missing_capability(call.visit.caller.capabilities, inquiry)
            why = "the client has not declared that it can do this"
            if refused is None:
                call.asked[inquiry.key] = (inquiry, request_id)
                call.news.set()
                return
        self._start_task(
            self._tell(call, peer.write_error(request_id, bridge.METHOD_NOT_FOUND, why)), name="answer a backend"
        )
        if refused is not None:
            call.refused = call.refused or refused
            call.news.set()

    async def _tell(self, call: _Call, message: bytes) -> None:
        berth = call.berth
        try:
            await berth.backend.peer.send(
                message,
                leg_session_id=berth.session_id,
                protocol_version=berth.protocol_version,
                headers=berth.headers,
                seconds_max=berth.backend.timeout_seconds,
            )
        except peer.BackendError as error:
            logger.warning("a client's answer did not reach its backend: backend=%s reason=%s", berth.backend.id, error)
            call.work.cancel()
