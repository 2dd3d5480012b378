"""One conversation told twice, on the fast lane and on the story alone, and compared byte for byte.

    def test_…(lanes):
        def tell(lane):
            lane.play(answering(OK))                  # what the backend does with the next requests
            with lane.client() as client:
                client.send(lane.post(BODY))
                return client.response().raw, lane.requests()
        lanes.tell(tell, fast=1)                      # both alike; one request took the fast lane

`Lanes` holds two running proxies that differ in `--no-fast-lane` alone, in front of one scripted backend. Before each
telling the backend hangs up on everybody, and a session is opened, so that one connection waits in the pool: that and
the session are what the fast lane asks for. Session id, Host and every byte are the same in both tellings, so nothing
needs to be masked.
"""

import asyncio
import contextlib
import typing
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

from tests import kit
from tests.kit import actors_message, actors_wire

HOST = "localhost:7777"  # of loopback, and the same whatever ports there are
SESSION = "0123456789abcdef0123456789abcdef"
OPENS = "Opens-Session"  # a request with this field is the stage's own initialize
INITIALIZE = (
    b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},'
    b'"clientInfo":{"name":"tests","version":"1"}}}'
)
INITIALIZED = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{}}}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}'
RESULT = b'{"jsonrpc":"2.0","id":1,"result":{"content":[]}}'
QUIET = ("--health-interval", "0")  # probes would come between what the scripts expect
JSON = {"Content-Type": "application/json"}
EVENTS = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
OK = actors_message.format_response("200 OK", JSON, RESULT)

Act = Callable[[actors_wire.Connection], Awaitable[None]]
Told = typing.TypeVar("Told")


class Stage(actors_wire.ScriptedBackend):
    """A scripted backend whose script can be changed between requests. It opens sessions by itself."""

    def __init__(self, act: Act | None = None) -> None:
        self.act: Act = act or saying(OK)
        super().__init__(self._play)

    async def _play(self, connection: actors_wire.Connection) -> None:
        begin = 0
        while True:
            while b"\r\n\r\n" not in connection.received[begin:]:
                if not await connection.read_some():
                    return
            if f"\r\n{OPENS}: ".encode() in connection.received[begin:]:
                request = await connection.read_request()
                assert request is not None
                connection.requests.clear()
                if request.method == "GET":
                    await connection.send(OK)
                    begin = len(connection.received)
                    continue
                fields = {**JSON, "Mcp-Session-Id": request.field(OPENS) or ""}
                await connection.send(actors_message.format_response("200 OK", fields, INITIALIZED))
            else:
                await self.act(connection)
            begin = len(connection.received)

    def hang_up(self) -> None:
        """Close every connection, and forget what came on it."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(self._hang_up(), self._loop).result(actors_wire.WAIT_SECONDS_MAX)

    async def _hang_up(self) -> None:
        for connection in self.connections:
            await connection.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.connections.clear()


class Lane:
    """A proxy, the stage behind it, and a session that both know."""

    def __init__(self, proxy: kit.Proxy, stage: Stage) -> None:
        self.proxy = proxy
        self.stage = stage
        self.session = ""

    def play(self, act: Act) -> None:
        """What the backend does with the requests that come from now on."""
        self.stage.act = act

    def client(self, **options: typing.Any) -> kit.RawClient:
        """A new connection to the proxy."""
        return kit.RawClient(self.proxy.origin, **options)

    def open_session(self, session: str) -> None:
        """A session of that id, which is this lane's from now on. An idle connection to the backend is left over."""
        self.session = session
        with self.client() as client:
            fields = {"Host": HOST, OPENS: session, **JSON}
            answer = client.request("POST", "/mcp", fields, INITIALIZE)
            assert answer.status == 200, answer
            assert answer.field("Mcp-Session-Id") == session, "there is a session of that id"

    def connect(self) -> None:
        """Leave an idle connection to the backend."""
        with self.client() as client:
            assert client.request("GET", "/warm", {"Host": HOST, OPENS: "no"}).raw == OK

    def post(self, body: bytes = CALL, fields: Mapping[str, str] | None = None, *, target: str = "/mcp") -> bytes:
        """A POST of the session: with an idle connection it takes the fast lane."""
        given = {"Host": HOST, "Mcp-Session-Id": self.session, **JSON, **(fields or {})}
        return actors_message.format_request("POST", target, HOST, given, body)

    def plain(self, method: str, target: str = "/mcp", fields: Mapping[str, str] | None = None) -> bytes:
        """A request without a body."""
        return actors_message.format_request(method, target, HOST, {"Host": HOST, **(fields or {})})

    def requests(self) -> list[bytes]:
        """What the backend got, byte for byte, the opening of the session left out."""
        return [request.raw for request in self.stage.requests]

    def metric(self, name: str, **labels: str) -> float:
        return self.proxy.metrics().value(name, **labels)

    @property
    def fast_requests(self) -> int:
        return int(self.metric("fastproxy_fast_lane_requests_total"))

    def begin(self) -> None:
        """Nothing of the last telling is left: no connection, no script; one session, one idle connection."""
        self.stage.hang_up()
        self.stage.act = saying(OK)
        await_that(lambda: self.metric("fastproxy_upstream_connections") == 0, "the pool is empty")
        if self.session:
            self.session = SESSION
            self.connect()
        else:
            self.open_session(SESSION)


