"""The catalog: what clients are told, where their calls go, and that both fit together whatever backends say.

Everything is real and pure: offers are read from JSON as a backend would send it. Not covered: who asks for it.
"""

import json
import random
from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import catalog, offers, paging
from tests.vmcp import offering
from tests.vmcp.offering import offer, tool

Aggregation = vmcp_schema.Aggregation
Rules = vmcp_schema.ToolRules
Override = vmcp_schema.Override


def build(*known: offers.Offers, **aggregation: Any) -> catalog.Catalog:
    return catalog.build(Aggregation(**aggregation), {one.backend: one for one in known}, seal=offering.SEAL)


def told(page: bytes) -> list[dict[str, Any]]:
    members = json.loads(b"{%s}" % page)
    (items,) = (value for key, value in members.items() if key != "nextCursor")
    assert isinstance(items, list)
    return items


def names(built: catalog.Catalog) -> list[str]:
    return [one["name"] for one in told(built.tools_page())]


def target(backend: str, name: str) -> catalog.Target:
    return catalog.Target(backend, name)


# ── tools ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_tools_are_told_in_order_and_called_by_their_own_names() -> None:
    built = build(offer("git", tools=["push", "clone"]), offer("docs", tools=["find"]))
    assert names(built) == ["docs_find", "git_clone", "git_push"]
    assert built.tool("git_push") == target("git", "push")
    assert built.tool("push") is None and built.tool("git.push") is None


def test_only_the_name_of_a_tool_is_changed() -> None:
    said = tool(
        "t", title="T", outputSchema={"type": "object"}, icons=[{"src": "x"}], _meta={"com.x/y": 1}, new={"a": [1.0]}
    )
    (item,) = told(build(offer("b", tools=[said])).tools_page())
    assert item == json.loads(said) | {"name": "b_t"}
    assert list(item) == list(json.loads(said))


def test_a_tool_that_keeps_its_name_keeps_its_bytes() -> None:
    said = b'{ "name" : "t",  "inputSchema": {"type": "object", "big": 123456789012345678901234567890} }'
    page = build(offer("b", tools=[said]), strategy="priority", priority_order=("b",)).tools_page()
    assert page == b'"tools":[%s]' % said


def test_an_optional_member_that_is_null_is_not_told() -> None:
    (item,) = told(build(offer("b", tools=[tool("t", title=None, outputSchema=None, extra=None)])).tools_page())
    assert item == {"name": "b_t", "inputSchema": {"type": "object"}, "extra": None}


def test_overrides_replace_what_they_name_and_nothing_else() -> None:
    said = tool("t", description="old", title="T", annotations={"title": "A", "readOnlyHint": False, "x": 1})
    rules = Rules("b", overrides={"t": Override("renamed", "new", {"readOnlyHint": True, "openWorldHint": False})})
    built = build(offer("b", tools=[said]), tools=(rules,))
    (item,) = told(built.tools_page())
    assert item == {
        "name": "b_renamed",
        "inputSchema": {"type": "object"},
        "description": "new",
        "title": "T",
        "annotations": {"title": "A", "readOnlyHint": True, "x": 1, "openWorldHint": False},
    }
    assert built.tool("b_renamed") == target("b", "t") and built.tool("b_t") is None


def test_annotations_alone_are_an_override_also_of_a_tool_without_any() -> None:
    rules = Rules("b", overrides={"t": Override(annotations={"destructiveHint": False})})
    (item,) = told(build(offer("b", tools=["t"]), tools=(rules,)).tools_page())
    assert item["annotations"] == {"destructiveHint": False}
    assert item["description"] == "b"


@pytest.mark.parametrize(
    ("said", "narrow"),
    [
        ({"outputSchema": {"type": "object", "properties": {"a": {}}}}, None),
        ({"outputSchema": {"type": "array", "items": {}}}, {"outputSchema": None}),
        ({"outputSchema": {"$ref": "#/$defs/x"}}, {"outputSchema": None}),
        ({"outputSchema": {"type": "object", "properties": {"a": True}}}, {"outputSchema": None}),
        (
            {"inputSchema": {"type": "object", "properties": {"a": True, "b": False, "c": {"x": 1.0}}, "new": 1}},
            {"inputSchema": {"type": "object", "properties": {"a": {}, "b": {"not": {}}, "c": {"x": 1.0}}, "new": 1}},
        ),
    ],
)
def test_a_schema_that_older_clients_cannot_read_costs_them_no_list(
    said: dict[str, Any], narrow: dict[str, Any] | None
) -> None:
    built = build(offer("b", tools=[tool("t", **said)]))
    (item,) = told(built.tools_page_unnarrowed())
    assert item == json.loads(tool("b_t", **said)), "a client of 2026-07-28 reads any schema"
    expected = {key: value for key, value in {**item, **(narrow or {})}.items() if value is not None}
    assert told(built.tools_page()) == [expected]


