"""Definitions of composite tools: each rule's problem with its path, all in one answer; and the doubts."""

import copy
from typing import Any

import pytest

from fastproxy.vmcp.composite import validation

GOOD: dict[str, Any] = {
    "name": "deploy",
    "description": "Build, ask, deploy",
    "parameters": {
        "type": "object",
        "properties": {"env": {"type": "string", "default": "dev"}},
        "required": ["env"],
    },
    "timeout": "30m",
    "steps": [
        {"id": "build", "tool": "ci_build", "arguments": {"env": "{{.params.env}}", "deep": [{"n": "{{1}}"}]}},
        {
            "id": "ask",
            "type": "elicitation",
            "message": "Deploy {{.steps.build.output.version}}?",
            "schema": {"type": "object", "properties": {"sure": {"type": "boolean"}}},
            "dependsOn": ["build"],
            "onDecline": {"action": "skip_remaining"},
            "onCancel": {"action": "abort"},
        },
        {
            "id": "hosts",
            "type": "forEach",
            "collection": "{{json .steps.build.output.hosts}}",
            "itemVar": "host",
            "maxParallel": 5,
            "maxIterations": 10,
            "dependsOn": ["ask"],
            "timeout": "20m",
            "step": {"id": "one", "tool": "ops.deploy", "arguments": {"host": "{{.forEach.host}}"}},
        },
        {
            "id": "note",
            "tool": "chat_say",
            "condition": '{{eq .params.env "prod"}}',
            "defaultResults": {"url": "none"},
            "dependsOn": ["hosts"],
            "onError": {"action": "retry", "retryCount": 2, "retryDelay": "100ms"},
        },
    ],
    "output": {
        "properties": {
            "url": {"type": "string", "description": "where", "value": "{{.steps.note.output.url}}"},
            "counts": {
                "type": "object",
                "description": "how many",
                "properties": {
                    "done": {"type": "integer", "description": "n", "value": "{{.steps.hosts.output.completed}}"}
                },
            },
        },
        "required": ["url"],
    },
    "annotations": {"title": "Deploy", "readOnlyHint": False},
}

BAD_STEP = {"id": "x", "tool": "t"}

# What is changed, the path of the problem, and words of it. `steps.-1` is a step put behind the others.
CASES: list[tuple[str, Any, str, str]] = [
    ("name", None, "name", "name is required"),
    ("description", None, "description", "description is required"),
    ("steps", None, "steps", "must have at least one step"),
    ("steps", [], "steps", "must have at least one step"),
    ("steps", [{"id": f"s{n}", "tool": "t"} for n in range(101)], "steps", "too many steps"),
    ("timeout", "-3s", "timeout", "expected a duration"),
    ("timeout", 5, "timeout", "a unit is missing"),
    ("parameters", "{", "parameters", "is not JSON"),
    ("parameters", {"properties": {}}, "parameters.type", "'type' must be 'object' (got nothing)"),
    ("parameters", {"type": "array"}, "parameters.type", "'type' must be 'object' (got"),
    ("parameters", {"type": "object", "properties": {"a": {"type": "text"}}}, "parameters", "is not a JSON Schema"),
    ("parameters", {"type": "object", "properties": []}, "parameters", "is not a JSON Schema"),
    ("parameters", {"type": "object", "required": "env"}, "parameters", "is not a JSON Schema"),
    ("steps.-1", {"tool": "t"}, "steps[4].id", "id is required"),
    ("steps.-1", {"id": "build", "tool": "t"}, "steps[4].id", "is duplicated"),
    ("steps.-1", {"id": "x", "type": "shell", "tool": "t"}, "steps[4].type", "must be one of: , tool"),
    ("steps.-1", {"id": "x", "tool": "t", "message": "m"}, "steps[4]", "cannot have both tool and message"),
    ("steps.-1", {"id": "x"}, "steps[4].tool", "is required when type is tool"),
    ("steps.-1", {"id": "x", "tool": "-no"}, "steps[4].tool", "must be a valid tool name"),
    ("steps.-1", {"id": "x", "type": "elicitation", "schema": {}}, "steps[4].message", "message is required"),
    ("steps.-1", {"id": "x", "type": "elicitation", "message": "m"}, "steps[4].schema", "schema is required"),
    ("steps.-1", {"id": "x", "message": "m", "schema": {"type": 3}}, "steps[4].schema", "is not a JSON Schema"),
    (
        "steps.-1",
        {"id": "x", "type": "forEach", "tool": "t", "collection": "[]", "step": BAD_STEP},
        "steps[4].tool",
        "belongs into the inner step",
    ),
    ("steps.-1", {"id": "x", "type": "forEach", "step": BAD_STEP}, "steps[4].collection", "collection is required"),
    ("steps.-1", {"id": "x", "type": "forEach", "collection": "[]"}, "steps[4].step", "step is required"),
    (
        "steps.-1",
        {"id": "x", "type": "forEach", "collection": "[]", "step": {"id": "y", "type": "forEach"}},
        "steps[4].step.type",
        "must be of type tool, got forEach",
    ),
    (
        "steps.-1",
        {"id": "x", "type": "forEach", "collection": "[]", "step": {"id": "y", "message": "m", "schema": {}}},
        "steps[4].step.type",
        "must be of type tool, got elicitation",
    ),
    (
        "steps.-1",
        {"id": "x", "type": "forEach", "collection": "[]", "step": {"tool": "t"}},
        "steps[4].step.id",
        "id is required",
    ),
    ("steps.2.itemVar", "1st", "steps[2].itemVar", "must match"),
    ("steps.2.itemVar", "index", "steps[2].itemVar", "must not be index"),
    ("steps.2.maxParallel", 51, "steps[2].maxParallel", "must be <= 50"),
    ("steps.2.maxIterations", 1001, "steps[2].maxIterations", "must be <= 1000"),
    ("steps.2.maxIterations", "many", "steps[2].maxIterations", "expected a whole number"),
    ("steps.0.arguments.env", "{{.params.env", "steps[0].arguments.env", "invalid template: line 1"),
    ("steps.0.arguments.deep", [{"n": "{{end}}"}], "steps[0].arguments.deep[0].n", "invalid template"),
    ("steps.0.condition", "{{if}}", "steps[0].condition", "invalid template"),
    ("steps.0.condition", True, "steps[0].condition", "put it in quotes"),
    ("steps.1.message", "{{nope}}", "steps[1].message", "unknown function nope"),
    ("steps.2.collection", "{{", "steps[2].collection", "invalid template"),
    ("steps.0.dependsOn", ["buidl"], "steps[0].dependsOn", "references unknown step"),
    ("steps.0.dependsOn", ["note"], "steps", "dependency cycle detected involving step"),
    ("steps.0.dependsOn", ["build"], "steps", "dependency cycle detected involving step 'build'"),
    ("steps.0.dependsOn", "note", "steps[0].dependsOn", "expected a list of ids"),
    ("steps.3.onError", {"action": "give_up"}, "steps[3].onError.action", "must be one of"),
    ("steps.3.onError", {"action": "retry"}, "steps[3].onError.retryCount", "must be >= 1"),
    ("steps.1.onDecline", {}, "steps[1].onDecline.action", "expected an action"),
    ("steps.1.onCancel", {"action": "retry"}, "steps[1].onCancel.action", "must be one of: skip_remaining"),
    ("steps.3.defaultResults", {}, "steps[3].defaultResults", "defaultResults[url] is required: step note may be"),
    ("steps.0.onError", {"action": "continue"}, "steps[0].defaultResults", "defaultResults[hosts] is required"),
    ("output.properties", {}, "output.properties", "expected at least one property"),
    ("output.required", ["link"], "output.required", "'link' is no property"),
    ("output.properties.url.type", "text", "output.properties.url.type", "must be one of: string"),
    ("output.properties.url.description", None, "output.properties.url.description", "description is required"),
    ("output.properties.url.value", None, "output.properties.url", "exactly one of value and properties"),
    ("output.properties.counts.value", "{{1}}", "output.properties.counts", "exactly one of value and properties"),
    ("output.properties.counts.type", "string", "output.properties.counts.properties", "type object, not string"),
    ("output.properties.url.value", "{{ {{1}} }}", "output.properties.url.value", "invalid template"),
    ("output.properties.url.default", 3, "output.properties.url.default", "expected a default of type string"),
    ("annotations", {"readonlyHint": True}, "annotations.readonlyHint", "did you mean readOnlyHint?"),
    ("step", [], "step", "unknown key (did you mean steps?)"),
    ("steps.0.dependson", [], "steps[0].dependson", "unknown key (did you mean dependsOn?)"),
]


