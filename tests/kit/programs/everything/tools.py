"""Tools that answer in one go: content of each kind, logs, progress, questions in mid-call, a stream cut on purpose.

A tool that needs the client while it runs sends its question on the stream of its own request (`related_request_id`);
from 2026-07-28 on that is forbidden, and `input_required` holds the tools for it. The first row of `TOOLS` is called
by scenarios that take "any tool" with no arguments: it must keep needing none.
"""

import asyncio
import json

import mcp_types as types
from everything import content, stage
from everything.stage import Context
from mcp.shared.exceptions import MCPError

STEP_SECONDS = 0.05  # between two notifications of one call: long enough to arrive as separate events
RECONNECTION_SECONDS = 0.2  # how long a tool works on after it has closed its stream
TOOLS: dict[str, stage.ToolRow] = {}

JSON_SCHEMA_2020_12: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}
ENUM_FORMS: dict[str, dict[str, object]] = {
    "untitledSingle": {"type": "string", "enum": ["option1", "option2", "option3"]},
    "titledSingle": {
        "type": "string",
        "oneOf": [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}],
    },
    "legacyEnum": {"type": "string", "enum": ["opt1", "opt2"], "enumNames": ["Option one", "Option two"]},
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": ["option1", "option2", "option3"]}},
    "titledMulti": {
        "type": "array",
        "items": {"anyOf": [{"const": "value1", "title": "First"}, {"const": "value2", "title": "Second"}]},
    },
}
DEFAULT_FORMS: dict[str, dict[str, object]] = {
    "name": {"type": "string", "default": "John Doe"},
    "age": {"type": "integer", "default": 30},
    "score": {"type": "number", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "default": True},
}


