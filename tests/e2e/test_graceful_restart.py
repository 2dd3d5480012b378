"""A proxy that is restarted gracefully takes nothing from real clients: no session, no call, no notification.

Everything is real: servers and clients of the official SDKs, two proxies, Redis. A restart is what a rolling update
does: SIGTERM, the end of the old process by itself with code 0, a new process on the same port. Between two calls a
client then finds its session where it was, though the new process has never seen it; a call under way is finished by
the old one. HTTP+SSE is told with its stream on the other proxy, since there the stream is the session.
"""

import signal

import pytest

from tests import kit
from tests.e2e import stand

ATTEMPTS_OF_CLIENTS = 2  # a stream that was ended is opened again so often, a second apart, then never more
LUCK_TRIES_MAX = 4  # by lot both attempts may meet the port on which nobody listens just then: 1 in 4 at the worst


@pytest.fixture
def python_place(stands: stand.Stands) -> stand.Stand:
    return stands.of("mcp2-sse")


@pytest.fixture
def reference_place(stands: stand.Stands) -> stand.Stand:
    return stands.of("everything")


@pytest.fixture
def two_endpoints(stands: stand.Stands) -> stand.Stand:
    return stands.of("mcp1-httpsse")


def some(*sdks: str) -> pytest.MarkDecorator:
    """These clients, or all of them. Each of the four is restarted under by one test at least."""
    return pytest.mark.parametrize("sdk", kit.CLIENTS if stand.WHOLE_MATRIX else sdks)


def opens_again(client: kit.Client, streams: int) -> bool:
    """Whether its stream is open again; not, when its attempts met a port where nobody listened."""
    try:
        stand.await_that(lambda: stand.has_stream(client, streams), "the stream is open again")
    except AssertionError:
        attempts = stand.gets(client)[streams:]
        if len(attempts) < ATTEMPTS_OF_CLIENTS or any("status" in each for each in attempts):
            raise
        return False
    return True


def restart(proxy: kit.Proxy) -> None:
    """As a rolling update does it."""
    assert proxy.stop() == 0, proxy.log_tail()
    proxy.start()
    proxy.await_ready()


def stream_target(client: kit.Client) -> int:
    """Which proxy holds the client's newest GET stream."""
    client.await_stream()
    return int(stand.gets(client)[-1]["target"])


@some("mcp1")
def test_a_client_of_two_servers_loses_nothing_between_its_calls(
    sdk: str, python_place: stand.Stand, reference_place: stand.Stand
) -> None:
    with python_place.client(sdk) as counting, reference_place.client(sdk) as echoing:
        count = 0
        for index in (0, 1):
            for place in (python_place, reference_place):
                restart(place.proxies[index])
                for _ in range(6):
                    count += 1
                    assert counting.call("counter").text == str(count)
                    assert echoing.call("echo", message=str(count)).text == f"Echo: {count}"
        assert counting.call("sample", prompt="hi").text == "sampled: hi"
        assert "LLM sampling result" in echoing.call("trigger-sampling-request", prompt="hi", maxTokens=5).text
        for client in (counting, echoing):
            calls = [each for each in client.exchanges if each["rpc"] == "tools/call"]
            assert {each["target"] for each in calls} == {0, 1}
            assert {each["status"] for each in calls} == {200}
    for place in (python_place, reference_place):
        place.assert_sound()


@some("mcp2", "ts1")
def test_a_call_under_way_is_finished_by_the_proxy_that_ends(sdk: str, python_place: stand.Stand) -> None:
    with python_place.client(sdk) as client:
        assert client.call("counter").text == "1"
        begin = len(client.exchanges)
        pending = client.begin_call("progress", steps=10, seconds=0.15)
        stand.await_that(lambda: client.exchanges[begin:] != [], "the call is on its way")
        stand.await_that(lambda: client.exchanges[begin].get("status") == 200, "its answer has begun")
        proxy = python_place.proxies[client.exchanges[begin]["target"]]
        proxy.signal(signal.SIGTERM)
        answer = pending.answer()
        assert answer.text == "10 steps"
        # The last one may come together with the answer; the TypeScript SDKs may then lose it.
        assert [each["progress"] for each in answer.progress][:9] == list(range(1, 10))
        assert proxy.wait(15) == 0, proxy.log_tail()
        proxy.start()
        proxy.await_ready()
        assert client.call("counter").text == "2"
    python_place.assert_sound()


@some("ts2")
def test_notifications_go_on_when_the_proxy_that_does_not_hold_the_stream_restarts(
    sdk: str, python_place: stand.Stand
) -> None:
    with python_place.client(sdk) as client:
        restart(python_place.proxies[1 - stream_target(client)])
        for _ in range(4):
            client.call("notify", kind="tools")
        assert [each["method"] for each in client.notifications(4)] == ["notifications/tools/list_changed"] * 4


@some("mcp2", "ts1")
def test_a_client_opens_its_stream_anew_when_the_proxy_that_holds_it_ends(sdk: str, python_place: stand.Stand) -> None:
    for _ in range(LUCK_TRIES_MAX):
        with python_place.client(sdk) as client:
            held = stream_target(client)
            streams = len(stand.gets(client))
            # The other one first, as new, so that whichever serves the stream again has not seen the session before.
            restart(python_place.proxies[1 - held])
            restart(python_place.proxies[held])
            if not opens_again(client, streams):
                continue
            for _ in range(4):
                client.call("notify", kind="updated")
            assert [each["method"] for each in client.notifications(4)] == ["notifications/resources/updated"] * 4
            break
    else:
        pytest.fail("both attempts of each client met a port where nobody listened")
    python_place.assert_sound()


@some("ts1")
def test_a_session_of_two_endpoints_goes_on_while_the_other_proxy_restarts(
    sdk: str, two_endpoints: stand.Stand
) -> None:
    with two_endpoints.client(sdk) as client:
        assert client.call("counter").text == "1"
        restart(two_endpoints.proxies[1 - stream_target(client)])
        assert [client.call("counter").text for _ in range(6)] == list("234567")
        posts = {each["target"] for each in client.exchanges if each["rpc"] == "tools/call"}
        assert posts == {0, 1}
        assert client.call("elicit", message="who?").text == "Ada"
    two_endpoints.assert_sound()
