"""A peer over streamable HTTP, of both eras: POST per message, GET for what it says unasked, DELETE at the end.

    request --POST--> JSON: the answer
                      events: what is not the answer --> on_message, until the answer comes
                      events that end too early: resumed by GET with Last-Event-ID, where the events had ids

A legacy call that is given up is told to the backend by `notifications/cancelled`; a modern one by closing its stream.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from fastproxy.mcp import revision
from fastproxy.vmcp import connections, events, mirrors, outgoing, peer

# What changes nothing, or nothing by being done twice: sent again when a kept connection turns out to be closed.
REPEATABLE = frozenset(
    {
        "initialize",
        "ping",
        "server/discover",
        "tools/list",
        "resources/list",
        "resources/templates/list",
        "resources/read",
        "resources/subscribe",
        "resources/unsubscribe",
        "prompts/list",
        "prompts/get",
        "completion/complete",
        "logging/setLevel",
    }
)
REFUSAL_BYTES_MAX = 65536  # of an answer that says no
NOTICE_SECONDS_MAX = 5.0  # for a notification of ours that nobody awaits
RESUME_SECONDS_DEFAULT = 1.0  # where the backend has not said `retry:`
RESUME_SECONDS_MIN = 0.02
RESUME_SECONDS_MAX = 10.0
_PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504})  # 409: the stream before this one is not quite gone
_MOVED = frozenset({307, 308})  # the two that keep method and body
_ACCEPT_BOTH = (b"Accept", b"application/json, text/event-stream")
_ACCEPT_EVENTS = (b"Accept", b"text/event-stream")
_JSON = (b"Content-Type", b"application/json")
_IDENTITY = (b"Accept-Encoding", b"identity")

StartTask = Callable[..., asyncio.Task[Any]]


class StreamablePeer:
    """One backend. `fields`: what every request to it carries."""

    def __init__(
        self, backend: str, line: connections.Line, *, fields: connections.Fields, start_task: StartTask
    ) -> None:
        self.backend = backend
        self._line = line
        self._start_task = start_task
        self._own_fields = fields
        self._ids = peer.Ids()
        self._settle_at(None)

    async def open(
        self, params: bytes, *, headers: connections.Fields, on_message: peer.OnMessage, seconds_max: float
    ) -> peer.Opened:
        """`initialize` and its notification. BackendError of any kind."""
        async with peer.Deadline(self.backend, seconds_max):
            request_id = self._ids.next()
            body = peer.write_request(request_id, "initialize", params)
            headers = outgoing.beside(headers, self._own_fields)
            answer = await self._post(body, headers, repeatable=True)
            session_id = answer.header(b"mcp-session-id")
            conversation = _Conversation(self, request_id, on_message, session_id=None, headers=headers)
            result = await conversation.finish(answer)
            version = peer.negotiated_version(self.backend, result)
            opened = peer.Opened(session_id, version, result)
            await self.send(
                peer.write_notification("notifications/initialized"),
                leg_session_id=session_id,
                protocol_version=version,
                headers=headers,
                seconds_max=seconds_max,
            )
            return opened

    async def request(
        self,
        method: str,
        params: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: peer.OnMessage,
        seconds_max: float,
    ) -> bytes:
        """The result of one call. BackendError of any kind."""
        request_id = self._ids.next()
        modern = not revision.has_sessions(protocol_version)
        fields = self._fields(leg_session_id, protocol_version, headers)
        if modern:
            fields += mirrors.fields(method, params)
        body = peer.write_request(request_id, method, params)
        try:
            async with peer.Deadline(self.backend, seconds_max):
                answer = await self._post(body, fields, repeatable=method in REPEATABLE)
                if not answer.is_event_stream:
                    return await self.read_body(answer, request_id, leg_session_id)
                conversation = _Conversation(self, request_id, on_message, session_id=leg_session_id, headers=fields)
                return await conversation.finish(answer)
        except (peer.BackendError, asyncio.CancelledError) as error:
            given_up = isinstance(error, asyncio.CancelledError) or error.reason == "backend_timeout"
            if given_up and not modern:
                self._tell_cancelled(request_id, leg_session_id, protocol_version, headers)
            raise

    async def send(
        self,
        message: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        seconds_max: float,
    ) -> None:
        """A notification or an answer. BackendError: it was not taken."""
        async with peer.Deadline(self.backend, seconds_max):
            fields = self._fields(leg_session_id, protocol_version, headers)
            answer = await self._post(message, fields, repeatable=False)
            try:
                if answer.status >= 300:
                    body = await answer.whole(bytes_max=REFUSAL_BYTES_MAX)
                    raise judge(self.backend, answer.status, body, session_id=leg_session_id)
            finally:
                answer.finish()

    async def listen(
        self,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: peer.OnMessage,
    ) -> None:
        """Until the stream ends. A server that numbers its events may end it at any time, and is asked for what follows
        the last one. NoStream: there is none; BackendError: it ended otherwise than it should."""
        fields = self._fields(leg_session_id, protocol_version, headers)
        place = _Place()
        async with peer.Deadline(self.backend, None):
            answer = await self._line.send(connections.render(self._get_head, fields), repeatable=True)
            while True:
                try:
                    if answer.status >= 300 or not answer.is_event_stream:
                        raise await self._no_stream(answer, leg_session_id)
                    while event := await answer.next_event(bytes_max=peer.ANSWER_BYTES_MAX):
                        place.pass_by(event)
                        if event.data and event.kind == "message":
                            on_message(event.data)
                except connections.Malformed:
                    raise
                except connections.Lost:
                    if place.last_event_id is None:
                        raise
                finally:
                    answer.close()
                if place.last_event_id is None:
                    return
                await asyncio.sleep(place.pause())
                answer = await self.resume(fields, place.last_event_id)

    async def _no_stream(self, answer: connections.Answer, session_id: str | None) -> peer.BackendError:
        body = await answer.whole(bytes_max=REFUSAL_BYTES_MAX)
        fault = judge(self.backend, answer.status, body, session_id=session_id)
        if isinstance(fault, peer.SessionLost | peer.Unauthorized) or answer.status in _PASSING:
            return fault
        return peer.NoStream(self.backend, f"offers no stream of events (answered {answer.status})")

    async def end(
        self, leg_session_id: str, *, protocol_version: str, headers: connections.Fields, seconds_max: float
    ) -> None:
        """DELETE. BackendError: the backend has not said that it has heard."""
        fields = self._fields(leg_session_id, protocol_version, headers)
        request = connections.render(self._delete_head, fields)
        async with peer.Deadline(self.backend, seconds_max):
            answer = await self._line.send(request, repeatable=True)
            answer.finish()
            if answer.status >= 300 and answer.status not in (404, 405):
                raise peer.WrongStatus(self.backend, answer.status)

    async def close(self) -> None:
        """No connection is kept."""
        self._line.endpoint.close_spares()

    # ---- one request

    async def _post(self, body: bytes, fields: connections.Fields, *, repeatable: bool) -> connections.Answer:
        answer = await self._line.send(connections.render(self._post_head, fields, body), repeatable=repeatable)
        if answer.status not in _MOVED:
            return answer
        # Frameworks that mount an endpoint at /mcp/ say so to who asks for /mcp. Nothing has run there.
        target = self._line.resolve(answer.header(b"location") or "")
        if target is None:
            return answer
        answer.finish()
        self._settle_at(target)
        return await self._line.send(connections.render(self._post_head, fields, body), repeatable=repeatable)

    def _settle_at(self, target: str | None) -> None:
        """Where it is asked from now on; None: where the owner has said."""
        fields = self._own_fields
        self._post_head = self._line.head(b"POST", [_JSON, _ACCEPT_BOTH, _IDENTITY, *fields], target=target)
        self._get_head = self._line.head(b"GET", [_ACCEPT_EVENTS, _IDENTITY, *fields], target=target)
        self._delete_head = self._line.head(b"DELETE", fields, target=target)

    async def read_body(self, answer: connections.Answer, request_id: str, session_id: str | None) -> bytes:
        """The result in an answer that is no stream."""
        try:
            body = await answer.whole(bytes_max=peer.ANSWER_BYTES_MAX)
            answer.finish()
        finally:
            answer.close()
        if answer.status >= 300:
            raise judge(self.backend, answer.status, body, session_id=session_id)
        message = peer.read_message(body)
        if message is not None and message.is_answer:
            known = message.id_text
            if known == request_id:
                return peer.result_of(self.backend, message)
            if known is None and bytes(message.error):  # of what it could not read
                return peer.result_of(self.backend, message)
        detail = "its answer is no JSON-RPC answer to this request"
        raise peer.BackendError(self.backend, detail, reason="backend_protocol_error", may_have_run=True)

    async def resume(self, fields: connections.Fields, last_event_id: str) -> connections.Answer:
        """The rest of a stream that ended before its answer."""
        last = (b"Last-Event-ID", last_event_id.encode("utf-8"))
        return await self._line.send(connections.render(self._get_head, [*fields, last]), repeatable=True)

    def _fields(self, session_id: str | None, protocol_version: str, headers: connections.Fields) -> connections.Fields:
        fields = [(b"MCP-Protocol-Version", protocol_version.encode("latin-1"))]
        if session_id is not None and revision.has_sessions(protocol_version):
            fields.append((b"Mcp-Session-Id", session_id.encode("latin-1")))
        return fields + outgoing.beside(headers, self._own_fields) if headers else fields

    def _tell_cancelled(
        self, request_id: str, session_id: str | None, protocol_version: str, headers: connections.Fields
    ) -> None:
        params = msgspec.json.encode({"requestId": request_id, "reason": "given up"})
        self._start_task(
            self._tell(
                self.send(
                    peer.write_notification("notifications/cancelled", params),
                    leg_session_id=session_id,
                    protocol_version=protocol_version,
                    headers=headers,
                    seconds_max=NOTICE_SECONDS_MAX,
                )
            ),
            name="cancel a call at its backend",
        )

    async def _tell(self, sending: Coroutine[Any, Any, None]) -> None:
        with contextlib.suppress(peer.BackendError):  # nobody waits for it
            await sending


class _Place:
    """Where in a stream of numbered events we are, and how soon it may be asked for again."""

    def __init__(self) -> None:
        self.last_event_id: str | None = None
        self._retry_seconds = RESUME_SECONDS_DEFAULT
        self._in_vain = 0  # streams in a row that have brought nothing

    def pass_by(self, event: events.Event) -> None:
        """An event has come."""
        self._in_vain = 0
        if event.id and event.id.isprintable():
            self.last_event_id = event.id
        if event.retry_seconds is not None:
            self._retry_seconds = max(event.retry_seconds, RESUME_SECONDS_MIN)

    def pause(self) -> float:
        """Seconds until it is asked for again: what the backend has said, and longer while nothing comes of it."""
        self._in_vain += 1
        doubled = self._retry_seconds * (1 << min(self._in_vain - 1, 10))
        return min(doubled, max(self._retry_seconds, RESUME_SECONDS_MAX))


class _Conversation:
    """One request under way: where its answer comes from."""

    def __init__(
        self,
        owner: StreamablePeer,
        request_id: str,
        on_message: peer.OnMessage,
        *,
        session_id: str | None,
        headers: connections.Fields,
    ) -> None:
        self._owner = owner
        self._id = request_id
        self._on_message = on_message
        self._session_id = session_id
        self._headers = headers
        self._place = _Place()

    async def finish(self, answer: connections.Answer) -> bytes:
        """The result."""
        try:
            while answer.is_event_stream and answer.status < 300:
                found = await self._read_stream(answer)
                if found is not None:
                    answer.finish()
                    return peer.result_of(self._owner.backend, found)
                answer = await self._resume()
            return await self._owner.read_body(answer, self._id, self._session_id)
        finally:
            answer.close()

    async def _read_stream(self, answer: connections.Answer) -> peer.Message | None:
        """The answer in a stream of events; None: it ended without one, and may be resumed."""
        try:
            while event := await answer.next_event(bytes_max=peer.ANSWER_BYTES_MAX):
                self._place.pass_by(event)
                message = peer.read_message(event.data) if event.data else None
                if message is None:
                    continue
                if message.is_answer:
                    if message.id_text == self._id:
                        return message
                elif bytes(message.method):
                    self._on_message(event.data)
        except connections.Malformed:
            raise
        except connections.Lost:
            if self._place.last_event_id is None:
                raise
        answer.close()
        if self._place.last_event_id is None:
            raise connections.Lost("the stream of events ended without an answer")
        return None

    async def _resume(self) -> connections.Answer:
        assert self._place.last_event_id is not None
        await asyncio.sleep(self._place.pause())
        answer = await self._owner.resume(self._headers, self._place.last_event_id)
        if not answer.is_event_stream or answer.status >= 300:
            answer.close()
            raise connections.Lost(f"the stream ended without an answer and could not be resumed ({answer.status})")
        return answer


def judge(backend: str, status: int, body: bytes, *, session_id: str | None) -> peer.BackendError:
    """What an answer that is none says. With a session, a 404, or a 400 that names it, is the loss of the session."""
    message = peer.read_message(body)
    error = peer.read_error(bytes(message.error)) if message is not None and bytes(message.error) else None
    if session_id is not None:
        forgotten = error is not None and (error.code == -32000 or session_id.encode("latin-1") in body)
        if status == 404 or (status == 400 and forgotten):
            return peer.SessionLost(backend, f"does not know the session (answered {status})")
    if status in (401, 403) and (error is None or error.code > -32000):
        return peer.Unauthorized(backend, status)
    if error is not None and message is not None:
        return peer.Refused(backend, bytes(message.error), status=status)
    return peer.WrongStatus(backend, status, may_have_run=status >= 500)
