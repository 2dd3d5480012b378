"""Sessions of real clients begin and end on both proxies at once, many of them side by side, in every legacy revision.

Everything is real: servers and clients of the official SDKs, the inspector's command line, two proxies, Redis; each a
process of its own. Each request of a client goes to one of the proxies by lot.

Not covered: the end by expiry, by a lost replica and by an administrator (tests/proxy, tests/session).
"""

import contextlib
import itertools
import time

import pytest

from tests import kit
from tests.e2e import stand

PING = b'{"jsonrpc":"2.0","id":"after the end","method":"ping"}'
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
REVISION_VISITS = list(itertools.product(["mcp2-sse", "mcp1-sse", "everything"], kit.CLIENTS, REVISIONS))
if not stand.WHOLE_MATRIX:
    COUPLES = [("mcp2-sse", "ts1"), ("mcp2-sse", "mcp1"), ("mcp1-sse", "mcp2"), ("everything", "ts2")]
    REVISION_VISITS = [(*couple, revision) for couple, revision in zip(COUPLES, REVISIONS, strict=True)]
IDLE_SECONDS = 6.5  # servers close idle connections after 5 s (Python) and 6 s (Node)
FOLLOWED_SECONDS_MAX = 1.0  # interface §3.1: other proxies see an end within a second


def statuses_of_a_call(place: stand.Stand, session_id: str, target: str = "/mcp") -> list[int]:
    """What a client with this id is told by each of the proxies. A target of two endpoints names the session itself."""
    fields = {**JSON, "Mcp-Session-Id": session_id} if target == "/mcp" else JSON
    statuses = []
    for proxy in place.proxies:
        with kit.RawClient(proxy.origin) as raw:
            statuses.append(raw.request("POST", target, fields, PING).status)
    return statuses


# Side by side.


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-httpsse"])
def test_clients_side_by_side_have_sessions_of_their_own(kind: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(place.client(sdk)) for sdk in kit.CLIENTS]
        session_ids = place.session_ids()
        assert len(session_ids) == len(clients)
        assert {place.replica_of(session_id).port for session_id in session_ids} == {
            each.port for each in place.replicas
        }
        for count in range(1, 7):
            pending = [each.begin_call("counter") for each in clients]
            assert [each.answer().text for each in pending] == [str(count)] * len(clients)
        assert [each.call("sample", prompt=each.sdk).text for each in clients] == [
            f"sampled: {each.sdk}" for each in clients
        ]
        for each in clients:
            assert len(each.asked) == 1
            assert {exchange["target"] for exchange in each.exchanges if exchange["rpc"] == "tools/call"} == {0, 1}
    place.assert_sound()


def test_a_pause_in_which_servers_close_their_connections_costs_no_call(stands: stand.Stands) -> None:
    places = [stands.of("mcp1-sse"), stands.of("everything")]
    with places[0].client("ts1") as counting, places[1].client("mcp1") as echoing:
        for client in (counting, echoing):
            client.await_stream()
        for count in range(1, 5):
            # Several at a time, so that several connections wait in the pools.
            pending = [client.begin_call("echo", value=1, message="1") for client in (counting, echoing) * 4]
            assert {each.answer().text for each in pending} == {"1", "Echo: 1"}
            assert counting.call("counter").text == str(count)
            if count % 2:
                time.sleep(IDLE_SECONDS / count)
    for place in places:
        place.assert_sound()


# The end.


@stand.couples(["mcp2-json", "mcp1-sse", "everything"], ["mcp2", "ts1", "mcp1", "ts2"])
def test_a_session_that_its_client_ended_is_gone_on_both_proxies(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with place.client(sdk) as client:
        session_id = client.session_id
        assert session_id is not None
        client.call("echo", value="x", message="x")
        assert statuses_of_a_call(place, session_id) == [200, 200]
        home = place.replica_of(session_id)
    stand.await_that(lambda: statuses_of_a_call(place, session_id) == [404, 404], "it is gone", FOLLOWED_SECONDS_MAX)
    assert not place.knows(session_id)
    # The server was told as well, in its own manner.
    with kit.RawClient(home.origin) as raw:
        answer = raw.request("POST", "/mcp", {**JSON, "Mcp-Session-Id": session_id}, PING)
    assert answer.status == (400 if kind == "everything" else 404)
    place.assert_sound()


@stand.couples(["mcp2-json"], ["ts1", "mcp1"])
def test_a_session_that_its_client_left_goes_on_for_whoever_has_its_id(
    kind: str, sdk: str, stands: stand.Stands
) -> None:
    place = stands.of(kind)
    with place.client(sdk, terminate=False) as client:
        session_id = client.session_id
        assert session_id is not None
        assert client.call("counter").text == "1"
    assert statuses_of_a_call(place, session_id) == [200, 200]
    assert [proxy.end_session(session_id) for proxy in place.proxies] == [204, 404]


@stand.couples(["mcp2-httpsse", "everything-httpsse"], ["ts2", "mcp1", "mcp2", "ts1"])
def test_a_session_of_two_endpoints_ends_with_its_stream(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    before = place.session_ids()
    with place.client(sdk) as client:
        client.call("echo", value="x", message="x")
        [session_id] = place.session_ids() - before
    target = ("/message?sessionId=" if kind.startswith("everything") else "/messages/?session_id=") + session_id
    stand.await_that(
        lambda: statuses_of_a_call(place, session_id, target) == [404, 404], "it is gone", FOLLOWED_SECONDS_MAX
    )
    assert place.session_ids() == before
    place.assert_sound()


# Revisions.


@pytest.mark.parametrize(("kind", "sdk", "revision"), REVISION_VISITS)
def test_every_legacy_revision_keeps_its_session(kind: str, sdk: str, revision: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with place.client(sdk, protocol_version=revision) as client:
        assert client.protocol == revision
        texts = [client.call("echo", value=number, message=str(number)).text for number in range(4)]
        assert texts == ([f"Echo: {number}" for number in range(4)] if kind == "everything" else list("0123"))
        assert client.session_id is not None
        for proxy in place.proxies:
            record = proxy.session(client.session_id)
            assert record is not None
            assert (record["protocol_version"], record["generation"]) == (revision, 1)
        if kind != "everything":
            assert [client.call("counter").text for _ in range(4)] == list("1234")
            assert client.call("sample", prompt="hi").text == "sampled: hi"
    place.assert_sound()


# The inspector.


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-httpsse", "everything"])
def test_the_inspector_uses_a_server_through_either_proxy(kind: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    first, second = place.urls
    assert "echo" in {tool["name"] for tool in kit.inspect(first, "tools/list")["tools"]}
    argument = "message=hello" if kind == "everything" else "value=hello"
    said = kit.inspect(second, "tools/call", flags=["--tool-name", "echo", "--tool-arg", argument])
    assert said["content"][0]["text"] == ("Echo: hello" if kind == "everything" else '"hello"')
    place.assert_sound()
