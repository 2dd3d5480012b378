"""The `aggregation` section of a vMCP file: names, filters, overrides. Sans-io."""

import re
from collections.abc import Mapping
from typing import Any

from fastproxy.config import units, vmcp_schema
from fastproxy.config import vmcp_place as places
from fastproxy.config.vmcp_place import Place, Row

NAME_CHARACTERS_MAX = 128  # of a tool's new name: what the protocol allows; what clients take is for the catalog
PREFIX_CHARACTERS_MAX = 64
_PLAIN = re.compile(r"[A-Za-z0-9_.-]*", re.ASCII)


def read_aggregation(place: Place, raw: object) -> object:
    """The section."""
    return places.section(_AGGREGATION, _make_aggregation)(place, raw)


def check_workloads(place: Place, aggregation: vmcp_schema.Aggregation, known: list[str]) -> None:
    """Notes entries that speak of nobody."""
    for index, rules in enumerate(aggregation.tools):
        if rules.workload not in known:
            place.key("tools").item(index).key("workload").doubt(f"no backend is named {rules.workload}")
    for index, name in enumerate(aggregation.priority_order):
        if name not in known:
            at = place.key("conflictResolutionConfig").key("priorityOrder").item(index)
            at.doubt(f"no backend is named {name}")


def _make_aggregation(place: Place, values: dict[str, Any]) -> object:
    strategy, tools = values["conflictResolution"], values["tools"]
    settings = values["conflictResolutionConfig"]
    at = place.key("conflictResolutionConfig")
    prefix_format, order = (settings["prefixFormat"], settings["priorityOrder"]) if settings is not None else (None, ())
    if settings is not None and not place.key("conflictResolution").is_refused:
        if strategy == vmcp_schema.PREFIX and prefix_format is None and not at.key("prefixFormat").is_refused:
            at.key("prefixFormat").refuse(f"expected it with prefix, as in {vmcp_schema.DEFAULT_PREFIX_FORMAT!r}")
        if strategy == vmcp_schema.PRIORITY and not order and not at.key("priorityOrder").is_refused:
            at.key("priorityOrder").refuse("expected names of backends with priority, the first one wins")
    for name in sorted({name for name in order if order.count(name) > 1}):
        at.key("priorityOrder").doubt(f"{name} stands there {order.count(name)} times")
    if strategy == vmcp_schema.MANUAL and not tools and not place.key("tools").is_refused:
        place.key("tools").refuse("expected entries with manual: they say who is called what")
    workloads = [rules.workload for rules in tools]
    places.refuse_twice(place.key("tools"), workloads, "workload")
    if values["defaultToolVisibility"] == "deny" and strategy == vmcp_schema.PRIORITY:
        for name in order:
            if name not in workloads:
                place.key("tools").refuse(f"expected an entry for {name}: it has priority, and deny would hide it")
    return vmcp_schema.Aggregation(
        strategy=strategy,
        prefix_format=vmcp_schema.DEFAULT_PREFIX_FORMAT if prefix_format is None else prefix_format,
        priority_order=tuple(order),
        tools=tools,
        exclude_all_tools=values["excludeAllTools"],
        default_visible=values["defaultToolVisibility"] != "deny",
    )


def _make_rules(place: Place, values: dict[str, Any]) -> object:
    if values["workload"] is None:
        return places.INVALID
    return vmcp_schema.ToolRules(values["workload"], values["filter"], values["overrides"], values["excludeAll"])


def _make_override(place: Place, values: dict[str, Any]) -> object:
    annotations = {key: value for key, value in (values["annotations"] or {}).items() if value is not None}
    if not (values["name"] or values["description"] or annotations or place.is_refused):
        return place.refuse("expected a name, a description or annotations")
    return vmcp_schema.Override(values["name"], values["description"], annotations)


def _keep(place: Place, values: dict[str, Any]) -> object:
    return values


_ANNOTATIONS: Mapping[str, Row] = {
    "title": Row(places.text()),
    **{hint: Row(places.flag) for hint in ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")},
}
_TOOL_NAME = places.value(
    units.text(
        "NAME",
        pattern=r"[A-Za-z0-9_.-]+",
        expected="a tool's name of letters, digits and . _ -",
        characters_max=NAME_CHARACTERS_MAX,
    )
)
_OVERRIDE: Mapping[str, Row] = {
    "name": Row(_TOOL_NAME),
    "description": Row(places.text("a description", characters_max=64 << 10)),
    "annotations": Row(places.section(_ANNOTATIONS, _keep)),
}
_TOOLS: Mapping[str, Row] = {
    "workload": Row(places.text("the name of a backend"), required="the name of a backend"),
    "toolConfigRef": Row(places.unsupported("it lives in Kubernetes: write filter and overrides here")),
    "filter": Row(places.items(places.text("the name of a tool")), default=()),
    "overrides": Row(places.table(places.section(_OVERRIDE, _make_override)), default={}),
    "excludeAll": Row(places.flag, default=False),
}


def _read_prefix(place: Place, raw: object) -> object:
    """It ends up in every name."""
    expected = f"text such as {vmcp_schema.DEFAULT_PREFIX_FORMAT}"
    if not isinstance(raw, str) or not raw or not raw.isprintable() or " " in raw:
        return place.refuse(f"expected {expected} without spaces, got {units.quote(raw or None)}")
    if len(raw) > PREFIX_CHARACTERS_MAX:
        return place.refuse(f"expected at most {PREFIX_CHARACTERS_MAX} characters, got {len(raw)}")
    if not _PLAIN.fullmatch(raw.replace("{workload}", "")):
        place.doubt(f"{units.quote(raw)}: many clients take only letters, digits, _ and - in a tool's name")
    return raw


_CONFLICT: Mapping[str, Row] = {
    "prefixFormat": Row(_read_prefix),
    "priorityOrder": Row(places.items(places.text("the name of a backend")), default=()),
}
_AGGREGATION: Mapping[str, Row] = {
    "conflictResolution": Row(
        places.value(units.choice(vmcp_schema.PREFIX, vmcp_schema.PRIORITY, vmcp_schema.MANUAL)),
        default=vmcp_schema.PREFIX,
    ),
    "conflictResolutionConfig": Row(places.section(_CONFLICT, _keep), required="a section"),
    "tools": Row(places.items(places.section(_TOOLS, _make_rules)), default=()),
    "excludeAllTools": Row(places.flag, default=False),
    "defaultToolVisibility": Row(places.choice("allow", "deny")),
}
