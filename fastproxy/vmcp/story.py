"""What happens to a client's request at the front of vMCP, decision by decision.

    guard (Host, Origin) -> the path -> the era -> POST: one message | GET: the stream | DELETE: the end

    era of sessions    initialize -> a record, stored before its answer leaves; anything else -> the session, then
                       legacy.py; notifications and answers -> hub.py
    2026-07-28         modern.py

Faults are raised where they are known and answered here, in-band where the client would die of a status. A request of a
client that has left runs on, as its era wants it.
"""

import asyncio
import logging
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import fastproxy
from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import envelope, reply, revision
from fastproxy.proxy import guard
from fastproxy.session import record as plain
from fastproxy.vmcp import (
    backends,
    bus,
    catalog,
    faults,
    hub,
    legacy,
    legs,
    messages,
    modern,
    outgoing,
    peer,
    record,
    sessions,
    streams,
    voices,
    words,
)
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

PATH = "/mcp"
HOSTS_MAX = 64  # remembered as welcome
SAID_MAX = 1000  # different things that clients say of themselves
_VERSIONS = {name: name for name, row in revision.REVISIONS.items() if row.sessions}
_NEWEST = max(_VERSIONS)
_METHODS = {b'"%s"' % name.encode(): name for name in ("tools/call", "tools/list", "resources/read", "prompts/get")}
_MODERN_MARK = b'"io.modelcontextprotocol/protocolVersion"'


