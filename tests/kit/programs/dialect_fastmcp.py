"""fastmcp 4.x, the independent framework on top of the official SDK 2.x. It checks neither Host nor Origin."""

import typing

import dialect_mcp2
import event_store
from fastmcp import Context, FastMCP

__all__ = ["Context", "build", "close_stream", "elicit", "log", "notify", "sample", "session_object", "tool"]


def build(asked: typing.Any, add: typing.Callable[[typing.Any], None]) -> typing.Any:
    server = FastMCP(asked.name)
    add(server)
    if asked.wire == "sse":
        return server.http_app(transport="sse")
    return server.http_app(
        transport="http",
        json_response=asked.json,
        stateless_http=asked.stateless,
        event_store=event_store.EventLog() if asked.event_store else None,
        retry_interval=asked.retry_milliseconds if asked.event_store else None,
    )


def tool(server: typing.Any) -> typing.Any:
    return server.tool(output_schema=None)


session_object = dialect_mcp2.session_object
sample = dialect_mcp2.sample
close_stream = dialect_mcp2.close_stream


async def elicit(ctx: typing.Any, message: str) -> str:
    answer = await ctx.elicit(message, response_type=dialect_mcp2.Name)
    return answer.data.name if answer.action == "accept" else answer.action


async def log(ctx: typing.Any, text: str) -> None:
    await ctx.info(text)


async def notify(ctx: typing.Any, kind: str) -> None:
    match kind:
        case "tools":
            await ctx.session.send_tool_list_changed()
        case "resources":
            await ctx.session.send_resource_list_changed()
        case "prompts":
            await ctx.session.send_prompt_list_changed()
        case "updated":
            await ctx.session.send_resource_updated("kit://greeting")
        case _:
            raise ValueError(f"unknown kind: {kind}")
