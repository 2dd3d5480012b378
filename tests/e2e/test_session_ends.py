"""Sessions of real clients begin and end on both proxies at once, many of them side by side, in every legacy revision.

Everything is real: servers and clients of the official SDKs, the inspector's command line, two proxies, Redis; each a
process of its own. Each request of a client goes to one of the proxies by lot.

Not covered: the end by expiry, by a lost replica and by an administrator (tests/proxy, tests/session).
"""

import contextlib

import pytest

from tests import kit
from tests.e2e import stand

PING = b'{"jsonrpc":"2.0","id":"after the end","method":"ping"}'
JSON = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
REVISIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
FOLLOWED_SECONDS_MAX = 1.0  # interface §3.1: other proxies see an end within a second


def status_of_a_call(proxy: kit.Proxy, session_id: str, query: str = "") -> int:
    """What a client with this id is told."""
    fields = JSON if query else {**JSON, "Mcp-Session-Id": session_id}
    with kit.RawClient(proxy.origin) as raw:
        return raw.request("POST", query or "/mcp", fields, PING).status


# Side by side.


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-httpsse"])
def test_clients_side_by_side_have_sessions_of_their_own(kind: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(place.client(sdk)) for sdk in kit.CLIENTS]
        session_ids = place.session_ids()
        assert len(session_ids) == len(clients)
        # Each replica got half of them, though either proxy had opened only some.
        homes = sorted(place.replica_of(session_id).port for session_id in session_ids)
        assert [homes.count(each.port) for each in place.replicas] == [2, 2]
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


# The end.


@pytest.mark.parametrize("sdk", kit.CLIENTS)
@pytest.mark.parametrize("kind", ["mcp2-json", "mcp1-sse", "everything"])
def test_a_session_that_its_client_ended_is_gone_on_both_proxies(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with place.client(sdk) as client:
        session_id = client.session_id
        assert session_id is not None
        client.call("echo", value="x", message="x")
        assert [status_of_a_call(proxy, session_id) for proxy in place.proxies] == [200, 200]
        home = place.replica_of(session_id)
    for proxy in place.proxies:
        stand.await_that(lambda p=proxy: status_of_a_call(p, session_id) == 404, "it is gone", FOLLOWED_SECONDS_MAX)
        assert proxy.session(session_id) is None
    # The server was told as well, in its own manner.
    with kit.RawClient(home.origin) as raw:
        answer = raw.request("POST", "/mcp", {**JSON, "Mcp-Session-Id": session_id}, PING)
    assert answer.status == (400 if kind == "everything" else 404)
    place.assert_sound()


@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_a_session_that_its_client_left_goes_on_for_whoever_has_its_id(sdk: str, stands: stand.Stands) -> None:
    place = stands.of("mcp2-json")
    with place.client(sdk, terminate=False) as client:
        session_id = client.session_id
        assert session_id is not None
        assert client.call("counter").text == "1"
    assert [status_of_a_call(proxy, session_id) for proxy in place.proxies] == [200, 200]
    assert [proxy.end_session(session_id) for proxy in place.proxies] == [204, 404]


@pytest.mark.parametrize("sdk", kit.CLIENTS)
@pytest.mark.parametrize("kind", ["mcp2-httpsse", "everything-httpsse"])
def test_a_session_of_two_endpoints_ends_with_its_stream(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    before = place.session_ids()
    with place.client(sdk) as client:
        client.call("echo", value="x", message="x")
        [session_id] = place.session_ids() - before
    target = f"/message?sessionId={session_id}" if kind.startswith("everything") else f"/messages/?session_id={session_id}"
    for proxy in place.proxies:
        stand.await_that(
            lambda p=proxy: status_of_a_call(p, session_id, target) == 404, "it is gone", FOLLOWED_SECONDS_MAX
        )
    assert place.session_ids() == before
    place.assert_sound()


# Revisions.


@pytest.mark.parametrize("revision", REVISIONS)
@pytest.mark.parametrize(("kind", "sdk"), [("mcp2-sse", "ts1"), ("mcp1-sse", "mcp2"), ("everything", "mcp1")])
def test_every_legacy_revision_keeps_its_session(
    kind: str, sdk: str, revision: str, stands: stand.Stands
) -> None:
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
