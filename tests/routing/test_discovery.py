"""What answers of DNS come to mean, and when they are believed: pure functions, time in the test's hand.

Not covered: asking (tests/proxy/test_resolver.py), and what becomes of sessions (tests/proxy/test_discovery.py).
"""

import hypothesis
import hypothesis.strategies as st
import pytest

from fastproxy.routing import discovery

Found = discovery.Found
NOTHING: discovery.Found[str] = Found(())


def known(*items: str, now: float = 0.0, seconds: float = 5.0) -> discovery.Memory[str]:
    memory = discovery.Memory[str]()
    memory.learn(Found(items, seconds), now)
    return memory


# ---- how long an answer is good


@pytest.mark.parametrize(
    ("ttl_seconds", "kept_seconds"),
    [
        pytest.param(0, 1, id="nought, as headless Services have it"),
        pytest.param(1, 1, id="the least"),
        pytest.param(3, 3, id="as it is"),
        pytest.param(5, 5, id="the most"),
        pytest.param(86400, 5, id="a day"),
    ],
)
def test_an_answer_is_kept_for_its_ttl_within_one_and_five_seconds(ttl_seconds: float, kept_seconds: float) -> None:
    assert known("a", now=100, seconds=ttl_seconds).ask_at == 100 + kept_seconds


def test_a_denial_and_a_failure_are_asked_again_after_a_second() -> None:
    memory = known("a", now=100)
    memory.fail("SERVFAIL", 105)
    assert memory.ask_at == 106
    memory.learn(NOTHING, 106)
    assert memory.ask_at == 107


# ---- what is believed


def test_a_new_item_is_believed_at_once_and_so_is_a_missing_one_among_others() -> None:
    memory = known("a")
    assert memory.learn(Found(("a", "b")), 1) and memory.items == ("a", "b")
    assert memory.learn(Found(("b",)), 2) and memory.items == ("b",)


def test_the_same_items_in_another_order_are_no_change() -> None:
    memory = known("a", "b")
    assert not memory.learn(Found(("b", "a")), 1)


def test_a_first_denial_is_believed_since_there_is_nothing_to_lose() -> None:
    memory = discovery.Memory[str]()
    assert not memory.known
    assert memory.learn(NOTHING, 0)
    assert memory.known and memory.items == ()


def test_a_denial_of_what_was_known_is_believed_when_said_again_after_two_seconds() -> None:
    memory = known("a", now=0)
    assert not memory.learn(NOTHING, 5) and memory.items == ("a",)
    assert not memory.learn(NOTHING, 6) and memory.items == ("a",)
    assert memory.learn(NOTHING, 7) and memory.items == ()


def test_denials_that_an_answer_parts_never_add_up() -> None:
    memory = known("a", now=0)
    for now in range(1, 100, 2):
        assert not memory.learn(NOTHING, now)
        assert not memory.learn(Found(("a",)), now + 1)
    assert memory.items == ("a",)


def test_a_failure_keeps_everything_however_long_and_is_first_only_once() -> None:
    memory = known("a", now=0)
    assert [memory.fail("no answer", now) for now in range(1, 1000)] == [True] + [False] * 998
    assert memory.items == ("a",) and memory.error == "no answer"
    memory.learn(Found(("a",)), 1000)
    assert memory.error is None
    assert memory.fail("no answer", 1001)


def test_a_failure_between_denials_neither_confirms_nor_clears_a_doubt() -> None:
    memory = known("a", now=0)
    memory.learn(NOTHING, 1)
    memory.fail("SERVFAIL", 3.5)
    assert memory.items == ("a",)
    assert memory.learn(NOTHING, 4.5) and memory.items == ()


def test_services_that_seem_gone_are_not_exchanged_for_addresses_at_once() -> None:
    memory = discovery.Memory[str]()
    addresses = Found(("address",), 1.0, discovery.ADDRESSES)
    memory.learn(Found(("name",), 1.0, discovery.SERVICES), 0)
    assert not memory.learn(addresses, 1) and memory.items == ("name",)
    assert not memory.learn(addresses, 2) and memory.items == ("name",)
    assert memory.learn(addresses, 3) and memory.items == ("address",)
    assert memory.learn(Found(("name",), 1.0, discovery.SERVICES), 4), "and back at once"


@hypothesis.given(st.lists(st.tuples(st.floats(0.0, 3.0), st.sampled_from(["found", "denied", "failed"]))))
def test_what_is_known_is_lost_only_to_two_seconds_of_denials(history: list[tuple[float, str]]) -> None:
    memory = known("a")
    now = 0.0
    denied_since: float | None = None
    wanted: tuple[str, ...] = ("a",)
    for seconds, said in history:
        now += seconds
        if said == "failed":
            memory.fail("ill", now)
        elif said == "found":
            memory.learn(Found(("a",)), now)
            denied_since, wanted = None, ("a",)
        else:
            memory.learn(NOTHING, now)
            denied_since = now if denied_since is None else denied_since
            wanted = () if now - denied_since >= discovery.DOUBT_SECONDS else wanted
        assert memory.items == wanted
        assert now + 1 <= memory.ask_at <= now + 5


# ---- what has just gone


