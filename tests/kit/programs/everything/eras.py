"""The same server, but of one era only: what a bridge between the eras is tested with.

    legacy   no request of 2026-07-28 is served; the tools that ask "I need input first" ask the client themselves
    modern   no session is opened; the tools that ask the client themselves answer "I need input first"

So every tool that a scenario of the other era calls is here, asking in this era's own way. The refusals are those of
the official servers that speak one era.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import mcp_types as types
from everything import content, input_required, stage, tools
from everything.stage import Context

MODERN = "2026-07-28"
ROUNDS_MAX = 10
Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]
Params = types.CallToolRequestParams | types.GetPromptRequestParams


# ---- legacy only: ask the client, round by round


async def fulfil(context: Context, act: Callable[[Context, Any], Awaitable[Any]], params: Params) -> Any:
    """Call it again with the client's answers until it needs none."""
    for _ in range(ROUNDS_MAX):
        answer = await act(context, params)
        if not isinstance(answer, types.InputRequiredResult):
            return answer
        questions = answer.input_requests or {}
        answers = await asyncio.gather(*(_put(context, question) for question in questions.values()))
        responses = dict(zip(questions, answers, strict=True))
        params = params.model_copy(update={"input_responses": responses, "request_state": answer.request_state})
    raise RuntimeError("too many rounds")


async def _put(context: Context, question: Any) -> Any:
    if isinstance(question, types.ElicitRequest):
        form = question.params
        return await context.session.elicit_form(
            form.message, form.requested_schema, related_request_id=context.request_id
        )
    if isinstance(question, types.CreateMessageRequest):
        asked = question.params
        return await context.session.create_message(
            asked.messages, max_tokens=asked.max_tokens, related_request_id=context.request_id
        )
    return await context.session.list_roots()


# ---- modern only: need input


async def _sampling(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
    words = input_required.sampled_text(params, "answer")
    if words is None:
        return input_required.ask({"answer": input_required.sample(str((params.arguments or {})["prompt"]), 100)})
    return content.said(f"LLM response: {words}")


def _form(schema: dict[str, Any], prefix: str) -> stage.ToolFunction:
    async def elicit(context: Context, params: types.CallToolRequestParams) -> stage.ToolAnswer:
        answer = (params.input_responses or {}).get("form")
        if not isinstance(answer, types.ElicitResult):
            message = str((params.arguments or {}).get("message", "Review these values"))
            form = types.ElicitRequestFormParams(message=message, requested_schema=schema)
            return input_required.ask({"form": types.ElicitRequest(params=form)})
        return content.said(f"{prefix}: action={answer.action}, content={json.dumps(answer.content)}")

    return elicit


_USER = content.object_schema(
    {
        "username": {"type": "string", "description": "User's name"},
        "email": {"type": "string", "description": "User's email address"},
    },
    "username",
    "email",
)
NEEDING: dict[str, stage.ToolFunction] = {
    "test_sampling": _sampling,
    "test_elicitation": _form(_USER, "User response"),
    "test_elicitation_sep1034_defaults": _form(content.object_schema(tools.DEFAULT_FORMS), "Elicitation completed"),
    "test_elicitation_sep1330_enums": _form(content.object_schema(tools.ENUM_FORMS), "Elicitation completed"),
}


# ---- what is refused


def only(era: str, application: Application) -> Application:
    """The application behind a door that lets one era through."""
    refuse = _refuse_modern if era == "legacy" else _refuse_legacy

    async def serve(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        refusal = refuse(scope) if scope["type"] == "http" else None
        if refusal is None:
            await application(scope, receive, send)
            return
        status, body = refusal
        fields = [(b"content-type", b"application/json")] + ([(b"allow", b"POST")] if status == 405 else [])
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    return serve


def _version(scope: MutableMapping[str, Any]) -> str:
    return next((value.decode() for name, value in scope["headers"] if name == b"mcp-protocol-version"), "")


def _error(code: int, message: str, data: object = None) -> bytes:
    error = {"code": code, "message": message} | ({} if data is None else {"data": data})
    return json.dumps({"jsonrpc": "2.0", "id": None, "error": error}).encode()


def _refuse_modern(scope: MutableMapping[str, Any]) -> tuple[int, bytes] | None:
    if _version(scope) >= MODERN:
        return 400, _error(-32600, "Bad Request: Missing session ID")
    return None


def _refuse_legacy(scope: MutableMapping[str, Any]) -> tuple[int, bytes] | None:
    if scope["method"] != "POST":
        return 405, _error(-32600, "Method Not Allowed")
    if _version(scope) < MODERN:
        return 400, _error(-32022, "Unsupported protocol version", {"supported": [MODERN], "requested": ""})
    return None
