"""Two real servers with the same names behind one vMCP, as each kind of configuration file makes them one.

Real: the servers (both on the official Python SDK, of two generations), the vMCP process and its file; a client that
writes single requests. Each configuration is one process and one conversation. Not covered: the rules one by one
(test_naming.py, test_catalog.py).
"""

import base64
import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests import kit
from tests.vmcp import fleet, raw

Backends = dict[str, kit.Backend]


@pytest.fixture(scope="module")
def backends() -> Iterator[Backends]:
    with kit.backend("mcp2-json") as (new,), kit.backend("mcp1-json") as (old,):
        yield {"new": new, "old": old}


class Front:
    """A running vMCP and one session of it."""

    def __init__(self, proxy: kit.Proxy) -> None:
        self.proxy = proxy
        self.session_id = raw.initialize(proxy.origin)
        self._number = 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        body = json.dumps({"jsonrpc": "2.0", "id": self._number, "method": method, "params": params})
        status, _, answer = raw.post(self.proxy.origin, body, session_id=self.session_id, headers={"X-Tenant": "me"})
        assert status == 200
        found = json.loads(answer)
        assert found["id"] == self._number
        return dict(found)

    def names(self, method: str, member: str) -> list[str]:
        return [item["name"] for item in self.ask(method)["result"][member]]

    def tools(self) -> list[str]:
        return self.names("tools/list", "tools")

    def whoami(self, tool: str) -> dict[str, Any]:
        """Port and headers, as the server that was reached saw them."""
        result = self.ask("tools/call", name=tool, arguments={})["result"]
        return dict(json.loads(result["content"][0]["text"]))

    def error(self, method: str, **params: Any) -> tuple[int, str]:
        error = self.ask(method, **params)["error"]
        return error["code"], error["message"]


@contextlib.contextmanager
def serving(
    folder: pathlib.Path, backends: Backends, aggregation: dict[str, Any], *, ready: bool = True, **sections: Any
) -> Iterator[Front]:
    file = folder / "group.yaml"
    values = {
        "name": "aggregation",
        "groupRef": "aggregation",
        "backends": [{"name": name, "url": backend.url} for name, backend in backends.items()],
        "incomingAuth": {"type": "anonymous"},
        "outgoingAuth": {"source": "inline"},
        "aggregation": {"conflictResolutionConfig": {"prefixFormat": "{workload}_"}} | aggregation,
    }
    file.write_text(json.dumps(values | sections))
    flags = ["--config", str(file), *fleet.DRAIN]
    with kit.proxies(1, subcommand="vmcp", flags=flags, await_readyz=ready) as (proxy,):
        fleet.await_that(lambda: fleet.all_live(proxy, len(backends)), "every backend is known")
        yield Front(proxy)


def test_prefix_with_filters_overrides_headers_and_everything_beside_tools(
    tmp_path: pathlib.Path, backends: Backends
) -> None:
    rules = [
        {
            "workload": "new",
            "filter": ["whoami", "echo", "nothing"],
            "overrides": {"whoami": {"name": "who", "description": "Who?"}},
        },
        {"workload": "old", "overrides": {"counter": {"annotations": {"title": "Counts", "readOnlyHint": False}}}},
    ]
    outgoing = {
        "source": "inline",
        "backends": {"new": {"type": "header_injection", "headerName": "X-Key", "headerValue": "secret"}},
    }
    sections = {"outgoingAuth": outgoing, "passthroughHeaders": ["X-Tenant"]}
    with serving(tmp_path, backends, {"tools": rules}, **sections) as front:
        tools = {item["name"]: item for item in front.ask("tools/list")["result"]["tools"]}
        assert [name for name in tools if name.startswith("new")] == ["new_echo", "new_who"]
        assert {"old_whoami", "old_echo", "old_counter"} < set(tools)
        assert tools["new_who"]["description"] == "Who?" and tools["new_who"]["inputSchema"]["type"] == "object"
        assert tools["old_counter"]["annotations"] == {"title": "Counts", "readOnlyHint": False}

        new, old = front.whoami("new_who"), front.whoami("old_whoami")
        assert (new["port"], old["port"]) == (backends["new"].port, backends["old"].port)
        assert (new["headers"]["x-key"], new["headers"]["x-tenant"]) == ("secret", "me")
        assert "x-key" not in old["headers"] and old["headers"]["x-tenant"] == "me"
        for hidden in ("new_counter", "new_whoami", "whoami", "nobody_echo"):
            code, words = front.error("tools/call", name=hidden, arguments={})
            assert code == -32602 and hidden in words

        assert front.names("prompts/list", "prompts") == ["new_introduce", "old_introduce"]
        said = front.ask("prompts/get", name="old_introduce", arguments={"subject": "us"})["result"]["messages"]
        assert said[0]["content"]["text"] == "Please introduce us."
        (resource,) = front.ask("resources/list")["result"]["resources"]
        read = front.ask("resources/read", uri=resource["uri"])["result"]["contents"]
        assert (resource["uri"], read[0]["text"]) == ("kit://greeting", "hello from the kit")
        rows = {row["name"]: row for row in front.proxy.backends()}
        assert rows["new"]["left_out"] == [] and rows["old"]["left_out"] == [
            "resource kit://greeting: new offers the same"
        ]
        assert front.error("resources/read", uri="kit://nothing")[0] in (-32002, -32602)

        for cursor in ("made up", base64.urlsafe_b64encode(b"x" * 30).decode(), 5):
            assert front.error("tools/list", cursor=cursor)[0] == -32602
        assert "secret" not in json.dumps(front.proxy.config())
        assert (
            "configuration: aggregation.tools: new: filter: nothing matches no tool of the backend"
            in front.proxy.stderr
        )


