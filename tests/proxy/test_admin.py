"""The pages of the admin address, on a real data plane (stage.py), a real relay, real sockets, and real Redis where the
store matters; then once more through the real program.

Not covered here: what a drain does to streams, and that ending a session reaches a real MCP server (the story's tests).
"""

import contextlib
import functools
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import pytest

from fastproxy.session import record
from tests import kit
from tests.kit import redis_server
from tests.proxy import stage

NOWHERE = "http://127.0.0.1:9"  # nobody listens there; nothing connects before somebody asks
JSON = "application/json"


@pytest.fixture
def proxy() -> Iterator[stage.Stage]:
    with stage.Stage({"backend": [NOWHERE], "name": "shop"}) as running:
        yield running


def make_session(session_id: str, url: str = NOWHERE, **members: Any) -> record.SessionRecord:
    return record.SessionRecord(
        session_id=session_id, backend_url=url, protocol_version="2025-06-18", created_at=record.timestamp(0), **members
    )


def remember(proxy: stage.Stage, *session_ids: str, **members: Any) -> None:
    for session_id in session_ids:
        assert proxy.run(functools.partial(proxy.plane.book.create, make_session(session_id, **members)))


def eventually(holds: Callable[[], bool], seconds_max: float = 5.0) -> None:
    end = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < end, f"not within {seconds_max} s"
        time.sleep(0.02)


# ---- is it well


def test_a_process_that_lives_is_healthy_even_while_it_drains(proxy: stage.Stage) -> None:
    assert proxy.ask("GET", "/healthz").status == 200
    proxy.ask("POST", "/drain")
    assert proxy.ask("GET", "/healthz").status == 200


def test_a_proxy_with_a_live_replica_and_a_store_is_ready(proxy: stage.Stage) -> None:
    answer = proxy.ask("GET", "/readyz")
    assert (answer.status, answer.json()["ready"], answer.json()["reasons"]) == (200, True, [])
    assert answer.fields["Content-Type"] == JSON and answer.fields["Cache-Control"] == "no-store"


def test_a_starting_proxy_is_not_ready(proxy: stage.Stage) -> None:
    proxy.plane.lifecycle = "starting"
    answer = proxy.ask("GET", "/readyz")
    assert (answer.status, answer.json()["ready"], answer.json()["reasons"]) == (503, False, ["starting"])


def test_a_proxy_without_a_live_replica_is_not_ready_and_says_what_the_replica_suffers_from(proxy: stage.Stage) -> None:
    proxy.send("POST", "/mcp", body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    answer = proxy.ask("GET", "/readyz")
    assert (answer.status, answer.json()["reasons"]) == (503, ["backend_unavailable"])
    assert "refused" in answer.json()["details"]["backend_unavailable"].lower()


def test_a_proxy_is_not_ready_before_its_store_has_answered_and_stays_so_when_the_store_goes_away() -> None:
    with redis_server.RedisServer() as server:
        server.stop()
        with stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
            answer = proxy.ask("GET", "/readyz")
            assert (answer.status, answer.json()["reasons"]) == (503, ["session_store_unavailable"])
            server.start()
            eventually(lambda: proxy.ask("GET", "/readyz").json() == {"ready": True, "reasons": [], "details": {}})
            server.kill()
            eventually(lambda: proxy.ask("GET", "/readyz").json()["reasons"] == ["session_store_unavailable"])
            answer = proxy.ask("GET", "/readyz")
            assert (answer.status, answer.json()["ready"]) == (200, True)
            server.start()
            eventually(lambda: proxy.ask("GET", "/readyz").json()["reasons"] == [])


def test_readiness_notices_that_a_store_which_nobody_uses_has_gone_silent() -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
        server.freeze()
        started = time.monotonic()
        answer = proxy.ask("GET", "/readyz")
        assert (answer.status, answer.json()["reasons"]) == (200, ["session_store_unavailable"])
        assert time.monotonic() - started < 2.0
        started = time.monotonic()
        proxy.ask("GET", "/readyz")
        assert time.monotonic() - started < 0.5, "known to be away: nobody waits for it again"
        server.thaw()
        eventually(lambda: proxy.ask("GET", "/readyz").json()["reasons"] == [])


# ---- what it holds


def test_sessions_are_listed_page_by_page_each_once(proxy: stage.Stage) -> None:
    names = {f"session-{number:04}" for number in range(257)}
    remember(proxy, *names)
    found: list[str] = []
    cursor, pages = "", 0
    while True:
        page = proxy.ask("GET", f"/sessions?limit=50&cursor={quote(cursor)}").json()
        found += [session["session_id"] for session in page["sessions"]]
        assert len(page["sessions"]) <= 50
        pages += 1
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert sorted(found) == sorted(names) and pages >= 6
    assert len(proxy.ask("GET", "/sessions").json()["sessions"]) == 100
    assert len(proxy.ask("GET", "/sessions?limit=1000").json()["sessions"]) == 257


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=-1",
        "limit=ten",
        "limit=",
        "limit=%D9%A1",
        "limit=99999999999999999999",
        "limit=1&limit=2",
        "cursor=elsewhere",
        "cursor=%FF%00",
        "cursor=0%3Aa&cursor=1%3Ab",
    ],
)
def test_a_wrong_limit_or_cursor_is_400_with_what_was_expected(proxy: stage.Stage, query: str) -> None:
    answer = proxy.ask("GET", f"/sessions?{query}")
    assert answer.status == 400
    assert answer.json()["reason"] in ("bad_limit", "bad_cursor") and "expected" in answer.json()["error"]


