"""The official conformance suite sees no difference between a server and the same server behind fastproxy.

Real: the suite, the server (on the official Python SDK, both eras), the proxies, Redis; each a process of its own.

The gate compares verdicts check by check, never totals: against a port where nothing listens 26 of 56 checks pass on
2025-06-18, 29 of 84 on 2025-11-25 and 37 of 152 on 2026-07-28. What it notices was measured with a relay that has one
defect at a time (checks that differ on 2025-11-25 / 2026-07-28):

    request without Mcp-Session-Id     63 /   0        answer without Mcp-Session-Id      64 /   0
    request without Accept             64 / 119        request without its version         6 / 148
    a replica in turn, no affinity     63 /   5        404 turned into 200                 1 /   6
    event ids lost                      5 /   0        Last-Event-ID lost                  2 /   0
    `retry:` lost                       1 /   0

It is blind to these (0 / 0), which other tests of this folder have to see:

    a client that goes away, and a proxy that does not tell the server (cancellation, both eras' rules)
    Origin taken out, as long as Host is checked · `event: message` renamed · X-Accel-Buffering or Cache-Control lost
    pieces of answers that are 20 ms late · a connection closed after each answer (keep-alive races never happen)
    JSON decoded and encoded again (no scenario sends a big integer, a duplicate key or an escape)
    bodies and events of more than a few KiB, compression, slow readers, pipelining, chunked requests, trailers
    the loss of a replica or of the store, expiry, ids that nobody has handed out, which replica a session is on

Not covered: 2026-07-28 with two replicas (its listen streams and request states need more than affinity by session),
the suite's extension scenarios (tasks, skills), and its client scenarios.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from tests.kit import conformance, provision, splitter

DirectRun = Callable[[str], conformance.Run]
LANES = [pytest.param(["--fast-lane"], id="fast-lane"), pytest.param(["--no-fast-lane"], id="story")]


@pytest.fixture(scope="module", autouse=True)
def provisioned() -> None:
    for what in ("mcp2", "node", "conformance"):
        try:
            provision.ensure(what)
        except provision.Unprovisioned as error:
            pytest.skip(str(error))


@pytest.fixture(scope="module")
def direct(provisioned: None) -> Iterator[DirectRun]:
    """What the suite says without a proxy, asked once per wire."""
    with conformance.replicas(1) as (replica,):
        yield functools.cache(functools.partial(conformance.run, replica.url))


@contextlib.contextmanager
def relayed(replicas: int, request_edit: splitter.Edit) -> Iterator[splitter.Splitter]:
    """So many replicas behind a relay that is no proxy of ours."""
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(conformance.replicas(replicas))
        addresses = [replica.address for replica in running]
        yield stack.enter_context(splitter.Splitter(addresses, request_edit=request_edit))


def assert_same(direct: conformance.Run, proxied: conformance.Run) -> None:
    differences = conformance.compare(direct, proxied)
    assert not differences, conformance.report(differences)


@pytest.mark.parametrize("wire", conformance.WIRES)
def test_no_check_differs_through_a_relay_that_only_relays(wire: str, direct: DirectRun) -> None:
    """The control: what differs below is not the suite's mood, nor what a connection per request does to it."""
    with relayed(1, splitter.one_request_per_connection) as relay:
        assert_same(direct(wire), conformance.run(f"{relay.url}/mcp", wire))


def test_a_relay_that_loses_the_session_id_is_noticed(direct: DirectRun) -> None:
    with relayed(1, splitter.without_header("Mcp-Session-Id")) as relay:
        differences = conformance.compare(direct("2025-11-25"), conformance.run(f"{relay.url}/mcp", "2025-11-25"))
    assert len(differences) > 50, conformance.report(differences)


def test_a_relay_that_knows_no_sessions_in_front_of_two_replicas_is_noticed(direct: DirectRun) -> None:
    with relayed(2, splitter.one_request_per_connection) as relay:
        differences = conformance.compare(direct("2025-11-25"), conformance.run(f"{relay.url}/mcp", "2025-11-25"))
    assert len(differences) > 50, conformance.report(differences)


def test_a_dead_server_is_no_pass_although_it_differs_nowhere_from_itself() -> None:
    with splitter.Splitter([]) as nobody:
        dead = conformance.run(f"{nobody.url}/mcp", "2026-07-28")
    assert dead.successes > 0  # which is why totals are not compared
    with pytest.raises(conformance.SuiteFailed, match="prove nothing"):
        conformance.compare(dead, dead)
