"""A stream that breaks is resumed by `Last-Event-ID` through whichever proxy the client asks.

Everything is real: servers with an event store and clients of the official SDKs, two proxies, Redis. The tool
`interrupted` closes its call's stream half-way, on purpose; what it says meanwhile is in the event store of that one
replica, so a resumption that reaches the other replica finds nothing. Each request of a client goes to one of the
proxies by lot.
"""

from tests.e2e import stand

TRIES_MAX = 12


@stand.couples(["mcp2-sse", "mcp1-sse", "fastmcp-sse"])
def test_an_interrupted_answer_is_resumed_through_the_other_proxy(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind, event_store=True)
    with place.client(sdk) as client:
        for _ in range(TRIES_MAX):
            begin = len(client.exchanges)
            answer = client.call("interrupted", steps=4)
            assert (answer.text, len(answer.progress)) == ("4 steps, interrupted once", 4)
            exchanges = client.exchanges[begin:]
            [call] = [each["target"] for each in exchanges if each["rpc"] == "tools/call"]
            resumed = [each["target"] for each in exchanges if each["method"] == "GET" and each["last_event_id"]]
            assert resumed
            if call not in resumed:
                break
        assert call not in resumed, f"no resumption of {TRIES_MAX} took another way than its call"
        assert client.call("counter").text == "1"
    place.assert_sound()
