"""The official conformance suite sees no difference between a server and the same server behind fastproxy.

Real: the suite, the server (on the official Python SDK, both eras), the proxies, Redis; each a process of its own.

The gate compares verdicts check by check, never totals: against a port where nothing listens 26 of 56 checks pass on
2025-06-18, 29 of 84 on 2025-11-25 and 37 of 152 on 2026-07-28. What it notices was measured with a relay that has one
defect at a time (checks that differ on 2025-11-25 / 2026-07-28):

    request without Mcp-Session-Id     59 /   0        answer without Mcp-Session-Id      59 /   0
    request without Accept             60 / 119        request without its version         3 / 148
    request without Mcp-Method          0 / 107        404 turned into 200                 1 /   6
    two replicas in turn, no affinity  59 /   5        Last-Event-ID lost                  1 /   0
    event ids lost                      2 /   0        `retry:` lost                       1 /   0

It is blind to these (0 / 0), which other tests of this folder have to see:

    a client that goes away, and a proxy that does not tell the server (cancellation, both eras' rules)
    Origin taken out, as long as Host is checked · `event: message` renamed · X-Accel-Buffering or Cache-Control lost
    pieces of answers that are 20 ms late · a connection closed after each answer (keep-alive races never happen)

and has no scenario that could see these:

    JSON decoded and encoded again (nobody sends a big integer, a duplicate key or an escape)
    bodies and events of more than a few KiB, compression, slow readers, pipelining, chunked requests, trailers
    the loss of a replica or of the store, expiry, ids that nobody has handed out, which replica a session is on

Not covered: the suite's extension scenarios (tasks and skills, for which no SDK has a server yet), and its client
scenarios.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from tests import kit
from tests.kit import conformance, provision, redis_server, splitter

DirectRun = Callable[[str], conformance.Run]
LANES = [pytest.param("--fast-lane", id="fast-lane"), pytest.param("--no-fast-lane", id="story")]


@pytest.fixture(scope="module")
def provisioned() -> None:
    for what in ("mcp2", "node", "conformance"):
        try:
            provision.ensure(what)
        except provision.Unprovisioned as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def direct(provisioned: None) -> Iterator[DirectRun]:
    """What the suite says without a proxy, asked once per wire, of a replica that nobody else speaks to."""
    with conformance.replicas(1) as (replica,):
        yield functools.cache(functools.partial(conformance.run, replica.url))


@pytest.fixture(scope="module")
def replicas(provisioned: None) -> Iterator[list[conformance.Replica]]:
    """Two replicas for all tests: the suite ends its sessions, and their lists are at rest between two runs."""
    with conformance.replicas(2) as running:
        yield running


def assert_same(direct: conformance.Run, proxied: conformance.Run) -> None:
    differences = conformance.compare(direct, proxied)
    assert not differences, conformance.report(differences)


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("wire", conformance.WIRES)
def test_no_check_differs_through_one_proxy_in_front_of_one_replica(
    wire: str, lane: str, direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    with kit.proxies(1, backends=replicas[:1], flags=[lane]) as (proxy,):
        assert_same(direct(wire), conformance.run(proxy.url(), wire))


@pytest.mark.parametrize("lane", LANES)
@pytest.mark.parametrize("wire", conformance.WIRES)
def test_no_check_differs_through_two_proxies_in_turn_in_front_of_two_replicas(
    wire: str, lane: str, direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    # The suite ends each session before it opens the next, so with the default policy one replica could have them all.
    flags = [lane, "--policy", "round-robin"]
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server.RedisServer())
        proxies = stack.enter_context(kit.proxies(2, backends=replicas, store=redis.url, flags=flags))
        addresses = [address_of(proxy) for proxy in proxies]
        relay = stack.enter_context(splitter.Splitter(addresses, request_edit=splitter.one_request_per_connection))
        proxied = conformance.run(f"{relay.url}/mcp", wire)
        metrics = [proxy.metrics() for proxy in proxies]
    assert_same(direct(wire), proxied)
    # Requests came to both proxies and went to both replicas, or the test would have shown nothing.
    for each in metrics:
        assert each.value("fastproxy_requests_total") > 0
    if wire != "2025-03-26":  # which has one scenario and so one session
        for replica in replicas:
            assert sum(requests_of(each, replica) for each in metrics) > 0


def address_of(proxy: kit.Proxy) -> tuple[str, int]:
    host, _, port = proxy.origin.removeprefix("http://").rpartition(":")
    return (host, int(port))


def requests_of(metrics: kit.Metrics, replica: conformance.Replica) -> float:
    """How many requests a proxy says to have sent to one replica."""
    requests = [sample for sample in metrics.samples if sample.name == "fastproxy_requests_total"]
    return sum(sample.value for sample in requests if str(replica.port) in sample.labels["backend"])


@pytest.mark.parametrize("wire", conformance.WIRES)
def test_no_check_differs_through_a_relay_that_only_relays(
    wire: str, direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    """The control: what differs above is not the suite's mood, nor what a connection per request does to it."""
    with splitter.Splitter([replicas[0].address], request_edit=splitter.one_request_per_connection) as relay:
        assert_same(direct(wire), conformance.run(f"{relay.url}/mcp", wire))


