"""One run of a workflow: from a client's arguments to the result of the tool.

    arguments ─ defaults, schema ─> context ─┬─ graph: a step begins when those it depends on are over
                                             │    condition → call · question · loop → its output, in the context
                                             └─ all over, or given up ─ output block ─> result

The outside world is a `World`: who calls tools, who asks the user, who is told of progress. A run keeps nothing: what a
backend has done stays done when a later step fails, and that is said by the error of the step.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import jsonschema
import msgspec

from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import graph, results, template

STEPS_AT_ONCE = 10
RETRY_GROWTH = 1.5
RETRY_JITTER = 0.5
RETRY_DELAYS_MAX = 60  # a pause is at most so many times the first one
ANSWER_BYTES_MAX = 1 << 20
ANSWER_DEPTH_MAX = 10
_SHOWN_CHARACTERS_MAX = 100

_CONDITIONS = {**dict.fromkeys(("true", "True", "TRUE"), True), **dict.fromkeys(("false", "False", "FALSE"), False)}


class CallFailed(Exception):
    """A tool gave no result: there is no such tool, or its backend gave no answer. The text is for the client."""


class CannotAsk(Exception):
    """The user can't be asked: the client knows no elicitation, or nobody listens."""


class Answer(msgspec.Struct, frozen=True):
    """Of the user: accept (with content), decline or cancel."""

    action: str
    content: Mapping[str, object] = {}


class World(Protocol):
    """What a run needs of the vMCP around it."""

    def schema_of(self, tool: str) -> Mapping[str, Any]:
        """The tool's inputSchema; empty when it is not known."""

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """The tool's result. CallFailed."""

    async def ask(self, message: str, schema: Mapping[str, Any]) -> Answer:
        """The user's answer. CannotAsk."""

    def progress(self, done: int, total: int) -> None:
        """A step is over."""


class Result(msgspec.Struct, frozen=True):
    """`structured`: the output, when `error` is empty."""

    structured: Mapping[str, object] = {}
    error: str = ""

    def render(self) -> bytes:
        """The result of tools/call."""
        if self.error:
            return msgspec.json.encode({"content": [{"type": "text", "text": self.error}], "isError": True})
        text = msgspec.json.encode(self.structured).decode()
        return msgspec.json.encode(
            {"content": [{"type": "text", "text": text}], "structuredContent": self.structured, "isError": False}
        )


class _StepFailed(Exception):
    """Why a step has failed. `output`: what it has nevertheless."""

    def __init__(self, why: str, output: Mapping[str, object] | None = None) -> None:
        super().__init__(why)
        self.output = output


class _SkipRest(Exception):
    """The user's answer ends the workflow, in peace. `output`: of the step that asked."""

    def __init__(self, output: Mapping[str, object]) -> None:
        self.output = output


async def run(definition: definitions.Definition, arguments: Mapping[str, Any], world: World) -> Result:
    """Never raises but when it is cancelled: what goes wrong is a result."""
    filled = _with_defaults(definition.parameters, arguments)
    problem = _check(definition.parameters, filled)
    if problem:
        return Result(error=f"Workflow error: {problem}")
    try:
        async with asyncio.timeout(definition.timeout_seconds):
            return await _Run(definition, filled, world).run()
    except TimeoutError:
        return Result(error="Workflow execution timeout exceeded")


