"""What happens to a request that the fast lane does not take: the whole story of an exchange, decision by decision.

    begin   a head has come          -> guard -> what is asked? -> who answers? -> forward -> remember -> relay
    resume  the fast lane met a 404, a 400, or lost its backend: the session's story goes on from there

The story decides at heads; bodies are poured by the relay. Sessions are stored before the head that announces them
leaves. Refusals are raised where the fault is known and answered in one place, `_tell`.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import envelope, reply
from fastproxy.proxy import dialer, guard, inquiry, opening, recovery, stateless
from fastproxy.routing import backends
from fastproxy.session import book
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

_SESSION_ID = re.compile(r"[!-~]{1,1024}")
FORGOTTEN_BYTES_MAX = 65536  # of an error answer that is read for "I do not know this session"
STREAM_AGAIN_SECONDS = (0.05, 0.1, 0.2, 0.4)  # a backend needs a moment to notice that its stream was closed
STREAMS_CLOSED_PURGE_MIN = 1000

Exchange = core.Exchange
Request = requests.Request


class Story:
    """The relay's handler. It knows every room and is known by none."""

    def __init__(
        self,
        *,
        reactor: core.Reactor,
        gate: guard.Guard,
        sessions: book.Book,
        replicas: backends.Backends,
        asker: inquiry.Inquiry,
        rescue: recovery.Recovery,
        opener: opening.Opening,
        sessionless: stateless.Stateless,
        on_backend_loss: str,
        start_task: Callable[..., object],
    ) -> None:
        self._reactor = reactor
        self._gate = gate
        self._book = sessions
        self._replicas = replicas
        self._inquiry = asker
        self._recovery = rescue
        self._opening = opener
        self._stateless = sessionless
        self._reinitializes = on_backend_loss == "reinitialize"
        self._start_task = start_task
        self._streams_closed: dict[str, float] = {}
        self._streams_closed_purge_at = STREAMS_CLOSED_PURGE_MIN
        self.resumed = 0
        self.refusals: dict[str, int] = {}  # by reason

    def set_rules(self, *, gate: guard.Guard, on_backend_loss: str) -> None:
        """Others, for what comes from now on."""
        self._gate = gate
        self._reinitializes = on_backend_loss == "reinitialize"

    # ---- the relay's calls

    def begin(self, exchange: Exchange) -> None:
        """A head has come."""
        self._start_task(self._tell(exchange, self._serve), name="exchange")

    def resume(self, exchange: Exchange, answer: core.AnswerHead | None) -> None:
        """The fast lane gives an exchange up: at an answer's head, or after a loss (`exchange.lost`)."""
        self.resumed += 1

        async def go_on(exchange: Exchange, request: Request) -> None:
            session_id = "" if exchange.modern else request.header(b"mcp-session-id") or ""
            exchange.note = session_id or None
            if exchange.lost is not None and exchange.lost.ran:
                raise self._inquiry.lose(exchange.endpoint_index, exchange.lost)
            if exchange.modern:
                return await self._stateless.resume(exchange, request, answer, self._inquiry.ask_any)
            if answer is None:
                return await self._serve_session(exchange, request, session_id)
            # The answer is the word of the replica that was asked, wherever the session has been brought since.
            place = self._book.place_by(session_id, exchange.endpoint_index, exchange.entry_flags)
            await self._serve_place(exchange, request, place, answer)

        self._start_task(self._tell(exchange, go_on), name="exchange resumed")

    def touch(self, key: bytes) -> None:
        """The fast lane used a session whose TTL wants renewal."""
        self._book.touched(key.decode("ascii"))

    async def _tell(self, exchange: Exchange, act: Callable[[Exchange, Request], Awaitable[None]]) -> None:
        """Every story's frame: what goes wrong in it is answered here."""
        try:
            request = requests.read(exchange.method, exchange.target, exchange.fields)
            try:
                await act(exchange, request)
            except reply.Refusal as refusal:
                await self._refuse(exchange, refusal)
            except errors.RecordTooNew:
                await self._refuse(exchange, reply.record_too_new())
            except errors.StoreError as error:
                logger.warning("session store failed: reason=%s", error)
                await self._refuse(exchange, reply.store_unavailable())
            except dialer.Unreachable as error:
                await self._refuse(exchange, reply.backend_unreachable(str(error)))
            except core.UpstreamLost as lost:  # in the middle of an answer that was being looked at
                await self._refuse(exchange, self._inquiry.refuse(lost))
        except core.ExchangeOver:
            return  # nobody is left to be answered
        except Exception:
            logger.exception("fault in an exchange")
            exchange.abort("fault")
        finally:
            self._inquiry.forget(exchange)

    async def _refuse(self, exchange: Exchange, refusal: reply.Refusal) -> None:
        asked = await self._inquiry.envelope(exchange)
        if "reason" in refusal.data:
            self.refusals[refusal.reason] = self.refusals.get(refusal.reason, 0) + 1
        status, fields, answer = reply.render(refusal, asked, legacy=not exchange.modern)
        logger.info("refused: status=%d reason=%s detail=%s", refusal.status, refusal.reason, refusal)
        exchange.answer(status, fields, answer)

    # ---- who is asked: interface §3.1, first match wins

    async def _serve(self, exchange: Exchange, request: Request) -> None:
        self._admit(exchange, request)
        if exchange.modern:
            return await self._stateless.serve(exchange, request, self._inquiry.ask, self._inquiry.ask_any)
        session_id = request.header(b"mcp-session-id")
        parameter = (
            requests.session_parameter(request.target) if request.method == "POST" and session_id is None else None
        )
        if parameter is not None:
            # Before rule 2: an HTTP+SSE client posts its `initialize`, too, to the stream that it has opened.
            stream = await self._book.find(parameter)
            if stream is not None and stream.sse:
                return await self._serve_legacy_post(exchange, request, stream)
        if request.method == "POST" and exchange.has_body:
            length = exchange.body_length
            body, whole = b"", False
            if length is None or length <= inquiry.PEEK_BYTES_MAX:
                body, whole = await exchange.peek(inquiry.PEEK_BYTES_MAX + 1)
            asked = envelope.read(body) if whole and len(body) <= inquiry.PEEK_BYTES_MAX else None
            if asked is not None and asked.method == "initialize":
                return await self._opening.initialize(exchange, request, body, self._inquiry.ask_any)
        if session_id is not None:
            return await self._serve_session(exchange, request, session_id)
        if parameter is not None:
            raise reply.session_not_found()
        if request.method == "GET" and request.wants_events():
            return await self._opening.event_stream(exchange, request, self._inquiry.ask_any)
        return await self._serve_anybody(exchange, request)

    def _admit(self, exchange: Exchange, request: Request) -> None:
        host = request.header(b"host")
        self._gate.check(host, request.all(b"origin"))
        if host is not None:
            exchange.listener.approve_host(host.encode("latin-1"))

    async def _serve_anybody(self, exchange: Exchange, request: Request) -> None:
        answer = await self._inquiry.ask_any(exchange, core.SESSION_KEEP, for_session=False)
        # Servers put ids that are dead at birth on their error answers (mcp.md §0.6).
        dead = answer.status >= 400 and b"mcp-session-id" not in request.headers
        exchange.relay(core.SESSION_STRIP if dead else core.SESSION_KEEP)

    async def _serve_legacy_post(self, exchange: Exchange, request: Request, place: book.Place) -> None:
        """A message of an HTTP+SSE session: to the replica that holds its stream."""
        exchange.note = place.session_id
        target = None
        if place.backend_session_id is not None:
            target = requests.with_session_parameter(request.target, place.backend_session_id).encode("latin-1")
        try:
            await self._inquiry.ask(exchange, self._replicas.at(place.endpoint), core.SESSION_KEEP, b"", target)
        except dialer.Unreachable:
            await self._book.forget(place.session_id)  # the stream is lost, and the session with it
            raise reply.session_not_found() from None
        exchange.relay(core.SESSION_KEEP)

    # ---- sessions

    async def _find(self, session_id: str) -> book.Place:
        place = await self._book.find(session_id)
        if place is None:
            raise reply.session_not_found()
        return place

    async def _serve_session(self, exchange: Exchange, request: Request, session_id: str) -> None:
        if not is_session_id(session_id):
            raise reply.bad_session_id()
        place = await self._find(session_id)
        exchange.note = session_id
        if request.method == "DELETE":
            return await self._end_session(exchange, place)
        await self._serve_place(exchange, request, place, None)

    async def _serve_place(
        self, exchange: Exchange, request: Request, place: book.Place, answer: core.AnswerHead | None
    ) -> None:
        """`answer`: what the place has said already."""
        recovered = False
        while True:
            try:
                if answer is None:
                    answer = await self._ask_place(exchange, place)
                if recovered or not await self._has_forgotten(exchange, request, place, answer):
                    break
                exchange.drop_answer()
                lost = "forgotten"
                avoid: tuple[int, ...] = ()
            except dialer.Unreachable as error:
                if recovered:
                    raise reply.backend_unreachable(str(error)) from error
                lost = "unreachable"
                avoid = (place.endpoint,)
            place = await self._bring_back(exchange, request, place, lost, avoid)
            recovered = True
            answer = None
        if request.method == "GET" and answer.status == 409:
            answer = await self._open_stream_again(exchange, place, answer)
        if answer.status < 300 and not place.confirmed:
            self._book.confirm(place)
        if request.method == "GET" and exchange.event_stream:
            exchange.on_end = self._stream_closed
        self._relay_as(exchange, place, answer)

    def _relay_as(self, exchange: Exchange, place: book.Place, answer: core.AnswerHead) -> None:
        """The client keeps its id, whatever the backend calls the session."""
        named = any(name.lower() == b"mcp-session-id" for name, _ in answer.fields)
        if named:
            exchange.relay(core.SESSION_SET, place.session_id.encode("latin-1"))
        else:
            exchange.relay(core.SESSION_KEEP)

    async def _ask_place(self, exchange: Exchange, place: book.Place) -> core.AnswerHead:
        replica = self._replicas.at(place.endpoint)
        if place.backend_session_id is None:
            return await self._inquiry.ask(exchange, replica, core.SESSION_KEEP)
        return await self._inquiry.ask(exchange, replica, core.SESSION_SET, place.backend_session_id.encode("latin-1"))

    async def _bring_back(
        self, exchange: Exchange, request: Request, place: book.Place, lost: str, avoid: tuple[int, ...]
    ) -> book.Place:
        if place.sse or not self._reinitializes:
            await self._book.forget(place.session_id)
            raise reply.session_not_found()
        fields = request.fields_to_pass_on()
        found = await self._recovery.recover(place, reason=lost, avoid=avoid, fields=fields)
        if found is None:
            raise reply.session_not_found()
        if not exchange.may_repeat:
            raise reply.backend_lost()
        return found

    async def _has_forgotten(
        self, exchange: Exchange, request: Request, place: book.Place, answer: core.AnswerHead
    ) -> bool:
        """Does the answer mean that the replica does not know the session (interface §3.4)?"""
        if answer.status not in (400, 404) or place.sse:
            return False
        try:
            session = await self._book.load(place.session_id)
        except errors.StoreUnavailable:
            if answer.status == 404:
                raise  # passed on it would end the session for good; told to come back, the client keeps it
            return False
        if session is None:
            return True  # it was ended meanwhile: the recovery will say so
        if session.path.partition("?")[0] != request.path:
            return False
        if answer.status == 404:
            return True
        if not place.confirmed:
            return False
        body, whole = await exchange.inspect(FORGOTTEN_BYTES_MAX)
        _, error = envelope.outcome(body) if whole else (None, None)
        if error is None:
            return False
        named = place.backend_session_id or place.session_id
        return error.get("code") == -32000 or named in str(error.get("message"))

    async def _end_session(self, exchange: Exchange, place: book.Place) -> None:
        """DELETE: the record is gone before the answer leaves, unless the backend keeps the session."""
        answer = await self._ask_place(exchange, place)
        if answer.status == 404:
            session = await self._book.load(place.session_id)
            if session is not None and not place.is_of(session):  # another proxy has moved it while we asked
                exchange.drop_answer()
                self._book.drop(place.session_id)
                place = await self._find(place.session_id)
                answer = await self._ask_place(exchange, place)
        if 200 <= answer.status < 300 or answer.status == 404:
            await self._book.forget(place.session_id)
        self._relay_as(exchange, place, answer)

    # ---- streams of a session

    def _stream_closed(self, exchange: Exchange) -> None:
        now = time.monotonic()
        # Each time their number has doubled: thousands may close at once, and none may pay for all that did before.
        if len(self._streams_closed) >= self._streams_closed_purge_at:
            self._streams_closed = {key: at for key, at in self._streams_closed.items() if now - at < 2}
            self._streams_closed_purge_at = max(STREAMS_CLOSED_PURGE_MIN, 2 * len(self._streams_closed))
        self._streams_closed[exchange.note] = now

    async def _open_stream_again(
        self, exchange: Exchange, place: book.Place, answer: core.AnswerHead
    ) -> core.AnswerHead:
        """A reconnecting client may be quicker than the backend's notice that the old stream is closed."""
        for seconds in STREAM_AGAIN_SECONDS:
            closed = self._streams_closed.get(place.session_id)
            if answer.status != 409 or closed is None or time.monotonic() - closed > 2:
                break
            exchange.drop_answer()
            await asyncio.sleep(seconds)
            answer = await self._ask_place(exchange, place)
        return answer


def is_session_id(text: str) -> bool:
    """Visible ASCII, 1 to 1024 bytes (spec 2025-11-25, transports)."""
    return _SESSION_ID.fullmatch(text) is not None
