"""From a definition as it was written to a Definition. Every problem is noted with its path; reading goes on."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy.config import units
from fastproxy.config import vmcp_place as places
from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import schemas, template

Place = places.Place
Row = places.Row

DEPTH_MAX = 10  # of an output's properties
VALUE_DEPTH_MAX = 100
RETRY_COUNT_MAX = 10

_TOOL_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]*")
_ITEM_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "object": dict,
    "array": list,
}


def read(place: Place, raw: object) -> Any:
    """One entry of `compositeTools`; INVALID when something in it is wrong."""
    before = len(place.notes.problems)
    values = places.read_section(place, raw, _DEFINITION)
    if len(place.notes.problems) > before:
        return places.INVALID
    return definitions.Definition(
        name=values["name"],
        description=values["description"],
        steps=values["steps"],
        parameters=values["parameters"] or {"type": "object"},
        timeout_seconds=values["timeout"] or definitions.WORKFLOW_SECONDS,
        output=values["output"],
        annotations=values["annotations"] or definitions.Annotations(),
    )


# ---- single values


def _template(place: Place, raw: object) -> Any:
    """Text in which templates may stand."""
    if not isinstance(raw, str):
        hint = " (put it in quotes)" if isinstance(raw, bool | int | float) else ""
        return place.refuse(f"expected text, got {units.quote(raw)}{hint}")
    if not raw.strip():
        return place.refuse("expected text, got nothing")
    try:
        return template.parse(raw)
    except template.TemplateError as error:
        return place.refuse(f"invalid template: {error}")


def _expression(place: Place, raw: object, depth: int = 0) -> Any:
    """A value; texts at any depth in it may be templates."""
    if depth > VALUE_DEPTH_MAX:
        return place.refuse(f"expected at most {VALUE_DEPTH_MAX} levels")
    if isinstance(raw, str) and "{{" in raw:
        return _template(place, raw)
    if isinstance(raw, dict):
        return {str(key): _expression(place.key(str(key)), one, depth + 1) for key, one in raw.items()}
    if isinstance(raw, list):
        return [_expression(place.item(index), one, depth + 1) for index, one in enumerate(raw)]
    return raw


def _arguments(place: Place, raw: object) -> Any:
    return (
        _expression(place, raw)
        if isinstance(raw, dict)
        else place.refuse(f"expected a section, got {units.quote(raw)}")
    )


def _object(place: Place, raw: object) -> Any:
    return raw if isinstance(raw, dict) else place.refuse(f"expected a section, got {units.quote(raw)}")


def _tool_name(place: Place, raw: object) -> Any:
    if isinstance(raw, str) and _TOOL_NAME.fullmatch(raw):
        return raw
    return place.refuse(f"must be a valid tool name ({_TOOL_NAME.pattern}), got {units.quote(raw)}")


def _whole(least: int, most: int) -> places.Reader:
    def read_whole(place: Place, raw: object) -> Any:
        if isinstance(raw, bool) or not isinstance(raw, int):
            return place.refuse(f"expected a whole number, got {units.quote(raw)}")
        if raw > most:
            return place.refuse(f"must be <= {most}, got {raw}")
        if raw < least:
            return place.refuse(f"must be >= {least}, got {raw}")
        return raw

    return read_whole


def _one_of(*words: str) -> places.Reader:
    def read_word(place: Place, raw: object) -> Any:
        if raw in words:
            return raw
        return place.refuse(f"must be one of: {', '.join(words)}; got {units.quote(raw)}")

    return read_word


def _ids(place: Place, raw: object) -> Any:
    if not isinstance(raw, list) or not all(isinstance(one, str) and one for one in raw):
        return place.refuse(f"expected a list of ids of steps, got {units.quote(raw)}")
    return tuple(dict.fromkeys(raw))


# ---- steps

_DURATION = places.duration(least_seconds=0.001, zero=True)


def _make_on_error(place: Place, values: dict[str, Any]) -> definitions.OnError:
    action = values["action"] or definitions.ABORT
    if action == definitions.RETRY and values["retryCount"] < 1:
        place.key("retryCount").refuse("must be >= 1 when the action is retry")
    return definitions.OnError(
        action=action,
        retry_count=min(values["retryCount"], RETRY_COUNT_MAX),
        retry_delay_seconds=values["retryDelay"] or definitions.RETRY_DELAY_SECONDS,
    )


def _make_answer(place: Place, values: dict[str, Any]) -> Any:
    return values["action"]


_ON_ERROR: Mapping[str, Row] = {
    "action": Row(_one_of("", definitions.ABORT, definitions.CONTINUE, definitions.RETRY)),
    "retryCount": Row(_whole(0, 1 << 31), default=0),
    "retryDelay": Row(_DURATION),
}
_ON_ANSWER: Mapping[str, Row] = {
    "action": Row(
        _one_of(definitions.SKIP_REMAINING, definitions.ABORT, definitions.CONTINUE),
        required="an action (skip_remaining, abort or continue)",
    )
}


def _item_name(place: Place, raw: object) -> Any:
    if not isinstance(raw, str) or not _ITEM_NAME.fullmatch(raw):
        return place.refuse(f"must match {_ITEM_NAME.pattern}, got {units.quote(raw)}")
    return raw if raw != "index" else place.refuse("must not be index, which is the number of the iteration")


_STEP: Mapping[str, Row] = {
    "id": Row(places.text("an id"), required="an id: id is required"),
    "type": Row(_one_of("", definitions.TOOL, definitions.ELICITATION, definitions.FOR_EACH), default=""),
    "tool": Row(_tool_name),
    "arguments": Row(_arguments, default={}),
    "condition": Row(_template),
    "dependsOn": Row(_ids, default=()),
    "onError": Row(places.section(_ON_ERROR, _make_on_error), default=definitions.OnError()),
    "timeout": Row(_DURATION),
    "defaultResults": Row(_object, default={}),
    "message": Row(_template),
    "schema": Row(schemas.read_question),
    "onDecline": Row(places.section(_ON_ANSWER, _make_answer)),
    "onCancel": Row(places.section(_ON_ANSWER, _make_answer)),
    "collection": Row(_template),
    "itemVar": Row(_item_name, default="item"),
    "maxParallel": Row(_whole(0, definitions.MAX_PARALLEL_CAP), default=0),
    "maxIterations": Row(_whole(0, definitions.MAX_ITERATIONS_CAP), default=0),
    "step": Row(lambda place, raw: raw),
}


def _read_step(place: Place, raw: object, *, inner: bool = False) -> Any:
    values = places.read_section(place, raw, _STEP)
    if not isinstance(raw, dict):
        return places.INVALID
    kind = values["type"] or (definitions.TOOL if raw.get("message") is None else "")
    if not kind:
        if raw.get("tool") is not None:
            return place.refuse("cannot have both tool and message: use explicit type")
        kind = definitions.ELICITATION
    if inner and kind != definitions.TOOL:
        return place.key("type").refuse(f"the step of a loop must be of type tool, got {kind}")
    action = {
        definitions.TOOL: _read_call,
        definitions.ELICITATION: _read_question,
        definitions.FOR_EACH: _read_loop,
    }[kind](place, raw, values)
    if action is places.INVALID or values["id"] is None:
        return places.INVALID
    return definitions.Step(
        id=values["id"],
        action=action,
        condition=values["condition"],
        depends_on=values["dependsOn"],
        on_error=values["onError"],
        timeout_seconds=values["timeout"] or definitions.STEP_SECONDS,
        default_results=values["defaultResults"],
    )


def _read_call(place: Place, raw: Mapping[str, object], values: dict[str, Any]) -> Any:
    if raw.get("tool") is None:
        return place.key("tool").refuse("is required when type is tool")
    if values["tool"] is None:
        return places.INVALID
    return definitions.Call(values["tool"], values["arguments"])


def _read_question(place: Place, raw: Mapping[str, object], values: dict[str, Any]) -> Any:
    for key in ("message", "schema"):
        if raw.get(key) is None:
            place.key(key).refuse(f"{key} is required when type is elicitation")
    if values["message"] is None or values["schema"] is None:
        return places.INVALID
    return definitions.Question(values["message"], values["schema"], values["onDecline"], values["onCancel"])


def _read_loop(place: Place, raw: Mapping[str, object], values: dict[str, Any]) -> Any:
    for key in ("tool", "message"):
        if raw.get(key) is not None:
            place.key(key).refuse("belongs into the inner step when type is forEach")
    for key in ("collection", "step"):
        if raw.get(key) is None:
            place.key(key).refuse(f"{key} is required when type is forEach")
    step: Any = places.INVALID
    if raw.get("step") is not None:
        step = _read_step(place.key("step"), raw["step"], inner=True)
    if step is places.INVALID or values["collection"] is None:
        return places.INVALID
    return definitions.Loop(
        values["collection"],
        values["itemVar"],
        values["maxParallel"] or definitions.MAX_PARALLEL,
        values["maxIterations"] or definitions.MAX_ITERATIONS,
        step,
    )


def _steps(place: Place, raw: object) -> Any:
    if not isinstance(raw, list):
        return place.refuse(f"expected a list of steps, got {units.quote(raw)}")
    if not raw:
        return place.refuse("must have at least one step")
    if len(raw) > definitions.STEPS_MAX:
        return place.refuse(f"too many steps: expected at most {definitions.STEPS_MAX}, got {len(raw)}")
    steps = [_read_step(place.item(index), one) for index, one in enumerate(raw)]
    return tuple(step for step in steps if step is not places.INVALID)


# ---- output

_PROPERTY: Mapping[str, Row] = {
    "type": Row(_one_of(*_TYPES), required=f"a type ({', '.join(_TYPES)})"),
    "description": Row(places.text("a description"), required="a description: description is required"),
    "value": Row(_template),
    "properties": Row(lambda place, raw: raw),
    "default": Row(lambda place, raw: raw),
}


def _property(place: Place, raw: object, depth: int) -> Any:
    if depth > DEPTH_MAX:
        return place.refuse(f"expected at most {DEPTH_MAX} levels")
    values = places.read_section(place, raw, _PROPERTY)
    if not isinstance(raw, dict):
        return places.INVALID
    kind, nested = values["type"], raw.get("properties")
    if (raw.get("value") is None) == (nested is None):
        place.refuse("expected exactly one of value and properties")
    if nested is not None and kind not in ("object", None):
        place.key("properties").refuse(f"belongs to a property of type object, not {kind}")
    default: Any = raw.get("default", msgspec.UNSET)
    if default is not msgspec.UNSET and kind is not None and not _fits(default, kind):
        place.key("default").refuse(f"expected a default of type {kind}, got {units.quote(default)}")
    return definitions.Property(
        type=kind or "string",
        description=values["description"] or "",
        value=values["value"],
        properties=None if nested is None else _properties(place.key("properties"), nested, depth + 1),
        default=default,
    )


def _fits(value: object, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[kind])


def _properties(place: Place, raw: object, depth: int) -> dict[str, Any]:
    if not isinstance(raw, dict) or not raw:
        place.refuse("expected at least one property")
        return {}
    read_all = {str(key): _property(place.key(str(key)), one, depth) for key, one in raw.items()}
    return {key: one for key, one in read_all.items() if one is not places.INVALID}


_OUTPUT: Mapping[str, Row] = {
    "properties": Row(lambda place, raw: _properties(place, raw, 1), required="at least one property"),
    "required": Row(_ids, default=()),
}


def _make_output(place: Place, values: dict[str, Any]) -> definitions.Output:
    properties = values["properties"] or {}
    for name in values["required"]:
        if name not in properties and not place.key("properties").is_refused:
            place.key("required").refuse(f"{units.quote(name)} is no property{places.suggest(name, properties)}")
    return definitions.Output(properties, values["required"])


_ANNOTATIONS: Mapping[str, Row] = {
    "title": Row(places.text("a title")),
    "readOnlyHint": Row(places.flag),
    "destructiveHint": Row(places.flag),
    "idempotentHint": Row(places.flag),
    "openWorldHint": Row(places.flag),
}


def _make_annotations(place: Place, values: dict[str, Any]) -> definitions.Annotations:
    return definitions.Annotations(*(values[key] for key in _ANNOTATIONS))


_DEFINITION: Mapping[str, Row] = {
    "name": Row(_tool_name, required="a name: name is required"),
    "description": Row(places.text("a description"), required="a description: description is required"),
    "parameters": Row(schemas.read_parameters),
    "timeout": Row(_DURATION),
    "steps": Row(_steps, required="steps: must have at least one step"),
    "output": Row(places.section(_OUTPUT, _make_output)),
    "annotations": Row(places.section(_ANNOTATIONS, _make_annotations)),
}