def test_what_a_name_meant_is_told_for_half_a_minute_after_it_has_gone() -> None:
    memory = known("a", "b", now=0)
    assert memory.parting(0) == ()
    memory.learn(NOTHING, 10)
    assert (memory.items, memory.parting(10)) == (("a", "b"), ())
    memory.learn(NOTHING, 12)
    assert (memory.items, memory.parting(12)) == ((), ("a", "b"))
    memory.learn(NOTHING, 41)
    assert memory.parting(41.9) == ("a", "b")
    assert memory.parting(42) == ()


def test_what_has_gone_is_not_told_once_nobody_was_there_or_somebody_is_again() -> None:
    memory = known("a", now=0)
    memory.learn(NOTHING, 10)
    memory.learn(NOTHING, 12)
    memory.part()
    assert memory.parting(12) == ()
    memory.learn(Found(("b",)), 13)
    assert (memory.items, memory.parting(13)) == (("b",), ())


# ---- which names are asked for

CLUSTER = ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local")


@pytest.mark.parametrize(
    ("name", "ndots", "asked"),
    [
        pytest.param("mcp.", 5, ["mcp."], id="absolute by its dot"),
        pytest.param("mcp", 1, ["mcp.a.", "mcp.b.", "mcp."], id="a word"),
        pytest.param("mcp.shop", 1, ["mcp.shop.", "mcp.shop.a.", "mcp.shop.b."], id="enough dots"),
        pytest.param("mcp.shop", 5, ["mcp.shop.a.", "mcp.shop.b.", "mcp.shop."], id="too few dots"),
        pytest.param("mcp.shop", 0, ["mcp.shop.", "mcp.shop.a.", "mcp.shop.b."], id="none needed"),
    ],
)
def test_the_search_list_is_gone_through_as_resolv_conf_says(name: str, ndots: int, asked: list[str]) -> None:
    assert list(discovery.candidates(name, ("a", "b."), ndots)) == asked


def test_without_a_search_list_only_the_name_itself_is_asked_for() -> None:
    assert discovery.candidates("mcp", (".", ""), 1) == ("mcp.",)


# ---- replicas


def test_a_service_row_is_a_replica_under_its_own_name() -> None:
    rows = [
        discovery.Service("Mcp-1.mcp.shop.svc.cluster.local.", 8000),
        discovery.Service("mcp-0.mcp.shop.svc.cluster.local.", 8001),
    ]
    first, second = discovery.from_services(rows)
    assert (first.url, first.pod) == ("http://mcp-0.mcp.shop.svc.cluster.local:8001", "mcp-0")
    assert (second.url, second.pod) == ("http://mcp-1.mcp.shop.svc.cluster.local:8000", "mcp-1")
    assert (second.scheme, second.host, second.port, second.path) == (
        "http",
        "mcp-1.mcp.shop.svc.cluster.local",
        8000,
        "",
    )


def test_an_address_is_a_replica_without_a_pod() -> None:
    found = discovery.from_addresses(["10.0.0.9", "fd00:0::7", "10.0.0.10", "10.0.0.9"], 8000)
    assert [(each.url, each.pod) for each in found] == [
        ("http://10.0.0.10:8000", None),
        ("http://10.0.0.9:8000", None),
        ("http://[fd00::7]:8000", None),
    ]


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(".", id="the root: no such service"),
        pytest.param("a b.test.", id="space"),
        pytest.param("a\\013\\010host:evil.test.", id="line break"),
        pytest.param("a/b.test.", id="slash"),
        pytest.param("user@host.test.", id="user"),
        pytest.param(".".join(["x" * 60] * 5) + ".", id="too long"),
        pytest.param("ünicode.test.", id="not in ASCII"),
    ],
)
def test_a_target_that_can_not_stand_in_a_url_is_left_out(target: str) -> None:
    good = discovery.Service("good.test.", 8000)
    assert [each.host for each in discovery.from_services([discovery.Service(target, 8000), good])] == ["good.test"]


def test_a_port_of_nought_is_left_out() -> None:
    assert discovery.from_services([discovery.Service("a.test.", 0)]) == ()


def test_rows_that_repeat_are_one_replica_and_two_ports_are_two() -> None:
    rows = [discovery.Service("a.test.", port) for port in (8000, 8000, 8001)]
    assert [each.url for each in discovery.from_services(rows)] == ["http://a.test:8000", "http://a.test:8001"]


def test_a_name_that_means_thousands_is_cut() -> None:
    rows = [discovery.Service(f"pod-{number}.test.", 8000) for number in range(5000)]
    assert len(discovery.from_services(rows)) == discovery.REPLICAS_MAX


# ---- the hosts file

HOSTS = """
127.0.0.1   localhost loop  # not: mcp
::1         localhost
10.0.0.1    mcp.shop MCP
# 10.0.0.2  mcp.shop
10.0.0.3
"""


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        pytest.param("localhost", ("127.0.0.1", "::1"), id="two rows"),
        pytest.param("mcp", ("10.0.0.1",), id="case"),
        pytest.param("mcp.shop.", ("10.0.0.1",), id="final dot"),
        pytest.param("shop", (), id="part of a name"),
        pytest.param("10.0.0.3", (), id="a row without names"),
    ],
)
def test_the_hosts_file_gives_a_name_its_addresses(name: str, addresses: tuple[str, ...]) -> None:
    assert discovery.in_hosts_file(HOSTS, name) == addresses
