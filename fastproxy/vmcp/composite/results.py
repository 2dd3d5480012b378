"""What steps and workflows come to: tool results as maps, values made to fit types, the output block. Pure.

A tool's result is what MCP says (2025-11-25, CallToolResult): `content`, perhaps `structuredContent` and `isError`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fastproxy.vmcp.composite import definition as definitions
from fastproxy.vmcp.composite import template

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))
_ERROR_CHARACTERS_MAX = 2000


class Unfit(Exception):
    """A value that can't be made into what is wanted."""


def content_map(result: Mapping[str, Any]) -> dict[str, object]:
    """The contents under names: text, text_1, …, image_0, …, resource, resource_1, …; others have none."""
    named: dict[str, object] = {}
    counts = {"text": 0, "image": 0, "resource": 0}
    content = result.get("content")
    for one in content if isinstance(content, list) else ():
        kind = one.get("type") if isinstance(one, dict) else None
        if kind not in counts:
            continue
        count = counts[kind]
        counts[kind] += 1
        if kind == "text":
            named["text" if not count else f"text_{count}"] = one.get("text")
        elif kind == "image":
            named[f"image_{count}"] = one.get("data")
        else:
            resource = one.get("resource")
            value = resource.get("text", resource.get("blob")) if isinstance(resource, dict) else None
            named["resource" if not count else f"resource_{count}"] = value
    return named


def output_of(result: Mapping[str, Any]) -> Mapping[str, object]:
    """What templates find under `.steps.ID.output`."""
    structured = result.get("structuredContent")
    return structured if isinstance(structured, dict) else content_map(result)


def error_of(result: Mapping[str, Any]) -> str:
    """The words of a result that is an error."""
    content = result.get("content")
    for one in content if isinstance(content, list) else ():
        if isinstance(one, dict) and one.get("type") == "text" and one.get("text"):
            return str(one["text"])[:_ERROR_CHARACTERS_MAX]
    structured = result.get("structuredContent")
    if isinstance(structured, dict):
        for key in ("error", "message", "text"):
            if structured.get(key):
                return str(structured[key])[:_ERROR_CHARACTERS_MAX]
    return "the tool answered with an error"


def expand(value: definitions.Expression, context: Mapping[str, object]) -> Any:
    """An expression with all its templates rendered. template.TemplateError."""
    match value:
        case template.Template():
            return value.render(context)
        case dict():
            return {key: expand(one, context) for key, one in value.items()}
        case list():
            return [expand(one, context) for one in value]
        case _:
            return value


def fit_arguments(arguments: dict[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """Texts that templates gave, as the numbers and truths that the tool's schema wants; others stay."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return arguments
    return {key: _fit(value, properties.get(key)) for key, value in arguments.items()}


def _fit(value: Any, schema: object) -> Any:
    if not isinstance(schema, dict):
        return value
    kind = schema.get("type")
    if isinstance(value, dict) and isinstance(schema.get("properties"), dict):
        return fit_arguments(value, schema)
    if isinstance(value, list):
        return [_fit(one, schema.get("items")) for one in value]
    if not isinstance(value, str):
        return value
    kinds: Sequence[object] = kind if isinstance(kind, list) else [kind]
    if "string" in kinds:
        return value
    for one in kinds:
        if one in ("integer", "number", "boolean", "object", "array"):
            try:
                return coerce(value, str(one))
            except Unfit:
                continue
    return value


def coerce(text: str, kind: str) -> Any:
    """A rendered text as a value of that type. Unfit."""
    word = text.strip()
    try:
        match kind:
            case "string":
                return text
            case "integer":
                return int(word, 10)
            case "number":
                value = msgspec.json.decode(word)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    return value
            case "boolean" if word in _TRUE or word in _FALSE:
                return word in _TRUE
            case "object" | "array":
                value = msgspec.json.decode(text)
                if isinstance(value, dict if kind == "object" else list):
                    return value
    except (ValueError, msgspec.DecodeError, RecursionError):
        pass
    raise Unfit(f"expected {kind}, got {text[:100]!r}")


def build_output(output: definitions.Output, context: Mapping[str, object]) -> dict[str, object]:
    """The output block. Unfit: which property, and why."""
    built = _build(output.properties, context, "")
    for name in output.required:
        if built.get(name) is None:
            raise Unfit(f"required output property {name} has no value")
    return built


def _build(
    properties: Mapping[str, definitions.Property], context: Mapping[str, object], path: str
) -> dict[str, object]:
    built: dict[str, object] = {}
    for name, one in properties.items():
        try:
            if one.properties is not None:
                built[name] = _build(one.properties, context, f"{path}{name}.")
            elif one.value is not None:
                built[name] = coerce(one.value.render(context), one.type)
        except (Unfit, template.TemplateError) as error:
            if one.default is msgspec.UNSET:
                raise Unfit(
                    f"output property {path}{name}: {error}" if one.properties is None else str(error)
                ) from None
            built[name] = one.default
    return built


def schema_of(output: definitions.Output) -> dict[str, object]:
    """The JSON Schema of what the output block gives, for `outputSchema`."""
    schema = _schema_of(output.properties)
    if output.required:
        schema["required"] = list(output.required)
    return schema


def _schema_of(properties: Mapping[str, definitions.Property]) -> dict[str, object]:
    told: dict[str, object] = {}
    for name, one in properties.items():
        inner = {"type": one.type} if one.properties is None else _schema_of(one.properties)
        told[name] = {**inner, "description": one.description}
    return {"type": "object", "properties": told}