@pytest.mark.parametrize(
    ("aggregation", "shown"),
    [
        ({}, ["a_x", "a_y", "b_x"]),
        ({"exclude_all_tools": True}, []),
        ({"default_visible": False}, []),
        ({"default_visible": False, "tools": (Rules("a"),)}, ["a_x", "a_y"]),
        ({"tools": (Rules("a", exclude_all=True),)}, ["b_x"]),
        ({"tools": (Rules("a", filter=("y",)),)}, ["a_y", "b_x"]),
        ({"tools": (Rules("a", filter=("y",), exclude_all=True),)}, ["b_x"]),
        ({"tools": (Rules("a", filter=("x",), overrides={"x": Override("z")}),)}, ["a_z", "b_x"]),
        ({"tools": (Rules("a", filter=("z",), overrides={"x": Override("z")}),)}, ["b_x"]),
    ],
)
def test_what_is_hidden_is_not_told_nor_called_but_open_to_steps(aggregation: dict[str, Any], shown: list[str]) -> None:
    built = build(offer("a", tools=["x", "y"]), offer("b", tools=["x"]), **aggregation)
    assert names(built) == shown
    assert all(built.tool(name) is not None for name in shown)
    for own in ("a.x", "a.y", "b.x"):
        backend, _, name = own.partition(".")
        assert built.step_tool(own) == target(backend, name)
        assert built.definition(target(backend, name)) is not None
    hidden = {"a_x", "a_y", "b_x"} - set(shown)
    assert all(built.tool(name) is None for name in hidden)


def test_a_step_may_name_a_tool_as_clients_would_or_by_its_backend() -> None:
    built = build(offer("a", tools=["x"]), offer("b", tools=["x"]), strategy="priority", priority_order=("a",))
    assert built.step_tool("x") == target("a", "x")
    assert built.step_tool("b.x") == target("b", "x"), "even though b lost the name"
    assert built.step_tool("b_x") is None and built.step_tool("c.x") is None


def test_a_conflict_under_manual_is_told_to_the_owner_and_the_contenders_to_nobody() -> None:
    built = build(offer("a", tools=["x"]), offer("b", tools=["x", "y"]), strategy="manual")
    assert names(built) == ["y"]
    assert len(built.conflicts) == 1
    assert built.left_out_of("a") == ("tool x: the name x is in conflict",)


def test_what_is_left_out_says_whose_and_why() -> None:
    built = build(
        offer("a", tools=["x" * 80, b"[]", "ok"]), offer("b", resources=["r://1"]), offer("c", resources=["r://1"])
    )
    assert names(built) == ["a_ok"]
    assert built.left_out == (
        "tool [1] of a: expected object, got array",
        f"tool {'x' * 80} of a: its name a_{'x' * 80} has 82 characters, clients take 64 (override its name)",
        "resource r://1 of c: b offers the same",
    )
    assert built.left_out_of("c") == ("resource r://1: b offers the same",)


def test_a_backend_that_offers_nonsense_by_the_thousand_fills_nobody_s_log() -> None:
    many = [f"r://{number}" for number in range(1000)]
    built = build(offer("a", resources=many), offer("b", resources=many), offer("c", resources=["r://1"]))
    assert len(built.left_out_of("b")) == catalog.MISSING_MAX + 1
    assert built.left_out_of("b")[-1] == f"others: {1000 - catalog.MISSING_MAX} more are left out"
    assert built.left_out_of("c") == ("resource r://1: a offers the same",)
    tools = [f"t{number}" for number in range(1000)]
    built = build(offer("a", tools=tools), offer("b", tools=tools), strategy="manual")
    assert len(built.conflicts) == catalog.MISSING_MAX + 1 and built.conflicts[-1] == "and 900 more"


def test_what_has_not_changed_is_told_in_the_words_of_before() -> None:
    rules = Aggregation(tools=(Rules("a", overrides={"x": Override("z")}),))
    known = {"a": offer("a", tools=["x", "y"]), "b": offer("b", tools=["x"])}
    before = catalog.build(rules, known, seal=offering.SEAL)
    known |= {"a": offer("a", tools=["x", tool("y", description="new"), "w"])}
    after = catalog.build(rules, known, seal=offering.SEAL, before=before)
    assert after.tools_page() == catalog.build(rules, known, seal=offering.SEAL).tools_page()
    same = [target("a", "x"), target("b", "x")]
    assert all(after.definition(one) is before.definition(one) for one in same)
    renamed = catalog.build(Aggregation(prefix_format="{workload}."), known, seal=offering.SEAL, before=after)
    assert names(renamed) == ["a.w", "a.x", "a.y", "b.x"]


