"""When a composite tool is shown, and how: what it calls must be there, its hints promise no more than theirs."""

from typing import Any

import msgspec
import pytest

from fastproxy.vmcp.composite import advertising, definition
from tests.vmcp.composite.scripted import define

SAFE = {"readOnlyHint": True, "destructiveHint": False, "openWorldHint": False}
CALLS = [
    {"id": "a", "tool": "read"},
    {"id": "b", "type": "forEach", "collection": "[]", "step": {"id": "c", "tool": "write"}},
]
ASKS = [{"id": "a", "message": "?", "schema": {"type": "object"}}]


def show(one: definition.Definition, **hints: dict[str, Any]) -> tuple[list[Any], list[tuple[str, str]]]:
    """The tool as it is told, when these tools are there with these hints."""
    shown, hidden = advertising.show([one], lambda name: {"annotations": hints[name]} if name in hints else None)
    return [msgspec.json.decode(each.raw) for each in shown], hidden


def test_a_tool_is_hidden_while_one_that_it_calls_is_not_there_the_inner_ones_of_loops_included() -> None:
    assert show(define(CALLS), read=SAFE) == ([], [("it", "nobody offers write")])
    assert show(define(CALLS)) == ([], [("it", "nobody offers read, write")])
    assert show(define(CALLS), read=SAFE, write=SAFE)[1] == []


@pytest.mark.parametrize(
    ("write", "floor"),
    [
        (SAFE, SAFE),
        ({}, {"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True}),
        ({**SAFE, "readOnlyHint": False}, {**SAFE, "readOnlyHint": False}),
        ({**SAFE, "destructiveHint": True}, {**SAFE, "destructiveHint": True}),
        ({**SAFE, "openWorldHint": "no"}, {**SAFE, "openWorldHint": True}),
    ],
)
def test_hints_are_those_of_the_most_dangerous_tool(write: dict[str, Any], floor: dict[str, Any]) -> None:
    ((told,), _) = show(define(CALLS), read=SAFE, write=write)
    assert told["annotations"] == floor


@pytest.mark.parametrize("hint", [{"readOnlyHint": True}, {"destructiveHint": False}, {"openWorldHint": False}])
def test_a_tool_that_promises_more_than_those_it_calls_is_not_shown(hint: dict[str, bool]) -> None:
    told, ((_, why),) = show(define(CALLS, annotations=hint), read=SAFE, write={})
    assert told == []
    assert "promises more than the tools that it calls" in why


def test_hints_that_are_more_careful_stay_and_so_does_what_nobody_derives() -> None:
    own = {"title": "It", "destructiveHint": True, "idempotentHint": True}
    ((told,), _) = show(define(CALLS, annotations=own), read=SAFE, write=SAFE)
    assert told["annotations"] == {**SAFE, **own}
    assert told["title"] == "It"


def test_a_tool_without_calls_has_the_hints_of_its_owner_alone() -> None:
    ((told,), _) = show(define(ASKS, annotations={"readOnlyHint": True}))
    assert told["annotations"] == {"readOnlyHint": True}
    ((told,), _) = show(define(ASKS))
    assert "annotations" not in told


def test_what_is_told_is_the_tool_with_the_schema_of_its_output() -> None:
    output = {
        "properties": {
            "n": {"type": "integer", "description": "a number", "value": "1"},
            "o": {
                "type": "object",
                "description": "an object",
                "properties": {"s": {"type": "string", "description": "a text", "value": "a"}},
            },
        },
        "required": ["n"],
    }
    parameters = {"type": "object", "properties": {"x": {"type": "string"}}}
    ((told,), _) = show(define(ASKS, output=output, parameters=parameters))
    assert told["inputSchema"] == parameters
    assert told["outputSchema"] == {
        "type": "object",
        "properties": {
            "n": {"type": "integer", "description": "a number"},
            "o": {
                "type": "object",
                "description": "an object",
                "properties": {"s": {"type": "string", "description": "a text"}},
            },
        },
        "required": ["n"],
    }
