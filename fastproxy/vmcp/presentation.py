"""An offer as clients are told of it: the backend's JSON, with only what is renamed or overridden replaced.

Members keep their order, and their bytes where nothing is said about them. Pure.
"""

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
