"""Everything that flows back: what backends say beside their answers, and what clients answer to it.

    backend --message--> Hub: whose? --> the call that it belongs to, else the client's stream, else nobody
        a request: its id is sealed (seals.py); with nobody to hear it, it is refused at once
        progress: only to the call whose token it names, at the backend that is asked
        list_changed: the backend's lists are read again; clients hear of the catalog's change, not of the backend's
    client --answer, to any replica--> unsealed --> the leg at that backend, or the replica of ours that asked

A client has one stream per session in the whole fleet: the newest. While it is open here, the legs' own streams are
listened to here.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.vmcp import (
    backends,
    inquiries,
    messages,
    peer,
    record,
    rounds,
    seals,
    sessions,
    voices,
    watches,
    words,
)

logger = logging.getLogger(__name__)

SILENCE_SECONDS_MAX = 15.0  # as often as the SDKs' servers say something
LOOK_SECONDS = 1.0
SEND_SECONDS_MAX = 10.0  # for a client's answer to reach its backend
LISTEN_PAUSE_SECONDS = (0.05, 0.2, 1.0, 5.0, 15.0)
NO_HEARER = "the client has no stream open on which it could be asked"


class Hub:
    """One per process."""

    def __init__(
        self,
        known: sessions.Sessions,
        group: backends.Backends,
        *,
        replica: str,
        tell: Callable[..., Any],
        watched: watches.Watches,
        locate: Callable[[str], str | None],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        """`tell(word, to=None)`: a word to the other processes of the fleet (bus.py). `locate(uri)`: the backend of a
        resource."""
        self._sessions = known
        self._backends = group
        self._replica = replica
        self._tell = tell
        self._watches = watched
        self._locate = locate
        self._start_task = start_task
        self._streams: dict[str, sessions.Session] = {}  # with a stream here, by id
        self._looking = False
        self._asked: dict[str, asyncio.Future[bytes]] = {}  # what we have asked of clients, by number
        known.on_changed = self.tend
        known.on_ended = self._session_ended

    @property
    def streams_open(self) -> int:
        """Clients' streams here."""
        return len(self._streams)

    # ---- the client's stream

    def open_stream(self, session: sessions.Session, exchange: core.Exchange, fields: voices.Fields) -> None:
        """The newest wins, on whichever replica the older one is."""
        older = session.stream
        if older is not None:
            self._close(session, older)
        session_id = session.session_id
        exchange.note = session_id
        session.stream = voices.Stream(exchange, fields, lambda stream: self._closed(session, stream))
        session.stream.spoke_at = time.monotonic()
        self._streams[session_id] = session
        self._tell(words.StreamOpened(session_id, self._replica))
        self.tend(session)
        if not self._looking:
            self._looking = True
            self._start_task(self._look_after(), name="look after streams")

    def stream_opened_elsewhere(self, session_id: str) -> None:
        """Another replica has the session's newest stream."""
        session = self._streams.get(session_id)
        if session is not None and session.stream is not None:
            self._close(session, session.stream)

    def tend(self, session: sessions.Session) -> None:
        """Listen to the legs that there are by now, and to no others."""
        stream = session.stream
        if stream is None:
            return
        legs = {leg.backend_id: leg for leg in session.record.backends}
        for backend_id, (leg, task) in list(stream.listening.items()):
            if legs.get(backend_id) != leg:
                task.cancel()
                del stream.listening[backend_id]
        for backend_id, leg in legs.items():
            backend = self._backends.get(backend_id)
            bound = leg.replica is not msgspec.UNSET
            if backend is None or backend_id in stream.listening or leg.backend_session_id is None or bound:
                continue
            task = self._start_task(self._listen(session.session_id, backend, leg), name=f"listen to {backend_id}")
            stream.listening[backend_id] = (leg, task)
        self._watch(session, stream)

    def _watch(self, session: sessions.Session, stream: voices.Stream) -> None:
        """What the session has subscribed to at backends that have no sessions."""
        wanted: dict[str, watches.Watch] = {}
        for uri in session.record.subscriptions:
            backend = self._backends.get(self._locate(uri) or "")
            watch = None if backend is None or backend.speaks_legacy else self._watches.of(backend.id)
            if watch is not None:
                wanted[uri] = watch
        for uri in [uri for uri in stream.watched if uri not in wanted]:
            stream.watched.pop(uri)()
        for uri, watch in wanted.items():
            if uri not in stream.watched:
                stream.watched[uri] = self._hear_of(watch, uri, stream)

    def _hear_of(self, watch: watches.Watch, uri: str, stream: voices.Stream) -> Callable[[], None]:
        def heard(updated: str) -> None:
            stream.say(peer.write_notification(watches.UPDATED, msgspec.json.encode({"uri": updated})))

        watch.add(uri, heard)
        return lambda: watch.remove(uri, heard)

    def _close(self, session: sessions.Session, stream: voices.Stream) -> None:
        stream.close()
        self._closed(session, stream)

    def _closed(self, session: sessions.Session, stream: voices.Stream) -> None:
        if stream.closed:
            return
        stream.closed = True
        for _, task in stream.listening.values():
            task.cancel()
        for forget in stream.watched.values():
            forget()
        if session.stream is stream:
            session.stream = None
            self._streams.pop(session.session_id, None)

    def _session_ended(self, session: sessions.Session) -> None:
        if session.stream is not None:
            self._close(session, session.stream)

    async def _look_after(self) -> None:
        """One look a second serves them all, so that a silent stream costs nothing."""
        try:
            while self._streams:
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                for session in list(self._streams.values()):
                    stream = session.stream
                    if stream is not None and now - stream.spoke_at >= SILENCE_SECONDS_MAX:
                        stream.spoke_at = now
                        stream.keep_alive()
        finally:
            self._looking = False

    async def _listen(self, session_id: str, backend: backends.Backend, leg: record.Leg) -> None:
        """To a leg's own stream, for as long as the client's is open here."""
        tries = 0
        while True:
            started = time.monotonic()
            try:
                await backend.peer.listen(
                    leg_session_id=leg.backend_session_id,
                    protocol_version=leg.protocol_version,
                    headers=[],
                    on_message=lambda message: self.hear(session_id, backend, message),
                )
            except (peer.NoStream, peer.SessionLost, peer.Unauthorized) as error:
                logger.debug("a leg has no stream: backend=%s reason=%s", backend.id, error)
                return
            except peer.BackendError as error:
                logger.debug("a leg's stream is lost: backend=%s reason=%s", backend.id, error)
            tries = 0 if time.monotonic() - started > LISTEN_PAUSE_SECONDS[-1] else tries + 1
            await asyncio.sleep(LISTEN_PAUSE_SECONDS[min(tries, len(LISTEN_PAUSE_SECONDS) - 1)])

    def announce(self, kinds: frozenset[str]) -> None:
        """The catalog has changed: every client with a stream here is told which lists."""
        messages = [peer.write_notification(f"notifications/{kind}/list_changed") for kind in sorted(kinds)]
        for session in list(self._streams.values()):
            for message in messages:
                self._say(session, message)

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
            self._say(session, data)
        elif method == "notifications/cancelled":
            raw = messages.cancelled_id(bytes(message.params))
            sealed = seals.seal(session.record.secret, seals.Sealed(backend.id, raw.decode("utf-8", "replace")))
            params = messages.with_member(bytes(message.params), "requestId", msgspec.json.encode(sealed))
            self._speak(session, backend, peer.write_notification(method, params), call)
        else:
            self._speak(session, backend, data, call)

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
        if self._say(session, message):
            return True
        return any(
            other.say(message)
            for other in list((session.calls or {}).values())
            if other is not call and other.backend_id == backend.id
        )

    def _say(self, session: sessions.Session, message: bytes) -> bool:
        stream = session.stream
        if stream is None:
            return False
        stream.spoke_at = time.monotonic()
        return stream.say(message)

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
            if not (call is not None and call.say(text)) and not self._say(session, text):
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
