"""Answers of the proxy's own to requests of sessions (interface §3.2): status, code, message, reason, and the id.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas. Not here: framing faults, Host and
Origin (test_http_*.py), an absent store (test_session_store.py).
"""

import asyncio
import json
import time

import pytest

from tests import kit
from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message

IDS = [
    pytest.param(b"1", id="number"),
    pytest.param(b"-0", id="negative zero"),
    pytest.param(b"1.50", id="fraction"),
    pytest.param(b"1e3", id="exponent"),
    pytest.param(b"123456789012345678901234567890", id="big integer"),
    pytest.param(b'"abc"', id="string"),
    pytest.param(b'""', id="empty string"),
    pytest.param(b'"\\u00e9\\"\\\\\\ud83d\\ude00"', id="escapes"),
    pytest.param('"é☃😀"'.encode(), id="unicode"),
    pytest.param(b'"1"', id="digits in a string"),
]
NO_IDS = [
    pytest.param(b'"id":null,', id="null"),
    pytest.param(b"", id="missing"),
    pytest.param(b'"id":true,', id="true"),
    pytest.param(b'"id":{"a":1},', id="object"),
    pytest.param(b'"id":[1],', id="list"),
]


def said_with(id_text: bytes) -> bytes:
    return b'{"jsonrpc":"2.0", "id" :  ' + id_text + b' ,"method":"tools/call","params":{"id":"not this one"}}'


def refused(answer: Message, status: int, code: int) -> dict[str, object]:
    """The error of a refusal, after a look at its form."""
    assert answer.status == status, answer
    assert answer.field("content-type") == "application/json"
    body: dict[str, object] = answer.json()
    assert set(body) <= {"jsonrpc", "id", "error"}
    assert body["jsonrpc"] == "2.0"
    error = body["error"]
    assert isinstance(error, dict)
    assert error["code"] == code
    return error


# ---- 404: unknown, expired, ended


@pytest.mark.parametrize("id_text", IDS)
def test_a_refusal_repeats_the_id_as_it_was_written(fleet: Fleet, id_text: bytes) -> None:
    answer = fleet.post(0, said_with(id_text), "unknown")
    assert answer.status == 404
    expected = b'{"jsonrpc":"2.0","id":' + id_text + b',"error":{"code":-32001,"message":"Session not found"}}'
    assert answer.body == expected
    assert answer.field("connection") is None, "the connection is good for the next request"


@pytest.mark.parametrize("member", NO_IDS)
def test_a_refusal_of_a_message_without_an_id_has_none(fleet: Fleet, member: bytes) -> None:
    answer = fleet.post(1, b"{" + member + b'"jsonrpc":"2.0","method":"notifications/x"}', "unknown")
    assert answer.status == 404
    assert answer.body == b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"}}'


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'[{"id":1}]', b"{", b'{"id":1}x', b'{"id":"\xff"}', b"1", b"\x00"], ids=repr
)
def test_a_refusal_of_what_is_no_message_has_no_id(fleet: Fleet, body: bytes) -> None:
    answer = fleet.post(0, body, "unknown")
    assert answer.status == 404
    assert answer.body == b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"}}'


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "PUT"])
def test_an_unknown_session_is_refused_with_404_whatever_the_method(fleet: Fleet, method: str) -> None:
    answer = fleet.ask(0, method, "/mcp", {"Mcp-Session-Id": "unknown", "Accept": "text/event-stream"})
    assert answer.status == 404
    body = b"" if method == "HEAD" else b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"}}'
    assert answer.body == body
    assert not fleet.got(method)


def test_the_id_is_found_in_a_body_of_many_pieces_and_in_a_large_one(fleet: Fleet) -> None:
    body = fleets.message("tools/call", 77, text="x" * 200_000)
    assert refused(fleet.post(0, body, "unknown"), 404, -32001)["message"] == "Session not found"
    assert fleet.post(0, body, "unknown").json()["id"] == 77
    chunks = b"".join(actors_message.format_chunk(body[at : at + 777]) for at in range(0, len(body), 777))
    fields = {**fleets.ACCEPT, "Transfer-Encoding": "chunked", "Mcp-Session-Id": "unknown"}
    answer = fleet.ask(0, "POST", "/mcp", fields, chunks + actors_message.LAST_CHUNK)
    assert (answer.status, answer.json()["id"]) == (404, 77)


# ---- 400: not an id at all


