"""How sessions begin: `initialize` over streamable HTTP, and the `endpoint` event of legacy HTTP+SSE.

The record is in the store before the client can know the id: before the head of an `initialize` answer leaves, and
before the endpoint event does. An id that another session has already, or that no header could carry back to us,
is replaced towards the client by one of our own.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import envelope, reply
from fastproxy.proxy import admission, recovery
from fastproxy.routing import backends
from fastproxy.session import book, record
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

RESULT_BYTES_MAX = 65536  # of the answer that is read for the negotiated version
RESULT_SECONDS_MAX = 1.0  # for which its head waits for that; servers answer within milliseconds
ENDPOINT_BYTES_MAX = 65536
ENDPOINT_SECONDS_MAX = 0.5  # after a comment, for the endpoint event that may follow

AskAny = Callable[..., Coroutine[Any, Any, core.AnswerHead]]


class Opening:
    """Forwards what opens a session, and remembers what comes of it."""

    def __init__(
        self,
        sessions: book.Book,
        replicas: backends.Backends,
        rescue: recovery.Recovery,
        *,
        bounds: admission.Admission,
        room: Callable[[], bool],
        start_task: book.StartTask,
    ) -> None:
        self._book = sessions
        self._replicas = replicas
        self._recovery = rescue
        self._bounds = bounds
        self._has_room = room
        self._start_task = start_task

    async def initialize(
        self, exchange: core.Exchange, request: requests.Request, body: bytes, ask_any: AskAny
    ) -> None:
        """A new session, unless the server is stateless and hands out no id."""
        if not self._has_room():
            raise reply.too_many_sessions()
        self._bounds.begin_session()
        answer: core.AnswerHead = await ask_any(exchange, core.SESSION_STRIP, for_session=True)
        index = exchange.endpoint_index
        try:
            await self._initialized(exchange, request, body, answer)
        finally:
            self._replicas.opened(index)

    async def _initialized(
        self, exchange: core.Exchange, request: requests.Request, body: bytes, answer: core.AnswerHead
    ) -> None:
        backend_id = _session_header(answer)
        if backend_id is None or not 200 <= answer.status < 300:
            exchange.relay(core.SESSION_STRIP)
            return
        params = envelope.initialize_params(body)
        version = await self._negotiated(exchange) or str(params.get("protocolVersion", ""))
        session_id, alias = _public_id(backend_id)
        session = self._record(
            exchange,
            session_id=session_id,
            backend_session_id=alias,
            transport="streamable-http",
            path=request.target,
            protocol_version=version,
            initialize=params,
        )
        session = await self._store(session, backend_id, request)
        if session.backend_session_id is None:
            exchange.relay(core.SESSION_KEEP)
        else:
            exchange.relay(core.SESSION_SET, session.session_id.encode("latin-1"))

    async def event_stream(self, exchange: core.Exchange, request: requests.Request, ask_any: AskAny) -> None:
        """A GET for events without a session: legacy HTTP+SSE when its first event is `endpoint`."""
        self._bounds.begin_session()
        answer: core.AnswerHead = await ask_any(exchange, core.SESSION_STRIP, for_session=True)
        index = exchange.endpoint_index
        try:
            await self._event_stream(exchange, request, answer)
        finally:
            self._replicas.opened(index)

    async def _event_stream(self, exchange: core.Exchange, request: requests.Request, answer: core.AnswerHead) -> None:
        if not exchange.event_stream or not 200 <= answer.status < 300:
            exchange.relay(core.SESSION_STRIP if answer.status >= 400 else core.SESSION_KEEP)
            return
        # A stateless server's stream may be silent for hours, so that its head can't wait for the first event.
        exchange.send_head(core.SESSION_KEEP)
        try:
            text, begin, end = await self._first_event(exchange)
            uri = envelope.endpoint_of(text[begin:end])
            if uri is not None:
                event = await self._learn(exchange, request, text[begin:end], uri.decode("latin-1"))
                exchange.replace_held(text[:begin] + event + text[end:])
        except (errors.StoreError, reply.Refusal, core.UpstreamLost) as error:
            logger.warning("a legacy event stream was ended before its session began: reason=%s", error)
            exchange.abort("no_session")  # with the head gone, the end of the stream is all that can be said
            return
        exchange.relay()

    async def _first_event(self, exchange: core.Exchange) -> tuple[bytes, int, int]:
        """The stream's beginning, and from where to where its first event goes; comments are none. A stream that begins
        with one may say nothing else for long, so that its event is awaited for a moment only."""
        text, whole, begin = b"", False, 0
        try:
            async with asyncio.timeout(None) as patience:
                while not whole and len(text) < ENDPOINT_BYTES_MAX:
                    text, whole = await exchange.inspect(len(text) + 1)
                    while (end := core.event_end(text, begin)) >= 0:
                        if not _is_comment(text[begin:end]):
                            return text, begin, end
                        begin = end
                    if begin and patience.when() is None:
                        patience.reschedule(asyncio.get_running_loop().time() + ENDPOINT_SECONDS_MAX)
        except TimeoutError:
            pass
        return text, 0, 0

    async def _learn(self, exchange: core.Exchange, request: requests.Request, event: bytes, uri: str) -> bytes:
        """Store the session of an endpoint event; answers the event as the client shall see it."""
        replica = self._replica(exchange)
        target = uri.removeprefix(replica.url)  # an origin of its own would be refused by every client
        if replica.path and target.startswith(replica.path + "/"):
            target = target.removeprefix(replica.path)
        backend_id = requests.session_parameter(target)
        if backend_id is None:
            return event
        session_id, alias = _public_id(backend_id)
        session = self._record(
            exchange,
            session_id=session_id,
            backend_session_id=alias,
            transport="sse",
            path=request.target,
            protocol_version="2024-11-05",
            initialize={},
        )
        session = await self._store(session, backend_id, request)
        if session.backend_session_id is not None:
            target = requests.with_session_parameter(target, session.session_id)
        exchange.note = session.session_id
        exchange.on_end = self._event_stream_closed
        return event.replace(uri.encode("latin-1"), target.encode("latin-1"), 1)

    def _event_stream_closed(self, exchange: core.Exchange) -> None:
        """The stream was the session (spec 2024-11-05)."""
        self._book.drop(exchange.note)
        self._start_task(self._forget(exchange.note), name="forget a session")

    async def _forget(self, session_id: str) -> None:
        try:
            await self._book.forget(session_id)
        except errors.StoreError as error:
            logger.warning("an ended session could not be removed and will expire: reason=%s", error)

    async def _negotiated(self, exchange: core.Exchange) -> str | None:
        """protocolVersion of the result under way; None when it can't be told in time."""
        text, whole = b"", False
        try:
            async with asyncio.timeout(RESULT_SECONDS_MAX):
                while not whole and len(text) < RESULT_BYTES_MAX:
                    text, whole = await exchange.inspect(len(text) + 1)
                    for message in envelope.event_messages(text) if exchange.event_stream else [text] * whole:
                        result, error = envelope.outcome(message)
                        if result is not None or error is not None:
                            version = (result or {}).get("protocolVersion")
                            return version if isinstance(version, str) else None
        except TimeoutError:
            return None
        return None

    async def _store(
        self, session: record.SessionRecord, backend_id: str, request: requests.Request
    ) -> record.SessionRecord:
        """The record as it was stored: under an id of ours when its own is taken."""
        fields = request.fields_to_pass_on()
        try:
            while not await self._book.create(session):
                session = record.renamed(session, session_id=uuid.uuid4().hex, backend_session_id=backend_id)
        except errors.StoreFull:
            await self._recovery.end_at_backend(session, fields)
            raise reply.too_many_sessions() from None
        except errors.StoreError:
            await self._recovery.end_at_backend(session, fields)
            raise
        return session

    def _replica(self, exchange: core.Exchange) -> backends.Replica:
        return self._replicas.at(exchange.endpoint_index)

    def _record(self, exchange: core.Exchange, **members: Any) -> record.SessionRecord:
        replica = self._replica(exchange)
        now = record.timestamp(time.time())
        return record.SessionRecord(
            backend_pod=replica.pod, backend_url=replica.url, created_at=now, updated_at=now, **members
        )


def _session_header(answer: core.AnswerHead) -> str | None:
    for name, value in answer.fields:
        if name.lower() == b"mcp-session-id":
            return value.decode("latin-1")
    return None


def _is_comment(event: bytes) -> bool:
    return all(not line or line.startswith(b":") for line in event.splitlines())


def _public_id(backend_id: str) -> tuple[str, str | None]:
    """The client's id, and the backend's when they differ: one that is empty, too long or not visible ASCII does."""
    if 0 < len(backend_id) <= 1024 and all("!" <= character <= "~" for character in backend_id):
        return backend_id, None
    return uuid.uuid4().hex, backend_id