def _with_defaults(schema: Mapping[str, Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(arguments)
    properties = schema.get("properties")
    for name, one in properties.items() if isinstance(properties, dict) else ():
        if name not in filled and isinstance(one, dict) and "default" in one:
            filled[name] = one["default"]
    return filled


def _check(schema: Mapping[str, Any], value: object) -> str:
    """What of a value does not fit a schema, in one line; empty: all fits."""
    try:
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(value))
    except (RecursionError, jsonschema.exceptions.UnknownType) as fault:
        return f"the value can't be checked against its schema: {type(fault).__name__}"
    if error is None:
        return ""
    return f"{'.'.join(map(str, error.absolute_path)) or 'arguments'}: {error.message[:300]}"


class _Run:
    def __init__(self, definition: definitions.Definition, arguments: Mapping[str, Any], world: World) -> None:
        self._definition = definition
        self._world = world
        self._steps: dict[str, dict[str, object]] = {}
        self._turns = asyncio.Semaphore(STEPS_AT_ONCE)
        self._graph = graph.Graph({step.id: step.depends_on for step in definition.steps})
        self._by_id = {step.id: step for step in definition.steps}
        self._last: Mapping[str, object] = {}
        self._over = 0
        self._skips_rest = False
        self._started = time.monotonic()
        self._workflow: dict[str, object] = {
            "id": str(uuid.uuid4()),
            "status": "running",
            "step_count": len(definition.steps),
            "start_time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "duration_ms": 0,
        }
        self._context: dict[str, object] = {
            "params": dict(arguments),
            "steps": self._steps,
            "vars": {},
            "workflow": self._workflow,
        }

    async def run(self) -> Result:
        under_way: dict[asyncio.Task[None], str] = {}
        try:
            begin = self._graph.begin()
            while begin or under_way:
                for step in begin:
                    under_way[asyncio.create_task(self._run_step(self._by_id[step]), name=f"step {step}")] = step
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                begin = []
                for task in sorted(done, key=lambda one: under_way[one]):
                    step = under_way.pop(task)
                    error = task.exception()
                    if isinstance(error, _SkipRest):
                        self._skips_rest = True
                    elif isinstance(error, _StepFailed):
                        return Result(error=f"Workflow execution failed: step {step}: {error}")
                    elif error is not None:
                        raise error
                    self._over += 1
                    self._world.progress(self._over, len(self._by_id))
                    begin += self._graph.end(step)
                if self._skips_rest:
                    begin = []
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)
        for step in self._by_id:
            if step not in self._steps:
                self._steps[step] = _state("skipped", self._by_id[step].default_results)
        return self._conclude()

    def _conclude(self) -> Result:
        self._workflow["status"] = "completed"
        self._note_time()
        if self._definition.output is None:
            return Result(structured=self._last)
        try:
            return Result(structured=results.build_output(self._definition.output, self._context))
        except results.Unfit as error:
            return Result(error=f"Workflow execution failed: {error}")

    def _note_time(self) -> None:
        self._workflow["duration_ms"] = int((time.monotonic() - self._started) * 1000)

    # ---- one step

    async def _run_step(self, step: definitions.Step) -> None:
        """_StepFailed: the workflow fails with it. _SkipRest."""
        async with self._turns:
            if self._skips_rest:
                return  # it had not begun
            self._note_time()
            try:
                try:
                    async with asyncio.timeout(_seconds(step)):
                        output, content = await self._act(step)
                except TimeoutError:
                    output, content = self._time_out(step)
            except _Skipped:
                self._steps[step.id] = _state("skipped", step.default_results)
                return
            except _SkipRest as rest:
                self._finish(step, rest.output, {})
                raise
            except (_StepFailed, template.TemplateError, results.Unfit) as error:
                if step.on_error.action != definitions.CONTINUE:
                    raise _StepFailed(str(error)) from None
                partial = error.output if isinstance(error, _StepFailed) and error.output is not None else {}
                self._steps[step.id] = _state("failed", {**step.default_results, **partial}, error=str(error))
                return
            self._finish(step, output, content)

    def _finish(self, step: definitions.Step, output: Mapping[str, object], content: Mapping[str, object]) -> None:
        self._steps[step.id] = _state("completed", output, content)
        self._last = output

    async def _act(self, step: definitions.Step) -> tuple[Mapping[str, object], Mapping[str, object]]:
        if not _holds(step, self._context):
            raise _Skipped
        match step.action:
            case definitions.Call():
                return await self._call(step, step.action, self._context)
            case definitions.Question():
                return await self._ask(step.action), {}
            case definitions.Loop():
                return await self._loop(step, step.action), {}

    def _time_out(self, step: definitions.Step) -> tuple[Mapping[str, object], Mapping[str, object]]:
        if isinstance(step.action, definitions.Question):
            return _react("cancel", step.action.on_cancel), {}
        raise _StepFailed(f"not done within {_seconds(step):g} s")

    # ---- calls

    async def _call(
        self, step: definitions.Step, call: definitions.Call, context: Mapping[str, object]
    ) -> tuple[Mapping[str, object], Mapping[str, object]]:
        """The output and the content of a tool; again, as often as the step says, when it fails."""
        arguments = results.fit_arguments(results.expand(call.arguments, context), self._world.schema_of(call.tool))
        on_error = step.on_error
        attempts = 1 + (on_error.retry_count if on_error.action == definitions.RETRY else 0)
        pause_seconds = on_error.retry_delay_seconds
        while True:
            attempts -= 1
            try:
                result = await self._world.call(call.tool, arguments)
                if result.get("isError") is not True:
                    return results.output_of(result), results.content_map(result)
                problem = results.error_of(result)
            except CallFailed as failed:
                problem = str(failed)
            if attempts == 0:
                raise _StepFailed(f"{call.tool}: {problem}")
            await asyncio.sleep(pause_seconds * random.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER))
            pause_seconds = min(pause_seconds * RETRY_GROWTH, on_error.retry_delay_seconds * RETRY_DELAYS_MAX)

    # ---- questions

    async def _ask(self, question: definitions.Question) -> Mapping[str, object]:
        message = question.message.render(self._context)
        try:
            answer = await self._world.ask(message, question.schema)
        except CannotAsk as error:
            raise _StepFailed(f"the user can't be asked: {error}") from None
        if answer.action == "accept":
            problem = _check_answer(question.schema, answer.content)
            if problem:
                raise _StepFailed(f"the user's answer does not fit: {problem}")
            return {"action": "accept", "content": answer.content}
        declined = answer.action == "decline"
        return _react("decline" if declined else "cancel", question.on_decline if declined else question.on_cancel)

    # ---- loops

    async def _loop(self, step: definitions.Step, loop: definitions.Loop) -> Mapping[str, object]:
        items = _items(loop, loop.collection.render(self._context))
        iterations: list[dict[str, object]] = [
            {"index": index, "item": item, "status": "cancelled", "output": {}} for index, item in enumerate(items)
        ]
        goes_on = step.on_error.action == definitions.CONTINUE
        turns = asyncio.Semaphore(loop.parallel_max)

        async def run_one(iteration: dict[str, object]) -> None:
            async with turns:
                await self._iterate(loop, iteration, goes_on)

        tasks = [asyncio.create_task(run_one(one), name=f"step {step.id} {one['index']}") for one in iterations]
        try:
            if tasks:
                await asyncio.wait(tasks, return_when=asyncio.ALL_COMPLETED if goes_on else asyncio.FIRST_EXCEPTION)
        finally:
            for task in tasks:
                task.cancel()
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        completed = sum(one["status"] == "completed" for one in iterations)
        failed = sum(one["status"] == "failed" for one in iterations)
        output = {"iterations": iterations, "count": len(items), "completed": completed, "failed": failed}
        for error in outcomes:
            if isinstance(error, _StepFailed):
                raise _StepFailed(str(error), output)
            if isinstance(error, Exception):
                raise error
        return output

    async def _iterate(self, loop: definitions.Loop, iteration: dict[str, object], goes_on: bool) -> None:
        inner = loop.step
        assert isinstance(inner.action, definitions.Call)
        given = {loop.item_name: iteration["item"], "index": iteration["index"]}
        context = {**self._context, "forEach": given}
        try:
            if not _holds(inner, context):
                iteration.update(status="skipped", output=dict(inner.default_results))
                return
            async with asyncio.timeout(inner.timeout_seconds):
                output, _ = await self._call(inner, inner.action, context)
            iteration.update(status="completed", output=output)
        except (_StepFailed, template.TemplateError, results.Unfit, TimeoutError) as error:
            why = f"not done within {inner.timeout_seconds:g} s" if isinstance(error, TimeoutError) else str(error)
            iteration.update(status="failed", error=why)
            if not goes_on and inner.on_error.action != definitions.CONTINUE:
                raise _StepFailed(f"iteration {iteration['index']}: {why}") from None
            iteration.update(output=dict(inner.default_results))


