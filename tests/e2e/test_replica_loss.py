"""Real clients go on when the replica of their session is killed, or comes back without its memory.

Everything is real: servers and clients of the official SDKs, two proxies, Redis. No official client opens a session
anew by itself: whatever goes on here, goes on because a proxy replayed the handshake on another replica. What the
server kept in memory is lost (the counter begins at 1 again), and that is how the tests see that it happened.
"""

import functools
import pathlib
from collections.abc import Iterator

import pytest

from tests import kit
from tests.e2e import stand

KINDS = ["mcp2-sse", "mcp1-json", "fastmcp-sse", "everything"]


@pytest.fixture(scope="module")
def call_log(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return tmp_path_factory.mktemp("calls") / "log"


@pytest.fixture
def place(kind: str, stands: stand.Stands, call_log: pathlib.Path) -> Iterator[stand.Stand]:
    """With both replicas alive, before and after."""
    shared = stands.of(kind, call_log=call_log)
    yield shared
    for replica in shared.replicas:
        if not replica.alive:
            replica.start()
            replica.await_ready()
    for proxy in shared.proxies:
        stand.await_that(functools.partial(are_live, proxy), "all replicas live")
        assert proxy.metrics().value("fastproxy_relay_faults_total") == 0, proxy.log_tail()
        assert "Traceback" not in proxy.stderr, proxy.log_tail()


def go_on(place: stand.Stand, client: kit.Client) -> None:
    """Everything a client may do, with a session that a proxy has brought back."""
    session_id = client.session_id
    assert session_id is not None
    if place.kind.environment == "everything":
        assert [client.call("echo", message=each).text for each in "abcd"] == [f"Echo: {each}" for each in "abcd"]
        assert "LLM sampling result" in client.call("trigger-sampling-request", prompt="hi", maxTokens=5).text
    else:
        assert [client.call("counter").text for _ in range(4)] == list("1234")
    if "--json" not in place.kind.arguments and place.kind.environment != "everything":
        assert client.call("sample", prompt="hi").text == "sampled: hi"
    assert {each["session"] for each in client.exchanges[1:]} == {session_id}
    assert {each.get("answered_session") for each in client.exchanges} <= {session_id, None}
    record = place.proxies[0].session(session_id)
    assert record is not None
    assert record["generation"] == 2
    assert record["backend_session_id"] not in (None, session_id)


def are_live(proxy: kit.Proxy) -> bool:
    return {each["state"] for each in proxy.backends()} == {"live"}


def begin(place: stand.Stand, client: kit.Client) -> kit.Backend:
    """Some calls; the replica they went to."""
    client.await_stream()
    for _ in range(3):
        client.call("echo", value="x", message="x")
    if place.kind.environment != "everything":
        assert [client.call("counter").text for _ in range(3)] == list("123")
    assert client.session_id is not None
    return place.replica_of(client.session_id)


@stand.couples(KINDS)
def test_a_client_goes_on_when_its_replica_is_killed(sdk: str, place: stand.Stand) -> None:
    with place.client(sdk) as client:
        home = begin(place, client)
        home.kill()
        go_on(place, client)
        session_id = client.session_id
        assert session_id is not None
        assert place.replica_of(session_id) is not home
    stand.await_that(lambda: not place.knows(session_id), "its DELETE ended it as any other")


@stand.couples(KINDS, ["ts1", "ts2", "mcp2", "mcp1"])
def test_a_client_goes_on_when_its_replica_has_forgotten_it(sdk: str, place: stand.Stand) -> None:
    with place.client(sdk) as client:
        begin(place, client).restart()
        go_on(place, client)


@stand.couples(["mcp2-sse", "everything"], ["mcp1", "mcp2", "ts1", "ts2"])
def test_the_stream_comes_back_with_the_session(sdk: str, place: stand.Stand) -> None:
    with place.client(sdk) as client:
        home = begin(place, client)
        streams = len(stand.gets(client))
        home.kill()
        stand.await_that(lambda: stand.has_stream(client, streams), "the stream is open again")
        go_on(place, client)
        if place.kind.environment != "everything":
            for _ in range(4):
                client.call("notify", kind="tools")
            methods = [each["method"] for each in client.notifications(4)]
            assert methods.count("notifications/tools/list_changed") == 4


@stand.couples(["mcp1-json", "mcp2-json"], ["mcp1", "ts1", "mcp2", "ts2"])
def test_a_call_under_way_is_lost_with_its_replica_and_never_run_again(
    sdk: str, place: stand.Stand, call_log: pathlib.Path
) -> None:
    call_id = f"{sdk}-to-{place.name}"
    with place.client(sdk) as client:
        home = begin(place, client)
        pending = client.begin_call("execute", call_id=call_id, seconds=30)
        stand.await_that(lambda: call_id in kit.logged_calls(call_log), "the call runs")
        home.kill()
        with pytest.raises(kit.Refused) as refused:
            pending.answer(seconds_max=20)
        assert not isinstance(refused.value, kit.Died)
        assert refused.value.code == -32603
        assert refused.value.data == {"reason": "backend_lost", "may_have_run": True}
        assert [client.call("counter").text for _ in range(4)] == list("1234")
    assert kit.logged_calls(call_log).count(call_id) == 1
