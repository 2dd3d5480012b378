"""A call of a legacy session at a modern backend: sent again with the client's answers until it is complete.

    call --> "input required" --ask--> the client, on its own stream --answers--> call, sent again --> ... --> complete

The session's client sees one call with questions in between, as it knows them. The backend holds nothing meanwhile, so
any replica could go on; a call whose replica dies is lost to its client as any other.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from fastproxy.mcp import revision
from fastproxy.vmcp import backends, bridge, connections, inquiries, peer

ROUNDS_MAX = 10
ASK_SECONDS_MAX = 600.0  # for the client's answers of one round: people are asked
REREAD_SECONDS_MAX = 10.0

Ask = Callable[[inquiries.Inquiry], Awaitable[bytes]]


class ClientRefused(Exception):
    """The client answered a question with an error. `error`: as it wrote it; None: nobody was there to be asked."""

    def __init__(self, message: str, error: bytes | None = None) -> None:
        super().__init__(message)
        self.error = error


async def run(
    backend: backends.Backend,
    method: str,
    params: bytes,
    *,
    caller: bridge.Caller,
    headers: connections.Fields,
    ask: Ask,
    on_message: peer.OnMessage,
) -> bytes:
    """The result as the session's client knows it. `params`: the client's, with the backend's own name in them; `ask`
    puts a question to the client, or raises ClientRefused. BackendError; Refused with the error for the client."""
    whole = bridge.to_modern_params(params, caller, peer.MODERN_VERSION)
    try:
        for _ in range(ROUNDS_MAX):
            result = await _send(backend, method, whole, headers, on_message)
            kind = bridge.result_type(result)
            if kind == bridge.RESULT_COMPLETE:
                return bridge.to_legacy_result(result)
            if kind != bridge.RESULT_INPUT_REQUIRED:
                raise _wrong(backend, f"a result of type {kind[:40]}, which a session's client does not know")
            asked = inquiries.read_input_required(result)
            async with asyncio.timeout(ASK_SECONDS_MAX):
                responses = await _ask_all(backend, asked, caller, ask)
            whole = inquiries.with_responses(whole, responses, asked.state)
    except inquiries.Malformed as error:
        raise _wrong(backend, str(error)) from error
    except TimeoutError as error:
        detail = f"no answer of the client within {ASK_SECONDS_MAX:g} s"
        raise peer.BackendError(backend.id, detail, reason="client_timeout", may_have_run=True) from error
    except peer.Refused as error:
        raise peer.Refused(backend.id, bridge.to_legacy_error(method, error.error)) from error
    raise _wrong(backend, f"more than {ROUNDS_MAX} rounds of questions")


async def _send(
    backend: backends.Backend, method: str, params: bytes, headers: connections.Fields, on_message: peer.OnMessage
) -> bytes:
    """One round. A schema that we know no longer is read again, once: the call has not run."""
    again = False
    while True:
        mirrored = bridge.parameter_fields(backend.input_schema(params), params) if method == "tools/call" else []
        try:
            return await backend.peer.request(
                method,
                params,
                leg_session_id=None,
                protocol_version=peer.MODERN_VERSION,
                headers=[*headers, *mirrored],
                on_message=lambda data: _pass_on(data, on_message),
                seconds_max=backend.timeout_seconds,
            )
        except peer.Refused as error:
            if error.code != bridge.HEADER_MISMATCH or again:
                raise
            again = True
            await backend.reread(seconds_max=REREAD_SECONDS_MAX)


def _pass_on(data: bytes, on_message: peer.OnMessage) -> None:
    """A notification; that era knows no requests of a server's, and what comes as one is not answered."""
    message = peer.read_message(data)
    if message is not None and not bytes(message.id):
        on_message(bridge.to_other_notification(data))


async def _ask_all(
    backend: backends.Backend, asked: inquiries.InputRequired, caller: bridge.Caller, ask: Ask
) -> dict[str, bytes]:
    for each in asked.inquiries:
        missing = inquiries.missing_capability(caller.capabilities, each)
        if missing is not None:
            raise _wrong(backend, f"it asks for {each.method}, which the client has not declared")
    answers = await asyncio.gather(*(_ask_one(backend, each, ask) for each in asked.inquiries))
    return {each.key: answer for each, answer in zip(asked.inquiries, answers, strict=True)}


async def _ask_one(backend: backends.Backend, asked: inquiries.Inquiry, ask: Ask) -> bytes:
    try:
        return await ask(inquiries.to_legacy(asked, secrets.token_hex(16)))
    except ClientRefused as error:
        answer = inquiries.declined(asked)
        if answer is not None:
            return answer
        detail = f"the client refused {asked.method}: {error}"
        raise peer.BackendError(backend.id, detail, reason="client_refused", may_have_run=True) from error


def _wrong(backend: backends.Backend, detail: str) -> peer.BackendError:
    return peer.BackendError(backend.id, detail, reason="backend_protocol_error", may_have_run=True)


def is_needed(backend: backends.Backend, version: str) -> bool:
    """Is a call of a client of this revision to be bridged this way? A dual backend keeps a session client's state."""
    return revision.has_sessions(version) and not backend.speaks_legacy
