"""Legacy HTTP+SSE (interface §3.1, rule 4): the stream is the session, and its messages find it through either proxy.

Real: two proxies on one Redis, with and without the fast lane; scripted servers of two endpoints, in the manners of
the Python and the TypeScript SDK, with absolute URIs and behind a path prefix. Real SDK servers: tests/e2e.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message
LEGACY = {"Accept": "text/event-stream"}


class Legacy(fleets.Replica):
    """A server of two endpoints. `endpoint` is what its first event says, `{id}` and `{origin}` filled in."""

    def __init__(self, name: str, endpoint: str = "/messages/?session_id={id}", *, first: bytes = b"") -> None:
        self.endpoint = endpoint
        self.first = first
        self.held: dict[str, asyncio.Queue[bytes]] = {}
        super().__init__(name)

    async def answer(self, connection: kit.Connection, request: Message) -> None:
        if request.method == "GET":
            await self._stream(connection, request)
            return
        found = re.search(r"session_?[iI]d=([^&]*)", request.target)
        queue = self.held.get(found[1]) if found is not None else None
        if queue is None:
            await connection.send(actors_message.format_response("404 Not Found", {}, b"Could not find session"))
            return
        said = json.loads(request.body)
        await connection.send(actors_message.format_response("202 Accepted", {}, b"Accepted"))
        result = {"replica": self.name, "target": request.target}
        await queue.put(json.dumps({"jsonrpc": "2.0", "id": said["id"], "result": result}).encode())

    async def _stream(self, connection: kit.Connection, request: Message) -> None:
        session = self.ids() or ""
        head = {"Content-Type": "text/event-stream; charset=utf-8", "Transfer-Encoding": "chunked"}
        uri = self.endpoint.format(id=session, origin=self.origin).encode()
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.held[session] = queue
        await connection.send(actors_message.format_response("200 OK", head))
        if self.first is not None:
            event = self.first + b"event: endpoint\r\ndata: " + uri + b"\r\n\r\n"
            await connection.drip(actors_message.format_chunk(event), piece_bytes=11, seconds=0.001)
        end = asyncio.create_task(connection.await_end())
        try:
            while not end.done():
                message = asyncio.create_task(queue.get())
                await asyncio.wait({message, end}, return_when=asyncio.FIRST_COMPLETED)
                if message.done():
                    event = b"event: message\r\ndata: " + message.result() + b"\r\n\r\n"
                    await connection.send(actors_message.format_chunk(event))
                else:
                    message.cancel()
        finally:
            end.cancel()
            del self.held[session]


@pytest.fixture(scope="module", params=["fast", "story"])
def running_legacy(request: pytest.FixtureRequest, redis: redis_server.RedisServer) -> Iterator[Fleet]:
    servers: list[fleets.Replica] = [Legacy("replica-0"), Legacy("replica-1")]
    for server in servers:
        server.start()
    try:
        fast = request.param == "fast"
        with fleets.fleet(redis=redis, fast=fast, behind=servers) as running:
            yield running
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def legacy(running_legacy: Fleet) -> Iterator[Fleet]:
    running_legacy.begin()
    yield running_legacy
    fleets.assert_sound(running_legacy)


@contextlib.contextmanager
def stream(fleet: Fleet, proxy: int = 0, target: str = "/sse") -> Iterator[tuple[kit.RawClient, str]]:
    """An open stream, and the URI that its endpoint event named."""
    with fleet.client(proxy) as client:
        client.send(actors_message.format_request("GET", target, client.authority, LEGACY))
        head = client.head()
        assert head.status == 200
        assert (head.field("content-type") or "").startswith("text/event-stream")
        text = client.until(b"\r\n\r\n").decode()
        uri = re.search(r"data: (\S+)", text)
        assert uri is not None, text
        yield client, uri[1]


def say(fleet: Fleet, proxy: int, uri: str, number: int = 1, method: str = "ping") -> Message:
    return fleet.ask(proxy, "POST", uri, fleets.JSON, fleets.message(method, number))


def heard(client: kit.RawClient) -> dict[str, object]:
    text = client.until(b"\r\n\r\n").decode()
    data = re.search(r"data: (\{.*\})", text)
    assert data is not None, text
    found: dict[str, object] = json.loads(data[1])
    return found


def test_a_message_through_either_proxy_reaches_the_stream(legacy: Fleet) -> None:
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(stream(legacy, number % 2)) for number in range(4)]
        for number, (client, uri) in enumerate(streams):
            for proxy in (0, 1):
                answer = say(legacy, proxy, uri, 10 * number + proxy)
                assert (answer.status, answer.body) == (202, b"Accepted")
                said = heard(client)
                assert said["id"] == 10 * number + proxy
        homes = [
            json.loads(legacy.redis.execute("GET", fleets.PREFIX + key)) for key in legacy.stored() if legacy.redis
        ]
    assert len(homes) == 4
    assert {home["backend_url"] for home in homes} <= {replica.origin for replica in legacy.replicas}


def test_the_initialize_of_such_a_client_goes_to_its_stream_and_opens_nothing_more(legacy: Fleet) -> None:
    with stream(legacy) as (client, uri):
        for proxy in (0, 1):
            assert say(legacy, proxy, uri, 5, "initialize").status == 202
            assert heard(client)["id"] == 5
        assert len(legacy.stored()) == 1


def test_the_record_is_stored_before_the_endpoint_event_leaves(legacy: Fleet) -> None:
    for _ in range(10):
        with stream(legacy, 0) as (client, uri):
            assert say(legacy, 1, uri).status == 202
            (key,) = legacy.stored()
            record = legacy.record(key)
            assert record is not None
            assert uri == f"/messages/?session_id={key}"
            assert {name: record[name] for name in ("transport", "path", "protocol_version", "initialize")} == {
                "transport": "sse",
                "path": "/sse",
                "protocol_version": "2024-11-05",
                "initialize": {},
            }
            assert record["backend_session_id"] is None
            heard(client)
            client.close()
        fleets.await_that(lambda: not legacy.stored(), "the session has ended")


@pytest.mark.parametrize("which", ["client", "server"])
def test_a_stream_that_is_closed_ends_its_session_everywhere(legacy: Fleet, which: str) -> None:
    with stream(legacy, 0) as (client, uri):
        assert say(legacy, 1, uri).status == 202
        home = next(replica for replica in legacy.replicas if replica.got("GET"))
        if which == "client":
            client.close()
        else:
            home.kill()
        fleets.await_that(lambda: not legacy.stored(), "the record is gone", seconds_max=1.0)
        for proxy in (0, 1):
            answer = say(legacy, proxy, uri, 8)
            assert answer.status == 404
            assert answer.body == b'{"jsonrpc":"2.0","id":8,"error":{"code":-32001,"message":"Session not found"}}'


@pytest.mark.parametrize("name", ["sessionId", "session_id"])
@pytest.mark.parametrize("value", ["unknown", "", "a%20b", "x" * 2000])
def test_a_message_for_an_unknown_stream_is_refused_with_404(legacy: Fleet, name: str, value: str) -> None:
    answer = say(legacy, 0, f"/messages/?{name}={value}", 3)
    assert answer.status == 404
    assert answer.json() == {"jsonrpc": "2.0", "id": 3, "error": {"code": -32001, "message": "Session not found"}}
    assert not legacy.got("POST")


def test_a_session_of_streamable_http_is_no_stream(fleet: Fleet) -> None:
    session = fleet.open()
    assert say(fleet, 0, f"/messages/?session_id={session}").status == 404


def test_another_query_is_nobodys_session(fleet: Fleet) -> None:
    assert fleet.post(0, fleets.message("ping"), target="/mcp?sessionid=a&id=b").status == 200


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        pytest.param("/messages/?session_id={id}", "/messages/?session_id={id}", id="python"),
        pytest.param("/message?sessionId={id}", "/message?sessionId={id}", id="typescript"),
        pytest.param("{origin}/message?a=1&sessionId={id}&b=2", "/message?a=1&sessionId={id}&b=2", id="absolute"),
        pytest.param("messages?session_id={id}", "messages?session_id={id}", id="relative to the stream"),
        pytest.param("?session_id={id}", "?session_id={id}", id="a query alone"),
    ],
)
def test_the_uri_is_one_that_the_client_can_use(redis: redis_server.RedisServer, endpoint: str, expected: str) -> None:
    server = Legacy("one", endpoint)
    session = fleets.new_id()
    server.ids = lambda: session
    server.start()
    try:
        with (
            fleets.fleet("--key-prefix", "uri:", redis=redis, proxies=1, behind=[server]) as fleet,
            stream(fleet) as (_, uri),
        ):
            assert uri == expected.format(id=session)
            assert redis.execute("EXISTS", "uri:" + session) == 1
    finally:
        server.kill()


@pytest.mark.parametrize("endpoint", ["/base/messages/?session_id={id}", "{origin}/base/messages/?session_id={id}"])
def test_a_path_prefix_of_the_backend_stays_behind_the_proxy(redis: redis_server.RedisServer, endpoint: str) -> None:
    server = Legacy("one", endpoint)
    server.start()
    try:
        prefix = {"FASTPROXY_KEY_PREFIX": f"base-{len(endpoint)}:"}
        with kit.proxies(2, backends=[server.origin + "/base"], store=redis.url, environment=prefix) as proxies:
            fleet = Fleet(proxies, [server], redis, fast=True)
            with stream(fleet) as (client, uri):
                assert uri.startswith("/messages/?session_id=")
                assert say(fleet, 1, uri, 4).status == 202
                assert heard(client)["result"] == {"replica": "one", "target": "/base" + uri}
            assert [request.target for request in server.got("GET")] == ["/base/sse"]
    finally:
        server.kill()


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_two_backends_that_hand_out_the_same_stream_id_get_two_sessions(
    redis: redis_server.RedisServer, fast: bool
) -> None:
    servers = [Legacy("replica-0"), Legacy("replica-1")]
    for server in servers:
        server.ids = lambda: "twice"
        server.start()
    try:
        with fleets.fleet("--key-prefix", f"twice-{fast}:", redis=redis, fast=fast, behind=servers) as fleet:
            use_both(fleet)
            fleets.assert_sound(fleet)
    finally:
        for server in servers:
            server.kill()


def use_both(legacy: Fleet) -> None:
    with stream(legacy, 0) as (first, first_uri), stream(legacy, 0) as (second, second_uri):
        assert first_uri == "/messages/?session_id=twice"
        assert re.fullmatch(r"/messages/\?session_id=[0-9a-f]{32}", second_uri)
        names = set()
        for client, uri in ((first, first_uri), (second, second_uri)):
            for proxy in (0, 1):
                assert say(legacy, proxy, uri, proxy).status == 202
                said = heard(client)
                assert said["id"] == proxy
                result = said["result"]
                assert isinstance(result, dict)
                assert result["target"] == "/messages/?session_id=twice"
                names.add(result["replica"])
        assert names == {"replica-0", "replica-1"}


@pytest.mark.parametrize("first", [b": ping\n\n", b": one\r\n\r\n: two\r\n\r\n", b"\n\n"], ids=["lf", "crlf", "blank"])
def test_comments_before_the_endpoint_event_pass(redis: redis_server.RedisServer, first: bytes) -> None:
    server = Legacy("one", first=first)
    server.start()
    try:
        with fleets.fleet("--key-prefix", "first:", redis=redis, proxies=1, behind=[server]) as fleet:
            with fleet.client() as client:
                client.send(actors_message.format_request("GET", "/sse", client.authority, LEGACY))
                client.head()
                fleets.await_that(lambda: bool(server.held), "the stream is open")
                session = next(iter(server.held))
                fleets.await_that(lambda: redis.execute("EXISTS", "first:" + session) == 1, "it is learned")
                uri = f"/messages/?session_id={session}"
                assert say(fleet, 0, uri, 9).status == 202
                text = unchunked(client, b'"id": 9')
            assert text.startswith(first + b"event: endpoint\r\ndata: " + uri.encode() + b"\r\n\r\n")
            fleets.assert_sound(fleet)
    finally:
        server.kill()


def test_comments_of_a_stream_that_says_nothing_else_are_not_held_back_for_long(fleet: Fleet) -> None:
    async def speak(replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        await connection.send(actors_message.format_response("200 OK", head))
        for _ in range(20):
            await connection.send(actors_message.format_chunk(b": ping\n\n"))
            await asyncio.sleep(0.1)
        return True

    for replica in fleet.replicas:
        replica.act = speak
    with fleet.client() as client:
        client.send(actors_message.format_request("GET", "/mcp", client.authority, LEGACY))
        client.head()
        began = time.monotonic()
        unchunked(client, b": ping\n\n: ping\n\n")
        assert time.monotonic() - began < 1.5
        unchunked(client, b": ping\n\n")
    assert fleet.stored() == []


def unchunked(client: kit.RawClient, marker: bytes) -> bytes:
    """What a stream says up to a marker, without the framing."""
    text = b""
    while marker not in text:
        size = int(client.until(b"\r\n").strip(), 16)
        assert size, f"the stream ended: {text!r}"
        piece = b""
        while len(piece) < size + 2:
            piece += client.until(b"\n")
        text += piece[:-2]
    return text


def test_a_silent_stream_of_a_server_without_sessions_is_not_held_back(fleet: Fleet) -> None:
    with fleet.client() as client:
        client.send(actors_message.format_request("GET", "/mcp", client.authority, LEGACY))
        began = time.monotonic()
        head = client.head()
        assert time.monotonic() - began < 1.0
        assert head.status == 200
        assert client.is_silent(0.1)
    assert fleet.stored() == []


def test_a_stream_of_other_events_is_no_session_and_passes_as_it_comes(fleet: Fleet) -> None:
    notice = b'event: message\ndata: {"jsonrpc":"2.0","method":"notifications/x"}\n\n'

    async def speak(replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        await connection.send(actors_message.format_response("200 OK", head))
        for _ in range(3):
            await connection.send(actors_message.format_chunk(notice))
            await asyncio.sleep(0.05)
        await connection.send(actors_message.LAST_CHUNK)
        return True

    for replica in fleet.replicas:
        replica.act = speak
    assert fleet.ask(0, "GET", "/mcp", LEGACY).body == 3 * notice
    assert fleet.stored() == []


@pytest.mark.parametrize("status", ["405 Method Not Allowed", "400 Bad Request", "404 Not Found"])
def test_a_refusal_of_the_stream_passes(fleet: Fleet, status: str) -> None:
    async def refuse(replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        fields = {"Allow": "POST", "Mcp-Session-Id": "phantom"}
        await connection.send(actors_message.format_response(status, fields, b"no"))
        return True

    for replica in fleet.replicas:
        replica.act = refuse
    answer = fleet.ask(0, "GET", "/mcp", LEGACY)
    assert (answer.status, answer.body, answer.field("allow")) == (int(status[:3]), b"no", "POST")
    assert answer.field("mcp-session-id") is None


def test_a_stream_keeps_its_session_from_expiring(redis: redis_server.RedisServer) -> None:
    server = Legacy("one")
    server.start()
    try:
        flags = ("--key-prefix", "kept:", "--session-ttl", "2s")
        with fleets.fleet(*flags, redis=redis, behind=[server]) as fleet, stream(fleet) as (client, uri):
            time.sleep(3.5)
            assert say(fleet, 1, uri, 6).status == 202
            assert heard(client)["id"] == 6
    finally:
        server.kill()
