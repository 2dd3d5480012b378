"""Session conversations: two proxies on one Redis, in front of two small MCP servers that do what a test tells them.

    def test_…(fleet):
        session = fleet.open()                          # initialize through the first proxy
        fleet.call(1, session).json()["result"]         # tools/call through the second
        fleet.replica_of(session).kill()

`Replica` is a scripted peer, not a mock of ours: it hands out session ids, counts calls per session, repeats the id on
every answer as the SDKs' servers do, forgets sessions in the manners of the SDKs, stalls, dies and comes back on its
port. What it got is in `requests`. `Fleet` asks, and knows which proxy and which Redis it is about.
"""

import asyncio
import contextlib
import itertools
import json
import threading
import typing
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence

from fastproxy.session import record
from tests import kit
from tests.kit import actors_message, actors_wire, redis_server

Message = actors_message.Message
Act = Callable[["Replica", actors_wire.Connection, Message], typing.Awaitable[bool]]

JSON = {"Content-Type": "application/json"}
ACCEPT = {"Accept": "application/json, text/event-stream", **JSON}
PROTOCOL = "2025-06-18"
PREFIX = "fastproxy:default:session:"
INITIALIZE = {
    "protocolVersion": PROTOCOL,
    "capabilities": {"roots": {"listChanged": True}},
    "clientInfo": {"name": "tests", "version": "1"},
}

_ids = itertools.count(1)


def new_id() -> str:
    """A session id that nobody had before."""
    return f"session-{next(_ids):04d}"


def message(method: str | None = None, number: object = 1, **params: object) -> bytes:
    """A JSON-RPC request; a notification when `number` is None."""
    said: dict[str, object] = {"jsonrpc": "2.0"}
    if number is not None:
        said["id"] = number
    return json.dumps({**said, "method": method, "params": params}).encode()


class Replica:
    """A small MCP server. `forgets`: how it answers for a session that it does not know."""

    def __init__(self, name: str, *, port: int = 0) -> None:
        self.name = name
        self.port = port
        self.host = "127.0.0.1"
        self.events = False  # answers as an event stream
        self._backend: actors_wire.ScriptedBackend | None = None
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """As new: no session, no request, no manners of its own."""
        self.sessions: dict[str, int] = {}
        self.requests: list[Message] = []
        self.ids: Callable[[], str | None] = new_id
        self.forgets = "404"
        self.events = False
        self.act: Act | None = None
        self.initialize_seconds = 0.0

    # Verbs.

    def start(self) -> None:
        """Listen, on the same port as before."""
        backend = actors_wire.ScriptedBackend(self._serve, port=self.port)
        backend.__enter__()
        self.port, self._backend = backend.port, backend

    def kill(self) -> None:
        """As kill -9: no listener, no connection, no memory of sessions."""
        if self._backend is not None:
            self._backend.stop()
            self._backend = None
        self.sessions = {}

    def restart(self) -> None:
        """Another process on the same port."""
        self.kill()
        self.start()

    def forget(self) -> None:
        """Its sessions, without an end."""
        self.sessions = {}

    @property
    def alive(self) -> bool:
        return self._backend is not None

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"

    def got(self, method: str, rpc: str | None = None) -> list[Message]:
        """The requests of an HTTP method, and of a JSON-RPC method if one is named."""
        found = [request for request in self.requests if request.method == method]
        return [request for request in found if rpc is None or rpc_method(request) == rpc]

    # What it answers.

    async def _serve(self, connection: actors_wire.Connection) -> None:
        while True:
            request = await connection.read_request()
            if request is None:
                return
            with self._lock:
                self.requests.append(request)
            if self.act is not None and await self.act(self, connection, request):
                continue
            await self.answer(connection, request)

    async def answer(self, connection: actors_wire.Connection, request: Message) -> None:
        session = request.field("mcp-session-id")
        version = request.field("mcp-protocol-version")
        if rpc_method(request) == "initialize" and version is None:
            await asyncio.sleep(self.initialize_seconds)
            session = self.ids()
            if session is not None:
                self.sessions[session] = 0
            asked = json.loads(request.body).get("params", {}).get("protocolVersion", PROTOCOL)
            result = {"protocolVersion": asked, "capabilities": {}, "serverInfo": {"name": self.name, "version": "1"}}
            await self._say(connection, request, session, result)
        elif session is not None and session not in self.sessions and version != "2026-07-28":
            await connection.send(self.unknown(request, session))
        elif request.method == "DELETE":
            if session is not None:
                del self.sessions[session]
            await connection.send(actors_message.format_response("200 OK"))
        elif request.method == "GET":
            head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
            head |= {"Mcp-Session-Id": session} if session is not None else {}
            await connection.send(actors_message.format_response("200 OK", head))
            await connection.await_end()
        elif b'"id"' not in request.body:
            await connection.send(actors_message.format_response("202 Accepted"))
        else:
            count = 0
            if session is not None:
                self.sessions[session] += 1
                count = self.sessions[session]
            await self._say(connection, request, session, {"replica": self.name, "session": session, "count": count})

    async def _say(
        self, connection: actors_wire.Connection, request: Message, session: str | None, result: object
    ) -> None:
        own = {"Mcp-Session-Id": session} if session is not None else {}
        number = json.loads(request.body).get("id")
        body = json.dumps({"jsonrpc": "2.0", "id": number, "result": result}).encode()
        if self.events:
            head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **own}
            event = b"event: message\ndata: " + body + b"\n\n"
            pieces = actors_message.format_chunk(event) + actors_message.LAST_CHUNK
            await connection.send(actors_message.format_response("200 OK", head) + pieces)
        else:
            await connection.send(actors_message.format_response("200 OK", {**JSON, **own}, body))

    def unknown(self, request: Message, session: str) -> bytes:
        """What this kind of server says to a session that it does not know."""
        if self.forgets == "404":
            error = {"code": -32001, "message": "Session not found"}
            status = "404 Not Found"
        elif self.forgets == "400 typescript":
            error = {"code": -32000, "message": "Bad Request: No valid session ID provided"}
            status = "400 Bad Request"
        elif self.forgets == "400 names it":
            error = {"code": -32600, "message": f"Unknown session {session}"}
            status = "400 Bad Request"
        else:
            error = {"code": -32602, "message": "Bad Request: something else"}
            status = "400 Bad Request"
        body = json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()
        phantom = {"Mcp-Session-Id": "phantom"} if self.forgets != "404" else {}
        return actors_message.format_response(status, {**JSON, **phantom}, body)


