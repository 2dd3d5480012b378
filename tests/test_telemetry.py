"""The metrics against what really happened: a real data plane (stage.py), real traffic and scrapes over real sockets,
read by prometheus_client's own parsers.

Not covered: that a Prometheus server stores them.
"""

import asyncio
import http.client
import time
from collections.abc import Callable, Iterator

import prometheus_client
import pytest
from prometheus_client.openmetrics import parser as openmetrics

from fastproxy import telemetry
from tests import kit
from tests.kit import redis_server
from tests.proxy import stage

NOWHERE = "http://127.0.0.1:9"
SESSION = "0123456789abcdef0123456789abcdef"
INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"counter"}}'
RESULT = b'{"jsonrpc":"2.0","id":0,"result":{"protocolVersion":"2025-06-18"}}'

# interface §5: name as it is sampled, and its labels. A histogram is told by its count.
PROMISED = {
    "fastproxy_requests_total": {"server", "backend", "method", "status"},
    "fastproxy_request_seconds_count": {"server"},
    "fastproxy_requests_in_flight": {"server"},
    "fastproxy_streams_open": {"server"},
    "fastproxy_sessions_active": {"server"},
    "fastproxy_sessions_created_total": {"server"},
    "fastproxy_session_lookups_total": {"server", "result"},
    "fastproxy_session_recoveries_total": {"server", "reason", "outcome"},
    "fastproxy_store_seconds_count": {"server", "operation"},
    "fastproxy_store_errors_total": {"server"},
    "fastproxy_upstream_connections": {"server", "backend", "state"},
    "fastproxy_upstream_connects_total": {"server", "backend", "outcome"},
    "fastproxy_draining": {"server"},
}


def answer(body: bytes, *fields: bytes) -> bytes:
    head = (b"HTTP/1.1 200 OK", b"Content-Type: application/json", b"Content-Length: %d" % len(body), *fields)
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def serving() -> kit.ScriptedBackend:
    """A server whose first answer on a connection opens a session; enough for a client that keeps its connection."""
    return kit.ScriptedBackend(
        kit.answering(
            answer(RESULT, b"Mcp-Session-Id: " + SESSION.encode()), answer(b'{"jsonrpc":"2.0","id":1,"result":{}}')
        )
    )


def scrape(proxy: stage.Stage) -> kit.Metrics:
    return kit.Metrics(proxy.ask("GET", "/metrics").body.decode())


def eventually(holds: Callable[[], bool], seconds_max: float = 5.0) -> None:
    end = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < end, f"not within {seconds_max} s"
        time.sleep(0.02)


def open_session(proxy: stage.Stage) -> None:
    opened = proxy.send("POST", "/mcp", body=INITIALIZE, Content_Type="application/json")
    assert opened.fields["Mcp-Session-Id"] == SESSION


def call(proxy: stage.Stage, times: int, session_id: str = SESSION) -> None:
    for _ in range(times):
        proxy.send("POST", "/mcp", body=CALL, Mcp_Session_Id=session_id, Content_Type="application/json")


@pytest.fixture
def backend() -> Iterator[kit.ScriptedBackend]:
    with serving() as running:
        yield running


@pytest.fixture
def proxy(backend: kit.ScriptedBackend) -> Iterator[stage.Stage]:
    with stage.Stage({"backend": [backend.origin], "name": "shop"}) as running:
        yield running


def test_every_promised_metric_is_there_with_exactly_its_labels(backend: kit.ScriptedBackend) -> None:
    with redis_server.RedisServer() as server:
        settings = {"backend": [backend.origin, NOWHERE], "store": server.url, "policy": "round-robin"}
        with stage.Stage(settings) as proxy:
            open_session(proxy)
            call(proxy, 2)
            proxy.plane.recoveries["backend_unreachable", "recovered"] = 1  # who counts them has tests of its own
            found = {
                name: {frozenset(sample.labels) for sample in scrape(proxy).samples if sample.name == name}
                for name in PROMISED
            }
    assert found == {name: {frozenset(labels)} for name, labels in PROMISED.items()}


