"""How a backend is: health, circuit breaker, what is shown of both. Time is a number; a breaker on real calls, too.

The last tests use the relay and a server that says what the test tells it.
"""

import json

import pytest

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import breaker, health, status
from tests.vmcp import group, speaker

RULES = health.Rules(interval_seconds=30.0, unhealthy_threshold=3)


def after(*events: str, start: health.Health | None = None) -> health.Health:
    """The state after these: `ok`, `slow`, or the reason of a failure; a minute between two."""
    known = start or health.Health()
    for number, event in enumerate(events, 1):
        now = 60.0 * number
        if event in ("ok", "slow"):
            known = health.answered(known, now, seconds=6.0 if event == "slow" else 0.01)
        else:
            known = health.failed(known, now, event, RULES)
    return known


LOST, TIMEOUT, DENIED = "backend_lost", "backend_timeout", "backend_unauthorized"


@pytest.mark.parametrize(
    ("events", "expected", "hides"),
    [
        pytest.param((), "unknown", False, id="nothing is known"),
        pytest.param(("ok",), "healthy", False, id="answered"),
        pytest.param(("slow",), "degraded", False, id="answered slowly"),
        pytest.param((LOST,), "unknown", False, id="never answered"),
        pytest.param((DENIED,), "unauthenticated", True, id="denied from the beginning"),
        pytest.param(("ok", LOST), "degraded", False, id="one failure"),
        pytest.param(("ok", LOST, TIMEOUT), "degraded", False, id="two failures"),
        pytest.param(("ok", LOST, TIMEOUT, LOST), "unhealthy", True, id="three in a row"),
        pytest.param(("ok", LOST, "ok", LOST, LOST), "degraded", False, id="a row that is broken"),
        pytest.param(("ok", LOST, LOST, DENIED), "unauthenticated", True, id="denied at last"),
        pytest.param(("ok", DENIED), "degraded", False, id="denied once"),
        pytest.param(("ok", LOST, LOST, LOST, "ok"), "degraded", False, id="back"),
        pytest.param(("ok", LOST, LOST, LOST, "ok", "ok"), "healthy", False, id="back for good"),
        pytest.param((LOST, LOST, LOST), "unhealthy", True, id="never there"),
    ],
)
def test_health_follows_what_probes_say(events: tuple[str, ...], expected: str, hides: bool) -> None:
    known = after(*events)
    assert (known.status, known.hides) == (expected, hides)


def test_a_change_of_health_has_its_time_and_a_failure_its_category() -> None:
    known = after("ok", "ok", TIMEOUT)
    assert (known.checked_at, known.changed_at, known.category) == (180.0, 180.0, "timeout")
    assert after("ok", "ok").changed_at == 60.0
    assert after("ok", "something else").category == "health_check_failed"


def test_many_attempts_within_one_interval_count_as_one_failed_probe() -> None:
    known = after("ok", LOST)
    assert known.checked_at is not None
    assert not health.counts(known, known.checked_at + 29.0, RULES)
    assert health.counts(known, known.checked_at + 30.0, RULES)
    assert health.counts(after("ok"), 61.0, RULES), "the first failure counts at once"


def make_breaker(*, threshold: int = 3, enabled: bool = True) -> breaker.Breaker:
    return breaker.Breaker(breaker.Rules(enabled, threshold, 60.0))


def test_a_circuit_opens_after_failures_in_a_row_and_refuses_until_its_time() -> None:
    circuit = make_breaker()
    for _ in range(2):
        circuit.failed(0.0)
    circuit.succeeded()
    for _ in range(2):
        circuit.failed(1.0)
    assert circuit.state(1.0) == "closed" and circuit.admit(1.0)
    circuit.failed(2.0)
    assert circuit.state(2.0) == "open"
    assert not circuit.admit(61.9)


