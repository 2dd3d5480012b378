"""The client of the official Python SDK 1.x, as `driver.py` wants it."""

import contextlib
import typing
from collections.abc import AsyncIterator

import mcp.client.session
import pydantic
import switching
from mcp import ClientSession, types
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client


class Connection:
    """A session of the SDK and the verbs of the driver."""

    def __init__(self, session: ClientSession, protocol: str) -> None:
        self.session = session
        self.protocol = protocol

    async def call(self, name: str, arguments: dict[str, typing.Any], on_progress: typing.Any) -> typing.Any:
        return _plain(await self.session.call_tool(name, arguments, progress_callback=on_progress))

    async def ask(self, method: str, **arguments: typing.Any) -> typing.Any:
        match method:
            case "list_tools" | "list_resources" | "list_prompts" | "send_ping":
                return _plain(await getattr(self.session, method)())
            case "read_resource" | "subscribe_resource":
                return _plain(await getattr(self.session, method)(pydantic.AnyUrl(arguments["uri"])))
            case "get_prompt" | "set_logging_level":
                return _plain(await getattr(self.session, method)(**arguments))
            case _:
                raise ValueError(f"unknown step: {method}")


@contextlib.asynccontextmanager
async def connect(options: dict[str, typing.Any], journal: typing.Any) -> AsyncIterator[Connection]:
    if options["protocol_version"]:
        mcp.client.session.types.LATEST_PROTOCOL_VERSION = options["protocol_version"]  # what initialize proposes
    async with contextlib.AsyncExitStack() as stack:
        read, write, *_ = await stack.enter_async_context(await _transport(options, journal, stack))
        answers = _Answers(options, journal)
        session = ClientSession(
            read,
            write,
            sampling_callback=answers.sample,
            elicitation_callback=answers.elicit,
            message_handler=answers.notice,
        )
        await stack.enter_async_context(session)
        initialized = await session.initialize()
        yield Connection(session, str(initialized.protocolVersion))


async def _transport(
    options: dict[str, typing.Any], journal: typing.Any, stack: contextlib.AsyncExitStack
) -> typing.Any:
    def make(**given: typing.Any) -> typing.Any:
        return switching.client(options, journal.exchanges, **given)

    if options["transport"] == "sse":
        return sse_client(options["urls"][0], httpx_client_factory=make)
    http_client = await stack.enter_async_context(make())
    return streamable_http_client(options["urls"][0], http_client=http_client, terminate_on_close=options["terminate"])


class _Answers:
    """What this client says when the server asks, and what it notes."""

    def __init__(self, options: dict[str, typing.Any], journal: typing.Any) -> None:
        self.journal = journal

    async def sample(self, context: typing.Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        self.journal.asked.append({"method": "sampling/createMessage", "params": _plain(params)})
        text = f"sampled: {_plain(params)['messages'][0]['content']['text']}"
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text=text), model="kit"
        )

    async def elicit(self, context: typing.Any, params: typing.Any) -> types.ElicitResult:
        self.journal.asked.append({"method": "elicitation/create", "params": _plain(params)})
        return types.ElicitResult(action="accept", content={"name": "Ada"})

    async def notice(self, message: typing.Any) -> None:
        if isinstance(message, types.ServerNotification):
            said = _plain(message)
            self.journal.notice(said["method"], said.get("params"))


def _plain(model: typing.Any) -> typing.Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)
