"""The kit against itself: every real client against every real server, directly; what fails later is the proxy's.

Real: the servers and clients of the official SDKs as processes in environments of their own, sockets, signals. Nothing
is fake. Not covered: fastproxy (its actor is tested by every end-to-end test). What can't be provisioned is skipped by
name.
"""

import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests import kit
from tests.kit import actors_message

PYTHON_KINDS = [kind for kind in kit.KINDS if not kind.startswith("everything")]
SESSION_KINDS = [kind for kind in PYTHON_KINDS if kit.KINDS[kind].stateful]
STREAM_KINDS = [kind for kind in SESSION_KINDS if not kind.endswith("-json")]
EVERYTHING_KINDS = [kind for kind in kit.KINDS if kind.startswith("everything")]
SAMPLE = {"mcp2-sse", "mcp1-json", "everything"}
RESUMABLE_KINDS = ["mcp2-sse", "mcp1-sse", "fastmcp-sse"]

Servers = Callable[[str], kit.Backend]


@pytest.fixture(scope="module")
def replica(request: pytest.FixtureRequest) -> Iterator[kit.Backend]:
    with kit.backend(request.param) as [running]:
        yield running


@pytest.fixture(scope="module", params=kit.CLIENTS)
def client(request: pytest.FixtureRequest, replica: kit.Backend) -> Iterator[kit.Client]:
    with kit.client(request.param, replica.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def server() -> Iterator[Servers]:
    """One server of a kind, shared by the tests that leave it as it was."""
    with contextlib.ExitStack() as stack:
        running: dict[str, kit.Backend] = {}

        def of(kind: str) -> kit.Backend:
            if kind not in running:
                [running[kind]] = stack.enter_context(kit.backend(kind))
            return running[kind]

        yield of


def each(kinds: list[str]) -> pytest.MarkDecorator:
    """Every kind with KIT_MATRIX=1; else the newest SDK's and the reference server's, which is what tests stand on."""
    sample = kinds if os.environ.get("KIT_MATRIX") else [kind for kind in kinds if kind in SAMPLE] or kinds[:1]
    return pytest.mark.parametrize("replica", sample, indirect=True, scope="module")


# Every client, every server.


@each(PYTHON_KINDS)
def test_every_client_uses_what_a_python_server_offers(client: kit.Client, replica: kit.Backend) -> None:
    value = {"integers": [2**53 + 1], "text": "é\u2028"} if client.sdk.startswith("mcp") else {"text": "é\u2028"}
    assert client.protocol == "2025-11-25"
    assert client.call("echo", value=value).text == msgspec.json.encode(value).decode()
    assert {tool["name"] for tool in client.ask("list_tools")["tools"]} >= {"counter", "execute", "sample", "elicit"}
    assert client.ask("read_resource", uri="kit://greeting")["contents"][0]["text"] == "hello from the kit"
    prompt = client.ask("get_prompt", name="introduce", arguments={"subject": "Ada"})
    assert prompt["messages"][0]["content"]["text"] == "Please introduce Ada."
    assert client.call("fail", message="no").is_error


@each(PYTHON_KINDS)
def test_a_counter_is_kept_for_a_session_and_by_no_stateless_server(client: kit.Client, replica: kit.Backend) -> None:
    stateful = replica.kind.stateful
    assert [client.call("counter").text for _ in range(3)] == (["1", "2", "3"] if stateful else ["1", "1", "1"])
    assert (client.session_id is not None) == (stateful and replica.kind.transport == "streamable-http")


@each(SESSION_KINDS)
def test_two_sessions_of_one_server_count_each_for_itself(replica: kit.Backend) -> None:
    with kit.client("ts1", replica.url) as first, kit.client("ts1", replica.url) as second:
        assert [first.call("counter").text, first.call("counter").text, second.call("counter").text] == ["1", "2", "1"]


@each(STREAM_KINDS)
def test_every_client_answers_sampling_and_elicitation(client: kit.Client, replica: kit.Backend) -> None:
    before = len(client.asked)
    assert client.call("sample", prompt="hi").text == "sampled: hi"
    assert client.call("elicit", message="who?").text == "Ada"
    methods = [each["method"] for each in client.asked[before:]]
    assert methods == ["sampling/createMessage", "elicitation/create"]


@each(STREAM_KINDS)
def test_every_client_sees_progress_and_log_messages(client: kit.Client, replica: kit.Backend) -> None:
    # Apart in time: the TypeScript SDKs may lose a progress that arrives in one read with the answer.
    answer = client.call("progress", steps=3, seconds=0.05)
    assert [each["progress"] for each in answer.progress] == [1, 2, 3]
    before = len(client.notifications())
    client.call("log", text="a line")
    assert [each["method"] for each in client.notifications(before + 1)[before:]] == ["notifications/message"]


@each(SESSION_KINDS)
def test_notifications_without_a_request_come_on_the_get_stream(client: kit.Client, replica: kit.Backend) -> None:
    client.await_stream()
    before = len(client.notifications())
    for kind in ("tools", "updated"):
        client.call("notify", kind=kind)
    methods = [each["method"] for each in client.notifications(before + 2)[before:]]
    assert methods == ["notifications/tools/list_changed", "notifications/resources/updated"]


@each(EVERYTHING_KINDS)
def test_every_client_uses_the_reference_server(client: kit.Client, replica: kit.Backend) -> None:
    assert client.call("echo", message="hi").text == "Echo: hi"
    assert "LLM sampling result" in client.call("trigger-sampling-request", prompt="hi", maxTokens=5).text
    assert "Ada" in client.call("trigger-elicitation-request").text
    # The last progress comes together with the answer; the TypeScript SDKs may then lose it.
    progress = client.call("trigger-long-running-operation", duration=0.6, steps=3).progress
    assert [each["progress"] for each in progress[:2]] == [1, 2]


@pytest.mark.parametrize("kind", ["mcp2-sse", "everything", "everything-httpsse"])
def test_the_inspector_lists_the_tools_of_a_server(kind: str, server: Servers) -> None:
    assert "echo" in {tool["name"] for tool in kit.inspect(server(kind).url, "tools/list")["tools"]}


# What clients do in special.


@pytest.mark.parametrize("kind", RESUMABLE_KINDS)
def test_every_client_resumes_an_interrupted_answer_by_its_last_event(kind: str) -> None:
    with kit.backend(kind, event_store=True) as [running]:
        for sdk in kit.CLIENTS:
            with kit.client(sdk, running.url) as connected:
                answer = connected.call("interrupted", steps=4)
                assert (answer.text, len(answer.progress)) == ("4 steps, interrupted once", 4), sdk
                assert any(each["last_event_id"] for each in connected.exchanges if each["method"] == "GET"), sdk


@pytest.mark.parametrize("kind", ["mcp2-json", "mcp2-httpsse"])
@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_a_client_draws_one_of_its_addresses_for_each_request(sdk: str, kind: str, server: Servers) -> None:
    urls = [server(kind).url, server(kind).url.replace("127.0.0.1", "localhost")]
    with kit.client(sdk, urls, seed=1) as connected:
        assert [connected.call("counter").text for _ in range(10)] == [str(count) for count in range(1, 11)]
        assert {each["target"] for each in connected.exchanges if each["rpc"] == "tools/call"} == {0, 1}


@pytest.mark.parametrize("sdk", ["mcp2", "ts2"])
@pytest.mark.parametrize("mode", ["auto", "2026-07-28"])
def test_a_client_of_both_eras_speaks_the_modern_one_without_a_session(sdk: str, mode: str, server: Servers) -> None:
    with kit.client(sdk, server("mcp2-sse").url, mode=mode) as connected:
        assert connected.protocol == "2026-07-28"
        assert connected.call("echo", value=1).text == "1"
        assert not any(each["session"] or each["answered_session"] for each in connected.exchanges)


@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_a_client_proposes_the_revision_it_is_told_to(sdk: str, server: Servers) -> None:
    with kit.client(sdk, server("mcp1-sse").url, protocol_version="2025-03-26") as connected:
        assert connected.protocol == "2025-03-26"


@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_a_client_ends_its_session_only_when_it_is_told_to(sdk: str, server: Servers) -> None:
    def answer_after(terminate: bool) -> int:
        with kit.client(sdk, running.url, terminate=terminate) as connected:
            session_id = connected.session_id
        assert session_id is not None
        fields = {
            "Mcp-Session-Id": session_id,
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
        }
        with kit.RawClient(running.origin) as raw:
            return raw.request("POST", "/mcp", fields, b'{"jsonrpc":"2.0","id":1,"method":"ping"}').status

    running = server("mcp2-json")
    assert answer_after(terminate=True) == 404
    assert answer_after(terminate=False) == 200


@pytest.mark.parametrize(("sdk", "kind"), [("mcp1", kit.Died), ("mcp2", kit.Refused), ("ts1", kit.Refused)])
def test_a_bad_gateway_kills_the_client_of_the_1x_python_sdk_and_no_other(
    sdk: str, kind: type[kit.Refused], server: Servers
) -> None:
    with kit.ScriptedBackend(kit.answering(actors_message.format_response("502 Bad Gateway"))) as gateway:
        # Each request goes to one of the two by lot; the handshake must have luck, so the seed is looked for.
        connected = connect_by_lot(sdk, [server("mcp2-json").url, f"{gateway.origin}/mcp"])
        with pytest.raises(kit.Refused) as refused:
            for _ in range(20):
                connected.call("counter")
        connected.kill()
    assert type(refused.value) is kind


def connect_by_lot(sdk: str, urls: list[str]) -> kit.Client:
    """A client whose handshake met only the first URL."""
    for seed in range(50):
        options = {"urls": urls, "seed": seed, "mode": "legacy", "transport": "streamable-http", "terminate": False}
        connected = kit.Client(sdk, {**options, "call_seconds_max": 20})
        try:
            connected.await_connected()
            if all(each["target"] == 0 for each in connected.exchanges if each["method"] == "POST"):
                return connected
        except kit.Refused:
            pass
        connected.kill()
    raise AssertionError("no seed of fifty has a handshake of luck")


# Verbs of the actors.


def test_a_call_is_logged_before_its_work_so_a_killed_server_has_logged_it_once(tmp_path: pathlib.Path) -> None:
    log = tmp_path / "calls"
    with kit.backend("mcp2-sse", call_log=log) as [running], kit.client("mcp2", running.url) as connected:
        pending = connected.begin_call("execute", call_id="once", seconds=30)
        await_true(lambda: kit.logged_calls(log) == ["once"])
        running.kill()
        with pytest.raises(kit.Refused):
            pending.answer()
    assert kit.logged_calls(log) == ["once"]


def test_a_frozen_server_is_silent_and_goes_on_when_it_thaws() -> None:
    with kit.backend("mcp2-sse") as [running], kit.client("ts1", running.url) as connected:
        assert connected.call("counter").text == "1"
        running.freeze()
        pending = connected.begin_call("counter")
        with pytest.raises(kit.KitError):
            pending.answer(seconds_max=0.5)
        running.thaw()
        assert pending.answer().text == "2"


@pytest.mark.parametrize("kind", ["mcp1-sse", "everything"])
def test_a_restarted_server_has_its_port_and_none_of_its_sessions(kind: str) -> None:
    with kit.backend(kind) as [running], kit.client("ts1", running.url, terminate=False) as connected:
        port, pid = running.port, running.pid
        running.restart()
        assert (running.port, running.pid != pid) == (port, True)
        with pytest.raises(kit.Refused):
            connected.call("echo", value="x", message="x")


def test_replicas_are_processes_of_their_own_on_the_hosts_that_were_asked() -> None:
    with kit.backend("mcp2-json", replicas=2, hosts=("127.0.0.1", "127.0.0.2")) as replicas:
        assert [each.host for each in replicas] == ["127.0.0.1", "127.0.0.2"]
        assert len({each.pid for each in replicas}) == 2
        assert all(each.resident_bytes > 0 and each.descriptors > 0 for each in replicas)
        assert replicas[0].stop() in (0, -15)
        assert not replicas[0].alive


def test_a_server_that_can_not_start_fails_with_its_own_words() -> None:
    with (
        pytest.raises(kit.KitError, match="unrecognized arguments: --nonsense"),
        kit.backend("mcp2-json", flags=("--nonsense",)),
    ):
        pass


@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_an_abandoned_call_is_given_up_and_the_client_goes_on(sdk: str, server: Servers) -> None:
    with kit.client(sdk, server("mcp2-sse").url) as connected:
        pending = connected.begin_call("slow", seconds=30)
        time.sleep(0.2)
        connected.abandon(pending)
        with pytest.raises(kit.Refused):
            pending.answer()
        assert connected.call("counter").text == "1"


def await_true(holds: Callable[[], bool], seconds_max: float = 10.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
