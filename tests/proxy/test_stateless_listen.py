"""`subscriptions/listen` of 2026-07-28: all replicas in one stream, as they come, speak, go and come back.

Real: two proxies on one Redis, two replicas of a small server whose streams the test speaks through (sessionless.py).
The times that a stream waits (for slow replicas, before it says that it lives) are the program's own. Not here: the
messages themselves (tests/mcp/test_subscription.py), the SDK's own server (tests/e2e/test_conformance.py).
"""

import contextlib
import json
import pathlib
import re
import time
import typing
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, redis_server
from tests.proxy import fleet as fleets
from tests.proxy import sessionless

Place = sessionless.Place
await_that = fleets.await_that


@pytest.fixture(scope="module")
def running(redis: redis_server.RedisServer) -> Iterator[Place]:
    with sessionless.place(redis=redis) as place:
        yield place


@pytest.fixture
def place(running: Place) -> Iterator[Place]:
    running.fleet.begin()
    yield running
    fleets.assert_sound(running.fleet)


class Listener:
    """A client's stream: whole events, one chunk each, as the proxy sends them."""

    def __init__(self, client: kit.RawClient) -> None:
        self.client = client
        self.head = client.head()

    def chunk(self, seconds_max: float = 10.0) -> bytes:
        """The next chunk; empty for the last."""
        size = int(self.client.until(b"\r\n", seconds_max=seconds_max), 16)
        data = b""
        while len(data) < size + 2:
            data += self.client.until(b"\n", seconds_max=seconds_max)
        return data[:-2]

    def message(self, seconds_max: float = 10.0) -> dict[str, typing.Any]:
        """The next event's message."""
        event = self.chunk(seconds_max)
        assert event.endswith((b"\n\n", b"\r\n\r\n")), event
        [data] = [line for line in event.splitlines() if line.startswith(b"data: ")]
        return typing.cast("dict[str, typing.Any]", json.loads(data[6:]))

    def acknowledged(self) -> dict[str, typing.Any]:
        """The first message: what is honoured."""
        message = self.message()
        assert message["method"] == "notifications/subscriptions/acknowledged"
        return typing.cast("dict[str, typing.Any]", message["params"]["notifications"])


@contextlib.contextmanager
def listening(
    place: Place, proxy: int = 0, number: object = 7, *, open_streams: int | None = 2, **notifications: object
) -> Iterator[Listener]:
    with place.fleet.client(proxy) as client:
        client.send(sessionless.listen_request(place.fleet.proxies[proxy], number, **notifications))
        yield Listener(client)


def identity(message: dict[str, typing.Any]) -> object:
    return message.get("params", message.get("result"))["_meta"][sessionless.SUBSCRIPTION]


@pytest.mark.parametrize("number", [7, "seven", 123456789012345678901234567890])
def test_one_acknowledgement_and_the_news_of_every_replica_once(place: Place, number: object) -> None:
    with listening(place, number=number) as listener:
        assert listener.head.status == 200
        assert listener.head.field("content-type") == "text/event-stream"
        assert listener.head.field("x-accel-buffering") == "no"
        assert listener.head.field("transfer-encoding") == "chunked"
        assert listener.acknowledged() == {"toolsListChanged": True}
        for round_ in range(3):
            for server in place.servers:
                server.say(whose=server.name, round=round_)
                message = listener.message()
                assert (message["params"]["whose"], message["params"]["round"]) == (server.name, round_)
                assert identity(message) == number
        assert listener.client.is_silent(0.2), "nothing twice"


def test_every_replica_is_asked_as_the_client_has_asked(place: Place) -> None:
    with listening(place, 1, promptsListChanged=True) as listener:
        listener.acknowledged()
        sent = sessionless.listen_request(place.fleet.proxies[1], promptsListChanged=True)
        for server in place.servers:
            [request] = server.got("POST")
            assert request.body == sent.partition(b"\r\n\r\n")[2]
            assert request.field("host") == server.origin.partition("//")[2]
            assert request.field("mcp-protocol-version") == sessionless.VERSION
            assert request.field("mcp-method") == "subscriptions/listen"
            assert request.field("x-forwarded-for") == "127.0.0.1"
            assert request.field("mcp-session-id") is None


def test_only_what_every_replica_honours_is_acknowledged(place: Place) -> None:
    place.servers[0].honours = {"toolsListChanged": True, "resourceSubscriptions": ["a", "b"]}
    place.servers[1].honours = {"resourceSubscriptions": ["b", "c"], "promptsListChanged": True}
    with listening(place, number="x") as listener:
        assert listener.acknowledged() == {"resourceSubscriptions": ["b"]}


