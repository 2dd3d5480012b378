"""What ties a request of the era without sessions to one replica, read from the messages themselves. Pure.

    an answer  -> the keys that it hands to the client: a request state, a task      -> remembered with its replica
    a request  -> the key that it brings back                                        -> that replica is asked

A request state is sealed by the process that made it (the SDKs' default), and a task lives where it was created; any
other replica can only refuse them. A key is a digest: what is remembered is not what a client could use.
"""

import base64
import binascii
import hashlib

import msgspec

from fastproxy.mcp import envelope

WORDS = (b'"requestState"', b'"taskId"')  # without one of them an answer hands out nothing
TASKS = "tasks/"  # methods that begin so name a task
STATE_SECONDS = 600.0  # as long as the SDKs' servers take a state back
TASK_SECONDS_MAX = 86400.0  # of a task that says it lives longer; every look at it starts the time anew

# Their results hand out nothing (spec 2026-07-28), and lists are long: they are not searched.
KEYLESS = {
    "server/discover",
    "tools/list",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "completion/complete",
    "subscriptions/listen",
}


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A key that leads to a replica, and how long it is worth remembering."""

    key: str
    seconds: float


class _Result(msgspec.Struct, gc=False):
    requestState: str | None = None
    taskId: str | None = None
    ttlMs: float | msgspec.UnsetType | None = msgspec.UNSET


class _Answer(msgspec.Struct, gc=False):
    result: _Result | None = None


class _Params(msgspec.Struct, gc=False):
    requestState: str | None = None


class _Request(msgspec.Struct, gc=False):
    params: _Params | None = None


_answer_decoder = msgspec.json.Decoder(_Answer)
_request_decoder = msgspec.json.Decoder(_Request)


def hands_out(method: str) -> bool:
    """Can an answer to this method hand out a key? Of methods that nobody knows yet: yes."""
    return method not in KEYLESS


def of_answer(text: bytes, *, event_stream: bool) -> list[Kept]:
    """The keys in an answer: a whole JSON body, or whole events."""
    kept = []
    for message in envelope.event_messages(text + b"\n\n") if event_stream else [text]:
        try:
            result = _answer_decoder.decode(message).result
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue  # no answer, or not one that we know
        if result is not None and result.requestState is not None:
            kept.append(Kept(_of_state(result.requestState), STATE_SECONDS))
        if result is not None and result.taskId is not None:
            kept.append(Kept(_of_task(result.taskId), _task_seconds(result.ttlMs)))
    return kept


def of_request(method: str, name: str | None, body: bytes | None) -> str | None:
    """The key in a request, by its Mcp-Method, its Mcp-Name and its body (None: not looked at)."""
    if method.startswith(TASKS) and name is not None:
        return _of_task(_decode_name(name))
    if body is None or WORDS[0] not in body:
        return None
    try:
        params = _request_decoder.decode(body).params
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return None if params is None or params.requestState is None else _of_state(params.requestState)


def _of_state(state: str) -> str:
    return _digest("state", state)


def _of_task(task_id: str) -> str:
    return _digest("task", task_id)


def _digest(kind: str, text: str) -> str:
    return hashlib.sha256(f"{kind}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()


def _task_seconds(ttl_ms: float | msgspec.UnsetType | None) -> float:
    if ttl_ms is msgspec.UNSET:
        return STATE_SECONDS
    if ttl_ms is None:  # unlimited
        return TASK_SECONDS_MAX
    return min(max(ttl_ms / 1000, STATE_SECONDS), TASK_SECONDS_MAX)


def _decode_name(value: str) -> str:
    """What a header value stands for (spec 2026-07-28, transports: text that is no plain ASCII travels in Base64)."""
    if not (value.startswith("=?base64?") and value.endswith("?=") and len(value) >= 11):
        return value
    try:
        return base64.b64decode(value[9:-2], validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return value  # the backend refuses it