def test_filters_and_overrides_that_match_nothing_are_doubted_once_their_backend_is_known() -> None:
    rules = (Rules("a", filter=("x", "nope"), overrides={"no": Override("z")}), Rules("away", filter=("x",)))
    assert build(offer("a", tools=["x"]), tools=rules).doubts == (
        "aggregation.tools: a: filter: nope matches no tool of the backend",
        "aggregation.tools: a: overrides: no matches no tool of the backend",
    )


# ── resources, templates, prompts, completions ──────────────────────────────────────────────────────────────────────


def test_a_resource_keeps_its_uri_and_goes_to_the_first_who_offers_it() -> None:
    built = build(offer("b", resources=["r://1", "r://2"]), offer("a", resources=["r://2"]))
    assert [(one["uri"], one["name"]) for one in told(built.resources_page())] == [("r://1", "b"), ("r://2", "a")]
    assert built.resource("r://2") == target("a", "r://2")
    assert built.resource("r://3") is None


def test_a_uri_goes_to_who_lists_it_then_to_its_template_then_to_one_that_it_could_come_from() -> None:
    built = build(
        offer("a", templates=["r://{any}"]),
        offer("b", resources=["r://listed"], templates=["r://{any}", "r://{a}/x"]),
        offer("c", templates=["r://1/{b}"]),
    )
    assert [(one["uriTemplate"], one["name"]) for one in told(built.templates_page())] == [
        ("r://1/{b}", "c"),
        ("r://{any}", "a"),
        ("r://{a}/x", "b"),
    ]
    assert built.resource("r://listed") == target("b", "r://listed")
    assert built.resource("r://{a}/x") == target("b", "r://{a}/x")
    assert built.resource("r://other") == target("a", "r://other")
    assert built.resource("r://1/x") == target("c", "r://1/x"), "in the order of the templates"
    assert built.resource("r://2/x") == target("b", "r://2/x")
    assert built.resource("q://2") is None
    assert built.resource("r://" + "x" * 5000) is None


def test_hiding_tools_hides_no_resources_and_no_prompts() -> None:
    built = build(offer("a", tools=["t"], resources=["r://1"], prompts=["p"]), exclude_all_tools=True)
    assert built.counts() == {"tools": 0, "resources": 1, "templates": 0, "prompts": 1}


def test_prompts_are_renamed_and_found_by_their_new_names() -> None:
    built = build(offer("a", prompts=["p"]), offer("b", prompts=["p"]))
    assert [one["name"] for one in told(built.prompts_page())] == ["a_p", "b_p"]
    assert built.prompt("b_p") == target("b", "p") and built.prompt("p") is None


def test_a_completion_goes_to_who_has_the_prompt_or_the_template() -> None:
    built = build(offer("a", prompts=["p"], templates=["r://{x}"], resources=["s://1"]))
    assert built.completion({"type": "ref/prompt", "name": "a_p"}) == target("a", "p")
    assert built.completion({"type": "ref/resource", "uri": "r://{x}"}) == target("a", "r://{x}")
    assert built.completion({"type": "ref/resource", "uri": "s://1"}) == target("a", "s://1")
    for wrong in ({}, {"type": "ref/prompt", "name": 5}, {"type": "ref/tool", "name": "a_p"}, {"type": "ref/prompt"}):
        assert built.completion(wrong) is None


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_longer_than_a_page_goes_on_behind_a_cursor() -> None:
    built = build(*(offer(f"b{number}", tools=[f"t{one:03}" for one in range(300)]) for number in range(5)))
    first = json.loads(b"{%s}" % built.tools_page())
    second = json.loads(b"{%s}" % built.tools_page(first["nextCursor"]))
    assert (len(first["tools"]), len(second["tools"]), "nextCursor" in second) == (1000, 500, False)
    with pytest.raises(paging.WrongCursor):
        built.prompts_page(first["nextCursor"])


def test_only_lists_that_differ_are_said_to_have_changed() -> None:
    before = build(offer("a", tools=["x"], prompts=["p"], templates=["r://{x}"]))
    same = build(offer("a", tools=["x"], prompts=["p"], templates=["r://{x}"]))
    assert same.changes(before) == frozenset()
    assert build(offer("a", tools=["x", "y"], prompts=["p"], templates=["r://{x}"])).changes(before) == {"tools"}
    assert build(offer("a", tools=["x"])).changes(before) == {"resources", "prompts"}
    described = offer("a", tools=[tool("x", description="new")], prompts=["p"], templates=["r://{x}"])
    assert build(described).changes(before) == {"tools"}