def test_it_ends_with_one_result_when_all_have_ended_and_the_connection_lives_on(place: Place) -> None:
    with listening(place) as listener:
        listener.acknowledged()
        place.servers[0].finish()
        assert listener.client.is_silent(0.2)
        place.servers[1].say()
        assert listener.message()["method"] == sessionless.CHANGED
        place.servers[1].finish()
        result = listener.message()
        assert (result["id"], identity(result)) == (7, 7)
        assert listener.chunk() == b""
        client = listener.client
        client.send(sessionless.listen_request(place.fleet.proxies[0], 8))
        assert identity(Listener(client).message()) == 8


def test_a_client_that_leaves_ends_it_at_every_replica(place: Place) -> None:
    with listening(place) as listener:
        listener.acknowledged()
        await_that(lambda: [server.open_listens for server in place.servers] == [1, 1], "both listen")
        left_at = time.monotonic()
    await_that(lambda: [server.open_listens for server in place.servers] == [0, 0], "both were closed")
    assert time.monotonic() - left_at < 1
    await_that(lambda: place.fleet.metric("fastproxy_streams_open") == 0, "no stream is open")


def test_a_client_that_leaves_before_the_acknowledgement_ends_it_too(place: Place) -> None:
    for server in place.servers:
        server.acknowledges.clear()
    with place.fleet.client() as client:
        client.send(sessionless.listen_request(place.fleet.proxies[0]))
        await_that(lambda: len(place.fleet.got("POST")) == 2, "both were asked")
    await_that(lambda: place.fleet.metric("fastproxy_requests_in_flight") == 0, "it is over")
    for server in place.servers:
        server.acknowledges.set()
    await_that(lambda: all(server.listens for server in place.servers), "the servers have spoken")
    await_that(lambda: [server.open_listens for server in place.servers] == [0, 0], "to nobody")


def test_a_replica_that_dies_leaves_the_stream_and_joins_it_when_it_is_back(place: Place) -> None:
    with listening(place) as listener:
        listener.acknowledged()
        first, second = place.servers
        first.kill()
        second.say(still="here")
        assert listener.message()["params"]["still"] == "here"
        first.start()
        await_that(lambda: first.open_listens == 1, "it was asked again")
        assert listener.client.is_silent(0.2), "its acknowledgement is not the client's business"
        first.say(back="again")
        assert listener.message()["params"]["back"] == "again"


def test_a_replica_that_was_away_at_first_joins_later(place: Place) -> None:
    first, second = place.servers
    first.kill()
    with listening(place) as listener:
        assert listener.acknowledged() == {"toolsListChanged": True}
        assert second.open_listens == 1
        first.start()
        await_that(lambda: first.open_listens == 1, "it was asked")
        first.say(late="but here")
        assert listener.message()["params"]["late"] == "but here"


def test_when_the_last_replica_dies_the_stream_is_cut_without_a_result(place: Place) -> None:
    with listening(place) as listener:
        listener.acknowledged()
        for server in place.servers:
            server.kill()
        assert listener.client.rest() == b"", "neither a result nor a last chunk is made up"


def test_a_replica_that_is_slow_does_not_hold_the_others_up_for_long(place: Place) -> None:
    slow, quick = place.servers
    slow.acknowledges.clear()
    began = time.monotonic()
    with listening(place) as listener:
        quick_news = {"sent": "before the acknowledgement"}
        await_that(lambda: quick.open_listens == 1, "one has acknowledged")
        quick.say(**quick_news)
        assert listener.acknowledged() == {"toolsListChanged": True}
        assert 0.9 < time.monotonic() - began < 3
        assert listener.message()["params"]["sent"] == quick_news["sent"]
        slow.acknowledges.set()
        await_that(lambda: slow.open_listens == 1, "the other has acknowledged")
        slow.say(slow="but sure")
        assert listener.message()["params"]["slow"] == "but sure"


REFUSAL = b'{"jsonrpc":"2.0", "id":7,"error":{"code":-32603,"message":"Subscription limit reached"}}'


@pytest.mark.parametrize(
    "refusal",
    [
        actors_message.format_response("400 Bad Request", {**fleets.JSON, "X-Own": "1"}, REFUSAL),
        actors_message.format_response("200 OK", {**fleets.JSON, "X-Own": "1"}, REFUSAL),
        actors_message.format_response("200 OK", {**sessionless.EVENTS, "X-Own": "1"}, sessionless.event(REFUSAL)),
    ],
    ids=["400", "in-band", "in an event"],
)
def test_a_refusal_of_all_passes_as_it_is(place: Place, refusal: bytes) -> None:
    for server in place.servers:
        server.refuses_listens = refusal
    with place.fleet.client() as client:
        client.send(sessionless.listen_request(place.fleet.proxies[0]))
        answer = client.response()
    assert answer.raw == refusal


def test_a_replica_that_refuses_is_done_without_and_asked_again(place: Place) -> None:
    first, second = place.servers
    first.refuses_listens = actors_message.format_response("503 Service Unavailable")
    with listening(place) as listener:
        assert listener.acknowledged() == {"toolsListChanged": True}
        second.say()
        assert listener.message()["method"] == sessionless.CHANGED
        first.refuses_listens = None
        await_that(lambda: first.open_listens == 1, "it was asked again")


