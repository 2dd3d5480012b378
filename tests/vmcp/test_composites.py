"""A composite tool of three vMCP processes: steps at two real servers, a question to a real client, a loop, an output;
each request meets another process.

Real: servers, clients, processes, Redis. Every rule by itself: tests/vmcp/composite.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests import kit
from tests.kit import redis_server
from tests.vmcp import fleet

FILE: dict[str, Any] = {
    "name": "composites",
    "groupRef": "tests",
    "incomingAuth": {"type": "anonymous"},
    "outgoingAuth": {"source": "inline"},
    "aggregation": {
        "conflictResolution": "prefix",
        "conflictResolutionConfig": {"prefixFormat": "{workload}_"},
        "tools": [{"workload": "second", "filter": ["echo"]}],
    },
    "compositeTools": [
        {
            "name": "greet_all",
            "description": "Count, ask for a name, greet it by everybody",
            "parameters": {
                "type": "object",
                "properties": {"words": {"type": "array", "items": {"type": "string"}}},
                "required": ["words"],
            },
            "steps": [
                {"id": "first", "tool": "first_counter"},
                {"id": "hidden", "tool": "second.counter"},
                {
                    "id": "who",
                    "type": "elicitation",
                    "message": "Who is greeted for the {{.steps.first.output.text}}. time?",
                    "schema": {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
                    "dependsOn": ["first"],
                },
                {
                    "id": "each",
                    "type": "forEach",
                    "collection": "{{json .params.words}}",
                    "itemVar": "word",
                    "dependsOn": ["who", "hidden"],
                    "step": {
                        "id": "say",
                        "tool": "second_echo",
                        "arguments": {"value": "{{.forEach.word}} {{.steps.who.output.content.name}}"},
                    },
                },
            ],
            "output": {
                "properties": {
                    "first": {"type": "integer", "description": "n", "value": "{{.steps.first.content.text}}"},
                    "second": {"type": "integer", "description": "n", "value": "{{.steps.hidden.content.text}}"},
                    "said": {
                        "type": "string",
                        "description": "all of it",
                        "value": "{{range .steps.each.output.iterations}}{{fromJson .output.text}};{{end}}",
                    },
                }
            },
        },
        {
            "name": "needs_nobody",
            "description": "Cannot run here",
            "steps": [{"id": "a", "tool": "third_echo"}],
        },
        {
            "name": "breaks",
            "description": "Fails in its second step",
            "steps": [
                {"id": "a", "tool": "first_echo", "arguments": {"value": "a"}},
                {"id": "b", "tool": "first_fail", "arguments": {"message": "no luck"}, "dependsOn": ["a"]},
            ],
        },
    ],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fleet.Place]:
    folder: pathlib.Path = tmp_path_factory.mktemp("composites")
    with (
        redis_server.RedisServer() as redis,
        kit.backend("mcp2-sse") as (first,),
        kit.backend("mcp1-sse") as (second,),
    ):
        backends = [
            {"name": name, "url": backend.url, "transport": "streamable-http"}
            for name, backend in (("first", first), ("second", second))
        ]
        file = folder / "vmcp.yaml"
        file.write_text(json.dumps({**FILE, "backends": backends}))
        flags = ["--config", str(file), *fleet.DRAIN]
        with kit.proxies(3, store=redis.url, flags=flags, subcommand="vmcp") as members:
            running = fleet.Place("composites", members, {})
            for member in members:
                fleet.await_that(lambda member=member: fleet.all_live(member, 2), "both backends are known")
            yield running


@pytest.mark.parametrize("sdk", ["mcp2", "mcp1", "ts1"])
def test_steps_keep_the_sessions_state_and_the_user_is_asked_wherever_the_answer_goes(
    place: fleet.Place, sdk: str
) -> None:
    with place.client(sdk) as client:
        for number in range(1, 4):
            answer = client.call("greet_all", words=["hello", "goodbye"])
            assert not answer.is_error, answer.text
            assert json.loads(answer.text) == {"first": number, "second": number, "said": "hello Ada;goodbye Ada;"}
            assert answer.raw["structuredContent"] == json.loads(answer.text)
            assert [step["progress"] for step in answer.progress] == [1, 2, 3, 4]
        assert [one["params"]["message"] for one in client.asked] == [
            f"Who is greeted for the {number}. time?" for number in range(1, 4)
        ]
        session_id = client.session_id
        assert session_id is not None
        assert set(place.legs(session_id)) == {"first", "second"}


def test_it_is_listed_when_what_it_calls_is_there_and_hidden_tools_stay_hidden(
    place: fleet.Place,
) -> None:
    with place.client("mcp2") as client:
        tools = {tool["name"]: tool for tool in client.ask("list_tools")["tools"]}
        assert "greet_all" in tools
        assert "needs_nobody" not in tools
        assert "second_counter" not in tools, "it is filtered out, and called by a step all the same"
        assert tools["greet_all"]["outputSchema"]["properties"]["first"]["type"] == "integer"


def test_a_failure_says_which_step_and_arguments_that_do_not_fit_say_why(place: fleet.Place) -> None:
    with place.client("mcp2") as client:
        broken = client.call("breaks")
        assert broken.is_error
        assert broken.text.startswith("Workflow execution failed: step b: first_fail: ")
        unfit = client.call("greet_all", words="hello")
        assert unfit.is_error
        assert unfit.text == "Workflow error: words: 'hello' is not of type 'array'"


def test_a_client_of_the_era_without_sessions_runs_it_too_but_can_not_be_asked(place: fleet.Place) -> None:
    with place.client("mcp2", mode="2026-07-28") as client:
        asks = client.call("greet_all", words=[])
        assert asks.is_error
        assert "can't be asked" in asks.text
        assert client.call("breaks").text.startswith("Workflow execution failed: step b: first_fail: ")