def test_every_metric_of_ours_names_the_server_and_teaches(proxy: stage.Stage) -> None:
    open_session(proxy)
    metrics = scrape(proxy)
    ours = [sample for sample in metrics.samples if sample.name.startswith("fastproxy_")]
    assert ours and all(sample.labels["server"] == "shop" for sample in ours)
    words = [line.split(" ", 3) for line in metrics.text.splitlines() if line.startswith("# HELP fastproxy_")]
    assert len(words) == len({name for _, _, name, _ in words}), "a family comes twice"
    assert all(len(text) >= len("Other people's words.") and text.endswith(".") for *_, text in words)


def test_requests_are_counted_by_replica_method_and_status(proxy: stage.Stage, backend: kit.ScriptedBackend) -> None:
    open_session(proxy)
    call(proxy, 5)
    call(proxy, 2, session_id="nobodys")
    metrics = scrape(proxy)
    assert metrics.value("fastproxy_requests_total", backend=backend.origin, method="POST", status="200") == 6
    assert metrics.value("fastproxy_requests_total", backend="", method="POST", status="404") == 2


def test_both_lanes_are_counted_alike() -> None:
    seen = []
    for lane in ("on", "off"):
        with serving() as backend, stage.Stage({"backend": [backend.origin], "fast_lane": lane}) as proxy:
            open_session(proxy)
            call(proxy, 4)
            metrics = scrape(proxy)
            assert (metrics.value("fastproxy_fast_lane_requests_total") > 0) == (lane == "on")
            seen.append(
                (
                    metrics.value("fastproxy_requests_total", backend=backend.origin, method="POST", status="200"),
                    metrics.value("fastproxy_session_lookups_total", result="cache"),
                    metrics.value("fastproxy_session_lookups_total"),
                    metrics.value("fastproxy_sessions_created_total"),
                )
            )
    assert seen == [(5, 4, 4, 1)] * 2


def test_lookups_say_where_a_session_was_found(backend: kit.ScriptedBackend) -> None:
    def read_lookups() -> dict[str, float]:
        metrics = scrape(proxy)
        names = ("cache", "store", "missing", "error")
        return {name: metrics.value("fastproxy_session_lookups_total", result=name) for name in names}

    def is_heard() -> bool:  # until the store's changes are heard, the cache is asked to make sure
        call(proxy, 1)
        return read_lookups()["cache"] > 0

    with redis_server.RedisServer() as server, stage.Stage({"backend": [backend.origin], "store": server.url}) as proxy:
        open_session(proxy)
        eventually(is_heard)
        before = read_lookups()
        call(proxy, 3)
        call(proxy, 1, session_id="nobodys")
        proxy.call(proxy.plane.reactor.table.clear)
        call(proxy, 2)
        server.kill()
        call(proxy, 1, session_id="another")
        grown = {name: value - before[name] for name, value in read_lookups().items()}
        metrics = scrape(proxy)
    assert grown == {"cache": 4, "store": 1, "missing": 1, "error": 1}
    assert metrics.value("fastproxy_sessions_created_total") == 1
    assert metrics.value("fastproxy_store_errors_total") >= 1
    assert metrics.value("fastproxy_store_available") == 0


