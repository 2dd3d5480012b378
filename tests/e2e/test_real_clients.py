"""Real clients use real servers through two proxies, and notice neither the proxies nor that there are two replicas.

Everything is real: servers and clients of the official SDKs, two proxies, Redis; each a process of its own. Each
request of a client goes to one of the proxies by lot, so that nothing works which only one proxy knows. A counter per
session, kept by the server, proves that every request reached the replica that owns it; that no proxy had to open a
session anew is asserted at the end of each test. KIT_MATRIX=1 takes every client with every server on both lanes,
instead of the sample of `stand.pairs`.

Not covered here: how sessions begin and end, resumption, restarts (the other files of this folder); raw bytes and
faults (tests/proxy).
"""

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests import kit
from tests.e2e import stand

PAIRS = stand.pairs()
Visit = stand.Visit


def pairs(wanted: Callable[[str, kit.backends.Kind], bool]) -> pytest.MarkDecorator:
    """The pairs whose server is wanted, by name and kind."""
    chosen = [pair for pair in PAIRS if wanted(pair.kind, kit.KINDS[pair.kind])]
    return pytest.mark.parametrize("visit", chosen, indirect=True, ids=str, scope="module")


of_python = pairs(lambda name, kind: not name.startswith("everything"))
with_counter = pairs(lambda name, kind: not name.startswith("everything") and kind.stateful)
with_streams = pairs(
    lambda name, kind: not name.startswith("everything") and kind.stateful and not name.endswith("json")
)
without_sessions = pairs(lambda name, kind: not kind.stateful)
of_reference = pairs(lambda name, kind: name.startswith("everything"))
with_headers = pairs(
    lambda name, kind: not name.startswith("everything") and kind.stateful and kind.transport == "streamable-http"
)
with_ids = pairs(lambda name, kind: kind.stateful and kind.transport == "streamable-http")


@pytest.fixture(autouse=True)
def nothing_was_mended(visit: Visit) -> Iterator[None]:
    yield
    visit.place.assert_sound()


# Where a session lives.


@with_counter
def test_a_session_counts_on_whichever_proxy_is_asked(visit: Visit) -> None:
    begin = len(visit.client.exchanges)
    assert visit.count(10) == list(range(1, 11))
    assert set(visit.targets(begin, rpc="tools/call")) == {0, 1}


@with_ids
def test_both_proxies_tell_the_same_record_of_a_session(visit: Visit) -> None:
    session_id = visit.client.session_id
    assert session_id is not None
    record = visit.place.proxies[0].session(session_id)
    assert record == visit.place.proxies[1].session(session_id)
    assert record is not None
    assert (record["transport"], record["path"], record["generation"]) == ("streamable-http", "/mcp", 1)
    assert record["protocol_version"] == visit.client.protocol
    assert record["initialize"]["protocolVersion"] == "2025-11-25"
    assert {each["session"] for each in visit.client.exchanges[1:]} == {session_id}


@without_sessions
def test_a_server_without_sessions_needs_none(visit: Visit) -> None:
    assert visit.count(6) == [1] * 6
    assert visit.client.session_id is None
    assert visit.place.session_ids() == set()


@with_counter
def test_calls_at_the_same_time_reach_one_session(visit: Visit) -> None:
    [before] = visit.count(1)
    slow = [visit.client.begin_call("slow", seconds=0.2) for _ in range(4)]
    counted = [visit.client.begin_call("counter") for _ in range(12)]
    assert sorted(int(each.answer().text) for each in counted) == list(range(before + 1, before + 13))
    assert [each.answer().text for each in slow] == ["slept 0.2"] * 4


@with_counter
def test_an_abandoned_call_harms_neither_its_session_nor_the_next_call(visit: Visit) -> None:
    [before] = visit.count(1)
    begin = len(visit.client.exchanges)
    pending = visit.client.begin_call("slow", seconds=30)
    stand.await_that(lambda: visit.targets(begin, rpc="tools/call") != [], "the call is on its way")
    time.sleep(0.2)
    visit.client.abandon(pending)
    with pytest.raises(kit.Refused):
        pending.answer()
    assert visit.count(3) == [before + 1, before + 2, before + 3]


@with_headers
def test_a_server_hears_its_own_name_and_whom_the_request_is_for(visit: Visit) -> None:
    said = json.loads(visit.client.call("whoami").text)
    home = visit.place.replica_of(visit.client.session_id or "")
    headers = said["headers"]
    assert (said["port"], headers["host"]) == (home.port, f"127.0.0.1:{home.port}")
    assert headers["mcp-session-id"] == visit.client.session_id
    assert headers["mcp-protocol-version"] == visit.client.protocol
    assert headers["x-forwarded-for"] == "127.0.0.1"
    assert headers["x-forwarded-proto"] == "http"
    assert headers["x-forwarded-host"] in {each.origin.removeprefix("http://") for each in visit.place.proxies}


