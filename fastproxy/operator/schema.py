"""Structural OpenAPI schemas from msgspec structs, as an API server accepts them.

What msgspec itself writes (`$ref`, `anyOf` with null, `const` without a type) is not structural and is refused, so the
types are walked here. No default is ever written: the server would put it into every object, and a field that was left
alone could no longer be told from one that was set. Rules in CEL belong to structs and are handed in. Sans-io.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import inspect

Schema = dict[str, Any]
Rule = tuple[str, str]  # a CEL expression over `self`, and what is expected where it does not hold
Rules = Mapping[type, Sequence[Rule]]

_MAP_KEYS = ("name", "type")  # fields by which the elements of a list are told apart


def describe(struct: type[msgspec.Struct], rules: Rules) -> Schema:
    """The schema of a struct, with the rules of all structs that stand in it."""
    return _convert(inspect.type_info(struct), rules)


def _convert(node: inspect.Type, rules: Rules) -> Schema:
    if isinstance(node, inspect.Metadata):
        return _convert(node.type, rules) | _annotate(node)
    if isinstance(node, inspect.UnionType):
        return _convert_union(node, rules)
    if isinstance(node, inspect.StructType):
        return _convert_struct(node, rules)
    if isinstance(node, inspect.ListType):
        return _convert_list(node, rules)
    if isinstance(node, inspect.DictType):
        return _convert_dict(node, rules)
    if isinstance(node, inspect.LiteralType):
        return {"type": "string", "enum": sorted(str(value) for value in node.values)}
    if isinstance(node, inspect.StrType):
        return _bound({"type": "string"}, node, minLength="min_length", maxLength="max_length", pattern="pattern")
    if isinstance(node, inspect.IntType):
        return _bound({"type": "integer", "format": "int64"}, node, minimum="ge", maximum="le")
    if isinstance(node, inspect.BoolType):
        return {"type": "boolean"}
    raise TypeError(f"expected a type that a structural schema can say, got {node!r}")


def _bound(schema: Schema, node: inspect.Type, **names: str) -> Schema:
    """The schema with those bounds of the type that are set, under their OpenAPI names."""
    values = {name: getattr(node, attribute) for name, attribute in names.items()}
    return schema | {name: value for name, value in values.items() if value is not None}


def _annotate(node: inspect.Metadata) -> Schema:
    extra = node.extra_json_schema or {}
    return {"description": extra["description"]} if "description" in extra else {}


def _convert_union(node: inspect.UnionType, rules: Rules) -> Schema:
    """`X | None` is X, left out where there is none: null is pruned as other absent fields are. `int | str` has a
    name."""
    members = [member for member in node.types if not isinstance(member, inspect.NoneType)]
    if len(members) == 1:
        return _convert(members[0], rules)
    if {type(member) for member in members} == {inspect.IntType, inspect.StrType}:
        return {"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]}
    raise TypeError(f"expected one type or None, or int | str, got {node!r}")


def _convert_struct(node: inspect.StructType, rules: Rules) -> Schema:
    properties = {}
    for field in node.fields:
        properties[field.encode_name] = _convert(field.type, rules)
    schema: Schema = {"type": "object", "properties": properties}
    documentation = (node.cls.__doc__ or "").strip()
    if documentation:
        schema["description"] = documentation.splitlines()[0]
    required = sorted(field.encode_name for field in node.fields if field.required)
    if required:
        schema["required"] = required
    own = [rule for struct, some in rules.items() if issubclass(node.cls, struct) for rule in some]
    if own:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in own]
    return schema


def _convert_list(node: inspect.ListType, rules: Rules) -> Schema:
    items = _convert(node.item_type, rules)
    schema = _bound({"type": "array", "items": items}, node, minItems="min_length", maxItems="max_length")
    required = items.get("required", [])
    key = next((key for key in _MAP_KEYS if key in required), None)
    if key == "type":  # conditions: each owner applies its own
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}
    else:
        schema["x-kubernetes-list-type"] = "atomic"
    return schema


def _convert_dict(node: inspect.DictType, rules: Rules) -> Schema:
    if isinstance(node.value_type, inspect.AnyType):
        return {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    return {"type": "object", "additionalProperties": _convert(node.value_type, rules)}
