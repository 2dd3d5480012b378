"""Conflict rules: each strategy as a table of who wants which name and who gets it.

Everything is real and pure. Not covered: overrides and visibility, which happen before and after (test_catalog.py).
"""

import itertools

import pytest

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import naming


def claims(*words: str) -> list[naming.Claim]:
    """`backend:name`, or `backend:own>wanted` under an override."""
    made = []
    for word in words:
        backend, _, name = word.partition(":")
        own, _, wanted = name.partition(">")
        made.append(naming.Claim(backend, own, wanted or own))
    return made


def show(names: naming.Names) -> dict[str, str]:
    return {name: f"{claim.backend}:{claim.own}" for name, claim in names.given.items()}


def aggregate(strategy: str, *order: str, prefix_format: str = "{workload}_") -> vmcp_schema.Aggregation:
    return vmcp_schema.Aggregation(strategy=strategy, priority_order=order, prefix_format=prefix_format)


@pytest.mark.parametrize(
    ("prefix_format", "name"),
    [
        ("{workload}_", "git_x"),
        ("{workload}.", "git.x"),
        ("{workload}", "gitx"),
        ("all-", "all-x"),
        ("{workload}{workload}-", "gitgit-x"),
    ],
)
def test_prefix_renames_every_tool_in_conflict_or_not(prefix_format: str, name: str) -> None:
    names = naming.name_tools(claims("git:x"), aggregate("prefix", prefix_format=prefix_format))
    assert show(names) == {name: "git:x"}


def test_the_odd_characters_of_a_client_s_own_name_do_not_reach_a_tool_s_name() -> None:
    names = naming.name_tools(claims("my server (1)/@x:t"), aggregate("prefix"))
    assert show(names) == {"my_server__1___x_t": "my server (1)/@x:t"}


def test_two_tools_that_a_prefix_makes_equal_go_to_the_first_backend() -> None:
    names = naming.name_tools(claims("a:b_c", "a_b:c"), aggregate("prefix"))
    assert show(names) == {"a_b_c": "a:b_c"}
    assert [(one.claim.backend, one.why) for one in names.left_out] == [("a_b", "the name a_b_c belongs to b_c of a")]


@pytest.mark.parametrize(
    ("order", "expected", "lost"),
    [
        (("a", "b"), {"x": "a:x", "y": "a:y", "z": "b:z"}, {"b:x"}),
        (("b", "a"), {"x": "b:x", "y": "a:y", "z": "b:z"}, {"a:x"}),
        (("b",), {"x": "b:x", "y": "a:y", "z": "b:z"}, {"a:x"}),
        (("c",), {"a_x": "a:x", "b_x": "b:x", "y": "a:y", "z": "b:z"}, set()),
    ],
)
def test_priority_keeps_bare_names_and_gives_a_contested_one_to_the_first(
    order: tuple[str, ...], expected: dict[str, str], lost: set[str]
) -> None:
    names = naming.name_tools(claims("a:x", "a:y", "b:x", "b:z"), aggregate("priority", *order))
    assert show(names) == expected
    assert {f"{one.claim.backend}:{one.claim.own}" for one in names.left_out} == lost
    assert not names.conflicts


def test_a_prefixed_name_gives_way_to_one_that_is_called_so() -> None:
    names = naming.name_tools(claims("a:x", "b:x", "c:a_x"), aggregate("priority", "z"))
    assert show(names) == {"a_x": "c:a_x", "b_x": "b:x"}
    assert [one.claim.backend for one in names.left_out] == ["a"]


def test_manual_leaves_contenders_out_and_names_the_conflict() -> None:
    names = naming.name_tools(claims("a:x", "b:y>x", "c:z"), aggregate("manual"))
    assert show(names) == {"z": "c:z"}
    (conflict,) = names.conflicts
    assert conflict == "tool name conflict: x is wanted by a (its x) and b (its y) (override one of the names)"
    assert {one.claim.backend for one in names.left_out} == {"a", "b"}


def test_manual_with_overrides_that_settle_it_has_no_conflict() -> None:
    names = naming.name_tools(claims("a:x>ax", "b:x"), aggregate("manual"))
    assert (show(names), names.conflicts) == ({"ax": "a:x", "x": "b:x"}, ())


@pytest.mark.parametrize("strategy", ["prefix", "priority", "manual"])
def test_a_name_too_long_for_clients_is_left_out_and_one_that_just_fits_is_not(strategy: str) -> None:
    prefix = 2 if strategy == "prefix" else 0
    fits, long = "f" * (64 - prefix), "l" * (65 - prefix)
    names = naming.name_tools(claims(f"a:{fits}", f"a:{long}"), aggregate(strategy, "a"))
    assert [claim.own for claim in names.given.values()] == [fits]
    (left,) = names.left_out
    assert left.claim.own == long and "65 characters" in left.why


@pytest.mark.parametrize(
    ("strategy", "order", "expected"),
    [
        ("prefix", (), {"a_p": "a:p", "b_p": "b:p", "b_q": "b:q", "c_p": "c:p"}),
        ("manual", (), {"a_p": "a:p", "b_p": "b:p", "b_q": "b:q", "c_p": "c:p"}),
        ("priority", ("b", "a"), {"p": "b:p", "q": "b:q", "c_p": "c:p"}),
        ("priority", ("c",), {"a_p": "a:p", "b_p": "b:p", "b_q": "b:q", "p": "c:p"}),
    ],
)
def test_prompts_are_prefixed_unless_their_backend_has_priority(
    strategy: str, order: tuple[str, ...], expected: dict[str, str]
) -> None:
    names = naming.name_prompts(claims("a:p", "b:p", "b:q", "c:p"), aggregate(strategy, *order))
    assert show(names) == expected


def test_a_prompt_s_name_that_stays_ambiguous_is_nobody_s() -> None:
    names = naming.name_prompts(claims("a:b_p", "b:p"), aggregate("priority", "a"))
    assert show(names) == {}
    assert {one.claim.backend for one in names.left_out} == {"a", "b"}


@pytest.mark.parametrize("strategy", ["prefix", "priority", "manual"])
def test_every_claim_gets_a_name_or_a_reason(strategy: str) -> None:
    wanted = claims(*(f"{backend}:{name}" for backend, name in itertools.product("abc", ("x", "y", "a_x", "l" * 70))))
    names = naming.name_tools(wanted, aggregate(strategy, "b"))
    told = [*names.given.values(), *(one.claim for one in names.left_out)]
    assert sorted(map(str, told)) == sorted(map(str, wanted))