def test_an_empty_cursor_is_the_beginning(proxy: stage.Stage) -> None:
    assert proxy.ask("GET", "/sessions?cursor=").json() == {"sessions": [], "next_cursor": None}


def test_a_session_is_shown_as_it_is_stored_with_members_that_we_do_not_know() -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
        stored = record.encode(make_session("s-1")).replace(b'{"v":1', b'{"v":1,"later":{"big":9007199254740993}')
        server.execute("SET", "fastproxy:default:session:s-1", stored)
        shown = proxy.ask("GET", "/sessions/s-1")
        assert shown.status == 200 and shown.json() == json.loads(stored)
        assert b"9007199254740993" in proxy.ask("GET", "/sessions").body


@pytest.mark.parametrize("session_id", ["a/b?c=d#e&f%20g", "..", "x" * 200, "{}", "~!@"], ids=repr)
def test_an_unusual_id_is_found_by_its_percent_encoded_form(proxy: stage.Stage, session_id: str) -> None:
    remember(proxy, session_id)
    assert proxy.ask("GET", f"/sessions/{quote(session_id, safe='')}").json()["session_id"] == session_id


@pytest.mark.parametrize("text", ["", "none", "%20", "%00", "%F0%9F%98%80", "x" * 1025, "%", "a%0d%0ab"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
def test_an_unknown_or_impossible_session_is_404(proxy: stage.Stage, method: str, text: str) -> None:
    answer = proxy.ask(method, f"/sessions/{text}")
    assert answer.status == 404
    assert method == "HEAD" or answer.json()["reason"] == "unknown_session"


def test_backends_are_shown_with_what_they_carry(proxy: stage.Stage) -> None:
    remember(proxy, "a", "b")
    (shown,) = proxy.ask("GET", "/backends").json()["backends"]
    assert shown == {
        "url": NOWHERE,
        "pod": None,
        "state": "live",
        "sessions": 2,
        "in_flight": 0,
        "last_error": None,
    }
    proxy.send("POST", "/mcp", body=b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    (shown,) = proxy.ask("GET", "/backends").json()["backends"]
    assert shown["state"] == "failed" and "refused" in shown["last_error"].lower()


def test_what_a_replica_is_doing_now_is_counted() -> None:
    async def wait(connection: kit.Connection) -> None:
        await connection.read_request()
        await connection.await_end()

    with kit.ScriptedBackend(wait) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.data_port)) as client:
            client.request("GET", "/mcp")
            backend.await_requests(1)
            (shown,) = proxy.ask("GET", "/backends").json()["backends"]
            assert shown["in_flight"] == 1
        eventually(lambda: proxy.ask("GET", "/backends").json()["backends"][0]["in_flight"] == 0)


def test_the_configuration_is_shown_without_its_secrets() -> None:
    with redis_server.RedisServer(password="sesame") as server:
        settings = {"backend": [NOWHERE], "store": server.url, "session_ttl": "90m"}
        with stage.Stage(settings, {"FASTPROXY_REDIS_PASSWORD": "sesame"}) as proxy:
            answer = proxy.ask("GET", "/config")
            assert answer.json()["session_ttl"] == "90m" and answer.json()["backend"] == [NOWHERE]
            assert b"sesame" not in answer.body


# ---- a way to steer it


def test_a_session_is_ended_here_and_at_its_backend() -> None:
    gone = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    with kit.ScriptedBackend(kit.answering(gone)) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        remember(proxy, "s-1", url=backend.origin, backend_session_id="theirs")
        answer = proxy.ask("DELETE", "/sessions/s-1")
        assert (answer.status, answer.body) == (204, b"")
        (told,) = backend.await_requests(1)
        assert (told.method, told.field("mcp-session-id")) == ("DELETE", "theirs")
        assert proxy.ask("GET", "/sessions/s-1").status == 404
        assert proxy.ask("DELETE", "/sessions/s-1").status == 404


def test_a_drain_begins_once_and_says_so_every_time(proxy: stage.Stage) -> None:
    first, second = proxy.ask("POST", "/drain"), proxy.ask("POST", "/drain")
    assert (first.status, second.status) == (202, 200)
    assert first.json() == second.json() == {"state": "draining"}
    answer = proxy.ask("GET", "/readyz")
    assert (answer.status, answer.json()["reasons"]) == (503, ["draining"])


# ---- the address itself


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/sessions", "/backends", "/config"])
def test_head_is_get_without_the_body(proxy: stage.Stage, path: str) -> None:
    got, asked = proxy.ask("GET", path), proxy.ask("HEAD", path)
    assert (asked.status, asked.body) == (got.status, b"")
    assert asked.fields["Content-Type"] == got.fields["Content-Type"]
    assert int(asked.fields["Content-Length"]) == pytest.approx(len(got.body), abs=200)  # numbers grow meanwhile


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/readyz", "GET, HEAD"),
        ("DELETE", "/sessions", "GET, HEAD"),
        ("PUT", "/sessions/x", "DELETE, GET, HEAD"),
        ("GET", "/drain", "POST"),
        ("HEAD", "/drain", "POST"),
        ("OPTIONS", "/config", "GET, HEAD"),
        ("BREW", "/metrics", "GET, HEAD"),
    ],
)
def test_a_method_that_a_page_does_not_know_is_405(proxy: stage.Stage, method: str, path: str, allowed: str) -> None:
    answer = proxy.ask(method, path)
    assert (answer.status, answer.fields["Allow"]) == (405, allowed)
    assert proxy.drains == 0