def test_instructions_of_one_backend_stay_and_those_of_several_say_whose_they_are() -> None:
    assert build(offer("a", instructions="be nice")).instructions == "be nice"
    both = build(offer("b", instructions="be quick"), offer("a", instructions="be nice"), offer("c"))
    assert both.instructions == "# a\n\nbe nice\n\n# b\n\nbe quick"
    assert build(offer("a")).instructions is None


def test_composites_join_the_list_unless_their_name_is_taken_or_too_long() -> None:
    def composite(name: str) -> catalog.Composite:
        return catalog.Composite(name, msgspec.Raw(tool(name)), definition=None)

    base = build(offer("a", tools=["x", "hidden"]), tools=(Rules("a", filter=("x",)),))
    wanted = [composite(name) for name in ("flow", "a_x", "a_hidden", "l" * 65, "flow")]
    built = base.with_composites(wanted)
    assert names(built) == ["a_hidden", "a_x", "flow"]
    assert built.tool("flow") == wanted[0]
    assert built.tool("a_x") == target("a", "x"), "the backend's tool stays callable"
    assert built.left_out_of("composite tools") == (
        "tool a_x: the name belongs to x of a",
        f"tool {'l' * 65}: 65 characters, clients take 64",
        "tool flow: the name is given twice",
    )
    assert base.tool("flow") is None
    assert built.changes(base) == {"tools"}


NAMES = strategies.sampled_from(["x", "y", "a_x", "b_x", "x" * 62, "x" * 63, "ü", "a.b", "b.c"])
URIS = strategies.sampled_from(["r://1", "r://2", "r://{x}"])
OFFERS = strategies.fixed_dictionaries(
    {
        "tools": strategies.lists(NAMES, max_size=6),
        "resources": strategies.lists(URIS, max_size=2),
        "templates": strategies.lists(strategies.sampled_from(["r://{x}", "r://{y}/z", "q://{+x}"]), max_size=2),
        "prompts": strategies.lists(NAMES, max_size=4),
    }
)
BACKENDS = strategies.sampled_from(["a", "b", "a_b", "a.b", "b c"])
RULES = strategies.builds(
    Rules,
    BACKENDS,
    filter=strategies.lists(NAMES, max_size=2).map(tuple),
    overrides=strategies.dictionaries(NAMES, strategies.builds(Override, name=strategies.none() | NAMES), max_size=3),
    exclude_all=strategies.booleans(),
)
AGGREGATIONS = strategies.fixed_dictionaries(
    {
        "strategy": strategies.sampled_from(["prefix", "priority", "manual"]),
        "prefix_format": strategies.sampled_from(["{workload}_", "{workload}", "p_"]),
        "priority_order": strategies.lists(BACKENDS, max_size=3, unique=True).map(tuple),
        "tools": strategies.lists(RULES, max_size=3).map(tuple),
        "exclude_all_tools": strategies.booleans(),
        "default_visible": strategies.booleans(),
    }
)


@hypothesis.settings(max_examples=150, deadline=None)
@hypothesis.given(
    said=strategies.dictionaries(BACKENDS, OFFERS, max_size=5),
    aggregation=AGGREGATIONS,
    shuffle=strategies.randoms(use_true_random=False),
)
def test_whatever_backends_offer_names_are_unique_lead_back_and_do_not_depend_on_order(
    said: dict[str, dict[str, list[str]]], aggregation: dict[str, Any], shuffle: random.Random
) -> None:
    known = {backend: offer(backend, **lists) for backend, lists in said.items()}
    built = catalog.build(Aggregation(**aggregation), known, seal=offering.SEAL)

    shown = names(built)
    assert shown == sorted(set(shown)), "each name once, in order"
    for item in told(built.tools_page()):
        assert len(item["name"]) <= 64
        found = built.tool(item["name"])
        assert isinstance(found, catalog.Target)
        assert item["description"] == found.backend and found.name in {one.name for one in known[found.backend].tools}
        assert json.loads(built.definition(found) or b"") == item
    owners = [built.tool(name) for name in shown]
    assert len(set(owners)) == len(owners), "no tool is offered under two names"
    for item in told(built.prompts_page()):
        prompt = built.prompt(item["name"])
        assert prompt and item["description"] == prompt.backend
    for item in told(built.resources_page()):
        assert built.resource(item["uri"]) == target(item["name"], item["uri"])
    for item in told(built.templates_page()):
        assert built.resource(item["uriTemplate"]) is not None

    order = list(known.items())
    shuffle.shuffle(order)
    again = catalog.build(Aggregation(**aggregation), dict(order), seal=offering.SEAL)
    assert again.changes(built) == frozenset() and again.left_out == built.left_out
    assert again.tools_page() == built.tools_page()
