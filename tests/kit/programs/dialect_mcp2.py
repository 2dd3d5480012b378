"""The official Python SDK 2.x: `MCPServer`; both eras on one endpoint."""

import typing

import event_store
import pydantic
from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import SamplingMessage, TextContent

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
    server = MCPServer(asked.name)
    add(server)
    if asked.wire == "sse":
        return server.sse_app(host=asked.host)
    return server.streamable_http_app(
        host=asked.host,
        json_response=asked.json,
        stateless_http=asked.stateless,
        event_store=event_store.EventLog() if asked.event_store else None,
        retry_interval=asked.retry_milliseconds if asked.event_store else None,
    )


def build_stdio() -> typing.Any:
    return MCPServer("kit")


def tool(server: typing.Any) -> typing.Any:
    return server.tool(structured_output=False)  # the text once, not again as structuredContent


def session_object(ctx: typing.Any) -> object:
    # `ctx.session` is made anew for each request; what lives as long as the session is the connection beneath it.
    return ctx.session._connection


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
    modern = ctx.protocol_version >= "2026"  # there the messages go to `subscriptions/listen`, not to a GET stream
    match kind:
        case "tools":
            await (ctx.notify_tools_changed() if modern else ctx.session.send_tool_list_changed())
        case "resources":
            await (ctx.notify_resources_changed() if modern else ctx.session.send_resource_list_changed())
        case "prompts":
            await (ctx.notify_prompts_changed() if modern else ctx.session.send_prompt_list_changed())
        case "updated":
            uri = "kit://greeting"
            await (ctx.notify_resource_updated(uri) if modern else ctx.session.send_resource_updated(uri))
        case _:
            raise MCPError(-32602, f"unknown kind: {kind}")


async def close_stream(ctx: typing.Any) -> None:
    await ctx.close_sse_stream()
