"""When a composite tool is shown, and how: hidden while a tool that it needs is not there; its hints are at least as
careful as those of the tools that it calls. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import results

# A tool as its list tells it, by the name that a step has for it; None: nobody offers it.
Lookup = Callable[[str], Mapping[str, Any] | None]


class Shown(msgspec.Struct, frozen=True):
    """One that clients see. `raw`: as tools/list tells it."""

    definition: definitions.Definition
    raw: msgspec.Raw


def show(all_of_them: Iterable[definitions.Definition], look_up: Lookup) -> tuple[list[Shown], list[tuple[str, str]]]:
    """Those that can run now; the names of the others, and why they are not shown."""
    shown: list[Shown] = []
    hidden: list[tuple[str, str]] = []
    for one in all_of_them:
        tools = {call.tool: look_up(call.tool) for call in one.calls()}
        missing = sorted(name for name, tool in tools.items() if tool is None)
        if missing:
            hidden.append((one.name, f"nobody offers {', '.join(missing)}"))
            continue
        annotations, problem = _annotate(one, [tool for tool in tools.values() if tool is not None])
        if problem:
            hidden.append((one.name, problem))
            continue
        shown.append(Shown(one, _render(one, annotations)))
    return shown, hidden


def _annotate(one: definitions.Definition, tools: list[Mapping[str, Any]]) -> tuple[dict[str, object], str]:
    """The hints; or what is wrong with those of the owner: they promise more than the tools that are called."""
    own = {key: value for key, value in msgspec.to_builtins(one.annotations).items() if value is not None}
    if not tools:
        return own, ""
    hints = [hints if isinstance(hints := tool.get("annotations"), dict) else {} for tool in tools]
    floor = {
        "readOnlyHint": all(each.get("readOnlyHint") is True for each in hints),
        "destructiveHint": any(each.get("destructiveHint") is not False for each in hints),
        "openWorldHint": any(each.get("openWorldHint") is not False for each in hints),
    }
    for hint, safe in (("readOnlyHint", True), ("destructiveHint", False), ("openWorldHint", False)):
        if own.get(hint) is safe and floor[hint] is not safe:
            return {}, f"{hint}: {str(safe).lower()} promises more than the tools that it calls"
    return {**floor, **own}, ""


def _render(one: definitions.Definition, annotations: Mapping[str, object]) -> msgspec.Raw:
    tool: dict[str, object] = {"name": one.name, "description": one.description, "inputSchema": one.parameters}
    if one.annotations.title is not None:
        tool["title"] = one.annotations.title
    if one.output is not None:
        tool["outputSchema"] = results.schema_of(one.output)
    if annotations:
        tool["annotations"] = annotations
    return msgspec.Raw(msgspec.json.encode(tool))
