"""Tools and a prompt that answer "I need input first" (2026-07-28): the client answers by sending the request again.

A function here is called once per round and sees only what the request carries: the answers so far
(`input_responses`) and the state that it handed out the round before (`request_state`, plaintext here; the SDK's
boundary seals it on the wire and refuses one that was touched).
"""

import json
from collections.abc import Mapping

import mcp_types as types
from everything import content, stage
from everything.stage import Context
from mcp.shared.exceptions import MCPError

TOOLS: dict[str, stage.ToolRow] = {}
PROMPTS: dict[str, stage.PromptRow] = {}
Question = types.ElicitRequest | types.CreateMessageRequest | types.ListRootsRequest
Params = types.CallToolRequestParams | types.GetPromptRequestParams


def form(message: str, **properties: str) -> types.ElicitRequest:
    """A form of required fields: name=type."""
    schema = content.object_schema({name: {"type": kind} for name, kind in properties.items()}, *properties)
    return types.ElicitRequest(params=types.ElicitRequestFormParams(message=message, requested_schema=schema))


def sample(question: str, max_tokens: int) -> types.CreateMessageRequest:
    message = types.SamplingMessage(role="user", content=content.text(question))
    return types.CreateMessageRequest(
        params=types.CreateMessageRequestParams(messages=[message], max_tokens=max_tokens)
    )


def ask(questions: Mapping[str, Question], state: str | None = None) -> types.InputRequiredResult:
    return types.InputRequiredResult(input_requests=dict(questions), request_state=state)


EVERY_QUESTION: dict[str, Question] = {
    "user_name": form("What is your name?", name="string"),
    "greeting": sample("Generate a greeting", 50),
    "client_roots": types.ListRootsRequest(),
}


def form_answer(params: Params, key: str, field: str) -> object | None:
    """What the user entered in `field`; None unless `key` was answered with an accepted form that holds it."""
    answer = (params.input_responses or {}).get(key)
    if isinstance(answer, types.ElicitResult) and answer.action == "accept" and answer.content is not None:
        return answer.content.get(field)
    return None


def sampled_text(params: Params, key: str) -> str | None:
    answer = (params.input_responses or {}).get(key)
    if isinstance(answer, types.CreateMessageResult) and isinstance(answer.content, types.TextContent):
        return answer.content.text
    return None


def root_names(params: Params, key: str) -> list[str] | None:
    answer = (params.input_responses or {}).get(key)
    return [str(root.uri) for root in answer.roots] if isinstance(answer, types.ListRootsResult) else None


@stage.tool(TOOLS, "test_input_required_result_elicitation", "Asks for a name, then greets", content.NOTHING)
async def elicitation(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    name = form_answer(params, "user_name", "name")
    if name is None:
        return ask({"user_name": form("What is your name?", name="string")})
    return content.said(f"Hello, {name}!")


@stage.tool(TOOLS, "test_input_required_result_sampling", "Asks the client's model for a capital", content.NOTHING)
async def sampling(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    answer = sampled_text(params, "capital_question")
    if answer is None:
        return ask({"capital_question": sample("What is the capital of France?", 100)})
    return content.said(answer)


@stage.tool(TOOLS, "test_input_required_result_list_roots", "Asks for the client's roots", content.NOTHING)
async def list_roots(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    roots = root_names(params, "client_roots")
    if roots is None:
        return ask({"client_roots": types.ListRootsRequest()})
    return content.said(f"Roots: {', '.join(roots)}")


@stage.tool(
    TOOLS, "test_input_required_result_request_state", "Asks for a confirmation and checks its state", content.NOTHING
)
async def request_state(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    return _confirm(params, "awaiting-confirmation")


@stage.tool(
    TOOLS,
    "test_input_required_result_tampered_state",
    "Asks for a confirmation, refuses a touched state",
    content.NOTHING,
)
async def tampered_state(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    return _confirm(params, "awaiting-untouched")


def _confirm(params: types.CallToolRequestParams, state: str) -> stage.ToolAnswer:
    if form_answer(params, "confirm", "ok") is None:
        return ask({"confirm": form("Please confirm", ok="boolean")}, state)
    if params.request_state != state:
        raise MCPError(types.INVALID_PARAMS, "request state is not of this tool")
    return content.said("state-ok")


@stage.tool(
    TOOLS,
    "test_input_required_result_multiple_inputs",
    "Asks the user, the model and for the roots at once",
    content.NOTHING,
)
async def multiple_inputs(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    name = form_answer(params, "user_name", "name")
    greeting = sampled_text(params, "greeting")
    roots = root_names(params, "client_roots")
    if name is None or greeting is None or roots is None:
        return ask(EVERY_QUESTION, "three-answers")
    return content.said(f"{greeting} {name} has {len(roots)} roots")


@stage.tool(
    TOOLS,
    "test_input_required_result_multi_round",
    "Asks twice; the first answer travels in the state",
    content.NOTHING,
)
async def multi_round(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    known: dict[str, object] = json.loads(params.request_state) if params.request_state else {}
    name = known.get("name") or form_answer(params, "step1", "name")
    if name is None:
        return ask({"step1": form("Step 1: What is your name?", name="string")}, json.dumps({"round": 1}))
    color = form_answer(params, "step2", "color")
    if color is None:
        question = form("Step 2: What is your favorite color?", color="string")
        return ask({"step2": question}, json.dumps({"round": 2, "name": name}))
    return content.said(f"{name} likes {color}")


@stage.tool(
    TOOLS,
    "test_input_required_result_capabilities",
    "Asks only what the client has said that it can answer",
    content.NOTHING,
)
async def capabilities(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    if params.input_responses:
        return content.said(f"Answered: {', '.join(sorted(params.input_responses))}")
    declared = context.session.client_capabilities or types.ClientCapabilities()
    answerable = {
        "user_name": declared.elicitation is not None,
        "greeting": declared.sampling is not None,
        "client_roots": declared.roots is not None,
    }
    questions = {key: question for key, question in EVERY_QUESTION.items() if answerable[key]}
    return ask(questions) if questions else content.said("The client can answer nothing")


@stage.tool(TOOLS, "test_streaming_elicitation", "Reports progress, then asks for a confirmation", content.NOTHING)
async def streaming_elicitation(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    await context.session.report_progress(1, 2)
    return _confirm(params, "awaiting-after-progress")


@stage.prompt(PROMPTS, "test_input_required_result_prompt", "Asks for its context first")
async def prompt_with_input(context: Context, params: types.GetPromptRequestParams) -> stage.PromptAnswer:
    answer = form_answer(params, "user_context", "context")
    if answer is None:
        return ask({"user_context": form("What context should the prompt use?", context="string")})
    message = types.PromptMessage(role="user", content=content.text(f"Use this context: {answer}"))
    return types.GetPromptResult(messages=[message])
