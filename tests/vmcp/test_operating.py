"""A running vMCP asked and steered: sessions with their legs, backends by their names, metrics, drain.

Real: the process, two official servers, the command line. One process, so that what it tells is all there is.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.vmcp import fleet, raw

KINDS = ("mcp2-sse", "mcp1-json")
LISTEN = {
    "jsonrpc": "2.0",
    "id": "mine",
    "method": "subscriptions/listen",
    "params": {
        "_meta": {
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {},
        },
        "notifications": {"toolsListChanged": True},
    },
}


@pytest.fixture(scope="module")
def place() -> Iterator[fleet.Place]:
    with fleet.running(None, KINDS, count=1) as running:
        yield running


@pytest.fixture
def member(place: fleet.Place) -> kit.Proxy:
    return place.members[0]


@pytest.fixture
def session_id(member: kit.Proxy) -> str:
    """One that has called each backend."""
    opened = raw.initialize(member.origin)
    for kind in KINDS:
        call = {"name": f"{fleet.backend_id(kind)}_counter", "arguments": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
        assert raw.post(member.origin, json.dumps(body), session_id=opened)[0] == 200
    return opened


def run(member: kit.Proxy, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "fastproxy", *words, "--admin", member.admin_origin]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.returncode, done.stdout + done.stderr


def test_sessions_are_listed_with_the_backends_that_they_have_called(member: kit.Proxy, session_id: str) -> None:
    code, text = run(member, "sessions", "list")
    assert code == 0
    assert [line.split()[1:3] for line in text.splitlines() if line.startswith(session_id)] == [
        ["mcp2sse,", "mcp1json"]
    ]


def test_a_session_is_shown_with_its_legs_and_without_its_secret(member: kit.Proxy, session_id: str) -> None:
    code, text = run(member, "sessions", "show", session_id)
    assert code == 0
    legs = [line.split() for line in text.splitlines() if "mcp2sse" in line or "mcp1json" in line]
    assert [leg[-3] for leg in legs] == ["mcp2sse", "mcp1json"]
    assert "secret" in text
    assert json.loads(member.ask("GET", f"/sessions/{session_id}")[1])["secret"] == "***"


def test_a_session_is_ended_from_the_terminal_and_its_legs_with_it(
    place: fleet.Place, member: kit.Proxy, session_id: str
) -> None:
    leg = place.legs(session_id)["mcp2sse"]
    assert run(member, "sessions", "end", session_id) == (0, "ended\n")
    ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}'
    assert raw.post(member.origin, ping, session_id=session_id)[0] == 404
    backend = place.backends["mcp2-sse"].origin
    fleet.await_that(lambda: raw.post(backend, ping, session_id=leg)[0] == 404, "the leg is ended")
    assert run(member, "sessions", "end", session_id)[0] == 1


def test_backends_are_told_by_their_names(member: kit.Proxy, session_id: str) -> None:
    code, text = run(member, "backends")
    assert code == 0
    rows = [line.split() for line in text.splitlines()[1:]]
    assert [(row[0], row[2], row[3], row[4]) for row in rows] == [
        ("mcp1json", "live", "healthy", "legacy"),
        ("mcp2sse", "live", "healthy", "dual"),
    ]


def test_requests_are_counted_by_backend(member: kit.Proxy, session_id: str) -> None:
    metrics = member.metrics()
    for backend in ("mcp2sse", "mcp1json"):
        assert metrics.value("fastproxy_requests_total", backend=backend, method="POST", status="200") >= 1
        assert metrics.value("fastproxy_upstream_connects_total", backend=backend, outcome="connected") >= 1
    assert metrics.value("fastproxy_sessions_created_total") >= 1
    assert metrics.value("fastproxy_sessions_active") >= 1


def test_its_configuration_is_told_without_secrets(member: kit.Proxy) -> None:
    told = member.config()
    assert {backend["name"] for backend in told["group"]["backends"]} == {"mcp2sse", "mcp1json"}


def test_status_pages_have_the_shapes_that_dashboards_read(member: kit.Proxy) -> None:
    status = json.loads(member.ask("GET", "/status")[1])
    assert [row["name"] for row in status["backends"]] == ["mcp1json", "mcp2sse"]
    assert status["healthy"] is True
    health = json.loads(member.ask("GET", "/api/backends/health")[1])
    assert health["summary"]["Healthy"] == 2


def test_what_is_asked_of_no_endpoint_is_told_so(member: kit.Proxy) -> None:
    for method, body in (("PUT", "{}"), ("GET", None), ("DELETE", None)):
        status = raw.post(member.origin, body, method=method, headers={"Accept": "text/event-stream"})[0]
        assert status == (405 if method == "PUT" else 400)
    assert raw.post(member.origin, "[]")[0] == 400
    assert raw.post(member.origin, "{")[0] == 400
    assert raw.post(member.origin, '{"jsonrpc":"2.0","id":1,"method":"ping"}', session_id="x" * 2000)[0] == 400


def test_a_drain_ends_streams_cleanly_and_calls_whole() -> None:
    with fleet.running(None, KINDS[:1], count=1) as place:
        member = place.members[0]
        session_id = raw.initialize(member.origin)
        heard: list[object] = []

        def call() -> None:
            params = {"name": "mcp2sse_slow", "arguments": {"seconds": 1.0}}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            heard.append(raw.post(member.origin, json.dumps(body), session_id=session_id))

        calling = threading.Thread(target=call)
        calling.start()
        fields = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "subscriptions/listen"}
        with raw.stream(member.origin, session_id) as stream, raw.listen(member.origin, LISTEN, fields) as listening:
            assert listening.next_message()["method"] == "notifications/subscriptions/acknowledged"
            time.sleep(0.3)
            started = time.monotonic()
            assert member.drain() == 202
            assert listening.next_message()["result"]["resultType"] == "complete"
            stream.read_to_end(seconds_max=10)
        calling.join(10)
        assert member.wait(15) == 0
        assert time.monotonic() - started < 8
        (answer,) = heard
        assert b"slept 1.0" in answer[2]  # type: ignore[index]
