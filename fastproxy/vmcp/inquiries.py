"""What a backend asks the client in the middle of a call, in both eras. Pure.

    legacy   a request of its own on the call's stream (elicitation/create, sampling/createMessage, roots/list), which
             a message of the client's answers
    modern   the call is answered "input required"; the client sends it again, with the answers and the state it got

An Inquiry is one question, whichever way it came. A client is asked nothing that it has not declared.
"""

import msgspec

from fastproxy.vmcp import bridge

ELICIT, SAMPLE, ROOTS = "elicitation/create", "sampling/createMessage", "roots/list"
URLS_REQUIRED = -32042
METHODS = frozenset({ELICIT, SAMPLE, ROOTS})
INQUIRIES_MAX = 100  # in one answer; a person or a model is behind each
STATE_BYTES_MAX = 1 << 20
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Inquiry(msgspec.Struct, frozen=True):
    """One question. `key`: what its answer is filed under, or the id of the request, as JSON text."""

    key: str
    method: str
    params: bytes


class InputRequired(msgspec.Struct, frozen=True):
    """A modern backend's answer that is none yet. `state` goes back to it as it is."""

    inquiries: tuple[Inquiry, ...]
    state: msgspec.Raw | None


class Malformed(ValueError):
    """An "input required" that cannot be acted on."""


class _Entry(msgspec.Struct):
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _InputRequired(msgspec.Struct):
    inputRequests: dict[str, _Entry] | None = None
    requestState: msgspec.Raw = msgspec.Raw(b"null")


class _Modes(msgspec.Struct):
    mode: str = "form"
    tools: msgspec.Raw = msgspec.Raw(b"")


# ---- modern: read and written


def read_input_required(result: bytes) -> InputRequired:
    """Malformed: it asks nothing, too much, or what nobody knows."""
    try:
        found = msgspec.json.decode(result, type=_InputRequired)
    except _FAULTS as error:
        raise Malformed(f"an input_required result that can't be read: {error}") from error
    entries = found.inputRequests or {}
    state = None if bytes(found.requestState) == b"null" else msgspec.Raw(bytes(found.requestState))
    if state is not None and (bytes(state)[:1] != b'"' or len(bytes(state)) > STATE_BYTES_MAX):
        raise Malformed("an input_required result whose requestState is no text, or too long")
    if len(entries) > INQUIRIES_MAX or not (entries or state):
        raise Malformed(f"an input_required result with {len(entries)} questions and no state")
    unknown = sorted({entry.method for entry in entries.values()} - METHODS)
    if unknown:
        raise Malformed(f"an input_required result that asks for {unknown[0]}")
    return InputRequired(
        tuple(Inquiry(key, entry.method, bytes(entry.params)) for key, entry in entries.items()), state
    )


def write_input_required(asked: list[Inquiry], state: str | None, server_info: bytes) -> bytes:
    """The result that asks a modern client. Without a state nothing waits: the call is simply made again."""
    entries = {
        each.key: {"method": each.method, "params": msgspec.Raw(to_modern(each).params or b"{}")} for each in asked
    }
    return msgspec.json.encode(
        {
            "resultType": bridge.RESULT_INPUT_REQUIRED,
            "inputRequests": entries,
            **({} if state is None else {"requestState": state}),
            "_meta": {bridge.META + "serverInfo": msgspec.Raw(server_info)},
        }
    )


def with_responses(params: bytes, responses: dict[str, bytes], state: msgspec.Raw | None) -> bytes:
    """A modern call's params, sent again with the answers."""
    members = bridge.read_members(params)
    members["inputResponses"] = msgspec.Raw(
        msgspec.json.encode({key: msgspec.Raw(answer) for key, answer in responses.items()})
    )
    members.pop("requestState", None)
    if state is not None:
        members["requestState"] = state
    return msgspec.json.encode(members)


def read_responses(params: bytes) -> tuple[dict[str, bytes], str | None]:
    """The answers and the state in a modern call that is sent again; the state is None in one that comes first."""
    members = bridge.read_members(params)
    answers = bridge.read_members(members.get("inputResponses", b"{}"))
    try:
        state = msgspec.json.decode(members.get("requestState", b"null"), type=str | None)
    except _FAULTS:
        state = None
    return {key: bytes(answer) for key, answer in answers.items()}, state


# ---- between the eras


def to_modern(asked: Inquiry) -> Inquiry:
    """A session's question as a modern client is asked it."""
    members = bridge.read_members(asked.params)
    for name in ("elicitationId", "task"):  # ids of that era's own bookkeeping
        members.pop(name, None)
    return Inquiry(asked.key, asked.method, msgspec.json.encode(members))


def to_legacy(asked: Inquiry, elicitation_id: str) -> Inquiry:
    """A modern question as a session's client is asked it. `elicitation_id`: of an URL that is to be visited."""
    members = bridge.read_members(asked.params)
    if asked.method == ELICIT and _modes(asked.params).mode == "url":
        members["elicitationId"] = msgspec.Raw(msgspec.json.encode(elicitation_id))
    return Inquiry(asked.key, asked.method, msgspec.json.encode(members))


class _Elicitation(msgspec.Struct):
    mode: str = "url"
    message: str = ""
    url: str = ""
    elicitationId: str = ""


class _UrlsRequired(msgspec.Struct):
    elicitations: list[_Elicitation] = []


def urls_required(data: bytes | msgspec.Raw) -> list[Inquiry]:
    """Of the legacy error -32042: addresses that the user must visit before the call is made again."""
    try:
        found = msgspec.json.decode(data, type=_UrlsRequired).elicitations[:INQUIRIES_MAX]
    except _FAULTS:
        return []
    return [
        Inquiry(
            each.elicitationId or f"url{number}",
            ELICIT,
            msgspec.json.encode({"mode": "url", "message": each.message, "url": each.url}),
        )
        for number, each in enumerate(found)
        if each.url
    ]


# ---- what a client can do


def missing_capability(capabilities: bytes | msgspec.Raw, asked: Inquiry) -> dict[str, object] | None:
    """What the client would have had to declare for this question; None: it has."""
    declared = bridge.read_members(capabilities)
    modes = _modes(asked.params)
    if asked.method == ELICIT:
        known = declared.get("elicitation")
        if modes.mode == "url":
            if known is not None and "url" in bridge.read_members(known):
                return None
            return {"elicitation": {"url": {}}}
        if known is None:
            return {"elicitation": {"form": {}}}
        kinds = bridge.read_members(known)  # none named means forms
        return None if not kinds or "form" in kinds or "url" not in kinds else {"elicitation": {"form": {}}}
    if asked.method == SAMPLE:
        known = declared.get("sampling")
        if bytes(modes.tools) and (known is None or "tools" not in bridge.read_members(known)):
            return {"sampling": {"tools": {}}}
        return {"sampling": {}} if known is None else None
    return None if "roots" in declared else {"roots": {}}


def declined(asked: Inquiry) -> bytes | None:
    """The answer of who says no for the client; None: there is none but an error."""
    return b'{"action":"cancel"}' if asked.method == ELICIT else None


def _modes(params: bytes) -> _Modes:
    try:
        return msgspec.json.decode(params, type=_Modes)
    except _FAULTS:
        return _Modes()
