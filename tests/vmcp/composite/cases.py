"""The table of runs: definitions, what is given, what tools and users say (scripted.py), and what comes out."""

from typing import Any

from fastproxy.vmcp.composite import runner
from tests.vmcp.composite.scripted import World, error


def step(name: str, tool: str = "echo", **members: Any) -> dict[str, Any]:
    return {"id": name, "tool": tool, **members}


def ask(name: str = "ask", **members: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    return {"id": name, "type": "elicitation", "message": "go {{.params.who}}?", "schema": schema, **members}


def loop(collection: str, inner: dict[str, Any] | None = None, **members: Any) -> dict[str, Any]:
    given = {"i": "{{.forEach.index}}", "v": "{{json .forEach.item}}"}
    return {
        "id": "each",
        "type": "forEach",
        "collection": collection,
        "step": inner or step("one", arguments=given),
        **members,
    }


def out(value: str, kind: str = "string", **members: Any) -> dict[str, Any]:
    return {"properties": {"x": {"type": kind, "description": "x", "value": value, **members}}}


YES, NO, NEVER = runner.Answer("accept", {"n": 3}), runner.Answer("decline"), runner.Answer("cancel")
AB = [step("a", arguments={"n": 1}), step("b", arguments={"n": "{{.steps.a.output.n}}"}, dependsOn=["a"])]
SCHEMED = "texts as the tool's schema wants them"
FAIL = {"bad": error("it broke")}

# name: (steps, what else is defined, arguments, world, the output or words of the error)
CASES: dict[str, tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any], World, Any]] = {
    "one step": ([step("a", arguments={"n": 1})], {}, {}, World(), {"n": 1}),
    "an output is passed on": (AB, {}, {}, World(), {"n": "1"}),
    "a whole value keeps its type": (
        [step("a", arguments={"n": [1, {"b": None}]})],
        {},
        {},
        World(),
        {"n": [1, {"b": None}]},
    ),
    "templates at any depth": (
        [step("a", arguments={"deep": [{"n": "{{.params.n}}"}]})],
        {},
        {"n": 4},
        World(),
        {"deep": [{"n": "4"}]},
    ),
    "text content is under text": ([step("a", "say")], {}, {}, World({"say": "hello"}), {"text": "hello"}),
    "several contents have numbers": (
        [step("a", "say")],
        {},
        {},
        World(
            {
                "say": {
                    "content": [
                        {"type": "text", "text": "a"},
                        {"type": "text", "text": "b"},
                        {"type": "image", "data": "aW1n", "mimeType": "image/png"},
                        {"type": "resource", "resource": {"uri": "x:y", "text": "r"}},
                        {"type": "audio", "data": "x", "mimeType": "audio/wav"},
                    ]
                }
            }
        ),
        {"text": "a", "text_1": "b", "image_0": "aW1n", "resource": "r"},
    ),
    "structured content comes before text, which is at hand too": (
        [step("a", "both")],
        {"output": out("{{.steps.a.output.n}} {{.steps.a.content.text}}")},
        {},
        World({"both": {"structuredContent": {"n": 1}, "content": [{"type": "text", "text": "t"}]}}),
        {"x": "1 t"},
    ),
    "the last that was completed without an output block": (
        [step("b", arguments={"n": "b"}, dependsOn=["a"]), step("a", arguments={"n": "a"})],
        {},
        {},
        World(),
        {"n": "b"},
    ),
    "defaults of parameters": (
        [step("a", arguments={"n": "{{.params.n}}"})],
        {"parameters": {"type": "object", "properties": {"n": {"type": "integer", "default": 7}}}},
        {},
        World(),
        {"n": "7"},
    ),
    "arguments that do not fit": (
        [step("a")],
        {"parameters": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        {"n": "x"},
        World(),
        "Workflow error: n: 'x' is not of type 'integer'",
    ),
    "a required argument that is missing": (
        [step("a")],
        {"parameters": {"type": "object", "required": ["n"]}},
        {},
        World(),
        "Workflow error: arguments: 'n' is a required property",
    ),
    "a condition that holds": ([step("a", condition="{{eq .params.n 1}}")], {}, {"n": 1}, World(), {}),
    "a condition that does not": (
        [step("a", condition="{{eq .params.n 2}}", defaultResults={"d": 1})],
        {"output": out("{{.steps.a.status}} {{json .steps.a.output}}")},
        {"n": 1},
        World(),
        {"x": 'skipped {"d":1}'},
    ),
    "a condition that is neither": (
        [step("a", condition="maybe")],
        {},
        {},
        World(),
        "must give true or false, got 'maybe'",
    ),
    "True and FALSE are words too": (
        [step("a", condition="True"), step("b", condition="FALSE")],
        {"output": out("{{.steps.a.status}} {{.steps.b.status}}")},
        {},
        World(),
        {"x": "completed skipped"},
    ),
    "dependents of a skipped step run with its default results": (
        [
            step("a", condition="false", defaultResults={"n": 5}),
            step("b", arguments={"n": "{{.steps.a.output.n}}"}, dependsOn=["a"]),
        ],
        {},
        {},
        World(),
        {"n": "5"},
    ),
    "a missing value fails the step": (
        [step("a", arguments={"n": "{{.params.n}}"})],
        {},
        {},
        World(),
        ".params.n is not there",
    ),
    "a missing value that is continued": (
        [step("a", arguments={"n": "{{.params.n}}"}, onError={"action": "continue"}, defaultResults={"n": 0})],
        {"output": out("{{.steps.a.status}} {{.steps.a.output.n}} {{.steps.a.error}}")},
        {},
        World(),
        {"x": "failed 0 line 1: .params.n is not there"},
    ),
    "an error of a tool aborts": (
        [step("a", "bad")],
        {},
        {},
        World(FAIL),
        "Workflow execution failed: step a: bad: it broke",
    ),
    "an error in structured content": (
        [step("a", "bad")],
        {},
        {},
        World({"bad": {"isError": True, "structuredContent": {"message": "no"}}}),
        "bad: no",
    ),
    "an error without words": ([step("a", "bad")], {}, {}, World({"bad": {"isError": True}}), "answered with an error"),
    "a backend without an answer": (
        [step("a", "bad")],
        {},
        {},
        World({"bad": runner.CallFailed("it is away")}),
        "step a: bad: it is away",
    ),
    "an unknown tool": ([step("a", "nobodys")], {}, {}, World(), "nobodys: unknown tool"),
    "continue goes on": (
        [step("a", "bad", onError={"action": "continue"}), step("b", arguments={"n": 2}, dependsOn=["a"])],
        {},
        {},
        World(FAIL),
        {"n": 2},
    ),
    "what goes on says what it is and why": (
        [step("a", "bad", onError={"action": "continue"}, defaultResults={"n": 9})],
        {"output": out("{{.steps.a.status}} {{.steps.a.output.n}} {{.steps.a.error}}")},
        {},
        World(FAIL),
        {"x": "failed 9 bad: it broke"},
    ),
    "retry until it works": (
        [step("a", "flaky", onError={"action": "retry", "retryCount": 3, "retryDelay": "1ms"})],
        {},
        {},
        World({"flaky": [error("1"), runner.CallFailed("2"), {"n": 3}]}),
        {"n": 3},
    ),
    "retry in vain": (
        [step("a", "bad", onError={"action": "retry", "retryCount": 2, "retryDelay": "1ms"})],
        {},
        {},
        World(FAIL),
        "step a: bad: it broke",
    ),
    "a step's timeout": (
        [step("a", "slow", arguments={"seconds": 5}, timeout="20ms")],
        {},
        {},
        World(),
        "step a: not done within 0.02 s",
    ),
    "a step's timeout covers its retries": (
        [step("a", "bad", timeout="30ms", onError={"action": "retry", "retryCount": 9, "retryDelay": "20ms"})],
        {},
        {},
        World(FAIL),
        "step a: not done within 0.03 s",
    ),
    "a timeout that is continued": (
        [step("a", "slow", arguments={"seconds": 5}, timeout="20ms", onError={"action": "continue"})],
        {"output": out("{{.steps.a.status}}")},
        {},
        World(),
        {"x": "failed"},
    ),
    "the workflow's timeout": (
        [step("a", "slow", arguments={"seconds": 5})],
        {"timeout": "20ms"},
        {},
        World(),
        "Workflow execution timeout exceeded",
    ),
    SCHEMED: (
        [
            step(
                "a",
                "echo",
                arguments={"i": "{{.params.i}}", "s": "{{.params.i}}", "b": "{{.params.b}}", "l": "[1]"},
            )
        ],
        {},
        {"i": 5, "b": True},
        World(),
        {"i": 5, "s": "5", "b": True, "l": [1]},
    ),
    "the user accepts": ([ask()], {}, {"who": "on"}, World(said=[YES]), {"action": "accept", "content": {"n": 3}}),
    "what the user said is at hand": (
        [ask(), step("b", arguments={"n": "{{.steps.ask.output.content.n}}"}, dependsOn=["ask"])],
        {},
        {"who": "on"},
        World(said=[YES]),
        {"n": "3"},
    ),
    "what the user said does not fit": (
        [ask()],
        {},
        {"who": "on"},
        World(said=[runner.Answer("accept", {"n": "three"})]),
        "the user's answer does not fit: n: 'three' is not of type 'integer'",
    ),
    "what the user said is too deep": (
        [ask(schema={"type": "object"})],
        {},
        {"who": "on"},
        World(said=[runner.Answer("accept", {"a": [[[[[[[[[[[]]]]]]]]]]]})]),
        "expected at most 10 levels",
    ),
    "what the user said is too long": (
        [ask(schema={"type": "object"})],
        {},
        {"who": "on"},
        World(said=[runner.Answer("accept", {"a": "x" * (1 << 20)})]),
        "expected at most 1048576 bytes",
    ),
    "the user declines": ([ask()], {}, {"who": "on"}, World(said=[NO]), "step ask: the user declined"),
    "the user cancels": ([ask()], {}, {"who": "on"}, World(said=[NEVER]), "step ask: the user gave no answer"),
    "a decline that aborts": (
        [ask(onDecline={"action": "abort"})],
        {},
        {"who": "on"},
        World(said=[NO]),
        "the user declined",
    ),
    "a decline that is continued": (
        [ask(onDecline={"action": "continue"})],
        {},
        {"who": "on"},
        World(said=[NO]),
        {"action": "decline"},
    ),
    "a cancel that is continued": (
        [ask(onCancel={"action": "continue"})],
        {},
        {"who": "on"},
        World(said=[NEVER]),
        {"action": "cancel"},
    ),
    "skip_remaining skips and succeeds": (
        [ask(onDecline={"action": "skip_remaining"}), step("b", dependsOn=["ask"], arguments={"n": 1})],
        {},
        {"who": "on"},
        World(said=[NO]),
        {"action": "decline", "skipped": True},
    ),
    "what was skipped has its default results": (
        [
            ask(onDecline={"action": "skip_remaining"}),
            step("b", dependsOn=["ask"], defaultResults={"n": 4}, onError={"action": "continue"}),
        ],
        {"output": out("{{.steps.b.status}} {{.steps.b.output.n}}")},
        {"who": "on"},
        World(said=[NO]),
        {"x": "skipped 4"},
    ),
    "a user who says nothing has cancelled": (
        [{**ask(timeout="20ms", onCancel={"action": "continue"})}],
        {},
        {"who": "on"},
        World(said=[TimeoutError()]),
        {"action": "cancel"},
    ),
    "a user who can't be asked": (
        [ask()],
        {},
        {"who": "on"},
        World(said=[runner.CannotAsk("the client knows no elicitation")]),
        "the user can't be asked: the client knows no elicitation",
    ),
    "a loop": (
        [loop("[10, 20]")],
        {"output": out("{{json .steps.each.output}}", "object")},
        {},
        World(),
        {
            "x": {
                "completed": 2,
                "count": 2,
                "failed": 0,
                "iterations": [
                    {"index": 0, "item": 10, "output": {"i": "0", "v": "10"}, "status": "completed"},
                    {"index": 1, "item": 20, "output": {"i": "1", "v": "20"}, "status": "completed"},
                ],
            }
        },
    ),
    "a loop over nothing": ([loop("[]")], {}, {}, World(), {"iterations": [], "count": 0, "completed": 0, "failed": 0}),
    "a loop with a name of its own": (
        [loop("{{json .params.l}}", step("one", arguments={"h": "{{.forEach.host.n}}"}), itemVar="host")],
        {"output": out("{{range .steps.each.output.iterations}}{{.output.h}}{{end}}")},
        {"l": [{"n": "a"}, {"n": "b"}]},
        World(),
        {"x": "ab"},
    ),
    "a loop over what is no array": ([loop('{"a":1}')], {}, {}, World(), "must be a JSON array, got '{\"a\":1}'"),
    "a loop over what is no JSON": ([loop("[1,")], {}, {}, World(), "must be a JSON array"),
    "a loop over too much": ([loop("[1,2,3]", maxIterations=2)], {}, {}, World(), "has 3 elements, maxIterations is 2"),
    "a loop that fails": (
        [loop("[1,2]", step("one", "bad"))],
        {},
        {},
        World(FAIL),
        "step each: iteration 0: bad: it broke",
    ),
    "a loop that goes on": (
        [
            loop(
                "[1,2,3]",
                step("one", "flaky"),
                onError={"action": "continue"},
                maxParallel=1,
                defaultResults={"iterations": [], "failed": 0},
            )
        ],
        {"output": out("{{range .steps.each.output.iterations}}{{.status}} {{end}}{{.steps.each.output.failed}}")},
        {},
        World({"flaky": [{"n": 1}, error("two"), {"n": 3}]}),
        {"x": "completed failed completed 1"},
    ),
    "an inner step's condition": (
        [loop("[1,2]", step("one", arguments={}, condition="{{eq .forEach.index 1}}", defaultResults={"d": 0}))],
        {"output": out("{{range .steps.each.output.iterations}}{{.status}} {{end}}")},
        {},
        World(),
        {"x": "skipped completed "},
    ),
    "an inner step's timeout": (
        [loop("[1]", step("one", "slow", arguments={"seconds": 5}, timeout="20ms"))],
        {},
        {},
        World(),
        "iteration 0: not done within 0.02 s",
    ),
    "an inner step's retries": (
        [loop("[1]", step("one", "flaky", onError={"action": "retry", "retryCount": 1, "retryDelay": "1ms"}))],
        {"output": out("{{.steps.each.output.completed}}", "integer")},
        {},
        World({"flaky": [error("1"), {"n": 1}]}),
        {"x": 1},
    ),
    "types of an output": (
        [step("a", arguments={"i": 5, "f": 1.5, "b": "T", "l": [1], "o": {"k": None}})],
        {
            "output": {
                "properties": {
                    "i": {"type": "integer", "description": "i", "value": " {{.steps.a.output.i}} "},
                    "f": {"type": "number", "description": "f", "value": "{{.steps.a.output.f}}"},
                    "b": {"type": "boolean", "description": "b", "value": "{{.steps.a.output.b}}"},
                    "l": {"type": "array", "description": "l", "value": "{{json .steps.a.output.l}}"},
                    "o": {"type": "object", "description": "o", "value": "{{json .steps.a.output.o}}"},
                    "n": {
                        "type": "object",
                        "description": "n",
                        "properties": {"s": {"type": "string", "description": "s", "value": "{{.steps.a.output.i}}"}},
                    },
                }
            }
        },
        {},
        World(),
        {"i": 5, "f": 1.5, "b": True, "l": [1], "o": {"k": None}, "n": {"s": "5"}},
    ),
    "an output that does not fit": (
        [step("a")],
        {"output": out("many", "integer")},
        {},
        World(),
        "Workflow execution failed: output property x: expected integer, got 'many'",
    ),
    "an output that does not fit has a default": (
        [step("a")],
        {"output": out("many", "integer", default=3)},
        {},
        World(),
        {"x": 3},
    ),
    "an output that is missing": (
        [step("a")],
        {"output": out("{{.steps.a.output.n}}")},
        {},
        World(),
        "output property x: ",
    ),
    "an output that is missing has a default": (
        [step("a")],
        {"output": out("{{.steps.a.output.n}}", default="none")},
        {},
        World(),
        {"x": "none"},
    ),
    "a required output that is there": (
        [step("a")],
        {"output": out("a") | {"required": ["x"]}},
        {},
        World(),
        {"x": "a"},
    ),
    "the workflow knows itself": (
        [step("a")],
        {
            "output": out(
                "{{len .workflow.id}} {{.workflow.step_count}} {{.workflow.status}} {{len .workflow.start_time}}"
            )
        },
        {},
        World(),
        {"x": "36 1 completed 20"},
    ),
    "ids with a dash are reached by index": (
        [step("a-b", arguments={"n": 1})],
        {"output": out('{{(index .steps "a-b").output.n}}', "integer")},
        {},
        World(),
        {"x": 1},
    ),
}
