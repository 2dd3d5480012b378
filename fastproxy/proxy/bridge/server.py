"""The bridge's port: which session a request belongs to, and which era.

Whoever knows a session's id is served; to open one takes the token in the path too, which only this proxy's own data
plane knows. So nobody on the network, and no web page that has guessed a port on loopback, can start a process here;
and a request that another replica of the proxy forwards can only be one of a session whose process runs here: it is
never forwarded on.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import secrets
import shutil
import socket
import time
import uuid
from collections.abc import Callable

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import address, backend, schema, setting, store_url
from fastproxy.mcp import envelope, reply
from fastproxy.proxy import tasks
from fastproxy.proxy.bridge import calls, modern, session
from fastproxy.stdio import host, hosts, message, process, spawner, supply
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
HEAD_BYTES_MAX = 64 << 10  # the data plane adds to what it lets through
PROCESSES_MAX = {"per-session": 100, "pool": 4, "shared": 1}
END_REASON = "the proxy ends"

_TOKEN = re.compile(r"/fastproxy-([0-9a-f]{32})(?=/|\?|$)")
_NO_BODY: list[tuple[bytes, bytes]] = []

Request = requests.Request


class Bridge:
    """The relay's handler on a port, and a reactor, of its own. `backend` is what the data plane is told of it."""

    def __init__(self, config: schema.ServeConfig, listening: socket.socket) -> None:
        self.tasks = tasks.Tasks()
        self._ttl_seconds = config.session_ttl
        self._body_bytes_max = config.max_body
        self._token = secrets.token_hex(16)
        self._own_processes = config.stdio_mode == "per-session"
        processes_max = config.stdio_max_processes or PROCESSES_MAX[config.stdio_mode]
        self.supply = supply.Supply(
            program_of(config),
            processes_max=processes_max,
            spares=config.stdio_spares,
            line_bytes_max=config.stdio_max_line,
            start_task=self.tasks.start,
        )
        self._hosts = hosts.Hosts(
            config.stdio_mode, self.supply, shared_max=processes_max, idle_seconds=config.session_ttl
        )
        # Clients without sessions share a process in any mode; in these two it is that of the others.
        commons = self._hosts
        if self._own_processes:
            commons = hosts.Hosts("shared", self.supply, shared_max=1, idle_seconds=config.session_ttl)
        self._all_hosts = {self._hosts, commons}
        self._modern = modern.Front(self.supply, commons, read=self._read, idle_seconds=config.session_ttl)
        self._sessions: dict[str, session.Session] = {}
        self._reactor = core.Reactor(
            asyncio.get_running_loop(),
            self,
            core.RouteTable(1),
            header_seconds=config.header_timeout,
            body_seconds=config.body_timeout,
            idle_seconds=max(config.idle_timeout, 60.0),
        )
        self._reactor.head_bytes_max = HEAD_BYTES_MAX + config.max_header
        self._reactor.body_bytes_max = config.max_body
        name = listening.getsockname()
        where = address.Address(name[0], name[1])
        path = f"/fastproxy-{self._token}"
        self.backend = backend.StaticBackend("http", where.host, where.port, path, f"http://{where}")
        self._listening: socket.socket | None = listening

    def open(self) -> None:
        """Serve."""
        assert self._listening is not None
        self._reactor.listen(self._listening.detach(), "bridge", fast_lane=False)
        self._listening = None
        self.tasks.start(self.supply.run(), name="keep spare processes")
        self.tasks.start(self._tick_for_ever(), name="look after stdio sessions")

    def configure(self, config: schema.ServeConfig) -> None:
        """From now on this holds, of what needs no restart."""
        self._body_bytes_max = self._reactor.body_bytes_max = config.max_body
        self._reactor.head_bytes_max = HEAD_BYTES_MAX + config.max_header

    async def close(self) -> None:
        """End every process, in the time that it may take."""
        await self.tasks.stop()
        endings = [one.end(END_REASON) for one in self._sessions.values()]
        self._sessions = {}
        await asyncio.gather(
            *endings, self._modern.close(END_REASON), *(one.close(END_REASON) for one in self._all_hosts)
        )
        await self.supply.close(END_REASON)
        self._reactor.close()
        if self._listening is not None:
            self._listening.close()

    async def kill(self) -> None:
        """End every process at once."""
        await self.tasks.stop()
        await self.supply.kill()

    # ---- the relay's handler

    def begin(self, exchange: core.Exchange) -> None:
        """A head has come."""
        if exchange.method != b"POST" or exchange.modern:
            self.tasks.start(self._tell(exchange), name="bridge")
            return
        try:
            body = exchange.peek(self._body_bytes_max + 1)
        except core.ExchangeOver:
            return
        if not (body.done() and self._serve_at_once(exchange, *body.result())):
            self.tasks.start(self._tell(exchange, body), name="bridge")

    def _serve_at_once(self, exchange: core.Exchange, body: bytes, whole: bool) -> bool:
        """Most requests: a call whose body came with its head, of a process that takes it now. No task is made for it,
        which is a third of what a call costs us."""
        request = requests.read(exchange.method, exchange.target, exchange.fields)
        known = self._sessions.get(request.header(b"mcp-session-id") or "")
        said = message.read(body) if whole and known is not None and not known.ended else None
        if known is None or said is None or not said.is_request:
            return False
        return known.submit_at_once(self._post(exchange, request, known, said), said)

    def resume(self, exchange: core.Exchange, answer: core.AnswerHead | None) -> None:
        """There is no fast lane here."""

    def touch(self, key: bytes) -> None:
        """Nor a route table."""

    def access(self, exchange: core.Exchange) -> None:
        """The data plane writes the access line."""

    async def _tell(self, exchange: core.Exchange, body: asyncio.Future[tuple[bytes, bool]] | None = None) -> None:
        """Every exchange's frame: what goes wrong in it is answered here. `body`: is on its way."""
        try:
            if body is not None:
                await body
            request = requests.read(exchange.method, exchange.target, exchange.fields)
            try:
                await self._serve(exchange, request)
            except errors.FastproxyError as error:
                kept, whole = exchange.body
                asked = envelope.read(kept) if whole and kept else None
                status, fields, text = reply.render(_explain(error), asked, legacy=not exchange.modern)
                exchange.answer(status, fields, text)
        except core.ExchangeOver:
            return
        except Exception:
            logger.exception("fault in the bridge")
            exchange.abort("fault")

    async def _serve(self, exchange: core.Exchange, request: Request) -> None:
        found = _TOKEN.match(request.target)
        trusted = found is not None and secrets.compare_digest(found[1], self._token)
        target = request.target[found.end() :] if found is not None else request.target
        session_id = request.header(b"mcp-session-id")
        if exchange.modern:
            if not trusted:
                raise reply.session_not_found()
            return await self._modern.serve(exchange, request)
        if session_id is not None:
            return await self._serve_session(exchange, request, self._find(session_id))
        parameter = requests.session_parameter(target)
        if parameter is not None and request.method == "POST":
            known = self._find(parameter)
            if not isinstance(known, session.EventSession):
                raise reply.session_not_found()
            return await self._serve_letter(exchange, known)
        if not trusted:
            raise reply.session_not_found()
        if request.method == "POST":
            return await self._open(exchange, request)
        if request.method == "GET" and request.wants_events():
            return await self._open_events(exchange, target or "/")
        raise _method_not_allowed()

    # ---- sessions over streamable HTTP

    def _find(self, session_id: str) -> session.Session:
        found = self._sessions.get(session_id)
        if found is None or found.ended:
            raise reply.session_not_found()
        return found

    async def _serve_session(self, exchange: core.Exchange, request: Request, known: session.Session) -> None:
        if request.method == "POST":
            said = await self._read(exchange)
            if said.is_request:
                return await known.submit(self._post(exchange, request, known, said), said)
            await known.tell(said)
            return exchange.answer(202, _NO_BODY, b"")
        if request.method == "GET":
            if not request.wants_events():
                raise reply.Refusal(406, -32600, "a GET must accept text/event-stream")
            known.listen(exchange)
            return None
        if request.method == "DELETE":
            self._sessions.pop(known.id, None)
            self.tasks.start(known.end("its client has ended the session"), name="end a stdio session")
            return exchange.answer(204, _NO_BODY, b"")
        raise _method_not_allowed()

    async def _open(self, exchange: core.Exchange, request: Request) -> None:
        asked = await self._read(exchange)
        if asked.method != "initialize" or not asked.id:
            raise reply.Refusal(400, -32600, "Mcp-Session-Id is missing: a session begins with initialize")
        begun = session.Session(uuid.uuid4().hex, own_process=self._own_processes, start_task=self.tasks.start)
        call = self._post(exchange, request, begun, asked)
        try:
            begun.join(await self._hosts.attach(begun))
            call.fields = [(b"Mcp-Session-Id", begun.id.encode())]
            self._sessions[begun.id] = begun
            await begun.submit(call, asked)
            call.on_settled = self._settle_opening(begun, call.on_settled)
        except BaseException:
            self._sessions.pop(begun.id, None)
            self.tasks.start(begun.end("it could not be opened"), name="end a stdio session")
            raise

    def _settle_opening(
        self, begun: session.Session, settled: Callable[[calls.Post, message.Message | None], None]
    ) -> Callable[[calls.Post, message.Message | None], None]:
        def settle(call: calls.Post, answer: message.Message | None) -> None:
            settled(call, answer)
            if answer is None or "result" not in answer.members:
                call.fields = []
                self._sessions.pop(begun.id, None)
                self.tasks.start(begun.end("its handshake has failed"), name="end a stdio session")

        return settle

    def _post(
        self, exchange: core.Exchange, request: Request, owner: session.Session, asked: message.Message
    ) -> calls.Post:
        accepts = calls.accepted(request)
        return calls.Post(owner, asked, exchange, accepts=accepts, brake=owner.brake, start_task=self.tasks.start)

    async def _read(self, exchange: core.Exchange) -> message.Message:
        """The one message of a body."""
        body, whole = await exchange.peek(self._body_bytes_max + 1)
        said = message.read(body) if whole else None
        if said is None:
            if body.lstrip()[:1] == b"[":
                raise reply.Refusal(400, -32600, "batches are not carried: one message per request")
            raise reply.Refusal(400, -32700, "expected one JSON-RPC message")
        if not said.method and not said.is_answer:
            raise reply.Refusal(400, -32600, "expected a JSON-RPC request, notification or answer")
        return said

    # ---- sessions over the older HTTP+SSE

    async def _open_events(self, exchange: core.Exchange, target: str) -> None:
        begun = session.EventSession(uuid.uuid4().hex, own_process=self._own_processes, start_task=self.tasks.start)
        begun.join(await self._hosts.attach(begun))
        self._sessions[begun.id] = begun
        exchange.on_end = lambda _: self._events_ended(begun)
        if exchange.over is not None:
            return self._events_ended(begun)
        separator = "&" if "?" in target else "?"
        where = f"{target}{separator}sessionId={begun.id}".encode("latin-1")
        begun.listen(exchange).send(calls.event(where, b"endpoint"))

    def _events_ended(self, gone: session.Session) -> None:
        if self._sessions.pop(gone.id, None) is not None:
            self.tasks.start(gone.end("its stream has ended"), name="end a stdio session")

    async def _serve_letter(self, exchange: core.Exchange, known: session.EventSession) -> None:
        said = await self._read(exchange)
        assert known.host is not None
        if said.is_request:
            try:
                await known.host.submit(session.Letter(known, said), said)
            except errors.FastproxyError as error:
                known.say(_answer_of(_explain(error), said.id))
        else:
            await known.tell(said)
        exchange.answer(202, [(b"Content-Type", b"text/plain")], b"Accepted")

    # ---- time

    async def _tick_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for one in list(self._sessions.values()):
                if one.look(now, loop.time(), self._ttl_seconds):
                    self._sessions.pop(one.id, None)
                    self.tasks.start(one.end("it was idle"), name="end a stdio session")
            await self._modern.look(now, loop.time())
            for one_kind in self._all_hosts:
                await one_kind.end_idle(now)


