"""Clients of 2026-07-28 use a server of two replicas through two proxies without any session.

Everything is real: servers of both eras, clients in the mode that finds out the era by itself (`auto`) and in the one
that is told, two proxies, Redis. Each request goes to one of the proxies by lot, and from there to any replica.

Not covered: subscriptions and multi-round requests over two replicas, which need more than a free choice of replica.
"""

import itertools
import json

import pytest

from tests.e2e import stand

MODERN = "2026-07-28"
OF_BOTH_ERAS = ["mcp2", "ts2"]  # the 1.x clients know the legacy era only
MODERN_VISITS = list(itertools.product(["mcp2-sse", "fastmcp-json"], stand.LANES, OF_BOTH_ERAS, ["auto", MODERN]))
if not stand.WHOLE_MATRIX:
    MODERN_VISITS = [
        ("mcp2-sse", "fast", "mcp2", "auto"),
        ("mcp2-sse", "fast", "ts2", MODERN),
        ("mcp2-sse", "story", "ts2", "auto"),
        ("fastmcp-json", "fast", "mcp2", MODERN),
        ("fastmcp-json", "fast", "ts2", "auto"),
    ]


@pytest.mark.parametrize(("kind", "lane", "sdk", "mode"), MODERN_VISITS)
def test_a_modern_client_needs_no_session(kind: str, sdk: str, mode: str, lane: str, stands: stand.Stands) -> None:
    place = stands.of(kind, lane)
    before = place.session_ids()
    with place.client(sdk, mode=mode) as client:
        assert client.protocol == MODERN
        assert [client.call("echo", value=number).text for number in range(8)] == list("01234567")
        assert [client.call("counter").text for _ in range(4)] == ["1"] * 4
        assert client.ask("read_resource", uri="kit://greeting")["contents"][0]["text"] == "hello from the kit"
        assert client.call("fail", message="no").is_error
        exchanges = client.exchanges
        assert {each["target"] for each in exchanges} == {0, 1}
        assert not any(each["session"] or each["answered_session"] for each in exchanges)
        assert {each["method"] for each in exchanges} == {"POST"}
        assert place.session_ids() == before
    place.assert_sound()


@stand.couples(["mcp2-sse"], OF_BOTH_ERAS)
def test_modern_calls_at_the_same_time_are_spread_over_the_replicas(kind: str, sdk: str, stands: stand.Stands) -> None:
    place = stands.of(kind)
    with place.client(sdk, mode=MODERN) as client:
        client.ask("list_tools")
        slow = [client.begin_call("slow", seconds=0.4) for _ in range(4)]
        ports = {json.loads(each.answer().text)["port"] for each in [client.begin_call("whoami") for _ in range(12)]}
        assert [each.answer().text for each in slow] == ["slept 0.4"] * 4
    assert ports == {each.port for each in place.replicas}


@stand.couples(["mcp2-sse"], OF_BOTH_ERAS[::-1])
def test_a_modern_call_tells_its_progress(kind: str, sdk: str, stands: stand.Stands) -> None:
    with stands.of(kind).client(sdk, mode=MODERN) as client:
        answer = client.call("progress", steps=3, seconds=0.05)
        assert [each["progress"] for each in answer.progress] == [1, 2, 3]


@stand.couples(["mcp1-json", "everything"], OF_BOTH_ERAS)
def test_a_client_of_both_eras_falls_back_to_a_session_with_a_legacy_server(
    kind: str, sdk: str, stands: stand.Stands
) -> None:
    place = stands.of(kind)
    with place.client(sdk, mode="auto") as client:
        assert client.protocol == "2025-11-25"
        assert client.session_id is not None
        if kind == "everything":
            assert [client.call("echo", message=each).text for each in "abcd"] == [f"Echo: {each}" for each in "abcd"]
        else:
            assert [client.call("counter").text for _ in range(6)] == list("123456")
    place.assert_sound()


def test_both_eras_at_once_do_not_disturb_each_other(stands: stand.Stands) -> None:
    place = stands.of("mcp2-sse")
    with place.client("mcp2", mode=MODERN) as modern, place.client("ts1") as legacy:
        for count in range(1, 7):
            pending = [modern.begin_call("counter"), legacy.begin_call("counter")]
            assert [each.answer().text for each in pending] == ["1", str(count)]
    place.assert_sound()
