"""JSON Schemas in definitions: of a tool's parameters, and of what the user is asked for."""

from collections.abc import Sequence
from typing import Any

import jsonschema
import msgspec

from fastproxy.config import units
from fastproxy.config import vmcp_place as places

Place = places.Place

QUESTION_BYTES_MAX = 100 << 10
QUESTION_DEPTH_MAX = 10


def read_parameters(place: Place, raw: object) -> Any:
    """Of a tool: an object's; as JSON text, too. INVALID, noted, when it is none."""
    schema = raw
    if isinstance(raw, str):
        try:
            schema = msgspec.json.decode(raw)
        except (msgspec.DecodeError, RecursionError) as error:
            return place.refuse(f"is not JSON: {error}")
    schema = _schema(place, schema)
    if schema is places.INVALID:
        return schema
    kind = schema.get("type")
    if kind != "object":
        got = "nothing" if kind is None else units.quote(kind)
        place.key("type").refuse(f"'type' must be 'object' (got {got})")
    if not isinstance(schema.get("properties", {}), dict):
        place.key("properties").refuse("expected a section")
    if not isinstance(schema.get("required", []), list):
        place.key("required").refuse("expected a list")
    return schema


def read_question(place: Place, raw: object) -> Any:
    """Of an elicitation, bounded."""
    schema = _schema(place, raw)
    if schema is places.INVALID:
        return schema
    if len(msgspec.json.encode(schema)) > QUESTION_BYTES_MAX:
        return place.refuse(f"expected at most {QUESTION_BYTES_MAX} bytes")
    if _depth(schema) > QUESTION_DEPTH_MAX:
        return place.refuse(f"expected at most {QUESTION_DEPTH_MAX} levels")
    return schema


def _schema(place: Place, raw: object) -> Any:
    if not isinstance(raw, dict):
        return place.refuse(f"expected a JSON Schema, got {units.quote(raw)}")
    try:
        jsonschema.Draft202012Validator.check_schema(raw)
    except jsonschema.SchemaError as error:
        where = "".join(f".{part}" for part in error.absolute_path)
        return place.refuse(f"is not a JSON Schema{f', at {where}' if where else ''}: {error.message[:200]}")
    except RecursionError:
        return place.refuse("is nested too deep")
    return raw


def _depth(value: object) -> int:
    inner: Sequence[object] = ()
    if isinstance(value, dict):
        inner = list(value.values())
    elif isinstance(value, list):
        inner = value
    else:
        return 0
    return 1 + max((_depth(one) for one in inner), default=0)
