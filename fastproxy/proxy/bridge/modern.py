"""Clients of 2026-07-28, which know no session: each request for itself, POST only.

    a server of that era   -> ModernHost: requests pass as they are, but for their ids
    an older one           -> SharedHost: eras.py puts each word into the other's; it is told of no client's capability

Which it is is found out once, by asking a new process. We are the HTTP server here, so headers are held against the
body before anything else (spec 2026-07-28, transports): who routes by them must be able to rely on them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from fastproxy._ext import core
from fastproxy.mcp import reply, subscription
from fastproxy.proxy.bridge import calls, mirrored
from fastproxy.stdio import eras, host, hosts, message, modern, process, shared, supply
from fastproxy.wire import request as requests

_NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
_HEADER_MISMATCH, _UNSUPPORTED_VERSION = -32020, -32022
_STATUSES = {-32601: 404, -32020: 400, -32021: 400, -32022: 400, -32600: 400, -32700: 400}

Message = message.Message
Request = requests.Request


class ModernPost(calls.Post):
    """A request of this era: some errors have a status of their own."""

    def status(self, answer: Message) -> int:
        code = message.members_of(answer.members.get("error")).get("code")
        text = b"" if code is None else bytes(code)
        return _STATUSES.get(int(text), 200) if text.lstrip(b"-").isdigit() else 200


class OlderPost(ModernPost):
    """The same, of a server that knows only the handshake."""

    server_info = b""

    def settle(self, answer: Message, text: bytes) -> None:
        seen = message.read(text)
        assert seen is not None
        newer = eras.as_newer(self.method, seen, self.server_info)
        super().settle(newer, newer.text())


class Listener:
    """`subscriptions/listen` on an older server: a member of its host, whose stream is told what it has asked for."""

    def __init__(self, post: ModernPost, asked: Message, older: hosts.Hosts) -> None:
        self.post = post
        self._wanted = eras.wanted(asked)
        self._granted = eras.Wanted(frozenset(), ())
        self._hosts = older
        self._host: host.Host | None = None
        self._gone = False

    async def open(self) -> None:
        """Subscribe, and say what will be told."""
        found = await self._hosts.attach(self)
        if self._gone:
            return await found.detach(self)
        self._host = found
        uris = [uri for uri in self._wanted.uris if await self._subscribe(found, uri)]
        self._granted = eras.Wanted(self._wanted.lists, tuple(uris))
        self.post.tell(eras.acknowledgement(self.post.id, self._granted))

    async def _subscribe(self, found: host.Host, uri: str) -> bool:
        asked = message.read(message.request(b"0", "resources/subscribe", b'{"uri":%s}' % msgspec.json.encode(uri)))
        assert asked is not None
        call = host.Settled(self, asked)
        try:
            await found.submit(call, asked)
            return "result" in (await call.done).members
        except (host.Down, process.Ended, process.NotReading):
            return False

    def deliver(self, text: bytes, said: Message) -> bool:
        told = eras.news(self.post.id, self._granted, said)
        if told is not None:
            self.post.tell(told)
        return told is not None

    async def close(self) -> None:
        """Its client has gone."""
        self._gone = True
        found, self._host = self._host, None
        if found is not None:
            await found.detach(self)


class Front:
    """All requests of this era. `read` reads a body; `older` has the processes for clients of all kinds."""

    def __init__(
        self,
        source: supply.Supply,
        older: hosts.Hosts,
        *,
        read: Callable[[core.Exchange], Awaitable[Message]],
        idle_seconds: float,
    ) -> None:
        self._source = source
        self._hosts = older
        self._read = read
        self._idle_seconds = idle_seconds
        self._native: modern.ModernHost | None = None
        self._older: shared.SharedHost | None = None
        self._is_older = False
        self._mirrors: dict[str, tuple[mirrored.Mirror, ...]] = {}  # of each tool
        self._mirrors_of: modern.ModernHost | None = None
        self._turn = asyncio.Lock()
        self._posts: set[calls.Post] = set()
        self._used_at = 0.0

    async def serve(self, exchange: core.Exchange, request: Request) -> None:
        """One request, to its end or to where its call hears the rest."""
        if request.method != "POST":
            return exchange.answer(405, [(b"Allow", b"POST")], b"")
        said = await self._read(exchange)
        if said.is_answer:
            raise reply.Refusal(400, -32600, "a client answers nothing in this era")
        if not said.id:
            return exchange.answer(202, [], b"")
        problem = find_problem(request, said)
        if problem is not None:
            return exchange.answer(400, calls.JSON, problem)
        if said.method == "initialize":  # a process of this era says so with an error that is meant for pipes
            return exchange.answer(404, calls.JSON, _unknown(said))
        self._used_at = time.monotonic()
        native = await self._find_native()
        if native is None:
            return await self._serve_older(exchange, request, said)
        if said.method == "tools/call" and (differing := await self._find_difference(native, request, said)):
            return exchange.answer(400, calls.JSON, _mismatch(said, differing))
        post = self._post(ModernPost, exchange, request, said)
        exchange.on_end = lambda _: self._left(native, post)
        await self._submit(native, post, said)

    def _post(self, kind: type[ModernPost], exchange: core.Exchange, request: Request, asked: Message) -> ModernPost:
        post = kind(
            self,
            asked,
            exchange,
            accepts=calls.accepted(request),
            brake=calls.Brake(),
            start_task=self._source.start_task,
        )
        post.on_settled = lambda call, _: self._posts.discard(call)
        return post

    async def _submit(self, found: host.Host, post: calls.Post, asked: Message) -> None:
        self._posts.add(post)
        try:
            await found.submit(post, asked)
        except BaseException:
            self._posts.discard(post)
            raise

    def _left(self, found: host.Host, post: calls.Post) -> None:
        """The client has what it wanted, or does not want it any more; in this era that ends the work."""
        if post in self._posts:
            self._posts.discard(post)
            self._source.start_task(found.abandon(post), name="abandon a call")

    # ---- headers that repeat arguments

    async def _find_difference(self, native: modern.ModernHost, request: Request, said: Message) -> str | None:
        """A header that differs from its argument. Before one is refused the tools are looked at again: they change."""
        params = said.params()
        name = _text(params.get("name")) or ""
        asks = name not in self._mirrors or self._mirrors_of is not native
        if asks:
            await self._learn_mirrors(native)
        if not self._mirrors.get(name):
            return None
        try:
            arguments = msgspec.json.decode(params.get("arguments", b"{}"))
        except msgspec.DecodeError:  # a number beyond ours: the server's to judge
            return None
        differing = mirrored.find_difference(self._mirrors[name], arguments, request.headers)
        if differing is None or asks:
            return differing
        await self._learn_mirrors(native)
        return mirrored.find_difference(self._mirrors.get(name, ()), arguments, request.headers)

    async def _learn_mirrors(self, native: modern.ModernHost) -> None:
        async with self._turn:
            found = {}
            async for tool in native.list_tools():
                name = tool.get("name")
                if isinstance(name, str):
                    found[name] = tuple(mirrored.find_mirrors(tool.get("inputSchema")))
            self._mirrors, self._mirrors_of = found, native

    # ---- which era the server is of

    async def _find_native(self) -> modern.ModernHost | None:
        async with self._turn:
            if self._is_older:
                return None
            if self._native is None:
                self._native = await modern.open_modern(self._source)
                self._is_older = self._native is None
            return self._native

    async def _find_older(self) -> shared.SharedHost:
        async with self._turn:
            if self._older is None or self._older.closed:
                found = await self._hosts.attach(self)
                assert isinstance(found, shared.SharedHost)
                self._older = found
            return self._older

    def deliver(self, text: bytes, said: Message) -> bool:
        """As a member of an older host: nobody in particular listens."""
        return False

    # ---- an older server

    async def _serve_older(self, exchange: core.Exchange, request: Request, asked: Message) -> None:
        post = self._post(OlderPost, exchange, request, asked)
        if not eras.is_known(asked.method):
            return post.reply(404, _unknown(asked))
        found = await self._find_older()
        if asked.method == "server/discover":
            answer = eras.discovery(asked, found.greeting, modern.REVISION)
            return post.reply(200, answer.text())
        assert isinstance(post, OlderPost)
        post.server_info = bytes(found.greeting.get("serverInfo", b""))
        if asked.method == subscription.METHOD:
            listener = Listener(post, asked, self._hosts)
            exchange.on_end = lambda _: self._source.start_task(self._end_listener(listener), name="end a listener")
            self._posts.add(post)
            return await listener.open()
        exchange.on_end = lambda _: self._left(found, post)
        older = eras.as_older(asked)
        await self._submit(found, post, older)

    async def _end_listener(self, listener: Listener) -> None:
        self._posts.discard(listener.post)
        await listener.close()

    # ---- time

    async def look(self, now: float, loop_now: float) -> None:
        """Once a second: silent streams get a comment, a process that nobody wants ends."""
        for post in list(self._posts):
            post.keep_alive(loop_now)
        if self._posts:
            self._used_at = now
        elif now - self._used_at > self._idle_seconds:
            await self.close("idle")

    async def close(self, reason: str) -> None:
        """Until the next request; which era the server is of is asked again then, as it may be another by now."""
        self._is_older = False
        native, self._native = self._native, None
        older, self._older = self._older, None
        if native is not None:
            await native.close(reason)
        if older is not None:
            await older.detach(self)


def find_problem(request: Request, said: Message) -> bytes | None:
    """What is wrong with a request's envelope, as its answer; None: nothing is."""
    meta = said.meta()
    version = _text(meta.get(message.PROTOCOL_VERSION))
    if version is None or message.CLIENT_CAPABILITIES not in meta:
        text = f"params._meta must hold {message.PROTOCOL_VERSION} and {message.CLIENT_CAPABILITIES}"
        return message.error(said.id, -32602, text)
    if request.header(b"mcp-protocol-version") != version:
        return _mismatch(said, "MCP-Protocol-Version")
    if version != modern.REVISION:
        data = {"supported": [modern.REVISION], "requested": version}
        return message.error(said.id, _UNSUPPORTED_VERSION, f"unsupported protocol version: {version}", data)
    if request.header(b"mcp-method") != said.method:
        return _mismatch(said, "Mcp-Method")
    member = _NAMED_BY.get(said.method)
    if member is not None:
        name = _text(said.params().get(member))
        header = request.header(b"mcp-name")
        if name is not None and (header is None or mirrored.decode(header) != name):
            return _mismatch(said, "Mcp-Name")
    return None


def _unknown(said: Message) -> bytes:
    return message.error(said.id, -32601, f"{said.method} is not known in this era")


def _mismatch(said: Message, header: str) -> bytes:
    return message.error(said.id, _HEADER_MISMATCH, f"{header} is missing, or differs from the body")


def _text(raw: msgspec.Raw | None) -> str | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None