def test_without_a_replica_that_can_be_reached_the_client_is_told(place: Place) -> None:
    for server in place.servers:
        server.kill()
    with place.fleet.client() as client:
        client.send(sessionless.listen_request(place.fleet.proxies[0]))
        answer = client.response()
    assert answer.status == 502
    assert answer.json()["id"] == 7
    assert answer.json()["error"]["data"]["reason"] == "backend_unreachable"


@pytest.mark.parametrize(
    ("saying", "status", "reason"),
    [(None, 504, "backend_timeout"), (b"", 502, "backend_lost"), (b"SMTP\r\n\r\n", 502, "backend_lost")],
    ids=["silence", "an end", "nonsense"],
)
def test_without_an_answer_the_client_is_told_that_it_may_have_run(
    redis: redis_server.RedisServer, saying: bytes | None, status: int, reason: str
) -> None:
    with sessionless.place("--name", reason, "--response-timeout", "0.5s", redis=redis, proxies=1) as place:

        async def act(replica: fleets.Replica, connection: kit.Connection, request: fleets.Message) -> bool:
            if saying is None:
                await connection.await_end()
            else:
                await connection.send(saying)
                await connection.close()
            return True

        for server in place.servers:
            server.act = act
        answer = place.post(0, fleets.message("subscriptions/listen", 7), "subscriptions/listen")
        assert answer.status == status
        assert answer.json()["error"]["data"] == {"reason": reason, "may_have_run": True}


def test_comments_of_replicas_end_here_and_a_silent_stream_has_its_own(place: Place) -> None:
    with listening(place) as listener:
        listener.acknowledged()
        for server in place.servers:
            for connection in list(server.listens):
                server.send_raw(connection, b": ping\n\n")
        assert listener.client.is_silent(0.3)
        began = time.monotonic()
        assert listener.chunk(seconds_max=20).startswith(b":")
        assert 13 < time.monotonic() - began < 17


def test_a_message_that_is_no_listen_is_judged_by_one_backend(place: Place) -> None:
    """The head says listen, the body does not."""
    answer = place.post(0, fleets.message("tools/call", 1, name="other"), "subscriptions/listen")
    assert sessionless.result_of(answer)["who"]
    assert len(place.fleet.got("POST")) == 1


def test_a_client_that_does_not_read_stops_the_replicas_and_costs_little_memory(place: Place) -> None:
    proxy = place.fleet.proxies[0]
    with kit.RawClient(proxy.origin, receive_buffer_bytes=8192) as client:
        client.send(sessionless.listen_request(proxy))
        client.until(b"subscriptionId")
        await_that(lambda: all(server.open_listens for server in place.servers), "both listen")
        before = resident_bytes(proxy)
        for server in place.servers:
            server.flood("x" * 50_000, 400)  # 20 MB each
        time.sleep(0.5)
        sent = [server.flooded for server in place.servers]
        time.sleep(0.5)
        assert [server.flooded for server in place.servers] == sent, "both were stopped"
        assert 0 < min(sent) <= max(sent) < 400
        assert resident_bytes(proxy) - before < 4 << 20
        client.close()
    await_that(lambda: [server.open_listens for server in place.servers] == [0, 0], "and let go")


def resident_bytes(proxy: kit.Proxy) -> int:
    status = pathlib.Path(f"/proc/{proxy.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_a_single_replica_is_relayed_as_it_speaks(redis: redis_server.RedisServer) -> None:
    with sessionless.place("--name", "single", redis=redis, servers=1) as place, listening(place) as listener:
        assert listener.acknowledged() == {"toolsListChanged": True}
        [connection] = place.servers[0].listens
        place.servers[0].send_raw(connection, b": ping\n\n")
        assert listener.chunk() == b": ping\n\n"


def test_a_drain_ends_streams_after_a_whole_event(redis: redis_server.RedisServer) -> None:
    flags = ("--name", "drained", "--drain-delay", "0.1s", "--drain-timeout", "1s")
    with sessionless.place(*flags, redis=redis, proxies=1) as place, listening(place) as listener:
        listener.acknowledged()
        place.fleet.proxies[0].drain()
        assert listener.chunk() == b"", "the last chunk, and no result made up"
        await_that(lambda: [server.open_listens for server in place.servers] == [0, 0], "replicas are left")


def test_sockets_are_where_they_were_after_many_streams(place: Place) -> None:
    proxy = place.fleet.proxies[0]
    folder = pathlib.Path(f"/proc/{proxy.pid}/fd")
    for number in range(30):
        with listening(place, number=number) as listener:
            listener.acknowledged()
            if number == 5:
                before = len(list(folder.iterdir()))
    await_that(lambda: place.fleet.metric("fastproxy_streams_open") == 0, "no stream is open")
    await_that(lambda: len(list(folder.iterdir())) <= before, "no descriptor is left over")
