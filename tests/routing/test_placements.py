"""What proxies tell each other about the sessions that they have placed, and what a choice makes of it. Pure."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy.routing import placements, policy

ONE, TWO = "http://127.0.0.1:8001", "http://127.0.0.1:8002"


def test_what_others_have_counts_beside_our_own() -> None:
    ours, first, second = placements.Placements(), placements.Placements(), placements.Placements()
    ours.hear({"a": first.news({ONE: 3, TWO: 0}), "b": second.news({ONE: 1, TWO: 7})}, {ONE: 5, TWO: 5}, 0.0)
    assert ours.elsewhere(ONE, 5) == 4
    assert ours.elsewhere(TWO, 5) == 7
    assert ours.elsewhere("http://127.0.0.1:8003", 0) == 0


def test_alone_there_is_nothing_elsewhere() -> None:
    ours = placements.Placements()
    assert ours.elsewhere(ONE, 100) == 0
    ours.hear({}, {}, 0.0)
    assert ours.elsewhere(ONE, 100) == 0


def test_what_we_have_opened_since_the_news_is_taken_to_be_what_each_other_has() -> None:
    ours, other = placements.Placements(), placements.Placements()
    ours.hear({"a": other.news({ONE: 3}), "b": other.news({ONE: 3})}, {ONE: 10}, 0.0)
    assert ours.elsewhere(ONE, 14) == 6 + 2 * 4
    assert ours.elsewhere(ONE, 8) == 6, "sessions that ended are no placements"


def test_since_is_since_others_wrote_what_was_heard_last_or_since_sessions_ended() -> None:
    """They wrote it between the last two hearings: in the middle, for all that we know."""
    ours, other = placements.Placements(), placements.Placements()
    for now, count in enumerate((10, 14, 20)):
        ours.hear({"a": other.news({ONE: 3})}, {ONE: count}, float(now))
    assert ours.elsewhere(ONE, 21) == 3 + (21 - 20) + (20 - 14) / 2
    ours.hear({"a": other.news({ONE: 3})}, {ONE: 2}, 3.0)
    assert ours.elsewhere(ONE, 5) == 3 + (5 - 2)


def test_who_opens_alone_learns_from_the_news_that_nobody_else_does() -> None:
    ours, other = placements.Placements(), placements.Placements()
    quiet = {"a": other.news({ONE: 3})}
    ours.hear(quiet, {ONE: 10}, 0.0)
    assert ours.elsewhere(ONE, 26) == 3 + 16, "a burst begins: it may be everybody's"
    for now, count in enumerate((26, 42, 58), 1):
        ours.hear({"a": other.news({ONE: 3})}, {ONE: count}, float(now))
    assert ours.elsewhere(ONE, 74) == 3 + (16 + 8) / 8, "half as many with each news that show nothing"
    ours.hear({"a": other.news({ONE: 35})}, {ONE: 74}, 4.0)
    assert ours.elsewhere(ONE, 90) == 35 + 16 + 8, "twice as many as we, and never more than each as many as we"
    for now in (5.0, 6.0):
        ours.hear({"a": other.news({ONE: 35})}, {ONE: 74}, now)
    assert ours.elsewhere(ONE, 84) == 35 + 10, "it is quiet: the next burst may be everybody's again"


def test_a_proxy_without_a_beat_is_gone_after_a_while_by_our_own_clock() -> None:
    ours, other = placements.Placements(), placements.Placements()
    line = other.news({ONE: 3})
    for now in (0.0, 10.0, 30.0):
        ours.hear({"a": line}, {}, now)
        assert ours.elsewhere(ONE, 0) == 3
        assert ours.gone(now) == []
    ours.hear({"a": line}, {}, 40.0)
    assert ours.elsewhere(ONE, 0) == 0
    assert ours.gone(40.0) == ["a"]
    ours.hear({"a": other.news({ONE: 3})}, {}, 41.0)
    assert ours.elsewhere(ONE, 0) == 3, "it was only slow"


@given(st.text(max_size=40))
def test_a_line_that_we_cannot_read_counts_as_nothing_and_harms_nobody(line: str) -> None:
    ours = placements.Placements()
    ours.hear({"a": line}, {}, 0.0)
    assert ours.elsewhere(ONE, 0) >= 0


@pytest.mark.parametrize("share_of_the_first", [0.5, 0.1, 0.0], ids=["both open", "mostly one", "one alone"])
def test_proxies_fill_what_is_uneven_together_and_do_not_overshoot(share_of_the_first: float) -> None:
    """Two replicas join two that have 250 each; two proxies open 500 more, news now and then."""
    draw = random.Random(7)
    urls = [f"http://127.0.0.1:{port}" for port in range(8001, 8005)]
    proxies = [placements.Placements() for _ in range(2)]
    counts = [dict(zip(urls, (125, 125, 0, 0), strict=True)) for _ in proxies]
    lines: dict[str, str] = {}
    for turn in range(500):
        if turn % 16 == 0:
            for number, proxy in enumerate(proxies):
                lines[str(number)] = proxy.news(counts[number])
            for number, proxy in enumerate(proxies):
                proxy.hear({name: line for name, line in lines.items() if name != str(number)}, counts[number], turn)
        number = int(draw.random() >= share_of_the_first)
        own = counts[number]
        loads = [policy.Load(own[url] + proxies[number].elsewhere(url, own[url]), 0) for url in urls]
        own[urls[policy.least_sessions(loads, turn)]] += 1
    totals = [sum(own[url] for own in counts) for url in urls]
    assert sum(totals) == 1000
    assert all(225 <= total <= 275 for total in totals), totals
