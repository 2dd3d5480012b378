"""One pod template laid over another, as `kubectl patch` would do it. Sans-io.

Maps are merged, null takes a key away, and lists whose elements have a name (containers, variables, volumes…) are
merged by it; every other list is replaced. `$patch: delete` and `$patch: replace` in a map mean what they mean there.
"""

from collections.abc import Mapping
from typing import Any

_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "imagePullSecrets": "name",
    "volumeMounts": "mountPath",
    "ports": "containerPort",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
}
_DIRECTIVE = "$patch"
# What a probe or a hook does: one thing, so another one takes its place instead of standing beside it.
_HANDLERS = frozenset({"exec", "grpc", "httpGet", "sleep", "tcpSocket"})


def lay(template: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`template` with what `over` says of it; neither is changed."""
    if over.get(_DIRECTIVE) == "replace":
        return {key: value for key, value in over.items() if key != _DIRECTIVE}
    merged = dict(template)
    for key, value in over.items():
        if key == _DIRECTIVE:
            continue
        below = merged.get(key)
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict):
            base = below if isinstance(below, dict) else {}
            if _HANDLERS & value.keys():
                base = {name: each for name, each in base.items() if name not in _HANDLERS or name in value}
            merged[key] = lay(base, value)
        elif isinstance(value, list) and isinstance(below, list) and key in _KEYS:
            merged[key] = _lay_list(below, value, _KEYS[key])
        else:
            merged[key] = value
    return merged


def _lay_list(below: list[Any], above: list[Any], key: str) -> list[Any]:
    """The elements of both, in the order of the lower one; new ones behind."""
    merged = {element.get(key): element for element in below}
    for element in above:
        name = element.get(key)
        if element.get(_DIRECTIVE) == "delete":
            merged.pop(name, None)
        else:
            merged[name] = lay(merged.get(name, {}), element)
    return list(merged.values())


def rename(template: Mapping[str, Any], old: str, new: str) -> Mapping[str, Any]:
    """The template with a container under another name: what existing manifests call ours."""
    spec = template.get("spec")
    containers = spec.get("containers") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or not isinstance(containers, list):
        return template
    renamed = [
        {**each, "name": new} if isinstance(each, dict) and each.get("name") == old else each for each in containers
    ]
    return {**template, "spec": {**spec, "containers": renamed}}


def find_fault(template: Mapping[str, Any], *, container: str) -> str | None:
    """What is wrong with the shape of a template that is to be laid over one of ours, or None."""
    spec, metadata = template.get("spec", {}), template.get("metadata", {})
    if not isinstance(spec, dict):
        return f"expected spec to be an object, got {_name_type(spec)}"
    if not isinstance(metadata, dict):
        return f"expected metadata to be an object, got {_name_type(metadata)}"
    if unknown := sorted(set(template) - {"spec", "metadata", _DIRECTIVE}):
        return f"expected metadata and spec, got {unknown[0]}"
    for field, key in _KEYS.items():
        if field in spec and (fault := _find_list_fault(f"spec.{field}", spec[field], key)):
            return fault
    for element in [*spec.get("containers", []), *spec.get("initContainers", [])]:
        for field in ("command", "args"):
            if not isinstance(element.get(field, []), list):
                return f"expected spec.containers[{element['name']}].{field} to be a list"
        for field in ("env", "volumeMounts", "ports"):
            place = f"spec.containers[{element['name']}].{field}"
            if field in element and (fault := _find_list_fault(place, element[field], _KEYS[field])):
                return fault
    names = [element["name"] for element in spec.get("containers", [])]
    if names and container not in names and all("image" not in element for element in spec["containers"]):
        return f"expected a container called {container}, or an image for {names[0]}"
    return None


def _find_list_fault(place: str, value: object, key: str) -> str | None:
    if not isinstance(value, list):
        return f"expected {place} to be a list, got {_name_type(value)}"
    for number, element in enumerate(value):
        if not isinstance(element, dict) or key not in element:
            return f"expected {place}[{number}] to be an object with {key}"
        if not isinstance(element[key], str | int):
            return f"expected {place}[{number}].{key} to be text, got {_name_type(element[key])}"
    return None


def _name_type(value: object) -> str:
    names = {type(None): "null", str: "text", bool: "true or false", int: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")
