"""How sessions begin over streamable HTTP: which message opens one, what is stored of it, and when.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas. Legacy HTTP+SSE has a file of its
own, and so have refusals.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable

import pytest

from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


def padded(size_bytes: int) -> bytes:
    """An initialize of exactly that size."""
    bare = fleets.message("initialize", 1, **fleets.INITIALIZE, text="")
    return fleets.message("initialize", 1, **fleets.INITIALIZE, text="x" * (size_bytes - len(bare)))


def test_the_record_in_redis_is_exactly_as_the_interface_writes_it(fleet: Fleet) -> None:
    session = fleet.open(protocolVersion="2025-03-26", text='é" \\ ☃', big=123456789012345678901234567890)
    record = fleet.record(session)
    assert record is not None
    assert list(record) == [
        "v",
        "session_id",
        "backend_pod",
        "backend_url",
        "backend_session_id",
        "transport",
        "path",
        "protocol_version",
        "initialize",
        "created_at",
        "updated_at",
        "generation",
    ]
    assert TIMESTAMP.fullmatch(record["created_at"])
    assert record["updated_at"] == record["created_at"]
    assert record == {
        "v": 1,
        "session_id": session,
        "backend_pod": None,
        "backend_url": fleet.replica_of(session).origin,
        "backend_session_id": None,
        "transport": "streamable-http",
        "path": "/mcp",
        "protocol_version": "2025-03-26",
        "initialize": {
            **fleets.INITIALIZE,
            "protocolVersion": "2025-03-26",
            "text": 'é" \\ ☃',
            "big": 123456789012345678901234567890,
        },
        "created_at": record["created_at"],
        "updated_at": record["updated_at"],
        "generation": 1,
    }
    assert fleet.redis is not None
    assert 7100 < fleet.redis.execute("TTL", fleets.PREFIX + session) <= 7200


@pytest.mark.parametrize("events", [False, True], ids=["json", "event stream"])
def test_the_negotiated_revision_is_the_servers_word(fleet: Fleet, events: bool) -> None:
    async def settle(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "initialize":
            return False
        replica.sessions["negotiated"] = 0
        body = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25","capabilities":{}}}'
        fields = {"Mcp-Session-Id": "negotiated"}
        if events:
            fields |= {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
            notice = b'event: message\r\ndata: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\r\n\r\n'
            await connection.send(actors_message.format_response("200 OK", fields))
            await connection.send(actors_message.format_chunk(b": hello\n\n" + notice + b"id: 7\r\nda"))
            await asyncio.sleep(0.02)
            await connection.send(actors_message.format_chunk(b"ta: " + body + b"\r\n\r\n") + actors_message.LAST_CHUNK)
        else:
            fields |= fleets.JSON
            await connection.send(actors_message.format_response("200 OK", fields, body))
        return True

    for replica in fleet.replicas:
        replica.act = settle
    answer = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
    assert answer.field("mcp-session-id") == "negotiated"
    assert b'"protocolVersion":"2025-11-25"' in answer.body
    if events:
        assert answer.body.startswith(b": hello\n\nevent: message\r\ndata: {")
    record = fleet.record("negotiated")
    assert record is not None
    assert record["protocol_version"] == "2025-11-25"
    assert record["initialize"]["protocolVersion"] == fleets.PROTOCOL


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"\\u0069nitializ\\u0065","params":{}}', id="escaped method"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"m\\u0065thod":"initialize","params":{}}', id="escaped name"),
        pytest.param(b'\r\n\t {"id":1,"params":{"method":"ping"},"method":"initialize"}  ', id="method last"),
        pytest.param(b'{"id":1,"method":"ping","method":"initialize","params":{}}', id="the last of two"),
        pytest.param(b'{"id":1,"method":"initialize","params":[1,2]}', id="params of another kind"),
        pytest.param(b'{"id":1,"method":"initialize"}', id="no params"),
    ],
)
def test_an_initialize_is_known_however_it_is_written_and_loses_an_inbound_id(fleet: Fleet, body: bytes) -> None:
    before = fleet.open()
    for replica in fleet.replicas:
        replica.requests.clear()
        replica.act = _open_any
    answer = fleet.post(1, body, before)
    session = answer.field("mcp-session-id")
    assert session not in (None, before)
    (asked,) = fleet.got("POST")
    assert asked.body == body
    assert asked.field("mcp-session-id") is None
    assert fleet.record(session or "") is not None
    assert fleet.record(before) is not None, "the other session goes on"


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{"method":"initialize"}}', id="in params"),
        pytest.param(b'{"id":1,"method":"initialize","method":"ping"}', id="the first of two"),
        pytest.param(b'[{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}]', id="batch"),
        pytest.param(b'{"id":1,"method":"Initialize"}', id="another case"),
        pytest.param(b'{"id":1,"method":"notifications/initialized"}', id="initialized"),
        pytest.param(b'{"id":1,"method":["initialize"]}', id="a list"),
        pytest.param(b'{"id":1,"method":"initialize"', id="cut"),
        pytest.param(b'{"id":1,"method":"initialize"} {}', id="more behind it"),
        pytest.param(b'{"id":1,"method":"\\ud800initialize"}', id="half a character"),
        pytest.param(b'{"id":1,"method":"initialize\xff"}', id="no UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"id":1,"method":"initialize"}', id="a byte-order mark"),
        pytest.param(b'"initialize"', id="a string"),
    ],
)
def test_what_is_no_initialize_opens_nothing_and_stays_with_its_session(fleet: Fleet, body: bytes) -> None:
    session = fleet.open()
    home = fleet.replica_of(session)
    for replica in fleet.replicas:
        replica.requests.clear()
        replica.act = _open_any
    keys = fleet.stored()
    assert fleet.post(1, body, session).field("mcp-session-id") == session
    (asked,) = home.requests
    assert (asked.body, asked.field("mcp-session-id")) == (body, session)
    fleet.post(0, body)
    assert fleet.stored() == keys, "nothing was learned"


async def _open_any(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
    session = fleets.new_id()
    replica.sessions[session] = 0
    fields = {**fleets.JSON, "Mcp-Session-Id": session}
    await connection.send(actors_message.format_response("200 OK", fields, b'{"jsonrpc":"2.0","id":1,"result":{}}'))
    return True


@pytest.mark.parametrize("chunked", [False, True], ids=["counted", "chunked"])
def test_an_initialize_is_looked_for_in_64_kib_and_no_more(fleet: Fleet, chunked: bool) -> None:
    for size_bytes, known in ((65_535, True), (65_536, True), (65_537, False), (200_000, False)):
        for replica in fleet.replicas:
            replica.requests.clear()
        body = padded(size_bytes)
        if chunked:
            pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
            framed = b"".join(map(actors_message.format_chunk, pieces)) + actors_message.LAST_CHUNK
            fields = {**fleets.ACCEPT, "Transfer-Encoding": "chunked"}
            answer = fleet.ask(0, "POST", "/mcp", fields, framed)
        else:
            answer = fleet.post(0, body)
        assert answer.status == 200
        (asked,) = fleet.got("POST")
        assert asked.body == body
        session = answer.field("mcp-session-id")
        assert session is not None
        assert (fleet.record(session) is not None) == known, size_bytes


def test_a_server_without_sessions_opens_none(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        replica.ids = lambda: None
    answer = fleet.post(0, fleets.message("initialize", 1, **fleets.INITIALIZE))
    assert answer.status == 200
    assert answer.field("mcp-session-id") is None
    assert fleet.stored() == []


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "500 Internal Server Error", "307 Moved"])
def test_an_id_on_an_initialize_that_failed_is_dead(fleet: Fleet, status: str) -> None:
    async def refuse(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        fields = {"Mcp-Session-Id": "dead", "WWW-Authenticate": "Bearer", "Location": "/other"}
        await connection.send(actors_message.format_response(status, fields, b"{}"))
        return True

    for replica in fleet.replicas:
        replica.act = refuse
    answer = fleet.post(0, fleets.message("initialize", 1), "inbound")
    assert answer.status == int(status[:3])
    assert answer.field("mcp-session-id") is None
    assert answer.field("www-authenticate") == "Bearer"
    assert fleet.stored() == []


def test_the_record_is_stored_before_the_head_leaves(fleet: Fleet) -> None:
    """The replica stalls after its head: the client has it, and the other proxy knows the session at that moment."""

    async def stall(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) != "initialize":
            return False
        replica.sessions["stalled"] = 0
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", "Mcp-Session-Id": "stalled"}
        await connection.send(actors_message.format_response("200 OK", fields))
        await asyncio.sleep(2.0)
        event = b'data: {"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-11-25"}}\n\n'
        await connection.send(actors_message.format_chunk(event) + actors_message.LAST_CHUNK)
        return True

    for replica in fleet.replicas:
        replica.act = stall
    with fleet.client(0) as client:
        client.send(
            actors_message.format_request(
                "POST",
                "/mcp",
                client.authority,
                fleets.ACCEPT,
                fleets.message("initialize", 0, **fleets.INITIALIZE),
            )
        )
        began = time.monotonic()
        head = client.head()
        assert time.monotonic() - began < 1.7, "a head waits a second for its result, no longer"
        assert head.field("mcp-session-id") == "stalled"
        assert fleets.result_of(fleet.call(1, "stalled"))["count"] == 1
        assert b'"protocolVersion":"2025-11-25"' in client.until(b"0\r\n\r\n")
    record = fleet.record("stalled")
    assert record is not None
    assert record["protocol_version"] == fleets.PROTOCOL, "what the client proposed, for want of better"


def test_a_session_can_be_used_through_the_other_proxy_at_once(fleet: Fleet) -> None:
    for _ in range(20):
        assert fleet.count(1, _open_bare(fleet)) == 1


def _open_bare(fleet: Fleet) -> str:
    answer = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
    session = answer.field("mcp-session-id")
    assert session is not None
    return session


def test_an_answer_to_initialize_that_is_cut_opens_nothing(fleet: Fleet) -> None:
    async def cut(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        fields = {**fleets.JSON, "Mcp-Session-Id": "cut", "Content-Length": "100"}
        await connection.send(actors_message.format_response("200 OK", fields, b'{"jsonrpc"'))
        await connection.close()
        return True

    for replica in fleet.replicas:
        replica.act = cut
    answer = fleet.post(0, fleets.message("initialize", 5))
    assert answer.status == 200
    assert answer.json()["id"] == 5
    assert answer.json()["error"]["data"] == {"reason": "backend_lost", "may_have_run": True}
    assert fleet.stored() == []


@pytest.mark.parametrize("same_id", ["twice", "with/odd=bytes"])
def test_two_backends_that_hand_out_the_same_id_get_two_sessions(fleet: Fleet, same_id: str) -> None:
    for replica in fleet.replicas:
        replica.ids = lambda: same_id
    first, second = fleet.open_everywhere()
    if second == same_id:
        first, second = second, first
    assert first == same_id
    assert re.fullmatch(r"[0-9a-f]{32}", second)
    places = set()
    for session in (first, second):
        for proxy in (0, 1, 0):
            answer = fleet.call(proxy, session)
            assert answer.all("mcp-session-id") == [session], "the client's own id, in every answer"
            assert fleets.result_of(answer)["session"] == same_id, "and the backend its own"
            places.add((session, fleets.result_of(answer)["replica"]))
    assert len(places) == 2
    assert len({replica for _, replica in places}) == 2
    record = fleet.record(second)
    assert record is not None
    assert record["backend_session_id"] == same_id
    assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": second}).status == 200
    assert fleet.call(1, second).status == 404
    assert fleet.count(1, first) == 4, "the other goes on"


@pytest.mark.parametrize(
    "strange", ["", "x" * 1025, "with blank", "caf\xe9"], ids=["empty", "too long", "blank", "not ASCII"]
)
def test_an_id_that_no_client_could_send_is_replaced_by_one_of_our_own(fleet: Fleet, strange: str) -> None:
    for replica in fleet.replicas:
        replica.ids = lambda: strange
    session = fleet.post(0, fleets.message("initialize", 1, **fleets.INITIALIZE)).field("mcp-session-id")
    assert session is not None
    assert re.fullmatch(r"[0-9a-f]{32}", session)
    for proxy in (0, 1):
        answer = fleet.call(proxy, session)
        assert answer.field("mcp-session-id") == session
        assert fleets.result_of(answer)["session"] == strange


def test_a_client_that_leaves_during_initialize_leaves_a_record_that_can_be_used(fleet: Fleet) -> None:
    """Its work goes on at the backend (spec 2025-11-25); the session idles out by its TTL."""
    for replica in fleet.replicas:
        replica.initialize_seconds = 0.3
        replica.ids = lambda: "left-alone"
    with fleet.client() as client:
        body = fleets.message("initialize", 1, **fleets.INITIALIZE)
        client.send(actors_message.format_request("POST", "/mcp", client.authority, fleets.ACCEPT, body))
        fleets.await_that(lambda: len(fleet.got("POST")) == 1, "the backend has it")
    fleets.await_that(lambda: fleet.record("left-alone") is not None, "the record is stored")
    assert fleet.count(1, "left-alone") == 1


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "story"])
def test_many_openings_at_once_are_all_learned_and_spread(redis: redis_server.RedisServer, fast: bool) -> None:
    with fleets.fleet(redis=redis, fast=fast, environment={"FASTPROXY_KEY_PREFIX": f"burst-{fast}:"}) as fleet:
        open_many(fleet, f"burst-{fast}:")


def open_many(fleet: Fleet, prefix: str) -> None:
    clients = [fleet.client(number % 2) for number in range(40)]
    with contextlib.ExitStack() as stack:
        body = fleets.message("initialize", 1, **fleets.INITIALIZE)
        for client in clients:
            stack.enter_context(client)
            client.send(actors_message.format_request("POST", "/mcp", client.authority, fleets.ACCEPT, body))
        sessions = [client.response().field("mcp-session-id") or "" for client in clients]
    assert fleet.redis is not None
    stored = [key.decode().removeprefix(prefix) for key in fleet.redis.execute("KEYS", prefix + "session*")]
    assert sorted(stored) == sorted(sessions)
    loads = [len(replica.sessions) for replica in fleet.replicas]
    assert loads == [20, 20]


Check = Callable[[dict[str, object]], bool]


def test_ids_at_the_borders_of_what_is_allowed(fleet: Fleet) -> None:
    """128 bytes are a key as they are, longer ones and odd ones a digest; 1024 is the longest."""
    printable = "".join(chr(code) for code in range(0x21, 0x7F))
    for session in ("x" * 128, "y" * 129, "z" * 1024, printable, "!claim:a", "!", "*?[a]", "{a}b", "a:b"):
        for replica in fleet.replicas:
            replica.ids = lambda session=session: session
        answer = fleet.post(0, fleets.message("initialize", 1, **fleets.INITIALIZE))
        assert answer.field("mcp-session-id") == session
        lookups = fleet.metric("fastproxy_session_lookups_total", result="store")
        assert [fleet.count(proxy, session) for proxy in (0, 1, 1, 0)] == [1, 2, 3, 4]
        assert fleet.metric("fastproxy_session_lookups_total", result="store") - lookups == 1, "then it is cached"
    keys = fleet.stored()
    assert "x" * 128 in keys
    assert len([key for key in keys if re.fullmatch("[0-9a-f]{64}", key)]) == 8
    for key in keys:
        value = fleet.redis.execute("GET", fleets.PREFIX + key) if fleet.redis else b""
        session = json.loads(value)["session_id"]
        assert fleet.call(1, session).status == 200
        if session != key:
            assert fleet.call(0, key).status == 404, "the digest of an id is not the id"
            assert fleet.call(1, key).status == 404
