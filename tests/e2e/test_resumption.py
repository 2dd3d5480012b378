"""A stream that breaks is resumed by `Last-Event-ID` through whichever proxy the client asks.

Everything is real: servers with an event store and clients of the official SDKs, two proxies, Redis. The tool
`interrupted` closes its call's stream half-way, on purpose; what it says meanwhile is in the event store of that one
replica, so a resumption that reaches the other replica finds nothing. Each request of a client goes to one of the
proxies by lot.
"""

from collections.abc import Iterator

import pytest

from tests import kit
from tests.e2e import stand
from tests.kit import redis_server

KINDS = ["mcp2-sse", "mcp1-sse", "fastmcp-sse"] if stand.WHOLE_MATRIX else ["mcp2-sse", "mcp1-sse"]
TRIES_MAX = 12


@pytest.fixture(scope="module", params=KINDS)
def place(request: pytest.FixtureRequest, redis: redis_server.RedisServer) -> Iterator[stand.Stand]:
    with stand.Stand(request.param, redis, event_store=True) as running:
        yield running


@pytest.mark.parametrize("sdk", kit.CLIENTS)
def test_an_interrupted_answer_is_resumed_through_the_other_proxy(sdk: str, place: stand.Stand) -> None:
    with place.client(sdk) as client:
        for number in range(1, TRIES_MAX + 1):
            begin = len(client.exchanges)
            answer = client.call("interrupted", steps=4)
            assert (answer.text, len(answer.progress)) == ("4 steps, interrupted once", 4)
            exchanges = client.exchanges[begin:]
            [call] = [each["target"] for each in exchanges if each["rpc"] == "tools/call"]
            resumed = [each["target"] for each in exchanges if each["method"] == "GET" and each["last_event_id"]]
            assert resumed
            if call not in resumed:
                break
        assert call not in resumed, f"no resumption of {number} took another way than its call"
        assert client.call("counter").text == "1"
    place.assert_sound()