def rpc_method(request: Message) -> str | None:
    """The JSON-RPC method of a request's body."""
    try:
        said = json.loads(request.body)
    except ValueError:
        return None
    return said.get("method") if isinstance(said, dict) else None


class Fleet:
    """Proxies on one store, and the replicas behind them."""

    def __init__(
        self, proxies: list[kit.Proxy], replicas: list[Replica], redis: redis_server.RedisServer | None, *, fast: bool
    ) -> None:
        self.proxies = proxies
        self.replicas = replicas
        self.redis = redis
        self.fast = fast

    # A client's side.

    def ask(
        self,
        proxy: int,
        method: str,
        target: str = "/mcp",
        fields: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Message:
        """One request on a connection of its own."""
        with self.client(proxy) as client:
            return client.request(method, target, fields, body)

    def client(self, proxy: int = 0) -> kit.RawClient:
        """A connection to that proxy."""
        return kit.RawClient(self.proxies[proxy].origin)

    def post(
        self, proxy: int, body: bytes, session: str | None = None, *, target: str = "/mcp", **fields: str
    ) -> Message:
        """A message; `Field_Name="value"` is a field of the request."""
        own = {"Mcp-Session-Id": session} if session is not None else {}
        more = {name.replace("_", "-"): value for name, value in fields.items()}
        return self.ask(proxy, "POST", target, {**ACCEPT, **own, **more}, body)

    def open(self, proxy: int = 0, **params: object) -> str:
        """A new session: initialize, and the client's notification that it is ready. Its id."""
        answer = self.post(proxy, message("initialize", 0, **{**INITIALIZE, **params}))
        assert answer.status == 200, answer
        session = answer.field("mcp-session-id")
        assert session is not None, answer
        ready = self.post(proxy, message("notifications/initialized", None), session)
        assert ready.status == 202, ready
        return session

    def open_confirmed(self, **params: object) -> str:
        """A session that every proxy knows, and that has had a 2xx answer through each."""
        session = self.open(**params)
        for proxy in range(len(self.proxies)):
            self.count(proxy, session)
        return session

    def open_everywhere(self) -> list[str]:
        """Two new sessions, one on each replica. Which gets the next is the policy's business, and one that has just
        come back gets few."""
        found: dict[str, str] = {}
        for number in range(40):
            session = self.open(number % len(self.proxies))
            found.setdefault(self.replica_of(session).name, session)
            if len(found) == len(self.replicas):
                return [found[name] for name in sorted(found)]
        raise AssertionError(f"only {sorted(found)} got sessions")

    def call(self, proxy: int, session: str | None, number: object = 1, **fields: str) -> Message:
        """tools/call of a session."""
        return self.post(proxy, message("tools/call", number, name="count"), session, **fields)

    def count(self, proxy: int, session: str) -> int:
        """A call that must succeed: how many the replica has counted in this session."""
        answer = self.call(proxy, session)
        assert answer.status == 200, answer
        assert "result" in answer.json(), answer
        return int(result_of(answer)["count"])

    # What is behind.

    def replica_of(self, session: str) -> Replica:
        """The replica that the record names."""
        held = self.record(session)
        assert held is not None, f"no record of {session}"
        return next(replica for replica in self.replicas if replica.origin == held["backend_url"])

    def other(self, replica: Replica) -> Replica:
        return next(other for other in self.replicas if other is not replica)

    def record(self, session: str) -> dict[str, typing.Any] | None:
        """What Redis holds of it."""
        assert self.redis is not None
        value = self.redis.execute("GET", PREFIX + record.store_key(session))
        return None if value is None else typing.cast("dict[str, typing.Any]", json.loads(value))

    def got(self, method: str, rpc: str | None = None) -> list[Message]:
        """Over all replicas."""
        return [request for replica in self.replicas for request in replica.got(method, rpc)]

    def stored(self) -> list[str]:
        """Of the sessions in Redis."""
        assert self.redis is not None
        names = [name.decode().removeprefix(PREFIX) for name in self.redis.execute("KEYS", PREFIX + "*")]
        return sorted(name for name in names if not name.startswith("!"))

    def metric(self, name: str, **labels: str) -> float:
        """Over all proxies."""
        return sum(proxy.metrics().value(name, **labels) for proxy in self.proxies)

    def begin(self, *, empty: bool = True) -> None:
        """Nothing of the last test is left, and every replica lives and is known to. `empty`: the caches hold nothing
        either, so that least-sessions counts from zero (a proxy keeps what ended while it did not hear of it)."""
        for replica in self.replicas:
            if not replica.alive:
                replica.start()
            replica.reset()
        if self.redis is not None and (names := self.redis.execute("KEYS", PREFIX + "*")):
            self.redis.execute("DEL", *names)  # by name, so that the proxies hear of each
        for proxy in self.proxies:
            actors_wire._await(lambda proxy=proxy: are_live(proxy), actors_wire.WAIT_SECONDS_MAX, "all replicas live")
            if not empty:
                continue
            actors_wire._await(
                lambda proxy=proxy: proxy.metrics().value("fastproxy_sessions_active") == 0,
                actors_wire.WAIT_SECONDS_MAX,
                "no session is left",
            )
        for replica in self.replicas:
            replica.requests.clear()


def result_of(answer: Message) -> dict[str, typing.Any]:
    """The result of an answer, from JSON or from the first event."""
    body = answer.body
    if answer.field("content-type") == "text/event-stream":
        body = next(line[6:] for line in body.split(b"\n") if line.startswith(b"data: "))
    return typing.cast("dict[str, typing.Any]", json.loads(body)["result"])


def are_live(proxy: kit.Proxy) -> bool:
    """Every replica that it was told of; one that it knows from a record alone is `leaving` for ever."""
    return all(backend["state"] != "failed" for backend in proxy.backends())


@contextlib.contextmanager
def replicas(count: int = 2) -> Iterator[list[Replica]]:
    """So many, listening."""
    running = [Replica(f"replica-{number}") for number in range(count)]
    try:
        for replica in running:
            replica.start()
        yield running
    finally:
        for replica in running:
            replica.kill()


@contextlib.contextmanager
def fleet(
    *flags: str,
    fast: bool = True,
    proxies: int = 2,
    redis: redis_server.RedisServer | None = None,
    behind: Sequence[typing.Any] | None = None,
    environment: dict[str, str] | None = None,
    ready: bool = True,
) -> Iterator[Fleet]:
    """A fleet with flags of its own. Without Redis each proxy has the embedded store."""
    own = (*flags, *(() if fast else ("--no-fast-lane",)))
    store = "memory:" if redis is None else redis.url
    with contextlib.ExitStack() as stack:
        known = list(behind) if behind is not None else stack.enter_context(replicas())
        running = stack.enter_context(
            kit.proxies(proxies, backends=known, store=store, flags=own, environment=environment, await_readyz=ready)
        )
        yield Fleet(running, known, redis, fast=fast)


def query(session: str) -> str:
    """A session id as part of a URL."""
    return urllib.parse.quote(session, safe="")


def await_that(holds: Callable[[], bool], wanted: str, *, seconds_max: float = actors_wire.WAIT_SECONDS_MAX) -> None:
    """Wait until it holds; the test fails when it does not in time."""
    actors_wire._await(holds, seconds_max, wanted)


def assert_sound(fleet: Fleet) -> None:
    """No proxy met a fault of its own."""
    for proxy in fleet.proxies:
        assert "Traceback" not in proxy.stderr, proxy.log_tail()
