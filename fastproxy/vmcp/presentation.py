"""An offer as clients are told of it: the backend's JSON, with only what is renamed or overridden replaced.

Members keep their order, and their bytes where nothing is said about them. Pure.
"""

from typing import Literal

import msgspec

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import offers

# Members that are optional and were sent as null: some clients take null for a wrong type, and drop the whole list.
_OPTIONAL = frozenset(
    {"title", "description", "outputSchema", "annotations", "icons", "_meta", "arguments", "execution"}
)
_NULL = b"null"


def tell_tool(tool: offers.Offer, name: str, override: vmcp_schema.Override | None) -> bytes:
    """The tool under its name here."""
    raw = bytes(tool.raw)
    if name == tool.name and override is None and _NULL not in raw:
        return raw
    members = _take_apart(tool.raw)
    members["name"] = msgspec.Raw(msgspec.json.encode(name))
    if override is not None:
        if override.description:
            members["description"] = msgspec.Raw(msgspec.json.encode(override.description))
        if override.annotations:
            said = msgspec.json.decode(members.get("annotations", b"{}"), type=dict[str, msgspec.Raw])
            said |= {key: msgspec.Raw(msgspec.json.encode(value)) for key, value in override.annotations.items()}
            members["annotations"] = msgspec.Raw(msgspec.json.encode(said))
    return msgspec.json.encode(members)


def narrow_tool(told: bytes) -> bytes:
    """A tool as it is told for clients of the revisions with sessions. To them a schema is an object whose properties
    are objects; one tool of which that is not true costs some of them the whole list. What a tool takes is put in other
    words then, what it gives is left unsaid."""
    try:
        msgspec.json.decode(told, type=_Narrow)
    except msgspec.ValidationError:
        members = msgspec.json.decode(told, type=dict[str, msgspec.Raw])
        if "outputSchema" in members and not _is_narrow(members["outputSchema"]):
            del members["outputSchema"]
        if not _is_narrow(members["inputSchema"]):
            members["inputSchema"] = msgspec.Raw(_narrow(members["inputSchema"]))
        return msgspec.json.encode(members)
    return told


class _NarrowSchema(msgspec.Struct):
    type: Literal["object"]
    properties: dict[str, dict[str, msgspec.Raw]] = {}
    required: list[str] = []


class _Narrow(msgspec.Struct):
    inputSchema: _NarrowSchema
    outputSchema: _NarrowSchema | None = None


def _is_narrow(schema: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(schema, type=_NarrowSchema)
    except msgspec.ValidationError:
        return False
    return True


def _narrow(schema: msgspec.Raw) -> bytes:
    """The same schema: `true` as a property's is written {}, `false` as the opposite of that."""
    members = msgspec.json.decode(schema, type=dict[str, msgspec.Raw])
    properties = msgspec.json.decode(members.get("properties", b"{}"), type=dict[str, msgspec.Raw])
    others = {b"true": msgspec.Raw(b"{}"), b"false": msgspec.Raw(b'{"not":{}}')}
    members["properties"] = msgspec.Raw(
        msgspec.json.encode({name: others.get(bytes(one).strip(), one) for name, one in properties.items()})
    )
    return msgspec.json.encode(members)


def tell_prompt(prompt: offers.Offer, name: str) -> bytes:
    """The prompt under its name here."""
    raw = bytes(prompt.raw)
    if name == prompt.name and _NULL not in raw:
        return raw
    return msgspec.json.encode(_take_apart(prompt.raw) | {"name": msgspec.Raw(msgspec.json.encode(name))})


def pack(raw: msgspec.Raw) -> bytes:
    """An item that keeps its name."""
    return msgspec.json.encode(_take_apart(raw)) if _NULL in bytes(raw) else bytes(raw)


def _take_apart(raw: msgspec.Raw) -> dict[str, msgspec.Raw]:
    members = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return {key: value for key, value in members.items() if key not in _OPTIONAL or bytes(value) != _NULL}
