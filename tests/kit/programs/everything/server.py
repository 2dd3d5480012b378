"""The server: one handler per method of the protocol, each a look into the tables.

Both eras are always on, as in the SDK: sessions for clients up to 2025-11-25, none from 2026-07-28 on. The request
state is sealed with a key of this process, the SDK's default, so that a retry that reaches another replica is
refused.
"""

import contextlib
from collections.abc import AsyncIterator

import mcp_types as types
from everything import content, eras, events, input_required, prompts, resources, stage, tools
from everything.stage import Context, Stage
from mcp.server import Server, subscriptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError

NAME = "everything"
RETRY_MILLISECONDS = 100  # what a client is told to wait before it comes back for a closed stream
EXTRA_TOOL = types.Tool(name="test_extra_tool", description="Is there for a moment", input_schema=content.NOTHING)
EXTRA_PROMPT = types.Prompt(name="test_extra_prompt", description="Is there for a moment")
TOOLS = tools.TOOLS | input_required.TOOLS
PROMPTS = prompts.PROMPTS | input_required.PROMPTS


def create_app(era: str = "both") -> eras.Application:
    """The server as an ASGI application that serves `/mcp`; of one era only if it is told so (eras.py)."""
    server = create_server(era)
    application = server.streamable_http_app(event_store=events.EventLog(), retry_interval=RETRY_MILLISECONDS)
    return application if era == "both" else eras.only(era, application)


def create_server(era: str = "both") -> Server[Stage]:
    """The server itself, for any transport."""
    shared = Stage(era=era)

    @contextlib.asynccontextmanager
    async def lifespan(_: Server[Stage]) -> AsyncIterator[Stage]:
        yield shared

    server: Server[Stage] = Server(
        NAME,
        version="1.0.0",
        lifespan=lifespan,
        get_tool_input_schema=tool_input_schema,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_list_resources=list_resources,
        on_list_resource_templates=list_resource_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe_resource,
        on_unsubscribe_resource=unsubscribe_resource,
        on_subscriptions_listen=subscriptions.ListenHandler(shared.bus),
        on_completion=complete,
    )
    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, set_logging_level)
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


def tool_input_schema(name: str) -> dict[str, object] | None:
    row = TOOLS.get(name)
    return None if row is None else row.definition.input_schema


async def list_tools(context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
    extra = [EXTRA_TOOL] if context.lifespan_context.has_extra_tool else []
    return types.ListToolsResult(tools=[row.definition for row in TOOLS.values()] + extra)


async def call_tool(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    if params.name == EXTRA_TOOL.name and context.lifespan_context.has_extra_tool:
        return content.said("There for now")
    row = TOOLS.get(params.name)
    if row is None:
        raise MCPError(types.INVALID_PARAMS, f"unknown tool: {params.name}")
    required = row.definition.input_schema.get("required", [])
    missing = [name for name in required if name not in (params.arguments or {})]
    if missing:
        return content.result(content.text(f"missing arguments: {', '.join(missing)}"), is_error=True)
    if context.lifespan_context.era == "legacy":
        return await eras.fulfil(context, row.call, params)
    if context.lifespan_context.era == "modern" and params.name in eras.NEEDING:
        return await eras.NEEDING[params.name](context, params)
    return await row.call(context, params)


async def list_prompts(context: Context, params: types.PaginatedRequestParams | None) -> types.ListPromptsResult:
    extra = [EXTRA_PROMPT] if context.lifespan_context.has_extra_prompt else []
    return types.ListPromptsResult(prompts=[row.definition for row in PROMPTS.values()] + extra)


async def get_prompt(context: Context, params: types.GetPromptRequestParams) -> stage.PromptAnswer:
    if params.name == EXTRA_PROMPT.name and context.lifespan_context.has_extra_prompt:
        return prompts.messages(content.text("There for now"))
    row = PROMPTS.get(params.name)
    if row is None:
        raise MCPError(types.INVALID_PARAMS, f"unknown prompt: {params.name}")
    missing = [each.name for each in row.definition.arguments or [] if each.name not in (params.arguments or {})]
    if missing:
        raise MCPError(types.INVALID_PARAMS, f"missing arguments: {', '.join(missing)}")
    if context.lifespan_context.era == "legacy":
        return await eras.fulfil(context, row.get, params)
    return await row.get(context, params)


async def list_resources(context: Context, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
    return types.ListResourcesResult(resources=list(resources.RESOURCES))


async def list_resource_templates(
    context: Context, params: types.PaginatedRequestParams | None
) -> types.ListResourceTemplatesResult:
    return types.ListResourceTemplatesResult(resource_templates=[resources.TEMPLATE])


async def read_resource(context: Context, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
    return types.ReadResourceResult(contents=[resources.read(str(params.uri))])


async def subscribe_resource(context: Context, params: types.SubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()  # no resource of ours ever changes, so there is nobody to remember


async def unsubscribe_resource(context: Context, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
    return types.EmptyResult()


async def set_logging_level(context: Context, params: types.SetLevelRequestParams) -> types.EmptyResult:
    return types.EmptyResult()  # every log of ours is at one level, so there is nothing to filter


async def complete(context: Context, params: types.CompleteRequestParams) -> types.CompleteResult:
    words = [word for word in ("paris", "park", "party", "test", "testing") if word.startswith(params.argument.value)]
    return types.CompleteResult(completion=types.Completion(values=words, total=len(words), has_more=False))