def test_durations_are_as_many_as_the_exchanges_and_in_the_right_buckets() -> None:
    async def slow(connection: kit.Connection) -> None:
        while await connection.read_request() is not None:
            await asyncio.sleep(0.06)
            await connection.send(answer(b"{}"))

    with kit.ScriptedBackend(slow) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        before = scrape(proxy)
        for _ in range(3):
            proxy.send("GET", "/slow")
        after = scrape(proxy)

    def grown(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    # Only these three can have taken more than 50 ms: a page of the admin address does not wait.
    slow_ones = grown("fastproxy_request_seconds_count") - grown("fastproxy_request_seconds_bucket", le="0.05")
    assert slow_ones == 3
    assert 0.18 <= grown("fastproxy_request_seconds_sum") < 2.0
    bounds = [s for s in after.samples if s.name == "fastproxy_request_seconds_bucket"]
    assert [s.value for s in bounds] == sorted(s.value for s in bounds) and bounds[-1].labels["le"] == "+Inf"
    assert bounds[-1].value == after.value("fastproxy_request_seconds_count")


def test_connections_to_a_replica_are_counted_by_what_they_do() -> None:
    async def silent(connection: kit.Connection) -> None:
        await connection.read_request()
        await connection.await_end()

    with kit.ScriptedBackend(silent) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:

        def count(state: str) -> float:
            return scrape(proxy).value("fastproxy_upstream_connections", backend=backend.origin, state=state)

        client = http.client.HTTPConnection("127.0.0.1", proxy.data_port)
        client.request("GET", "/mcp")
        backend.await_requests(1)
        assert (count("busy"), count("idle"), count("connecting")) == (1, 0, 0)
        assert scrape(proxy).value("fastproxy_backend_requests_in_flight", backend=backend.origin) == 1
        client.close()
        eventually(lambda: count("busy") == 0)
        assert scrape(proxy).value("fastproxy_requests_total", backend=backend.origin, method="GET", status="499") == 1
        connects = scrape(proxy).value("fastproxy_upstream_connects_total", backend=backend.origin, outcome="connected")
        assert connects == 1


def test_an_idle_connection_is_counted_and_a_replica_that_is_gone_shows(backend: kit.ScriptedBackend) -> None:
    with stage.Stage({"backend": [backend.origin, NOWHERE], "policy": "round-robin"}) as proxy:
        for _ in range(2):
            proxy.send("POST", "/mcp", body=INITIALIZE)
        metrics = scrape(proxy)
        assert metrics.value("fastproxy_upstream_connections", backend=backend.origin, state="idle") >= 1
        assert metrics.value("fastproxy_backend_live", backend=backend.origin) == 1
        assert metrics.value("fastproxy_backend_live", backend=NOWHERE) == 0
        assert metrics.value("fastproxy_upstream_connects_total", backend=NOWHERE, outcome="failed") >= 1


def test_an_open_stream_is_counted_while_it_is_open() -> None:
    async def stream(connection: kit.Connection) -> None:
        await connection.read_request()
        await connection.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"8\r\ndata: 1\n\r\n"
        )
        await connection.await_end()

    with kit.ScriptedBackend(stream) as backend, stage.Stage({"backend": [backend.origin]}) as proxy:
        client = http.client.HTTPConnection("127.0.0.1", proxy.data_port)
        client.request("GET", "/mcp", headers={"Accept": "text/event-stream"})
        client.getresponse()
        assert scrape(proxy).value("fastproxy_streams_open") == 1
        client.close()
        eventually(lambda: scrape(proxy).value("fastproxy_streams_open") == 0)


def test_sessions_are_counted_in_all_and_by_replica(proxy: stage.Stage, backend: kit.ScriptedBackend) -> None:
    assert scrape(proxy).value("fastproxy_sessions_active") == 0
    open_session(proxy)
    metrics = scrape(proxy)
    assert metrics.value("fastproxy_sessions_active") == 1
    assert metrics.value("fastproxy_backend_sessions", backend=backend.origin) == 1
    assert metrics.value("fastproxy_route_table_bytes") > 0
    assert metrics.value("fastproxy_route_table_capacity") >= 1_000_000


def test_what_the_store_was_not_told_is_counted(backend: kit.ScriptedBackend) -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [backend.origin], "store": server.url}) as proxy:
        server.kill()
        open_session(proxy)
        assert scrape(proxy).value("fastproxy_store_pending_writes") == 1
        server.start()
        eventually(lambda: scrape(proxy).value("fastproxy_store_pending_writes") == 0)
        assert scrape(proxy).value("fastproxy_store_lost_writes_total") == 0
        assert scrape(proxy).value("fastproxy_store_seconds_count", operation="create") >= 1