@stage.tool(TOOLS, "test_simple_text", "Answers with one text", content.NOTHING)
async def simple_text(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.said("This is a simple text response for testing.")


@stage.tool(TOOLS, "test_image_content", "Answers with one picture", content.NOTHING)
async def image_content(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.result(content.image())


@stage.tool(TOOLS, "test_audio_content", "Answers with one sound", content.NOTHING)
async def audio_content(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.result(content.audio())


@stage.tool(TOOLS, "test_embedded_resource", "Answers with one embedded resource", content.NOTHING)
async def embedded_resource(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.result(content.embedded("test://embedded-resource", "This is an embedded resource content."))


@stage.tool(TOOLS, "test_multiple_content_types", "Answers with a text, a picture and a resource", content.NOTHING)
async def multiple_content_types(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    data = json.dumps({"test": "data", "value": 123})
    return content.result(
        content.text("Multiple content types test:"),
        content.image(),
        content.embedded("test://mixed-content-resource", data, "application/json"),
    )


@stage.tool(TOOLS, "test_error_handling", "Always fails", content.NOTHING)
async def error_handling(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.result(content.text("This tool intentionally returns an error for testing"), is_error=True)


@stage.tool(TOOLS, "json_schema_2020_12_tool", "Has a schema that uses the whole vocabulary", JSON_SCHEMA_2020_12)
async def json_schema_2020_12(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.said(json.dumps(params.arguments or {}))


@stage.tool(
    TOOLS,
    "test_x_mcp_header",
    "Has an argument that is mirrored in a header",
    content.object_schema({"region": {"type": "string", "x-mcp-header": "Region"}, "query": {"type": "string"}}),
)
async def x_mcp_header(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return content.said(json.dumps(params.arguments or {}))


@stage.tool(TOOLS, "test_tool_with_logging", "Logs three times while it runs", content.NOTHING)
async def with_logging(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    await _log(context, "Tool execution started")
    await asyncio.sleep(STEP_SECONDS)
    await _log(context, "Tool processing data")
    await asyncio.sleep(STEP_SECONDS)
    await _log(context, "Tool execution completed")
    return content.said("Logged three times")


@stage.tool(TOOLS, "test_logging_tool", "Logs once, for those who asked for logs", content.NOTHING)
async def logging_tool(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    await _log(context, "Logged if this request asked for it")
    return content.said("Logged once")


async def _log(context: Context, words: str) -> None:
    await context.session.send_log_message("info", words, logger="everything", related_request_id=context.request_id)


@stage.tool(TOOLS, "test_tool_with_progress", "Reports progress three times", content.NOTHING)
async def with_progress(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    for done in (0, 50, 100):
        await context.session.report_progress(done, 100)  # does nothing when the client gave no token
        await asyncio.sleep(STEP_SECONDS)
    return content.said("Progressed to 100")


@stage.tool(
    TOOLS,
    "test_sampling",
    "Asks the client's model",
    content.object_schema({"prompt": {"type": "string", "description": "What to ask the model"}}, "prompt"),
)
async def sampling(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    question = types.SamplingMessage(role="user", content=content.text(str((params.arguments or {})["prompt"])))
    answer = await context.session.create_message([question], max_tokens=100, related_request_id=context.request_id)
    words = answer.content.text if isinstance(answer.content, types.TextContent) else f"({answer.content.type})"
    return content.said(f"LLM response: {words}")


@stage.tool(
    TOOLS,
    "test_elicitation",
    "Asks the user",
    content.object_schema({"message": {"type": "string", "description": "What to ask the user"}}, "message"),
)
async def elicitation(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    fields = {
        "username": {"type": "string", "description": "User's name"},
        "email": {"type": "string", "description": "User's email address"},
    }
    schema = content.object_schema(fields, "username", "email")
    return await _elicit(context, str((params.arguments or {})["message"]), schema, "User response")


@stage.tool(
    TOOLS, "test_elicitation_sep1034_defaults", "Asks the user with a default for each kind of field", content.NOTHING
)
async def elicitation_defaults(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return await _elicit(context, "Review these values", content.object_schema(DEFAULT_FORMS), "Elicitation completed")


@stage.tool(TOOLS, "test_elicitation_sep1330_enums", "Asks the user with each kind of choice", content.NOTHING)
async def elicitation_enums(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    return await _elicit(context, "Choose", content.object_schema(ENUM_FORMS), "Elicitation completed")


async def _elicit(context: Context, message: str, schema: dict[str, object], prefix: str) -> types.CallToolResult:
    answer = await context.session.elicit_form(message, schema, related_request_id=context.request_id)
    return content.said(f"{prefix}: action={answer.action}, content={json.dumps(answer.content)}")


@stage.tool(TOOLS, "test_reconnection", "Closes its own stream before it answers", content.NOTHING)
async def reconnection(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    if context.close_sse_stream is not None:  # absent for clients that have no event id to come back with
        await context.close_sse_stream()
    await asyncio.sleep(RECONNECTION_SECONDS)
    return content.said("Answered after the stream was closed")


@stage.tool(TOOLS, "test_missing_capability", "Refuses clients that can't sample", content.NOTHING)
async def missing_capability(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    needed = types.ClientCapabilities(sampling=types.SamplingCapability())
    if not context.session.check_client_capability(needed):
        data = types.MissingRequiredClientCapabilityErrorData(required_capabilities=needed)
        raise MCPError(
            types.MISSING_REQUIRED_CLIENT_CAPABILITY,
            "this tool needs a client that can sample",
            data.model_dump(by_alias=True, exclude_none=True),
        )
    return content.said("The client can sample")


@stage.tool(TOOLS, "test_trigger_tool_change", "Adds a tool to the list and takes it away again", content.NOTHING)
async def trigger_tool_change(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    await context.lifespan_context.flash_extra_tool()
    if context.lifespan_context.era == "legacy":  # there the news goes to a session's stream, not to the bus
        await context.session.send_tool_list_changed()
    return content.said("The list of tools has changed twice")


@stage.tool(TOOLS, "test_trigger_prompt_change", "Adds a prompt to the list and takes it away again", content.NOTHING)
async def trigger_prompt_change(context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
    await context.lifespan_context.flash_extra_prompt()
    if context.lifespan_context.era == "legacy":
        await context.session.send_prompt_list_changed()
    return content.said("The list of prompts has changed twice")
