"""Messages of `subscriptions/listen` (spec 2026-07-28), as far as streams of several replicas are merged into one.

A stream begins with an acknowledgement that says what the server will tell of, goes on with notifications, and ends
with the result if the server ends it on purpose. Every message carries the id of the listen request; all replicas are
sent the same request, so events pass as they are. Only an acknowledgement that must promise less is written anew, and
then nothing but `params.notifications` in it.
"""

import enum
from typing import Any

import msgspec

from fastproxy.mcp import envelope

METHOD = "subscriptions/listen"
_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
_TASKS = "taskIds"  # a task is known to one replica only, so that what any of them honours is honoured


class Kind(enum.Enum):
    """What an event of such a stream is."""

    NOTHING = "nothing"  # a comment, or no data
    ACKNOWLEDGED = "acknowledged"
    NEWS = "news"
    ANSWER = "answer"  # the result, or an error: the stream ends


def kind_of(event: bytes) -> Kind:
    """What this whole event is."""
    message = _message(event)
    if not message:
        return Kind.NOTHING
    read = envelope.read(message)
    if read is not None and read.method is None and envelope.outcome(message) != (None, None):
        return Kind.ANSWER
    return Kind.ACKNOWLEDGED if read is not None and read.method == _ACKNOWLEDGED else Kind.NEWS


def acknowledge(events: list[bytes]) -> bytes:
    """One acknowledgement for many: what all of them honour. The first one as it is, if that is what it says."""
    first = _read(events[0])
    honoured = [_honoured(event) for event in events]
    agreed = _agree(honoured)
    if first is None or agreed == honoured[0]:
        return events[0]
    message, params = first
    params["notifications"] = msgspec.Raw(msgspec.json.encode(agreed))
    message["params"] = msgspec.Raw(msgspec.json.encode(params))
    return b"event: message\r\ndata: " + msgspec.json.encode(message) + b"\r\n\r\n"


def _agree(honoured: list[dict[str, Any]]) -> dict[str, Any]:
    agreed: dict[str, Any] = {}
    for name, value in honoured[0].items():
        others = [other.get(name) for other in honoured[1:]]
        if name == _TASKS:
            continue
        if isinstance(value, list):
            common = [item for item in value if all(isinstance(other, list) and item in other for other in others)]
            if common:
                agreed[name] = common
        elif all(other == value for other in others):
            agreed[name] = value
    tasks = [task for each in honoured if isinstance(each.get(_TASKS), list) for task in each[_TASKS]]
    if tasks or any(_TASKS in each for each in honoured):
        agreed[_TASKS] = [task for number, task in enumerate(tasks) if task not in tasks[:number]]
    return agreed


def _message(event: bytes) -> bytes | None:
    messages = envelope.event_messages(event)
    return messages[0] if messages else None


Members = dict[str, msgspec.Raw]


def _read(event: bytes) -> tuple[Members, Members] | None:
    """A message's members and its params', each as it was written."""
    try:
        message = msgspec.json.decode(_message(event) or b"", type=Members)
        return message, msgspec.json.decode(message.get("params", b"{}"), type=Members)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _honoured(event: bytes) -> dict[str, Any]:
    read = _read(event)
    try:
        found = None if read is None else msgspec.json.decode(read[1].get("notifications", b"{}"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {}
