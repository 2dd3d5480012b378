"""What one process of the server remembers, and the rows of its tables.

`Stage` is the server's lifespan context: a handler reaches it through `context.lifespan_context`, so there is no
module state and two servers in one process would not meet. The lists that change at run time do so here, each change
with its announcement. A change is taken back in the same call: at rest the lists of all replicas are the same, so that
what a client sees of two replicas differs only by what their proxy does.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import mcp_types as types
from mcp.server import subscriptions
from mcp.server.context import ServerRequestContext
from mcp.shared.subscriptions import PromptsListChanged, ToolsListChanged


@dataclass
class Stage:
    bus: subscriptions.InMemorySubscriptionBus = field(default_factory=subscriptions.InMemorySubscriptionBus)
    era: str = "both"
    has_extra_tool: bool = False
    has_extra_prompt: bool = False

    async def flash_extra_tool(self) -> None:
        self.has_extra_tool = True
        await self.bus.publish(ToolsListChanged())
        self.has_extra_tool = False
        await self.bus.publish(ToolsListChanged())

    async def flash_extra_prompt(self) -> None:
        self.has_extra_prompt = True
        await self.bus.publish(PromptsListChanged())
        self.has_extra_prompt = False
        await self.bus.publish(PromptsListChanged())


Context = ServerRequestContext[Stage]
ToolAnswer = types.CallToolResult | types.InputRequiredResult
PromptAnswer = types.GetPromptResult | types.InputRequiredResult
ToolFunction = Callable[[Context, types.CallToolRequestParams], Awaitable[ToolAnswer]]
PromptFunction = Callable[[Context, types.GetPromptRequestParams], Awaitable[PromptAnswer]]


@dataclass(frozen=True)
class ToolRow:
    definition: types.Tool
    call: ToolFunction


@dataclass(frozen=True)
class PromptRow:
    definition: types.Prompt
    get: PromptFunction


def tool(
    table: dict[str, ToolRow], name: str, description: str, input_schema: dict[str, object]
) -> Callable[[ToolFunction], ToolFunction]:
    """Enter the decorated function in `table`; a name twice is a mistake of ours."""

    def enter(function: ToolFunction) -> ToolFunction:
        assert name not in table, name
        table[name] = ToolRow(types.Tool(name=name, description=description, input_schema=input_schema), function)
        return function

    return enter


def prompt(
    table: dict[str, PromptRow], name: str, description: str, *arguments: str
) -> Callable[[PromptFunction], PromptFunction]:
    def enter(function: PromptFunction) -> PromptFunction:
        assert name not in table, name
        declared = [
            types.PromptArgument(name=each, description=f"The {each} of the prompt", required=True)
            for each in arguments
        ]
        table[name] = PromptRow(types.Prompt(name=name, description=description, arguments=declared or None), function)
        return function

    return enter
