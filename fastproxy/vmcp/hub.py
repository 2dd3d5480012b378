"""Everything that flows back: what backends say beside their answers, and what clients answer to it.

backend --message--> Hub: whose? --> the call that it belongs to, else the client's stream, else nobody
    a request: its id is sealed (seals.py); with nobody to hear it, it is refused at once
    progress: only to the call whose token it names, at the backend that is asked
    list_changed: the backend's lists are read again; clients hear of the catalog's change, not of the backend's
client --answer, to any replica--> unsealed --> the leg at that backend, or the replica of ours that asked
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy.vmcp import (
    backends,
    inquiries,
    messages,
    peer,
    record,
    rounds,
    seals,
    sessions,
    streams,
    voices,
    words,
)

logger = logging.getLogger(__name__)

SEND_SECONDS_MAX = 10.0  # for a client's answer to reach its backend
NO_HEARER = "the client has no stream open on which it could be asked"


class Hub:
    """One per process."""

    def __init__(
        self,
        known: sessions.Sessions,
        group: backends.Backends,
        streams_of: streams.Streams,
        *,
        replica: str,
        tell: Callable[..., Any],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        """`tell(word, to=None)`: a word to the other processes of the fleet (bus.py)."""
        self._sessions = known
        self._backends = group
        self._streams = streams_of
        self._replica = replica
        self._tell = tell
        self._start_task = start_task
        self._asked: dict[str, asyncio.Future[bytes]] = {}  # what we have asked of clients, by number

    # ---- from a backend

    def hear(self, session_id: str, backend: backends.Backend, data: bytes, call: voices.Call | None = None) -> None:
        """A message that is no answer. `call`: on whose answer's stream it came, where that can be told."""
        message = peer.read_message(data)
        if message is None or not message.method_name:
            return
        session = self._sessions.at_hand(session_id)
        if bytes(message.id):
            self._hear_request(session, session_id, backend, message, call)
        elif session is not None:
            self._hear_notification(session, backend, message, data, call)

    def _hear_request(
        self,
        session: sessions.Session | None,
        session_id: str,
        backend: backends.Backend,
        message: peer.Message,
        call: voices.Call | None,
    ) -> None:
        if message.method_name == "ping":
            self._answer(session_id, backend, peer.write_result(bytes(message.id), b"{}"))
            return
        if session is not None:
            secret = session.record.secret
            sealed = seals.seal(secret, seals.Sealed(backend.id, bytes(message.id).decode("utf-8", "replace")))
            asked = bytes(message.params)
            params = messages.with_asked_token(asked, lambda raw: self._seal_token(secret, backend, raw))
            text = messages.request(msgspec.json.encode(sealed), message.method_name, params)
            if self._speak(session, backend, text, call):
                return
        self._answer(session_id, backend, peer.write_error(bytes(message.id), -32603, NO_HEARER))

    def _seal_token(self, secret: str, backend: backends.Backend, raw: bytes) -> bytes:
        return msgspec.json.encode(seals.seal(secret, seals.Sealed(backend.id, raw.decode("utf-8", "replace"))))

    def _hear_notification(
        self,
        session: sessions.Session,
        backend: backends.Backend,
        message: peer.Message,
        data: bytes,
        call: voices.Call | None,
    ) -> None:
        method = message.method_name
        if method.endswith("/list_changed"):
            backend.refresh(method)
        elif method == "notifications/progress":
            owner = self._owner(session, backend, messages.token_of(bytes(message.params)), call)
            if owner is not None:
                owner.say(data)
        elif method == "notifications/resources/updated":
            self._say_anywhere(session, backend, data)
        elif method == "notifications/cancelled":
            raw = messages.cancelled_id(bytes(message.params))
            sealed = seals.seal(session.record.secret, seals.Sealed(backend.id, raw.decode("utf-8", "replace")))
            params = messages.with_member(bytes(message.params), "requestId", msgspec.json.encode(sealed))
            self._speak(session, backend, peer.write_notification(method, params), call)
        elif not self._speak(session, backend, data, call):
            self._say_anywhere(session, backend, data)

    def _owner(
        self, session: sessions.Session, backend: backends.Backend, token: bytes, call: voices.Call | None
    ) -> voices.Call | None:
        """The call whose progress this is, if it is at that backend: no other can speak for it."""
        candidates = [call] if call is not None else list((session.calls or {}).values())
        for candidate in candidates:
            if token and candidate.token == token and candidate.backend_id == backend.id:
                return candidate
        return None

    def _speak(
        self, session: sessions.Session, backend: backends.Backend, message: bytes, call: voices.Call | None
    ) -> bool:
        """On the call's own stream; else on the client's; else on that of a call at the same backend."""
        if call is not None and call.say(message):
            return True
        if self._streams.say(session, message):
            return True
        return any(
            other.say(message)
            for other in list((session.calls or {}).values())
            if other is not call and other.backend_id == backend.id
        )

    def _say_anywhere(self, session: sessions.Session, backend: backends.Backend, message: bytes) -> None:
        """On the client's stream. A leg that nobody else can reach is heard here alone, wherever that stream is."""
        if self._streams.say(session, message):
            return
        leg = session.record.leg(backend.id)
        if leg is not None and leg.replica is not msgspec.UNSET:
            self._tell(words.Said(session.session_id, message))

    def _answer(self, session_id: str, backend: backends.Backend, message: bytes) -> None:
        self._start_task(self._answer_backend(session_id, backend, message), name=f"answer {backend.id}")

    async def _answer_backend(self, session_id: str, backend: backends.Backend, message: bytes) -> None:
        session = await self._sessions.find(session_id)
        leg = None if session is None else session.record.leg(backend.id)
        if leg is not None:
            await self.send(backend, leg, message)

    # ---- what we ask ourselves

    async def ask(self, session: sessions.Session, asked: inquiries.Inquiry, call: voices.Call | None) -> bytes:
        """The client's answer, to whichever replica it comes: a result. ClientRefused: an error, or nobody hears it."""
        number = secrets.token_hex(8)
        sealed = seals.seal(session.record.secret, seals.Sealed("", number, self._replica))
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            text = messages.request(msgspec.json.encode(sealed), asked.method, asked.params)
            if not (call is not None and call.say(text)) and not self._streams.say(session, text):
                raise rounds.ClientRefused(NO_HEARER)
            members = messages.members(b"{" + await answer + b"}")
        finally:
            del self._asked[number]
        if "error" in members:
            error = bytes(members["error"])
            raise rounds.ClientRefused(peer.read_error(error).message[:200], error)
        return bytes(members["result"])

    def answered(self, word: words.Answered) -> None:
        """A client's answer to what we have asked; a second one is dropped."""
        answer = self._asked.get(word.number)
        if answer is not None and not answer.done():
            answer.set_result(word.members)

    # ---- from the client

    async def take_answer(self, session: sessions.Session, message: peer.Message) -> None:
        """What a client answers to a backend, or to us. What does not open is dropped: nobody has asked that."""
        text = message.id_text
        sealed = None if text is None else seals.unseal(session.record.secret, text)
        if sealed is None:
            logger.info("an answer that nobody waits for was dropped: session has no such request")
            return
        if not sealed.backend and sealed.replica == self._replica:
            self.answered(words.Answered(sealed.raw, messages.answer_members(message)))
        elif not sealed.backend:
            self._tell(words.Answered(sealed.raw, messages.answer_members(message)), to=sealed.replica)
        else:
            await self._pass_on(session, sealed.backend, messages.answer(sealed.raw.encode(), message))

    async def take_progress(self, session: sessions.Session, message: peer.Message) -> None:
        """A client's progress with what a backend has asked of it."""
        text = messages.text_of(messages.token_of(bytes(message.params)))
        sealed = None if text is None else seals.unseal(session.record.secret, text)
        if sealed is not None and sealed.backend:
            params = messages.with_member(bytes(message.params), "progressToken", sealed.raw.encode())
            await self._pass_on(session, sealed.backend, peer.write_notification(message.method_name, params))

    async def tell_legs(self, session: sessions.Session, message: bytes) -> None:
        """A notification that concerns every backend of the session."""
        await asyncio.gather(*(self._pass_on(session, leg.backend_id, message) for leg in session.record.backends))

    async def _pass_on(self, session: sessions.Session, backend_id: str, message: bytes) -> None:
        backend, leg = self._backends.get(backend_id), session.record.leg(backend_id)
        if backend is None or leg is None:
            return
        if leg.replica not in (msgspec.UNSET, self._replica):
            self._tell(words.Passed(session.session_id, backend_id, message), to=str(leg.replica))
            return
        await self.send(backend, leg, message)

    async def send(self, backend: backends.Backend, leg: record.Leg, message: bytes) -> None:
        """To a leg, best effort."""
        try:
            await backend.peer.send(
                message,
                leg_session_id=leg.backend_session_id,
                protocol_version=leg.protocol_version,
                headers=[],
                seconds_max=min(backend.timeout_seconds, SEND_SECONDS_MAX),
            )
        except (peer.BackendError, errors.StoreError) as error:
            logger.info("a client's message did not reach its backend: backend=%s reason=%s", backend.id, error)

    # ---- cancelled

    def cancel(self, session_id: str, request_id: bytes) -> bool:
        """The client no longer wants a call. False: it is not under way here."""
        session = self._sessions.at_hand(session_id)
        call = (session.calls or {}).get(request_id) if session is not None else None
        if call is None:
            return False
        call.cancel()
        return True