def test_a_relay_that_loses_the_session_id_is_noticed(direct: DirectRun, replicas: list[conformance.Replica]) -> None:
    with splitter.Splitter([replicas[0].address], request_edit=splitter.without_header("Mcp-Session-Id")) as relay:
        differences = conformance.compare(direct("2025-11-25"), conformance.run(f"{relay.url}/mcp", "2025-11-25"))
    assert len(differences) > 50, conformance.report(differences)


def test_a_relay_that_knows_no_sessions_in_front_of_two_replicas_is_noticed(
    direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    addresses = [replica.address for replica in replicas]
    with splitter.Splitter(addresses, request_edit=splitter.one_request_per_connection) as relay:
        differences = conformance.compare(direct("2025-11-25"), conformance.run(f"{relay.url}/mcp", "2025-11-25"))
    assert len(differences) > 50, conformance.report(differences)


def test_a_relay_that_knows_no_keys_in_front_of_two_replicas_is_noticed(
    direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    """The era without sessions has states that come back to one replica, and a stream that must hear both."""
    addresses = [replica.address for replica in replicas]
    with splitter.Splitter(addresses, request_edit=splitter.one_request_per_connection) as relay:
        differences = conformance.compare(direct("2026-07-28"), conformance.run(f"{relay.url}/mcp", "2026-07-28"))
    scenarios = " ".join(difference.key.scenario for difference in differences)
    assert "input-required-result" in scenarios, conformance.report(differences)
    assert "server-stateless" in scenarios, conformance.report(differences)


def test_a_relay_that_hides_the_client_s_departure_is_not_noticed(
    direct: DirectRun, replicas: list[conformance.Replica]
) -> None:
    """The suite is blind here, or the list above is out of date."""
    with splitter.Splitter([replicas[0].address], keeps_target_open=True) as relay:
        assert_same(direct("2025-11-25"), conformance.run(f"{relay.url}/mcp", "2025-11-25"))


def test_a_dead_server_is_no_pass_although_it_differs_nowhere_from_itself(provisioned: None) -> None:
    with splitter.Splitter([]) as nobody:
        dead = conformance.run(f"{nobody.url}/mcp", "2026-07-28")
    assert dead.successes > 0  # which is why totals are not compared
    with pytest.raises(conformance.SuiteFailed, match="prove nothing"):
        conformance.compare(dead, dead)


def test_verdicts_are_compared_in_their_order_and_none_may_be_missing() -> None:
    """The comparison itself, on runs made by hand."""

    def run(*statuses: str, scenario: str = "ping") -> conformance.Run:
        verdicts = tuple(conformance.Verdict(status, "") for status in statuses)
        return conformance.Run("2025-03-26", {conformance.Key(scenario, "check", "Check"): verdicts})

    good = run("SUCCESS", "SUCCESS", "SUCCESS", "WARNING")
    assert not conformance.compare(good, run("SUCCESS", "SUCCESS", "SUCCESS", "WARNING"))
    assert len(conformance.compare(good, run("WARNING", "SUCCESS", "SUCCESS", "SUCCESS"))) == 1
    assert len(conformance.compare(good, run("SUCCESS", "SUCCESS", "SUCCESS"))) == 1
    assert len(conformance.compare(good, run("SUCCESS", "SUCCESS", "SUCCESS", "WARNING", scenario="other"))) == 2
