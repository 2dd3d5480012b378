"""Real clients use real stdio servers through two proxies on one Redis, and notice neither.

Everything is real: servers and clients of the official SDKs, the reference servers of the protocol's authors, two
proxies, Redis. Each request of a client goes to one of the proxies by lot, so that a process which one of them has is
reached through both. A counter in the server's process proves that a session has one of its own. KIT_MATRIX=1 takes
every client with every server, instead of a sample.

Not covered here: raw bytes, faults, shared processes (tests/proxy/test_stdio_*.py).
"""

import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterator

import pytest

from tests import kit
from tests.e2e import stand
from tests.kit import provision, redis_server
from tests.kit.backends import PROGRAMS

_seeds = itertools.count(1)


def command_of(server: str) -> list[str]:
    """How a server is started."""
    if server == "everything":
        package = provision.module("everything", "@modelcontextprotocol/server-everything")
        return [str(provision.node()), str(package / "dist" / "index.js"), "stdio"]
    return [str(provision.python(server)), str(PROGRAMS / "stdio_server.py"), server]


@contextlib.contextmanager
def proxies_of(
    command: list[str], redis: redis_server.RedisServer, *flags: str, environment: dict[str, str] | None = None
) -> Iterator[list[kit.Proxy]]:
    words = ["--name", f"stdio-{next(_seeds)}", *stand.DRAIN, *flags, "--", *command]
    with kit.proxies(2, store=redis.url, flags=words, environment=environment) as running:
        yield running
        for proxy in running:
            assert proxy.metrics().value("fastproxy_session_recoveries_total") == 0, proxy.log_tail()
            assert "Traceback" not in proxy.stderr.replace("Traceback (most recent call last) of", ""), proxy.log_tail()


@contextlib.contextmanager
def visit(sdk: str, proxies: list[kit.Proxy], *, path: str = "/mcp", mode: str = "legacy") -> Iterator[kit.Client]:
    with kit.client(sdk, [proxy.url(path) for proxy in proxies], seed=next(_seeds), mode=mode) as client:
        yield client


PAIRS = [("mcp2", "mcp2"), ("mcp1", "ts2"), ("mcp2", "mcp1"), ("mcp1", "ts1")]
if stand.WHOLE_MATRIX:
    PAIRS = [(server, sdk) for server in ("mcp2", "mcp1") for sdk in kit.CLIENTS]


@pytest.mark.parametrize(("server", "sdk"), PAIRS)
def test_a_session_is_whole_on_whichever_proxy_is_asked(server: str, sdk: str, redis: redis_server.RedisServer) -> None:
    with proxies_of(command_of(server), redis) as proxies, visit(sdk, proxies) as client:
        client.await_stream()
        assert [client.call("counter").text for _ in range(8)] == [str(number) for number in range(1, 9)]
        steps = client.call("progress", steps=3)
        assert [each["progress"] for each in steps.progress] == [1, 2, 3]
        assert client.call("sample", prompt="p").text == "sampled: p"
        assert client.call("elicit", message="m").text == "Ada"
        assert client.call("log", text="noted").text == "logged"
        assert client.call("notify", kind="tools").text == "notified tools"
        methods = [each["method"] for each in client.notifications(2)]
        assert sorted(methods) == ["notifications/message", "notifications/tools/list_changed"]
        assert [each["method"] for each in client.asked] == ["sampling/createMessage", "elicitation/create"]
        assert client.ask("read_resource", uri="kit://greeting")["contents"][0]["text"] == "hello from the kit"
        assert len(client.call("big", size_bytes=300_000).text) == 300_000
        assert {each["target"] for each in client.exchanges if each["rpc"] == "tools/call"} == {0, 1}
        holding = [backend["sessions"] for proxy in proxies for backend in proxy.backends()]
        assert sum(map(bool, holding)) >= 1


def test_the_reference_server_speaks_with_the_typescript_client(redis: redis_server.RedisServer) -> None:
    with proxies_of(command_of("everything"), redis) as proxies, visit("ts1", proxies) as client:
        client.await_stream()
        assert "trigger-sampling-request" in [tool["name"] for tool in client.ask("list_tools")["tools"]]
        assert client.call("echo", message="hi").text == "Echo: hi"
        operation = client.call("trigger-long-running-operation", duration=0.5, steps=2)
        assert [each["progress"] for each in operation.progress] == [1, 2]
        assert "sampled: " in client.call("trigger-sampling-request", prompt="x", maxTokens=5).text
        assert "Ada" in client.call("trigger-elicitation-request").text


@pytest.mark.parametrize("sdk", kit.CLIENTS if stand.WHOLE_MATRIX else ["mcp1"])
def test_the_older_transport_carries_all_of_it_too(sdk: str, redis: redis_server.RedisServer) -> None:
    with proxies_of(command_of("mcp1"), redis) as proxies, visit(sdk, proxies, path="/sse") as client:
        assert [client.call("counter").text for _ in range(6)] == [str(number) for number in range(1, 7)]
        assert len(client.call("progress", steps=2).progress) == 2
        assert client.call("sample", prompt="p").text == "sampled: p"
        assert client.call("elicit", message="m").text == "Ada"


