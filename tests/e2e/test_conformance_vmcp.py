"""The official conformance suite sees no difference between a server and vMCP in front of it, names kept as they are.

Real: the suite, the server (on the official Python SDK, both eras), the vMCP processes, Redis; each a process of its
own. With one backend and the strategy `priority` no name changes, so that the suite, which knows the tools by name, can
tell what else does. What a comparison like this can see and what not: test_conformance.py.

Through one process every wire is run, through two in turn the newest of each era; KIT_MATRIX=1 runs all.

Where vMCP answers in another way on purpose, the check and the reason stand in `REASONS`; a reason that is no longer
needed fails too.
"""

import contextlib
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator

import pytest

from tests import kit
from tests.kit import conformance, provision, redis_server, splitter

WIRES_IN_TURN = conformance.WIRES if os.environ.get("KIT_MATRIX") else conformance.WIRES[-2:]
DirectRun = Callable[[str], conformance.Run]

_JSON = "an answer without messages before it is JSON here, a stream there; the suite checks this of streams only"
_REPLAY = "streams of vMCP carry no event ids: it keeps no answers, and promises no resumption"

# Wire, scenario, check: why it differs from the server's own answer.
REASONS: dict[tuple[str, str, str], str] = {
    ("2025-11-25", "server-server-sse-multiple-streams", "server-sse-streams-functional"): _JSON,
    ("2025-11-25", "server-server-sse-polling", "server-sse-priming-event"): _REPLAY,
    ("2025-11-25", "server-server-sse-polling", "server-sse-retry-field"): _REPLAY,
    ("2025-11-25", "server-server-sse-polling", "server-sse-disconnect-resume"): _REPLAY,
}


@pytest.fixture(scope="module")
def backend() -> Iterator[conformance.Replica]:
    for what in ("mcp2", "node", "conformance"):
        provision.require(what)
    with conformance.replicas(1) as (replica,):
        yield replica


@pytest.fixture(scope="module")
def direct(backend: conformance.Replica) -> DirectRun:
    """What the suite says without a proxy, asked once per wire."""
    return functools.cache(functools.partial(conformance.run, backend.url))


@pytest.fixture
def flags(backend: conformance.Replica, tmp_path: pathlib.Path) -> list[str]:
    """vMCP in front of it, under the names that it gives."""
    file = tmp_path / "group.yaml"
    group = {
        "name": "conformance",
        "groupRef": "conformance",
        "backends": [{"name": "everything", "url": backend.url, "transport": "streamable-http"}],
        "incomingAuth": {"type": "anonymous"},
        "outgoingAuth": {"source": "inline"},
        "aggregation": {
            "conflictResolution": "priority",
            "conflictResolutionConfig": {"priorityOrder": ["everything"]},
        },
    }
    file.write_text(json.dumps(group))
    return ["--config", str(file)]


def assert_same(direct: conformance.Run, proxied: conformance.Run) -> None:
    found = {
        (proxied.wire, difference.key.scenario, difference.key.check): difference
        for difference in conformance.compare(direct, proxied)
    }
    unexplained = [difference for key, difference in found.items() if key not in REASONS]
    assert not unexplained, conformance.report(unexplained)
    assert not {key for key in REASONS if key[0] == proxied.wire} - set(found), "these reasons are no longer needed"


@pytest.mark.parametrize("wire", conformance.WIRES)
def test_no_check_differs_through_vmcp_beyond_what_has_a_reason(wire: str, direct: DirectRun, flags: list[str]) -> None:
    with kit.proxies(1, subcommand="vmcp", flags=flags) as (proxy,):
        assert_same(direct(wire), conformance.run(proxy.url(), wire))


@pytest.mark.parametrize("wire", WIRES_IN_TURN)
def test_no_check_differs_through_two_vmcp_processes_in_turn(wire: str, direct: DirectRun, flags: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server.RedisServer())
        proxies = stack.enter_context(kit.proxies(2, subcommand="vmcp", store=redis.url, flags=flags))
        addresses = [address_of(proxy) for proxy in proxies]
        relay = stack.enter_context(splitter.Splitter(addresses, request_edit=splitter.one_request_per_connection))
        proxied = conformance.run(f"{relay.url}/mcp", wire)
        for proxy in proxies:
            assert proxy.metrics().value("fastproxy_requests_total") > 0, "or this would have shown nothing"
    assert_same(direct(wire), proxied)


def address_of(proxy: kit.Proxy) -> tuple[str, int]:
    host, _, port = proxy.origin.removeprefix("http://").rpartition(":")
    return (host, int(port))