# What a server offers.


@of_python
def test_tools_resources_and_prompts_are_what_the_server_says(visit: Visit) -> None:
    client = visit.client
    # JavaScript has no such integer; what it does with it is its own affair.
    value = {"integers": [2**53 + 1], "text": "é\u2028"} if client.sdk.startswith("mcp") else {"text": "é\u2028"}
    assert json.loads(client.call("echo", value=value).text) == value
    assert client.call("big", size_bytes=200_000).text[-10:] == "000019999\t"
    assert client.call("fail", message="no").is_error
    assert {tool["name"] for tool in client.ask("list_tools")["tools"]} >= {"counter", "execute", "sample", "elicit"}
    assert client.ask("read_resource", uri="kit://greeting")["contents"][0]["text"] == "hello from the kit"
    prompt = client.ask("get_prompt", name="introduce", arguments={"subject": "Ada"})
    assert prompt["messages"][0]["content"]["text"] == "Please introduce Ada."


@with_streams
def test_progress_and_log_messages_come_before_their_answer(visit: Visit) -> None:
    # Apart in time: the TypeScript SDKs may lose a progress that arrives in one read with the answer.
    answer = visit.client.call("progress", steps=3, seconds=0.05)
    assert [each["progress"] for each in answer.progress] == [1, 2, 3]
    before = len(visit.client.notifications())
    visit.client.call("log", text="a line")
    [line] = visit.client.notifications(before + 1)[before:]
    assert line["method"] == "notifications/message"


@with_streams
def test_an_answer_to_the_server_may_take_the_other_proxy(visit: Visit) -> None:
    def sample() -> None:
        assert visit.client.call("sample", prompt="hi").text == "sampled: hi"

    def elicit() -> None:
        assert visit.client.call("elicit", message="who?").text == "Ada"

    before = len(visit.client.asked)
    asked = visit.ask_until_crossed(sample) + visit.ask_until_crossed(elicit)
    methods = [each["method"] for each in visit.client.asked[before:]]
    assert len(methods) == asked
    assert set(methods) == {"sampling/createMessage", "elicitation/create"}


@with_counter
def test_notifications_come_on_the_stream_whichever_proxy_holds_it(visit: Visit) -> None:
    visit.client.await_stream()
    before = len(visit.client.notifications())
    begin = len(visit.client.exchanges)
    kinds = ["tools", "updated"] * 4
    for kind in kinds:
        visit.client.call("notify", kind=kind)
    methods = [each["method"] for each in visit.client.notifications(before + len(kinds))[before:]]
    assert methods == ["notifications/tools/list_changed", "notifications/resources/updated"] * 4
    assert set(visit.targets(begin, rpc="tools/call")) == {0, 1}


# The reference server of the TypeScript SDK.


@of_reference
def test_the_reference_server_keeps_its_client(visit: Visit) -> None:
    client = visit.client
    begin = len(client.exchanges)
    assert [client.call("echo", message=str(number)).text for number in range(8)] == [
        f"Echo: {number}" for number in range(8)
    ]
    assert set(visit.targets(begin, rpc="tools/call")) == {0, 1}
    assert {tool["name"] for tool in client.ask("list_tools")["tools"]} >= {"echo", "trigger-sampling-request"}
    resources = client.ask("list_resources")["resources"]
    assert client.ask("read_resource", uri=resources[0]["uri"])["contents"][0]["uri"] == resources[0]["uri"]
    prompts = {prompt["name"] for prompt in client.ask("list_prompts")["prompts"]}
    assert "simple-prompt" in prompts
    assert client.ask("get_prompt", name="simple-prompt", arguments={})["messages"]


@of_reference
def test_the_reference_server_asks_its_client(visit: Visit) -> None:
    client = visit.client

    def sample() -> None:
        assert "LLM sampling result" in client.call("trigger-sampling-request", prompt="hi", maxTokens=5).text

    visit.ask_until_crossed(sample)
    assert "Ada" in client.call("trigger-elicitation-request").text


@of_reference
def test_the_reference_server_tells_its_progress(visit: Visit) -> None:
    # The last progress comes together with the answer; the TypeScript SDKs may then lose it.
    progress = visit.client.call("trigger-long-running-operation", duration=0.6, steps=3).progress
    assert [each["progress"] for each in progress[:2]] == [1, 2]