@pytest.mark.parametrize(
    "session",
    ["", "x" * 1025, "a b", "caf\xe9", "tab\tinside", "\xff"],
    ids=["empty", "1025 bytes", "blank", "e acute", "tab", "0xff"],
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_malformed_session_id_is_refused_with_400(fleet: Fleet, method: str, session: str) -> None:
    body = fleets.message("ping", 5) if method == "POST" else None
    answer = fleet.ask(0, method, "/mcp", {**fleets.ACCEPT, "Mcp-Session-Id": session}, body)
    error = refused(answer, 400, -32600)
    assert "data" not in error
    assert answer.json().get("id") == (5 if method == "POST" else None)


def test_an_id_of_1024_bytes_is_unknown_rather_than_malformed(fleet: Fleet) -> None:
    assert fleet.call(0, "x" * 1024).status == 404


def test_a_malformed_id_does_not_matter_where_the_id_does_not(fleet: Fleet) -> None:
    assert fleet.call(0, "a b", MCP_Protocol_Version="2026-07-28").status == 200
    answer = fleet.post(0, fleets.message("initialize", 1, **fleets.INITIALIZE), "")
    assert answer.status == 200
    assert answer.field("mcp-session-id")


def test_a_repeated_session_id_is_refused_and_the_connection_closed(fleet: Fleet) -> None:
    session = fleet.open()
    with fleet.client() as client:
        twice = f"POST /mcp HTTP/1.1\r\nHost: {client.authority}\r\nContent-Length: 2\r\n"
        twice += f"Mcp-Session-Id: {session}\r\nmcp-session-id: {session}\r\n\r\n{{}}"
        client.send(twice.encode())
        assert client.response().status == 400
        assert client.rest() == b""


# ---- 502, 503, 504: the replicas


def test_when_every_connect_fails_the_answer_is_in_band_for_a_request_and_502_for_the_rest(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        replica.kill()
    answer = fleet.call(0, None, "seven")
    error = refused(answer, 200, -32603)
    assert answer.json()["id"] == "seven"
    assert error["data"] == {"reason": "backend_unreachable"}
    assert answer.field("retry-after") is None
    for replica in fleet.replicas:
        replica.start()


def test_502_is_the_form_for_notifications_for_get_and_for_the_era_without_sessions(fleet: Fleet) -> None:
    cases: list[tuple[bytes, dict[str, str]]] = [
        (fleets.message("notifications/x", None), {}),
        (fleets.message("ping", 1), {"MCP_Protocol_Version": "2026-07-28"}),
        (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', {}),
        (b'{"jsonrpc":"2.0","id":1,"result":{}}', {}),
    ]
    for number, (message, fields) in enumerate(cases):
        if number % 2 == 0:  # each proxy says so once: then it knows that nobody is live
            fleet.begin()
            for replica in fleet.replicas:
                replica.kill()
        error = refused(fleet.post(number % 2, message, **fields), 502, -32603)
        assert error["data"] == {"reason": "backend_unreachable"}
    fleet.begin()
    for replica in fleet.replicas:
        replica.kill()
    assert refused(fleet.ask(0, "GET", "/"), 502, -32603)["data"] == {"reason": "backend_unreachable"}


def test_when_no_replica_is_live_the_answer_says_so_and_when_to_come_again(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        replica.kill()
    fleet.call(0, None)  # both connects fail
    answer = fleet.call(0, None, 3)
    assert refused(answer, 200, -32603)["data"] == {"reason": "backend_unavailable"}
    assert answer.json()["id"] == 3
    assert answer.field("retry-after") is None
    answer = fleet.post(0, fleets.message("notifications/x", None))
    assert refused(answer, 503, -32603)["data"] == {"reason": "backend_unavailable"}
    assert answer.field("retry-after") == "1"
    assert fleet.post(0, fleets.message("initialize", 1)).json()["error"]["data"] == {"reason": "backend_unavailable"}
    fleet.replicas[0].start()
    fleets.await_that(lambda: fleet.call(0, None).json().get("result") is not None, "back by itself", seconds_max=3.0)


@pytest.mark.parametrize("session", [False, True], ids=["no session", "session"])
def test_a_connection_that_is_lost_after_the_request_is_told_and_never_tried_again(fleet: Fleet, session: bool) -> None:
    known = fleet.open() if session else None

    async def hang_up(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        await connection.close()
        return True

    for replica in fleet.replicas:
        replica.act = hang_up
        replica.requests.clear()
    for proxy in (0, 1):
        answer = fleet.call(proxy, known, 9)
        assert refused(answer, 200, -32603)["data"] == {"reason": "backend_lost", "may_have_run": True}
        assert answer.json()["id"] == 9
    answer = fleet.post(0, fleets.message("notifications/x", None), known)
    assert refused(answer, 502, -32603)["data"] == {"reason": "backend_lost", "may_have_run": True}
    assert len(fleet.got("POST")) == 3
    assert known is None or fleet.record(known) is not None


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\r\n", id="not HTTP"),
        pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 70_000, id="head over 64 KiB"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Le", id="cut in the head"),
    ],
)
def test_an_answer_that_is_not_http_is_told_as_such(fleet: Fleet, answer: bytes) -> None:
    session = fleet.open()

    async def speak(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        await connection.send(answer)
        await connection.close()
        return True

    for replica in fleet.replicas:
        replica.act = speak
    for known, version, status in ((session, "2025-06-18", 200), (None, "2025-06-18", 200), (None, "2026-07-28", 502)):
        error = refused(fleet.call(0, known, 4, MCP_Protocol_Version=version), status, -32603)
        assert error["data"] == {"reason": "backend_protocol_error", "may_have_run": True}


def test_an_answer_that_does_not_come_is_told_and_the_work_goes_on(redis: redis_server.RedisServer) -> None:
    async def sleep(replica: fleets.Replica, connection: actors_wire.Connection, request: Message) -> bool:
        if fleets.rpc_method(request) == "initialize":
            return False
        await asyncio.sleep(3)
        return False

    for fast in (True, False):
        flags = ("--response-timeout", "500ms", "--key-prefix", f"{fast}:")
        with fleets.fleet(*flags, fast=fast, proxies=1, redis=redis) as fleet:
            answer = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE))
            session = answer.field("mcp-session-id")
            for replica in fleet.replicas:
                replica.act = sleep
            began = time.monotonic()
            answer = fleet.call(0, session, 11)
            assert 0.4 < time.monotonic() - began < 2.0
            assert refused(answer, 200, -32603)["data"] == {"reason": "backend_timeout", "may_have_run": True}
            assert answer.json()["id"] == 11
            answer = fleet.ask(0, "GET", "/mcp", {"Mcp-Session-Id": session or "", "Accept": "text/event-stream"})
            assert refused(answer, 504, -32603)["data"] == {"reason": "backend_timeout", "may_have_run": True}
            fleets.assert_sound(fleet)


# ---- records that are not ours


@pytest.mark.parametrize("lane", ["cached", "unknown"])
def test_a_record_of_a_newer_version_is_respected(fleet: Fleet, lane: str) -> None:
    session = fleet.open()
    assert fleet.redis is not None
    record = {**(fleet.record(session) or {}), "v": 2, "backend_url": ["another type"]}
    newer = json.dumps(record)
    fleet.redis.execute("SET", fleets.PREFIX + session, newer, "EX", 1000)
    proxies = (0, 1) if lane == "cached" else (1, 0)
    time.sleep(0.1)
    for proxy in proxies:
        answer = fleet.call(proxy, session, 6)
        assert refused(answer, 503, -32603)["data"] == {"reason": "record_too_new"}
        assert answer.json()["id"] == 6
        assert answer.field("retry-after") is None
        answer = fleet.ask(proxy, "DELETE", "/mcp", {"Mcp-Session-Id": session})
        assert refused(answer, 503, -32603)["data"] == {"reason": "record_too_new"}
    assert fleet.redis.execute("GET", fleets.PREFIX + session) == newer.encode()


def test_values_that_are_no_records_are_counted_and_missing(fleet: Fleet) -> None:
    assert fleet.redis is not None
    good = fleet.record(fleet.open()) or {}
    own: dict[str, object] = {**good, "session_id": "broken"}
    values: list[bytes] = [
        b"",
        b"garbage",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"v":1}',
        json.dumps({**own, "session_id": "another"}).encode(),
        json.dumps({**own, "generation": "one"}).encode(),
        json.dumps({**own, "generation": 0}).encode(),
        json.dumps({**own, "v": 0}).encode(),
        json.dumps({**own, "initialize": None}).encode(),
        json.dumps({**own, "backend_session_id": "two\r\nlines: 1"}).encode(),
        json.dumps({**own, "backend_session_id": "日本"}).encode(),
        json.dumps({**own, "path": "no slash"}).encode(),
        json.dumps({**own, "transport": "pigeon"}).encode(),
        json.dumps(own).encode()[:-1],
        b"[" * 100_000,
    ]
    for number, value in enumerate(values):
        fleet.redis.execute("SET", fleets.PREFIX + "broken", value)
        time.sleep(0.02)
        before = fleet.metric("fastproxy_store_bad_records_total")
        for proxy in (0, 1):
            assert fleet.call(proxy, "broken").status == 404, (number, value)
        assert fleet.metric("fastproxy_store_bad_records_total") - before == 2, (number, value)
    fleet.redis.execute("DEL", fleets.PREFIX + "broken")
    fleet.redis.execute("RPUSH", fleets.PREFIX + "broken", "a list")
    assert fleet.call(0, "broken").status == 404
    urls = ["http://127.0.0.1", "ftp://127.0.0.1:1", "127.0.0.1:1", "", "http://:80", "http://[::1:80", "http://h:0"]
    for url in urls:
        fleet.redis.execute("DEL", fleets.PREFIX + "broken")
        fleet.redis.execute("SET", fleets.PREFIX + "broken", json.dumps({**own, "backend_url": url}))
        time.sleep(0.02)
        assert fleet.call(0, "broken").status == 404, url


def test_a_record_of_a_proxy_with_another_list_of_replicas_is_followed(fleet: Fleet) -> None:
    with fleets.replicas(1) as (elsewhere,):
        elsewhere.name = "elsewhere"
        assert fleet.redis is not None
        record = {**(fleet.record(fleet.open()) or {}), "session_id": "foreign", "backend_url": elsewhere.origin}
        fleet.redis.execute("SET", fleets.PREFIX + "foreign", json.dumps(record), "EX", 100)
        elsewhere.sessions["foreign"] = 41
        assert fleet.count(0, "foreign") == 42
        elsewhere.requests.clear()
        assert {fleets.result_of(fleet.call(0, None))["replica"] for _ in range(4)} == {"replica-0", "replica-1"}
        assert not elsewhere.requests, "nothing that is new"
        states = {backend["url"]: backend["state"] for backend in fleet.proxies[0].backends()}
        assert states[elsewhere.origin] == "leaving"


def test_more_sessions_than_the_embedded_store_may_hold_are_refused() -> None:
    for fast in (True, False):
        with fleets.fleet("--max-sessions", "2", fast=fast, proxies=1) as fleet:
            sessions = [fleet.open(), fleet.open()]
            answer = fleet.post(0, fleets.message("initialize", 8))
            assert refused(answer, 503, -32603)["data"] == {"reason": "too_many_sessions"}
            assert answer.json()["id"] == 8
            assert len(fleet.got("POST", "initialize")) == 2, "the third never ran"
            assert [fleet.count(0, session) for session in sessions] == [1, 1]
            fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": sessions[0]})
            assert fleet.count(0, fleet.open()) == 1


async def speak_http(connection: actors_wire.Connection) -> None:
    while await connection.read_some():
        await connection.send(actors_message.format_response("400 Bad Request"))


def test_a_peer_that_is_not_redis_or_refuses_us_ends_the_start(redis: redis_server.RedisServer) -> None:
    with (
        redis_server.RedisServer(password="sesame") as locked,
        actors_wire.ScriptedBackend(speak_http) as web,
        fleets.replicas(1) as (replica,),
    ):
        cases = [
            (locked.url, {"FASTPROXY_REDIS_PASSWORD": "wrong-secret"}, "password"),
            (locked.url, {}, "password"),
            (f"redis://127.0.0.1:{redis.port}/99", {}, "database"),
            (f"redis://127.0.0.1:{web.port}/0", {}, "redis"),
        ]
        flags = ["--backend", replica.origin]
        proxies = [
            kit.Proxy(flags, environment={"FASTPROXY_STORE": store, **environment}, await_readyz=False)
            for store, environment, _ in cases
        ]
        try:
            for proxy in proxies:
                proxy.start()
            for proxy, (store, _, words) in zip(proxies, cases, strict=True):
                assert proxy.wait(15.0) == 1, store
                assert words in proxy.stderr.lower(), proxy.stderr
                assert "wrong-secret" not in proxy.stderr
                assert "Traceback" not in proxy.stderr
        finally:
            for proxy in proxies:
                proxy.kill()