@pytest.mark.parametrize(
    "path", ["/", "/nothing", "/sessionsx", "/metrics/", "//readyz", "/READYZ", "/sessions/../config"]
)
def test_a_path_that_is_no_page_is_404_as_json(proxy: stage.Stage, path: str) -> None:
    answer = proxy.ask("GET", path)
    assert answer.status == 404 and answer.fields["Content-Type"] == JSON and "reason" in answer.json()


def test_a_query_does_not_hide_a_page(proxy: stage.Stage) -> None:
    assert proxy.ask("GET", "/healthz?verbose").status == 200


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Host": "evil.example"}, id="rebound name"),
        pytest.param({"Host": "evil.example:9901"}, id="rebound name and port"),
        pytest.param({"Origin": "http://evil.example"}, id="foreign page"),
        pytest.param({"Origin": "null"}, id="sandboxed page"),
    ],
)
def test_a_web_page_of_somebody_else_reads_and_steers_nothing(proxy: stage.Stage, headers: dict[str, str]) -> None:
    remember(proxy, "s-1")
    for method, path in (("GET", "/sessions"), ("GET", "/config"), ("DELETE", "/sessions/s-1"), ("POST", "/drain")):
        answer = proxy.ask(method, path, **headers)
        assert (answer.status, answer.json()["reason"]) == (403, "forbidden")
    assert proxy.drains == 0 and proxy.ask("GET", "/sessions/s-1").status == 200


def test_pages_are_served_one_after_another_on_one_connection(proxy: stage.Stage) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.admin_port)) as client:
        asked = (("GET", "/readyz"), ("POST", "/drain"), ("HEAD", "/readyz"), ("GET", "/nothing"), ("POST", "/drain"))
        statuses, connections = [], set()
        for method, path in asked:
            client.request(method, path, body=b"ignored" if method == "POST" else None)
            answer = client.getresponse()
            answer.read()
            statuses.append(answer.status)
            connections.add(client.sock)
        assert statuses == [200, 202, 503, 404, 200]
        assert len(connections) == 1
        assert proxy.plane.reactor.accepted == 0  # the admin's own connections are not traffic


def test_who_leaves_before_the_answer_does_no_harm() -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
        server.freeze()
        with socket.create_connection(("127.0.0.1", proxy.admin_port)) as client:
            client.sendall(b"GET /sessions HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.1)
        server.thaw()
        eventually(lambda: proxy.ask("GET", "/readyz").json()["reasons"] == [])


def test_a_store_that_is_away_is_503_with_its_reason() -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
        remember(proxy, "s-1")
        server.kill()
        for target in ("/sessions", "/sessions/s-2"):
            answer = proxy.ask("GET", target)
            assert (answer.status, answer.json()["reason"]) == (503, "session_store_unavailable")
            assert int(answer.fields["Retry-After"]) >= 1


def test_a_record_of_a_newer_fastproxy_is_503_and_stays() -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [NOWHERE], "store": server.url}) as proxy:
        key = "fastproxy:default:session:s-1"
        server.execute("SET", key, b'{"v":2,"session_id":"s-1"}')
        for method in ("GET", "DELETE"):
            answer = proxy.ask(method, "/sessions/s-1")
            assert (answer.status, answer.json()["reason"]) == (503, "record_too_new")
        assert server.execute("EXISTS", key) == 1


# ---- through the real program


def test_the_running_program_has_the_same_pages() -> None:
    with kit.proxies(backends=[NOWHERE], flags=["--name", "shop", "--drain-delay", "0", "--drain-timeout", "1"]) as [
        proxy
    ]:
        assert proxy.readiness() == (200, {"ready": True, "reasons": [], "details": {}})
        assert [row["url"] for row in proxy.backends()] == [NOWHERE]
        assert proxy.sessions() == [] and proxy.config()["name"] == "shop"
        assert proxy.metrics().value("fastproxy_draining", server="shop") == 0
        assert proxy.end_session("nobody's") == 404
        assert proxy.drain() == 202
        assert proxy.wait(10.0) == 0
