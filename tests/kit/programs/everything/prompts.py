"""Prompts that answer in one go. The one that asks the client first is in `input_required`."""

import mcp_types as types
from everything import content, stage
from everything.stage import Context

PROMPTS: dict[str, stage.PromptRow] = {}


def messages(*blocks: types.ContentBlock) -> types.GetPromptResult:
    return types.GetPromptResult(messages=[types.PromptMessage(role="user", content=block) for block in blocks])


@stage.prompt(PROMPTS, "test_simple_prompt", "Is one text")
async def simple(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    return messages(content.text("This is a simple prompt for testing."))


@stage.prompt(PROMPTS, "test_prompt_with_arguments", "Is a text that repeats its arguments", "arg1", "arg2")
async def with_arguments(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    given = params.arguments or {}
    return messages(content.text(f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"))


@stage.prompt(PROMPTS, "test_prompt_with_embedded_resource", "Embeds the resource of its argument", "resourceUri")
async def with_embedded_resource(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    uri = (params.arguments or {})["resourceUri"]
    return messages(
        content.embedded(uri, "Embedded resource content for testing."),
        content.text("Please process the embedded resource above."),
    )


@stage.prompt(PROMPTS, "test_prompt_with_image", "Shows a picture")
async def with_image(context: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
    return messages(content.image(), content.text("Please analyze the image above."))