def test_bad_records_are_counted(backend: kit.ScriptedBackend) -> None:
    with redis_server.RedisServer() as server, stage.Stage({"backend": [backend.origin], "store": server.url}) as proxy:
        server.execute("SET", "fastproxy:default:session:broken", "{")
        call(proxy, 1, session_id="broken")
        assert scrape(proxy).value("fastproxy_store_bad_records_total") == 1


def test_a_drain_shows(proxy: stage.Stage) -> None:
    assert scrape(proxy).value("fastproxy_draining") == 0
    proxy.ask("POST", "/drain")
    assert scrape(proxy).value("fastproxy_draining") == 1


def test_the_process_is_told_of_in_the_usual_names(proxy: stage.Stage) -> None:
    metrics = scrape(proxy)
    assert metrics.value("process_resident_memory_bytes") > 1 << 20 and metrics.value("process_open_fds") > 3
    (build,) = [sample for sample in metrics.samples if sample.name == "fastproxy_build_info"]
    assert build.value == 1 and build.labels["version"]


# ---- how it is told


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        pytest.param("", False, id="nothing"),
        pytest.param("*/*", False, id="anything"),
        pytest.param("text/plain;version=0.0.4", False, id="text"),
        pytest.param("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3", True, id="prometheus 2"),
        pytest.param(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.5,*/*;q=0.1",
            True,
            id="prometheus 3",
        ),
        pytest.param("Application/OpenMetrics-Text", True, id="case"),
        pytest.param("application/openmetrics-text;q=0.000, */*", False, id="refused by weight"),
        pytest.param("application/openmetrics-text;version=%;;,=,", True, id="rubbish beside it"),
        pytest.param("application/openmetrics-textual", False, id="another type"),
    ],
)
def test_the_format_is_what_the_scraper_asks_for(proxy: stage.Stage, accept: str, is_openmetrics: bool) -> None:
    told = proxy.ask("GET", "/metrics", Accept=accept)
    media_type = told.fields["Content-Type"].partition(";")[0]
    assert (media_type == "application/openmetrics-text") == is_openmetrics
    assert is_openmetrics or told.fields["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert told.body.endswith(b"# EOF\n") == is_openmetrics


def test_openmetrics_passes_its_strict_parser_and_says_the_same(proxy: stage.Stage) -> None:
    open_session(proxy)
    told = proxy.ask("GET", "/metrics", Accept="application/openmetrics-text")
    families = list(openmetrics.text_string_to_metric_families(told.body.decode()))
    names = {sample.name for family in families for sample in family.samples}
    assert {name for name in scrape(proxy).names() if name.startswith("fastproxy_")} <= names


def test_two_proxies_in_one_process_do_not_meet(proxy: stage.Stage) -> None:
    with stage.Stage({"backend": [NOWHERE], "name": "other"}) as other:
        open_session(proxy)
        assert scrape(other).value("fastproxy_sessions_active", server="other") == 0
        assert scrape(other).value("fastproxy_sessions_active", server="shop") == 0
        assert scrape(proxy).value("fastproxy_sessions_active", server="shop") == 1
    assert not [f for f in prometheus_client.REGISTRY.collect() if f.name.startswith("fastproxy")]


def test_a_store_operation_falls_into_the_bucket_of_its_duration(proxy: stage.Stage) -> None:
    bounds = telemetry.STORE_BOUNDS_SECONDS
    for seconds in (0.0, bounds[0], bounds[0] * 1.01, bounds[-1], bounds[-1] * 5):
        proxy.call(lambda seconds=seconds: proxy.metrics.observe_store("load", seconds, True))  # type: ignore[misc]
    rows = [s for s in scrape(proxy).samples if s.name == "fastproxy_store_seconds_bucket"]
    assert [s.value for s in rows] == [2, *[3] * (len(bounds) - 2), 4, 5]
    assert scrape(proxy).value("fastproxy_store_seconds_sum") == pytest.approx(bounds[0] * 2.01 + bounds[-1] * 6)