def changed(path: str, value: Any) -> dict[str, Any]:
    definition = copy.deepcopy(GOOD)
    place: Any = definition
    *way, last = path.split(".")
    for key in way:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if last == "-1":
        place.append(value)
    elif value is None:
        del place[last]
    else:
        place[last] = value
    return definition


def test_a_sound_definition_has_no_problem_and_is_read_whole() -> None:
    checked = validation.check([GOOD])
    assert checked.problems == ()
    assert checked.doubts == ()
    (read,) = checked.definitions
    assert [call.tool for call in read.calls()] == ["ci_build", "ops.deploy", "chat_say"]
    assert [step.may_be_skipped for step in read.steps] == [False, False, False, True]
    assert read.timeout_seconds == 1800
    assert read.steps[3].on_error.retry_delay_seconds == 0.1


@pytest.mark.parametrize(("path", "value", "where", "words"), CASES, ids=[f"{n} {c[2]}" for n, c in enumerate(CASES)])
def test_what_is_wrong_is_told_with_its_path(path: str, value: Any, where: str, words: str) -> None:
    problems = validation.check([changed(path, value)]).problems
    assert any(one.startswith(f"compositeTools[0].{where}: ") and words in one for one in problems), problems


def test_all_problems_of_all_tools_come_in_one_answer() -> None:
    wrong = changed("steps.-1", {"id": "build", "tool": "-no", "dependsOn": ["nobody"], "timeout": "soon"})
    checked = validation.check([wrong, changed("timeout", "x"), GOOD])
    paths = [one.partition(": ")[0] for one in checked.problems]
    assert paths == [
        "compositeTools[0].steps[4].tool",
        "compositeTools[0].steps[4].timeout",
        "compositeTools[0].steps[4].id",
        "compositeTools[0].steps[4].dependsOn",
        "compositeTools[1].timeout",
        "compositeTools",
    ]
    assert "3 times" in checked.problems[-1], "all three are called deploy"


def test_a_loop_that_may_take_longer_than_it_is_given_is_doubted() -> None:
    checked = validation.check([changed("steps.2.step.timeout", "15m")])
    assert checked.problems == ()
    (doubt,) = checked.doubts
    assert doubt.startswith("compositeTools[0].steps[2]: 10 iterations, 5 at a time, may take 30m at 15m each")


@pytest.mark.parametrize("raw", [None, 3, [], "x", {"steps": 3}, {"steps": [3, None]}, {"steps": [{"id": []}]}])
def test_what_is_no_definition_at_all_is_told_so(raw: Any) -> None:
    assert validation.check([raw]).problems
