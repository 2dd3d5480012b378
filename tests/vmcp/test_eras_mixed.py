"""Both eras in front, both behind, in one list: real clients of either, servers that speak only one, and one of both.

Real: everything; two vMCP processes on one Redis, and each request of a client goes to one of them by lot, its answers
to what it is asked too. Not here: check by check what passes between the eras (e2e/test_conformance_bridge).
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import conformance, provision, redis_server
from tests.vmcp import fleet

MODERN = "2026-07-28"
# (SDK, mode): without a mode they speak with sessions.
CLIENTS = [("ts1", None), ("mcp2", "auto"), ("ts2", MODERN), ("mcp1", None), ("mcp2", MODERN)]
if not os.environ.get("KIT_MATRIX"):
    CLIENTS = CLIENTS[:3]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.Place]:
    for what in ("mcp1", "mcp2", "ts1", "ts2"):
        provision.require(what)
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server.RedisServer())
        (old,) = stack.enter_context(kit.backend("mcp1-sse"))
        (dual,) = stack.enter_context(kit.backend("mcp2-sse"))
        (new,) = stack.enter_context(conformance.replicas(1, "modern"))
        (older,) = stack.enter_context(conformance.replicas(1, "legacy"))
        urls = {"old": old.url, "dual": dual.url, "new": new.url, "older": older.url}
        file: pathlib.Path = tmp_path_factory.mktemp("eras") / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {name: {"url": url} for name, url in urls.items()}}))
        flags = ["--config", str(file), "--name", "eras", *fleet.DRAIN]
        members = stack.enter_context(kit.proxies(2, store=redis.url, flags=flags, subcommand="vmcp"))
        for member in members:
            fleet.await_that(lambda member=member: fleet.all_live(member, 4), "every backend is known")
        yield fleet.Place("eras", members, {})


@contextlib.contextmanager
def client(place: fleet.Place, sdk: str, mode: str | None) -> Iterator[kit.Client]:
    with place.client(sdk, **({} if mode is None else {"mode": mode})) as connected:
        assert (connected.protocol == MODERN) == (mode is not None)
        yield connected


def test_clients_of_both_eras_see_one_and_the_same_list(place: fleet.Place) -> None:
    seen = []
    for sdk, mode in CLIENTS[:2]:
        with client(place, sdk, mode) as connected:
            seen.append([tool["name"] for tool in connected.ask("list_tools")["tools"]])
    assert all(names == seen[0] for names in seen)
    for backend in ("old_echo", "dual_echo", "new_test_simple_text", "older_test_simple_text"):
        assert backend in seen[0]


@pytest.mark.parametrize(("sdk", "mode"), CLIENTS)
def test_a_client_is_served_in_its_own_way_by_servers_of_every_era(
    place: fleet.Place, sdk: str, mode: str | None
) -> None:
    with client(place, sdk, mode) as connected:
        for number in range(3):
            assert connected.call("old_echo", value=number).text == str(number)
            assert connected.call("dual_echo", value=number).text == str(number)
            assert connected.call("older_test_simple_text").text == connected.call("new_test_simple_text").text
        mirrored = connected.call("new_test_x_mcp_header", region="grün", query="q")  # its server compares the header
        assert json.loads(mirrored.text) == {"region": "grün", "query": "q"}
        for number in range(2):  # it is asked in the middle of a call, and answers to whichever process
            assert connected.call("old_elicit", message=f"who? {number}").text == "Ada"
            assert connected.call("old_sample", prompt=f"say {number}").text == f"sampled: say {number}"
            for tool in ("new_test_sampling", "older_test_sampling"):
                assert connected.call(tool, prompt=f"say {number}").text == f"LLM response: sampled: say {number}"
        for tool in ("old_progress", "dual_progress"):
            assert [step["progress"] for step in connected.call(tool, steps=3).progress] == [1, 2, 3]
        for tool in ("new_test_tool_with_progress", "older_test_tool_with_progress"):
            assert [step["progress"] for step in connected.call(tool).progress] == [0, 50, 100]
        assert {each["target"] for each in connected.exchanges if each["rpc"] == "tools/call"} == {0, 1}


def test_the_counter_of_a_session_goes_on_and_callers_without_one_share_theirs(place: fleet.Place) -> None:
    with client(place, "ts1", None) as session:
        assert [session.call("old_counter").text for _ in range(4)] == ["1", "2", "3", "4"]
        assert [session.call("dual_counter").text for _ in range(4)] == ["1", "2", "3", "4"], "in a session, as it was"
    with client(place, "mcp2", MODERN) as sessionless:
        counts = [int(sessionless.call("old_counter").text) for _ in range(6)]
    assert sum(counts) > 6, "one session per process serves them all"