class Lanes:
    """Both proxies. `fast` and `story` are their lanes."""

    def __init__(self, fast: Lane, story: Lane) -> None:
        self.fast = fast
        self.story = story

    def tell(self, conversation: Callable[[Lane], Told], *, fast: int | None = None) -> Told:
        """What the conversation returns, the same on both lanes. `fast`: how many requests took the fast one."""
        told: list[Told] = []
        for lane in (self.story, self.fast):
            lane.begin()
            before = lane.fast_requests
            told.append(conversation(lane))
            if fast is not None:
                took = lane.fast_requests - before
                assert took == (fast if lane is self.fast else 0), f"{took} took the fast lane\n{lane.proxy.log_tail()}"
            assert lane.metric("fastproxy_relay_faults_total") == 0, lane.proxy.log_tail()
        assert told[0] == told[1], f"the story alone: {told[0]!r}\nwith the fast lane: {told[1]!r}"
        return told[1]


@contextlib.contextmanager
def lanes(*flags: str, prefix: str = "", act: Act | None = None) -> Iterator[Lanes]:
    """Two proxies with these flags, one with the fast lane and one without."""
    with Stage(act) as stage, contextlib.ExitStack() as stack:
        backend = stage.origin + prefix
        fast, story = (
            stack.enter_context(kit.proxies(backends=[backend], flags=[*QUIET, *flags, *own]))[0]
            for own in ((), ("--no-fast-lane",))
        )
        yield Lanes(Lane(fast, stage), Lane(story, stage))


def await_that(holds: Callable[[], bool], wanted: str, *, seconds_max: float = actors_wire.WAIT_SECONDS_MAX) -> None:
    """Wait until it holds; the test fails when it does not in time."""
    actors_wire._await(holds, seconds_max, wanted)


def saying(*pieces: bytes, seconds: float = 0.0, end: bool = False) -> Act:
    """An act: reads one request, sends these pieces with pauses between them, and perhaps hangs up."""

    async def act(connection: actors_wire.Connection) -> None:
        if await connection.read_request() is None:
            return
        for number, piece in enumerate(pieces):
            if number:
                await asyncio.sleep(seconds)
            await connection.send(piece)
        if end:
            await connection.close()

    return act


def chunked(*pieces: bytes, fields: Mapping[str, str] | None = None, trailers: bytes = b"") -> Sequence[bytes]:
    """A head and chunks, each a piece of its own, and the end with its trailers."""
    head = actors_message.format_response("200 OK", fields or EVENTS)
    return [head, *(actors_message.format_chunk(piece) for piece in pieces), b"0\r\n" + trailers + b"\r\n"]
