"""The bridge's score: the official conformance suite in one era, through vMCP, on a server that speaks only the other.

Real: the suite, vMCP, the server (the conformance backend on the official Python SDK, with one era's door shut); each a
process of its own.

Totals would mislead, since a third of the checks pass against a port where nothing listens. What counts are the checks
that a server of both eras passes and a dead port does not: 115 on the wire of 2026-07-28, 55 on that of 2025-11-25. The
best known before was 50 and 14. What can't pass stands in `REASONS`; a reason that is no longer needed fails too.
"""

import contextlib
import json
import pathlib

import pytest

from tests import kit
from tests.kit import conformance, provision

DEAD = "http://127.0.0.1:9/mcp"  # the discard port: nobody listens

_KEYS = "the keys of questions are the server's to choose; an older server's question has none, the suite expects some"
_SHARED = "callers without a name share one session, which declares all that any of them can do"
_JSON = "an answer without messages before it is JSON here, a stream there; the suite checks this of streams only"
_REPLAY = "streams of vMCP carry no event ids: it keeps no answers, and promises no resumption"

# (wire, check) -> why it can't pass.
REASONS = {
    ("2026-07-28", "sep-2322-elicitation-incomplete"): _KEYS,
    ("2026-07-28", "sep-2322-elicitation-complete"): _KEYS,
    ("2026-07-28", "sep-2322-ignore-unexpected-params"): _KEYS,
    ("2026-07-28", "sep-2322-respect-client-capabilities"): _SHARED,
    ("2026-07-28", "sep-2575-missing-capability-http-400"): _SHARED,
    ("2026-07-28", "sep-2575-server-rejects-undeclared-capability"): _SHARED,
    ("2025-11-25", "server-sse-streams-functional"): _JSON,
    ("2025-11-25", "server-sse-priming-event"): _REPLAY,
    ("2025-11-25", "server-sse-retry-field"): _REPLAY,
    ("2025-11-25", "server-sse-disconnect-resume"): _REPLAY,
}
MEANINGFUL = {"2026-07-28": 115, "2025-11-25": 55}

Passed = set[tuple[conformance.Key, int]]


def passed(run: conformance.Run) -> Passed:
    return {
        (key, place)
        for key, verdicts in run.verdicts.items()
        for place, verdict in enumerate(verdicts)
        if verdict.status == "SUCCESS"
    }


def meaningful(wire: str) -> Passed:
    """What a server of both eras passes, and a dead port does not."""
    with conformance.replicas(1) as (both,):
        return passed(conformance.run(both.url, wire)) - passed(conformance.run(DEAD, wire))


def group_of(url: str, folder: pathlib.Path) -> list[str]:
    file = folder / "group.json"
    file.write_text(
        json.dumps(
            {
                "name": "bridge",
                "groupRef": "bridge",
                "backends": [{"name": "everything", "url": url, "transport": "streamable-http"}],
                "incomingAuth": {"type": "anonymous"},
                "outgoingAuth": {"source": "inline"},
                "aggregation": {
                    "conflictResolution": "priority",
                    "conflictResolutionConfig": {"priorityOrder": ["everything"]},
                },
            }
        )
    )
    return ["--config", str(file)]


@pytest.mark.parametrize(
    ("wire", "era"),
    [
        pytest.param("2026-07-28", "legacy", id="new client, old server"),
        pytest.param("2025-11-25", "modern", id="old client, new server"),
    ],
)
def test_all_that_can_pass_between_the_eras_passes(wire: str, era: str, tmp_path: pathlib.Path) -> None:
    for what in ("mcp2", "node", "conformance"):
        provision.require(what)
    meant = meaningful(wire)
    assert len(meant) == MEANINGFUL[wire], "or the score would be of something else"
    with contextlib.ExitStack() as stack:
        (server,) = stack.enter_context(conformance.replicas(1, era))
        (proxy,) = stack.enter_context(kit.proxies(1, subcommand="vmcp", flags=group_of(server.url, tmp_path)))
        bridged = conformance.run(proxy.url(), wire)
    unmet = {key.check: f"{key.scenario} {key.check} [{key.name}]" for key, _ in meant - passed(bridged)}
    explained = {check for known, check in REASONS if known == wire}
    assert not unmet.keys() - explained, "\n".join(unmet[check] for check in sorted(unmet.keys() - explained))
    assert not explained - unmet.keys(), "these reasons are no longer needed"