class Story:
    """The relay's handler for the data address."""

    def __init__(
        self,
        *,
        name: str,
        gate: guard.Guard,
        known: sessions.Sessions,
        group: backends.Backends,
        legs_of: legs.Legs,
        hub_of: hub.Hub,
        streams_of: streams.Streams,
        fleet: bus.Bus,
        asked: legacy.Legacy,
        stateless: modern.Modern,
        catalog_of: Callable[[], catalog.Catalog],
        passed_on: tuple[str, ...],
        body_bytes_max: int,
        is_settled: Callable[[], bool],
        settle: Callable[[], Awaitable[None]],
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._name = name
        self._gate = gate
        self._sessions = known
        self._backends = group
        self._legs = legs_of
        self._hub = hub_of
        self._streams = streams_of
        self._bus = fleet
        self._legacy = asked
        self._modern = stateless
        self._catalog = catalog_of
        self._passed_on = passed_on
        self._body_bytes_max = body_bytes_max
        self._is_settled = is_settled
        self._settle = settle
        self._start_task = start_task
        self.refusals: dict[str, int] = {}
        self._hosts: set[bytes] = set()
        self._said: dict[bytes, msgspec.Raw] = {}
        fleet.on(words.StreamOpened, self._stream_opened)
        fleet.on(words.Said, lambda word: streams_of.say_here(word.session_id, word.message))
        fleet.on(words.Cancelled, lambda word: hub_of.cancel(word.session_id, word.request_id))

    # ---- the relay's calls

    def begin(self, exchange: core.Exchange) -> None:
        """A head has come."""
        mine: list[asyncio.Task[Any]] = []
        mine.append(self._start_task(self._tell(exchange, mine), name="exchange"))

    def resume(self, exchange: core.Exchange, answer: core.AnswerHead | None) -> None:
        """There is no fast lane here."""
        raise AssertionError("the fast lane is off")

    def touch(self, key: bytes) -> None:
        """There is no fast lane here."""
        raise AssertionError("the fast lane is off")

    async def _tell(self, exchange: core.Exchange, mine: list[asyncio.Task[Any]]) -> None:
        """`mine`: the task that this runs in, which cancels a call; to ask the loop for it costs more."""
        body = b""
        try:
            request = requests.of(exchange.method_name, exchange.target, exchange.fields)
            try:
                self._admit(request)
                if request.path != PATH:
                    raise reply.Refusal(404, faults.INVALID_REQUEST, f"the MCP endpoint is {PATH}")
                if request.method == "POST" and exchange.has_body:
                    body, _ = await exchange.peek(self._body_bytes_max + 1)
                await self._serve(exchange, request, body, mine)
            except reply.Refusal as refusal:
                self._refuse(exchange, refusal, body)
            except errors.RecordTooNew:
                self._refuse(exchange, reply.record_too_new(), body)
            except errors.StoreFull:
                self._refuse(exchange, reply.too_many_sessions(), body)
            except errors.StoreError as error:
                logger.warning("session store failed: reason=%s", error)
                self._refuse(exchange, reply.store_unavailable(), body)
        except core.ExchangeOver:
            return  # nobody is left to be answered
        except Exception:
            logger.exception("fault in an exchange")
            exchange.abort("fault")

    def _admit(self, request: requests.Request) -> None:
        """Host and Origin. A Host that was welcome once is, without an Origin beside it."""
        host = request.headers.get(b"host", b"")
        origins = request.all(b"origin") if b"origin" in request.headers else []
        if host in self._hosts and not origins:
            return
        self._gate.check(request.header(b"host"), origins)
        if len(self._hosts) < HOSTS_MAX:
            self._hosts.add(host)

    def _refuse(self, exchange: core.Exchange, refusal: reply.Refusal, body: bytes) -> None:
        if "reason" in refusal.data:
            self.refusals[refusal.reason] = self.refusals.get(refusal.reason, 0) + 1
        asked = envelope.read(body) if body else None
        status, fields, answer = reply.render(refusal, asked, legacy=not exchange.modern)
        if status == 405:
            fields.append((b"Allow", b"GET, POST, DELETE"))
        logger.info("refused: status=%d reason=%s detail=%s", refusal.status, refusal.reason, refusal)
        exchange.answer(status, fields, answer)

    async def _serve(
        self, exchange: core.Exchange, request: requests.Request, body: bytes, mine: list[asyncio.Task[Any]]
    ) -> None:
        session_id = request.header(b"mcp-session-id")
        if exchange.modern or (session_id is None and _MODERN_MARK in body):
            if not self._is_settled():
                await self._settle()
            await self._modern.serve(exchange, request, body)
        elif request.method == "POST":
            await self._post(exchange, request, body, session_id, mine[0])
        elif request.method == "GET":
            await self._open_stream(exchange, request, session_id)
        elif request.method == "DELETE":
            session = await self._find(session_id)
            await self.end_session(session.record)
            exchange.answer(204, [], b"")
        else:
            raise reply.Refusal(405, faults.INVALID_REQUEST, f"{request.method} is not served here")

    # ---- one message

    async def _post(
        self,
        exchange: core.Exchange,
        request: requests.Request,
        body: bytes,
        session_id: str | None,
        task: asyncio.Task[Any],
    ) -> None:
        message = peer.read_message(body)
        if message is None:
            raise _unreadable(body)
        method = _METHODS.get(bytes(message.method)) or message.method_name
        if method == "initialize" and bytes(message.id):
            await self._initialize(exchange, message)
            return
        session = await self._find(session_id)
        fields = [(b"Mcp-Session-Id", session.session_id.encode("ascii"))]
        if not method:
            if not message.is_answer:
                raise reply.Refusal(400, faults.INVALID_REQUEST, "expected a JSON-RPC request, notification or answer")
            exchange.answer(202, fields, b"")
            await self._hub.take_answer(session, message)
        elif not bytes(message.id):
            exchange.answer(202, fields, b"")
            await self._notified(session, message)
        elif _is_id(message.id):
            exchange.note = session.session_id
            call = voices.Call(exchange, bytes(message.id), fields)
            call.task = task
            call.takes_events = _takes_events(request.headers.get(b"accept"))
            passed_on = outgoing.passed_on(self._passed_on, request.fields, []) if self._passed_on else []
            await self._serve_call(session, call, method, bytes(message.params), passed_on)
        else:
            raise reply.Refusal(400, faults.INVALID_REQUEST, "expected id to be a string or a number")

    async def _serve_call(
        self,
        session: sessions.Session,
        call: voices.Call,
        method: str,
        params: bytes,
        fields: outgoing.Fields,
    ) -> None:
        """A request of a session, and its answer."""
        call.token = messages.asked_token(params)
        act = self._legacy.methods.get(method)
        session.begin(call)
        try:
            if not self._is_settled():
                await self._settle()
            if act is None:
                raise faults.Fault(faults.METHOD_NOT_FOUND, f"Method not found: {method[:200]}")
            result = await act(legacy.Asked(session, method, params, call, fields))
            call.answer(messages.result(call.request_id, result))
        except (peer.BackendError, faults.Fault) as error:
            if not isinstance(error, peer.Refused):
                logger.info("a call has no result: method=%s reason=%s", method, error)
            call.answer(messages.error(call.request_id, faults.explain(error)))
        except asyncio.CancelledError:
            if not call.cancelled:
                raise
            call.hush()
        finally:
            session.end(call)

    async def _notified(self, session: sessions.Session, message: peer.Message) -> None:
        match message.method_name:
            case "notifications/cancelled":
                request_id = messages.cancelled_id(bytes(message.params))
                if not self._hub.cancel(session.session_id, request_id):
                    self._bus.tell(words.Cancelled(session.session_id, request_id))
            case "notifications/progress":
                await self._hub.take_progress(session, message)
            case "notifications/roots/list_changed":
                await self._hub.tell_legs(session, peer.write_notification("notifications/roots/list_changed"))

    # ---- sessions

    async def _find(self, session_id: str | None) -> sessions.Session:
        if session_id is None:
            raise reply.Refusal(400, faults.INVALID_REQUEST, "expected Mcp-Session-Id (initialize gives it)")
        if session_id not in self._sessions and not requests.is_session_id(session_id):
            raise reply.bad_session_id()
        session = await self._sessions.find(session_id)
        if session is None:
            raise reply.session_not_found()
        return session

    async def _initialize(self, exchange: core.Exchange, message: peer.Message) -> None:
        """Answered from what is known: no backend is asked."""
        try:
            asked = msgspec.json.decode(message.params, type=_Initialize)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = messages.error(bytes(message.id), faults.encode(faults.INVALID_PARAMS, f"initialize: {error}"))
            exchange.answer(200, [voices.JSON], text)
            return
        now = plain.timestamp(time.time())
        version = _VERSIONS.get(asked.protocolVersion, _NEWEST)
        new = record.VmcpRecord(
            session_id=str(uuid.uuid4()),
            protocol_version=version,
            client_info=self._share(asked.clientInfo),
            client_capabilities=self._share(asked.capabilities),
            created_at=now,
            updated_at=now,
            secret=secrets.token_urlsafe(16),
        )
        if await self._sessions.create(new) is None:
            raise AssertionError("two sessions have drawn the same id")
        known = self._catalog()
        result = {
            "protocolVersion": version,
            "capabilities": known.capabilities(),
            "serverInfo": {"name": self._name, "version": fastproxy.__version__},
        }
        if known.instructions is not None:
            result["instructions"] = known.instructions
        text = messages.result(bytes(message.id), msgspec.json.encode(result))
        exchange.answer(200, [voices.JSON, (b"Mcp-Session-Id", new.session_id.encode("ascii"))], text)

    def _share(self, said: msgspec.Raw) -> msgspec.Raw:
        """What most clients say alike lies in memory once."""
        text = bytes(said)
        if text not in self._said and len(self._said) < SAID_MAX:
            self._said[text] = msgspec.Raw(text)
        return self._said.get(text) or msgspec.Raw(text)

    async def end_session(self, session: record.VmcpRecord) -> None:
        """Everywhere: the record at once, the legs when their backends hear of it."""
        await self._sessions.forget(session.session_id)
        self._start_task(self._legs.end(session.backends, self._backends.get), name="end the legs of a session")

    async def _open_stream(self, exchange: core.Exchange, request: requests.Request, session_id: str | None) -> None:
        if not request.wants_events():
            raise reply.Refusal(406, faults.INVALID_REQUEST, "expected Accept: text/event-stream")
        session = await self._find(session_id)
        self._streams.open_stream(session, exchange, [(b"Mcp-Session-Id", session.session_id.encode("ascii"))])

    def _stream_opened(self, word: words.StreamOpened) -> None:
        if word.replica != self._bus.replica:
            self._streams.opened_elsewhere(word)


class _Initialize(msgspec.Struct):
    protocolVersion: str
    capabilities: msgspec.Raw = msgspec.Raw(b"{}")
    clientInfo: msgspec.Raw = msgspec.Raw(b"{}")

    def __post_init__(self) -> None:
        for raw in (self.capabilities, self.clientInfo):
            msgspec.json.decode(raw, type=dict)


def _takes_events(accept: bytes | None) -> bool:
    return accept is None or b"text/event-stream" in accept or b"*/*" in accept


def _is_id(raw: msgspec.Raw) -> bool:
    return bytes(raw)[0] in b'"-0123456789'


def _unreadable(body: bytes) -> reply.Refusal:
    if body.lstrip()[:1] == b"[":
        return reply.Refusal(400, faults.INVALID_REQUEST, "batches are not served: send one message at a time")
    return reply.Refusal(400, faults.PARSE_ERROR, "expected one JSON-RPC message")
