"""A world for runs that is written down: what each tool answers, what the user says. Nothing of ours is replaced: the
world is the runner's port, and the real one (vmcp/composites.py) is shown in tests of the whole program.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import runner, validation


class World:
    """`tools`: name → answers in turn (the last for ever): an output, a text, or an exception; `echo` gives back its
    arguments, `slow` takes its `seconds`. `said`: the user's answers in turn."""

    def __init__(self, tools: Mapping[str, Any] = {}, said: list[runner.Answer | Exception] | None = None) -> None:
        self.tools = {name: list(one) if isinstance(one, list) else [one] for name, one in tools.items()}
        self.said = said or []
        self.calls: list[tuple[str, Any]] = []
        self.asked: list[str] = []
        self.told: list[tuple[int, int]] = []
        self.under_way = 0
        self.most = 0
        self.schemas: dict[str, Mapping[str, Any]] = {}

    def schema_of(self, tool: str) -> Mapping[str, Any]:
        return self.schemas.get(tool, {})

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        self.calls.append((tool, dict(arguments)))
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await asyncio.sleep(float(arguments.get("seconds", 0)))
        finally:
            self.under_way -= 1
        if tool in ("echo", "slow"):
            return {"structuredContent": dict(arguments), "content": []}
        answers = self.tools.get(tool)
        if answers is None:
            raise runner.CallFailed(f"unknown tool {tool}")
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, str):
            return {"content": [{"type": "text", "text": answer}]}
        if "content" in answer or "isError" in answer:
            return dict(answer)
        return {"structuredContent": answer, "content": []}

    async def ask(self, message: str, schema: Mapping[str, Any]) -> runner.Answer:
        self.asked.append(message)
        answer = self.said.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def progress(self, done: int, total: int) -> None:
        self.told.append((done, total))


def define(steps: list[dict[str, Any]], **members: Any) -> definitions.Definition:
    """A definition of these steps; it has to be sound."""
    checked = validation.check([{"name": "it", "description": "it", "steps": steps, **members}])
    assert checked.problems == (), checked.problems
    return checked.definitions[0]


def error(text: str) -> dict[str, Any]:
    """A tool's result that is an error."""
    return {"content": [{"type": "text", "text": text}], "isError": True}
