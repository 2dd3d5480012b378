"""A peer over legacy HTTP+SSE (2024-11-05): one stream per session, on which everything comes; POSTs go elsewhere.

    open --GET--> endpoint event --POST initialize--> 202 ... its answer on the stream
    request --POST--> 202                             answers find their callers by id; the rest: on_message of open

The stream is the session: it lives in this process, and cannot be taken up by another. When it ends, every call that
waits is lost (it may have run), and the session is unknown from then on.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy.vmcp import connections, outgoing, peer, streamable
from fastproxy.wire import request as requests

SESSIONS_MAX = 10_000  # streams at one backend; each is a connection
WAITING_MAX = 1_000  # calls of one session
ENDPOINT_BYTES_MAX = 65536
_GET = [(b"Accept", b"text/event-stream"), (b"Accept-Encoding", b"identity")]
_POST = [(b"Content-Type", b"application/json"), (b"Accept", b"application/json, text/event-stream")]

StartTask = Callable[..., asyncio.Task[Any]]


class _Session(msgspec.Struct, gc=True):
    """One stream, and who waits for an answer on it."""

    id: str
    target: str
    answer: connections.Answer
    on_message: peer.OnMessage
    waiting: dict[str, "asyncio.Future[peer.Message]"]
    reading: "asyncio.Task[None] | None" = None


class EventStreamPeer:
    """One backend. `fields`: what every request to it carries."""

    def __init__(
        self, backend: str, line: connections.Line, *, fields: connections.Fields, start_task: StartTask
    ) -> None:
        self.backend = backend
        self._line = line
        self._own_fields = fields
        self._start_task = start_task
        self._ids = peer.Ids()
        self._sessions: dict[str, _Session] = {}

    async def open(
        self, params: bytes, *, headers: connections.Fields, on_message: peer.OnMessage, seconds_max: float
    ) -> peer.Opened:
        """A stream, and `initialize` on it. BackendError of any kind."""
        async with peer.Deadline(self.backend, seconds_max):
            session = await self._open_stream(headers, on_message)
            try:
                result = await self._call(session, "initialize", params, headers)
                version = peer.negotiated_version(self.backend, result)
                await self._post(session, peer.write_notification("notifications/initialized"), headers)
            except BaseException:
                self._drop(session)
                raise
            return peer.Opened(session.id, version, result)

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
        """The result of one call. BackendError of any kind. What comes beside it goes to on_message of `open`."""
        session = self._find(leg_session_id)
        async with peer.Deadline(self.backend, seconds_max):
            return await self._call(session, method, params, headers)

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
        session = self._find(leg_session_id)
        async with peer.Deadline(self.backend, seconds_max):
            await self._post(session, message, headers)

    async def listen(
        self,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: peer.OnMessage,
    ) -> None:
        """Until the session is over, which SessionLost says: its stream has been open all the time."""
        session = self._find(leg_session_id)
        assert session.reading is not None
        await asyncio.wait({session.reading})
        raise peer.SessionLost(self.backend, "the stream of the session ended")

    async def end(
        self, leg_session_id: str, *, protocol_version: str, headers: connections.Fields, seconds_max: float
    ) -> None:
        """Close the stream."""
        session = self._sessions.get(leg_session_id)
        if session is not None:
            self._drop(session)

    async def close(self) -> None:
        """Close all streams."""
        sessions = list(self._sessions.values())
        for session in sessions:
            self._drop(session)
        await asyncio.gather(*(session.reading for session in sessions if session.reading), return_exceptions=True)

    # ---- the stream

    async def _open_stream(self, headers: connections.Fields, on_message: peer.OnMessage) -> _Session:
        if len(self._sessions) >= SESSIONS_MAX:
            raise peer.BackendError(self.backend, f"more than {SESSIONS_MAX} streams", reason="too_many_sessions")
        fields = outgoing.beside(headers, self._own_fields)
        request = connections.render(self._line.head(b"GET", [*_GET, *self._own_fields]), fields)
        answer = await self._line.send(request, repeatable=True)
        try:
            if answer.status >= 300 or not answer.is_event_stream:
                body = await answer.whole(bytes_max=streamable.REFUSAL_BYTES_MAX)
                raise streamable.judge(self.backend, answer.status, body, session_id=None)
            while event := await answer.next_event(bytes_max=ENDPOINT_BYTES_MAX):
                if event.kind == "endpoint":
                    target = self._resolve(event.data.decode("utf-8", "replace").strip())
                    session_id = requests.session_parameter(target) or target
                    session = _Session(session_id, target, answer, on_message, {})
                    self._sessions[session_id] = session
                    session.reading = self._start_task(self._read(session), name=f"read {self.backend}'s stream")
                    return session
            raise connections.Lost("the stream of events ended before its endpoint event", ran=False)
        except BaseException:
            answer.close()
            raise

    def _resolve(self, uri: str) -> str:
        """The target of POSTs: on the backend's own origin, or it is somebody else's."""
        target = self._line.resolve(uri)
        if target is None:
            raise connections.Malformed("its endpoint event names no address on its own origin", ran=False)
        return target

    async def _read(self, session: _Session) -> None:
        """Everything that comes, until it ends."""
        why = "the stream of the session ended"
        try:
            while event := await session.answer.next_event(bytes_max=peer.ANSWER_BYTES_MAX):
                message = peer.read_message(event.data) if event.kind == "message" and event.data else None
                if message is None:
                    continue
                if not message.is_answer:
                    session.on_message(event.data)
                    continue
                future = session.waiting.get(message.id_text or "")
                if future is not None and not future.done():
                    future.set_result(message)
        except connections.Lost as error:
            why = str(error)
        finally:
            self._drop(session, why)

    def _drop(self, session: _Session, why: str = "the session was closed") -> None:
        if self._sessions.get(session.id) is session:
            del self._sessions[session.id]
        session.answer.close()
        for future in session.waiting.values():
            if not future.done():
                future.set_exception(connections.Lost(why))

    # ---- one call

    def _find(self, session_id: str | None) -> _Session:
        session = self._sessions.get(session_id or "")
        if session is None:
            raise peer.SessionLost(self.backend, "the stream of the session is not here")
        return session

    async def _call(self, session: _Session, method: str, params: bytes, headers: connections.Fields) -> bytes:
        if len(session.waiting) >= WAITING_MAX:
            raise peer.BackendError(self.backend, f"more than {WAITING_MAX} calls", reason="backend_overloaded")
        request_id = self._ids.next()
        future: asyncio.Future[peer.Message] = asyncio.get_running_loop().create_future()
        session.waiting[request_id] = future
        try:
            await self._post(session, peer.write_request(request_id, method, params), headers)
            return peer.result_of(self.backend, await future)
        except asyncio.CancelledError:  # the caller's, or the deadline's
            if method != "initialize":
                cancelled = msgspec.json.encode({"requestId": request_id, "reason": "given up"})
                notice = self._tell(session, peer.write_notification("notifications/cancelled", cancelled), headers)
                self._start_task(notice, name="cancel a call at its backend")
            raise
        finally:
            del session.waiting[request_id]
            if future.done() and not future.cancelled():
                future.exception()  # of a call whose POST has failed already

    async def _post(self, session: _Session, message: bytes, headers: connections.Fields) -> None:
        head = self._line.head(b"POST", [*_POST, *self._own_fields], target=session.target)
        fields = outgoing.beside(headers, self._own_fields)
        answer = await self._line.send(connections.render(head, fields, message))
        try:
            if answer.status >= 300:
                body = await answer.whole(bytes_max=streamable.REFUSAL_BYTES_MAX)
                raise streamable.judge(self.backend, answer.status, body, session_id=session.id)
        finally:
            answer.finish()

    async def _tell(self, session: _Session, message: bytes, headers: connections.Fields) -> None:
        with contextlib.suppress(peer.BackendError):  # nobody waits for it
            async with peer.Deadline(self.backend, streamable.NOTICE_SECONDS_MAX):
                await self._post(session, message, headers)