def test_priority_gives_contested_names_to_the_first_and_leaves_the_others_out(
    tmp_path: pathlib.Path, backends: Backends
) -> None:
    order = {"conflictResolution": "priority", "conflictResolutionConfig": {"priorityOrder": ["old", "new"]}}
    with serving(tmp_path, backends, order) as front:
        tools = front.tools()
        assert "whoami" in tools and len(tools) == len(set(tools))
        assert not [name for name in tools if name.startswith(("old_", "new_"))]
        assert front.whoami("whoami")["port"] == backends["old"].port
        assert front.names("prompts/list", "prompts") == ["introduce"]
        rows = {row["name"]: row for row in front.proxy.backends()}
        assert "tool whoami: old has priority for the name whoami" in rows["new"]["left_out"]
        assert not [line for line in rows["old"]["left_out"] if line.startswith("tool")]


def test_manual_is_not_ready_until_every_conflict_is_settled(tmp_path: pathlib.Path, backends: Backends) -> None:
    settled = {"workload": "new", "overrides": {"whoami": {"name": "whoami_new"}}}
    manual = {"conflictResolution": "manual", "tools": [settled]}
    with serving(tmp_path, backends, manual, ready=False) as front:
        conflict = "tool name conflict: echo is wanted by new (its echo) and old (its echo)"
        fleet.await_that(lambda: conflict in json.dumps(front.proxy.readiness()), "the conflict is told")
        assert front.proxy.readiness()[0] == 503
        tools = front.tools()
        assert {"whoami", "whoami_new"} <= set(tools) and "echo" not in tools
        assert front.whoami("whoami_new")["port"] == backends["new"].port
        assert front.whoami("whoami")["port"] == backends["old"].port
    names = [name.removeprefix("new_") for name in serve_names(tmp_path, backends)]
    every = {"workload": "new", "overrides": {name: {"name": f"{name}_new"} for name in names}}
    with serving(tmp_path, backends, manual | {"tools": [every]}) as front:
        assert front.proxy.readiness()[0] == 200
        assert set(front.tools()) >= {name + "_new" for name in names} | {"echo"}


def serve_names(folder: pathlib.Path, backends: Backends) -> list[str]:
    with serving(folder, {"new": backends["new"]}, {}) as front:
        return front.tools()


def test_what_is_not_listed_is_hidden_and_a_name_too_long_is_left_out_and_told_to_the_owner(
    tmp_path: pathlib.Path, backends: Backends
) -> None:
    long = "n" * 58  # with its _ and `echo` 63 characters, with `counter` 66
    named = {long: backends["new"], "old": backends["old"]}
    with serving(tmp_path, named, {"defaultToolVisibility": "deny", "tools": [{"workload": long}]}) as front:
        tools = front.tools()
        assert f"{long}_echo" in tools and not [name for name in tools if name.startswith("old_")]
        assert f"{long}_counter" not in tools and max(map(len, tools)) <= 64
        assert front.error("tools/call", name="old_echo", arguments={"value": 1})[0] == -32602
        rows = {row["name"]: row for row in front.proxy.backends()}
        (line,) = [line for line in rows[long]["left_out"] if line.startswith("tool counter:")]
        assert "66 characters, clients take 64" in line