@pytest.mark.parametrize(
    ("server", "sdk", "mode"),
    [
        pytest.param("mcp2", "mcp2", "auto", id="both of the newer era"),
        pytest.param("everything", "ts2", "2026-07-28", id="an older server"),
    ],
)
def test_clients_of_the_newer_era_are_served_by_either_kind(
    server: str, sdk: str, mode: str, redis: redis_server.RedisServer
) -> None:
    with proxies_of(command_of(server), redis) as proxies, visit(sdk, proxies, mode=mode) as client:
        assert client.protocol == "2026-07-28"
        assert client.ask("list_tools")["tools"]
        if server == "mcp2":
            assert [client.call("echo", value=number).text for number in range(6)] == [str(n) for n in range(6)]
            assert len(client.call("progress", steps=3).progress) == 3
        else:
            assert {client.call("echo", message=str(n)).text for n in range(6)} == {f"Echo: {n}" for n in range(6)}
            assert len(client.call("trigger-long-running-operation", duration=0.3, steps=3).progress) == 3


@pytest.mark.parametrize("mode", ["shared", "pool"] if stand.WHOLE_MATRIX else ["pool"])
def test_clients_of_a_shared_process_notice_nothing_of_each_other(mode: str, redis: redis_server.RedisServer) -> None:
    flags = ("--stdio-mode", mode, "--stdio-max-processes", "2")
    with (
        proxies_of(command_of("mcp1"), redis, *flags) as proxies,
        visit("mcp2", proxies) as first,
        visit("ts1", proxies) as second,
    ):
        pending = [client.begin_call("progress", steps=5, seconds=0.05) for client in (first, second)]
        assert [len(each.answer().progress) for each in pending] == [5, 5]
        assert first.call("echo", value=1).text == "1"
        assert "this process is shared" in second.call("elicit", message="m").text
        assert second.asked == []


# The servers that people have.


def test_the_filesystem_server_serves_a_folder(tmp_path: pathlib.Path, redis: redis_server.RedisServer) -> None:
    program = provision.module("stdio-npm", "@modelcontextprotocol/server-filesystem") / "dist" / "index.js"
    (tmp_path / "a.txt").write_text("text of a file")
    command = [str(provision.node()), str(program), str(tmp_path)]
    with proxies_of(command, redis) as proxies, visit("mcp2", proxies) as client:
        assert client.call("read_text_file", path=str(tmp_path / "a.txt")).text == "text of a file"
        client.call("write_file", path=str(tmp_path / "b.txt"), content="written")
        assert (tmp_path / "b.txt").read_text() == "written"


def test_the_memory_server_remembers_and_gets_its_environment(
    tmp_path: pathlib.Path, redis: redis_server.RedisServer
) -> None:
    program = provision.module("stdio-npm", "@modelcontextprotocol/server-memory") / "dist" / "index.js"
    entry = {
        "command": str(provision.node()),
        "args": [str(program)],
        "env": {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")},
        "type": "stdio",
    }
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"memory": entry}}))
    words = ["--config", str(file), *stand.DRAIN]
    with kit.proxies(1, flags=words) as proxies, visit("mcp1", proxies) as client:
        entity = {"name": "Ada", "entityType": "person", "observations": ["wrote a program"]}
        client.call("create_entities", entities=[entity])
        assert "wrote a program" in client.call("search_nodes", query="Ada").text
        assert "Ada" in (tmp_path / "memory.json").read_text()
        assert proxies[0].config()["env"] == {"MEMORY_FILE_PATH": "***"}


def test_the_time_server_serves_both_eras_at_once(redis: redis_server.RedisServer) -> None:
    command = [str(provision.python("stdio-pip")), "-m", "mcp_server_time", "--local-timezone", "UTC"]
    with (
        proxies_of(command, redis) as proxies,
        visit("mcp2", proxies, mode="2026-07-28") as newer,
        visit("mcp1", proxies) as older,
    ):
        for each in (newer, older):
            told = each.call("convert_time", source_timezone="UTC", time="12:00", target_timezone="Asia/Tokyo").text
            assert "T21:00:00+09:00" in told


def test_the_fetch_server_fetches(redis: redis_server.RedisServer) -> None:
    command = [str(provision.python("stdio-pip")), "-m", "mcp_server_fetch", "--ignore-robots-txt"]
    command.append("--allow-private-ips")
    with proxies_of(command, redis) as proxies, visit("mcp2", proxies) as client:
        assert [tool["name"] for tool in client.ask("list_tools")["tools"]] == ["fetch"]
        page = client.call("fetch", url=proxies[0].admin_origin + "/healthz", raw=True)
        assert "Contents of" in page.text
