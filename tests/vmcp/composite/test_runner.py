"""Runs of workflows: a table of definitions with what tools and users say, and what comes out. See scripted.py."""

import asyncio
import time

import msgspec
import pytest

from fastproxy.vmcp.composite import runner
from tests.kit.coroutines import eventually
from tests.vmcp.composite.cases import CASES, SCHEMED, ask, loop, out, step
from tests.vmcp.composite.scripted import World, define, error


@pytest.mark.parametrize("name", CASES)
async def test_a_workflow_comes_to(name: str) -> None:
    steps, members, arguments, world, expected = CASES[name]
    if name == SCHEMED:
        properties = {
            "i": {"type": "integer"},
            "s": {"type": "string"},
            "b": {"type": "boolean"},
            "l": {"type": "array"},
        }
        world.schemas["echo"] = {"type": "object", "properties": properties}
    result = await runner.run(define(steps, **members), arguments, world)
    if isinstance(expected, str):
        assert expected in result.error
        rendered = msgspec.json.decode(result.render())
        assert rendered == {"content": [{"type": "text", "text": result.error}], "isError": True}
    else:
        assert result.error == ""
        assert result.structured == expected
        rendered = msgspec.json.decode(result.render())
        assert rendered["structuredContent"] == expected
        assert msgspec.json.decode(rendered["content"][0]["text"]) == expected
    assert world.under_way == 0


async def test_a_step_begins_as_soon_as_its_own_dependencies_are_done() -> None:
    """A scheduler with barriers would need the sum of the slowest of each level."""
    world = World()
    steps = [
        step("quick", "slow", arguments={"seconds": 0.01}),
        step("long", "slow", arguments={"seconds": 0.4}),
        step("after", "slow", arguments={"seconds": 0.3, "of": "quick"}, dependsOn=["quick"]),
    ]
    started = time.monotonic()
    result = await runner.run(define(steps), {}, world)
    assert result.error == ""
    assert time.monotonic() - started < 0.65
    assert world.most == 2
    assert world.told == [(1, 3), (2, 3), (3, 3)]


async def test_at_most_ten_steps_run_at_once_and_a_loop_has_its_own_bound() -> None:
    world = World()
    steps = [step(f"s{number}", "slow", arguments={"seconds": 0.02}) for number in range(30)]
    await runner.run(define(steps), {}, world)
    assert world.most == 10
    world = World()
    inner = step("one", "slow", arguments={"seconds": 0.01})
    await runner.run(define([loop("[" + ",".join("1" * 40) + "]", inner, maxParallel=4)]), {}, world)
    assert (world.most, len(world.calls)) == (4, 40)


async def test_a_failure_stops_what_runs_beside_it_and_begins_nothing_more() -> None:
    world = World({"bad": error("no")})
    steps = [
        step("long", "slow", arguments={"seconds": 5}),
        step("bad", "bad"),
        step("later", dependsOn=["bad"]),
    ]
    started = time.monotonic()
    result = await runner.run(define(steps), {}, world)
    assert result.error == "Workflow execution failed: step bad: bad: no"
    assert time.monotonic() - started < 2
    assert [tool for tool, _ in world.calls] == ["slow", "bad"]
    assert world.under_way == 0


async def test_what_runs_when_the_user_ends_it_is_finished_and_the_rest_is_skipped() -> None:
    world = World(said=[runner.Answer("decline")])
    steps = [
        step("long", "slow", arguments={"seconds": 0.1}),
        ask(onDecline={"action": "skip_remaining"}),
        step("later", dependsOn=["long"], onError={"action": "continue"}),
    ]
    output = out("{{.steps.long.status}} {{.steps.ask.status}} {{.steps.later.status}}")
    result = await runner.run(define(steps, output=output), {"who": "on"}, world)
    assert result.structured == {"x": "completed completed skipped"}


async def test_a_run_that_is_cancelled_leaves_nothing_running() -> None:
    world = World()
    run = asyncio.create_task(
        runner.run(define([loop("[1,2,3]", step("one", "slow", arguments={"seconds": 9}))]), {}, world)
    )
    await eventually(lambda: world.under_way == 3)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert world.under_way == 0


async def test_pauses_between_attempts_grow() -> None:
    world = World({"bad": error("no")})
    steps = [step("a", "bad", onError={"action": "retry", "retryCount": 3, "retryDelay": "40ms"})]
    started = time.monotonic()
    await runner.run(define(steps), {}, world)
    assert len(world.calls) == 4
    assert time.monotonic() - started >= 0.5 * (0.04 + 0.06 + 0.09)