def program_of(config: schema.ServeConfig) -> supply.Program:
    """What the owner wants started."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(setting.VARIABLE_PREFIX)}
    environment = {**own, **dict(config.env)}  # what is ours holds the store's password
    command = config.command
    if shutil.which(command[0], path=environment.get("PATH")) is None and config.cwd is None:
        raise errors.StartError(f"cannot start {command[0]}: no such program")
    return supply.Program(command, environment, config.cwd, config.name)


def listen(config: schema.ServeConfig) -> socket.socket:
    """The bridge's listening socket. StartError: it can't be had."""
    where = config.stdio_address or address.Address(_own_host(config.store), 0)
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((where.host, where.port))
        listening.listen(4096)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise errors.StartError(
            f"cannot listen on {where} (--stdio-address): {(error.strerror or str(error)).lower()}"
        ) from error
    if ipaddress.ip_address(listening.getsockname()[0]).is_unspecified:
        listening.close()
        raise errors.StartError(
            f"cannot listen on {where} (--stdio-address): expected the address by which other replicas reach this one"
        )
    return listening


def _own_host(url: store_url.StoreUrl) -> str:
    """The address of this machine from which the store is reached: from there other replicas reach us, too."""
    if url.kind == "memory" or not url.hosts:
        return "127.0.0.1"
    host_name, port = url.hosts[0]
    with contextlib.suppress(OSError):
        family, _, _, _, name = socket.getaddrinfo(host_name, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(name)  # of a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
    logger.warning("%s has no address: other replicas can't reach this one (--stdio-address)", host_name)
    return "127.0.0.1"


def _explain(error: errors.FastproxyError) -> reply.Refusal:
    """What a client is told."""
    match error:
        case reply.Refusal():
            return error
        case host.NotCarried():
            return reply.Refusal(400, -32601, str(error), reason=error.reason, in_band=True)
        case process.NotReading() | supply.NoRoom():
            return reply.Refusal(503, -32603, str(error), reason=error.reason, in_band=True, retry=True)
        case host.Down() | process.Ended() | spawner.NotStarted():
            text = f"the MCP server can't be reached: {error}"
            return reply.Refusal(502, -32603, text, reason="backend_unreachable", in_band=True)
        case _:
            return reply.Refusal(500, -32603, str(error), reason=error.reason, in_band=True)


def _answer_of(refusal: reply.Refusal, number: bytes) -> bytes:
    return message.error(number, refusal.code, str(refusal), refusal.data)


def _method_not_allowed() -> reply.Refusal:
    return reply.Refusal(405, -32600, "method not allowed")