def test_one_trial_is_let_through_and_its_end_decides() -> None:
    circuit = make_breaker()
    for _ in range(3):
        circuit.failed(0.0)
    assert circuit.state(60.0) == "half-open" and circuit.admits(60.0)
    assert circuit.admit(60.0)
    assert not circuit.admit(60.0), "only one"
    circuit.failed(61.0)
    assert not circuit.admit(119.0)
    assert circuit.admit(120.0)
    circuit.succeeded()
    assert circuit.state(121.0) == "closed"
    assert all(circuit.admit(121.0) for _ in range(5))


def test_a_trial_of_which_nobody_tells_blocks_nobody_for_ever() -> None:
    circuit = make_breaker()
    for _ in range(3):
        circuit.failed(0.0)
    assert circuit.admit(60.0)
    assert not circuit.admit(100.0)
    assert circuit.admit(120.0)


def test_a_circuit_that_is_not_wanted_never_opens() -> None:
    circuit = make_breaker(enabled=False)
    for _ in range(100):
        circuit.failed(0.0)
    assert circuit.admit(0.0) and circuit.state(0.0) == "closed"


async def test_calls_that_get_no_answer_open_the_circuit_and_errors_of_tools_do_not() -> None:
    wanted = vmcp_schema.CircuitBreaker(enabled=True, failure_threshold=2, timeout_seconds=60.0)
    async with speaker.Speaker() as server, group.running({"one": server.url}, breaker=wanted) as running:
        await running.known("one")
        backend = running.get("one")
        for kind in ("backend_refused", "backend_session_lost", "backend_refused"):
            backend.note_failure(kind)
        assert backend.usable
        backend.note_failure("backend_timeout")
        backend.note_success()
        backend.note_failure("backend_timeout")
        backend.note_failure("client_refused")
        assert backend.admit() and backend.circuit_changed_at is None
        backend.note_failure("backend_lost")
        assert not backend.usable and not backend.admit()
        assert backend.circuit == "open" and backend.circuit_changed_at is not None
        assert running.tools("one") == ["hello"], "its tools stay listed"


async def test_the_pages_say_what_is_known_in_the_shapes_that_dashboards_read() -> None:
    wanted = vmcp_schema.CircuitBreaker(enabled=True)
    async with speaker.Speaker() as server:
        secret = (vmcp_schema.Header("X-Key", "s3cret"),)
        where = {"keyed": group.config("keyed", server.url, headers=secret), "dead": "http://127.0.0.1:9/mcp"}
        async with group.running(where, breaker=wanted, partial_failure_fails=True) as running:
            await running.known("keyed")
            config = vmcp_schema.Group(
                group_ref="team", operational=vmcp_schema.Operational(partial_failure_fails=True)
            )
            summary = status.summary(running.backends, config)
            report = status.report(running.backends)
            missing = status.shortcomings(running.backends, config)
            lenient = status.shortcomings(running.backends, vmcp_schema.Group())
    assert summary["backends"] == [
        {
            "name": "dead",
            "health": "unknown",
            "transport": "streamable-http",
            "auth_type": "unauthenticated",
            "mcp_revision": "unknown",
        },
        {
            "name": "keyed",
            "health": "healthy",
            "transport": "streamable-http",
            "auth_type": "header_injection",
            "mcp_revision": "legacy",
        },
    ]
    assert (summary["healthy"], summary["group_ref"]) == (True, "team")
    assert report["summary"] == {
        "Total": 2,
        "Healthy": 1,
        "Degraded": 0,
        "Unhealthy": 0,
        "Unknown": 1,
        "Unauthenticated": 0,
    }
    rows = report["backends"]
    assert isinstance(rows, dict)
    assert rows["dead"]["LastErrorCategory"] == "connection_failed"
    assert rows["dead"]["ConsecutiveFailures"] == 1
    assert rows["keyed"]["CircuitState"] == "closed"
    assert rows["keyed"]["LastCheckTime"].endswith("Z")
    assert missing == ["dead"] and lenient == []
    assert "s3cret" not in json.dumps([summary, report])
