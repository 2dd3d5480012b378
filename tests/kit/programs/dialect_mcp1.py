"""The official Python SDK 1.x: `mcp.server.fastmcp.FastMCP`; the legacy era only."""

import typing

import event_store
import pydantic
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import SamplingMessage, TextContent

__all__ = [
    "Context",
    "build",
    "build_stdio",
    "close_stream",
    "elicit",
    "log",
    "notify",
    "sample",
    "session_object",
    "tool",
]


class Name(pydantic.BaseModel):
    """What `elicit` asks for."""

    name: str


def build(asked: typing.Any, add: typing.Callable[[typing.Any], None]) -> typing.Any:
    server = FastMCP(
        asked.name,
        host=asked.host,
        port=asked.port,
        json_response=asked.json,
        stateless_http=asked.stateless,
        event_store=event_store.EventLog() if asked.event_store else None,
        retry_interval=asked.retry_milliseconds if asked.event_store else None,
    )
    add(server)
    return server.sse_app() if asked.wire == "sse" else server.streamable_http_app()


def build_stdio() -> typing.Any:
    return FastMCP("kit")


def tool(server: typing.Any) -> typing.Any:
    return server.tool(structured_output=False)  # the text once, not again as structuredContent


def session_object(ctx: typing.Any) -> object:
    return ctx.session


async def sample(ctx: typing.Any, prompt: str) -> str:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=prompt))
    answer = await ctx.session.create_message([message], max_tokens=100, related_request_id=ctx.request_id)
    return answer.content.text


async def elicit(ctx: typing.Any, message: str) -> str:
    answer = await ctx.elicit(message, Name)
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
            await ctx.session.send_resource_updated(pydantic.AnyUrl("kit://greeting"))
        case _:
            raise ValueError(f"unknown kind: {kind}")


async def close_stream(ctx: typing.Any) -> None:
    await ctx.close_sse_stream()