class _Skipped(Exception):
    """The condition says no."""


def _seconds(step: definitions.Step) -> float:
    if isinstance(step.action, definitions.Question):
        return min(step.timeout_seconds, definitions.ELICITATION_SECONDS_MAX)
    return step.timeout_seconds


def _state(
    status: str, output: Mapping[str, object], content: Mapping[str, object] | None = None, error: str = ""
) -> dict[str, object]:
    return {"status": status, "output": output, "content": content or {}, "error": error}


def _holds(step: definitions.Step, context: Mapping[str, object]) -> bool:
    if step.condition is None:
        return True
    word = step.condition.render(context).strip()
    if word not in _CONDITIONS:
        raise _StepFailed(f"the condition must give true or false, got {word[:_SHOWN_CHARACTERS_MAX]!r}")
    return _CONDITIONS[word]


def _react(action: str, reaction: str | None) -> Mapping[str, object]:
    """What a decline or a cancel comes to: the step's output."""
    if reaction == definitions.CONTINUE:
        return {"action": action}
    if reaction == definitions.SKIP_REMAINING:
        raise _SkipRest({"action": action, "skipped": True})
    raise _StepFailed("the user declined" if action == "decline" else "the user gave no answer")


def _check_answer(schema: Mapping[str, Any], content: Mapping[str, object]) -> str:
    with contextlib.suppress(RecursionError):
        if len(msgspec.json.encode(content)) > ANSWER_BYTES_MAX:
            return f"expected at most {ANSWER_BYTES_MAX} bytes"
        if _depth(content) <= ANSWER_DEPTH_MAX:
            return _check(schema, content)
    return f"expected at most {ANSWER_DEPTH_MAX} levels"


def _depth(value: object) -> int:
    if not isinstance(value, dict | list):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _items(loop: definitions.Loop, text: str) -> list[object]:
    try:
        items = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        items = None
    if not isinstance(items, list):
        raise _StepFailed(f"the collection must be a JSON array, got {text[:_SHOWN_CHARACTERS_MAX]!r}")
    if len(items) > loop.iterations_max:
        raise _StepFailed(f"the collection has {len(items)} elements, maxIterations is {loop.iterations_max}")
    return items
