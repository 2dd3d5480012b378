"""The CustomResourceDefinitions: structural, without defaults, with rules of a bounded cost, one for code and cluster.
Pure."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from fastproxy.operator import crd, definitions, parts

DEFINITIONS = {each["spec"]["names"]["kind"]: each for each in definitions.list_definitions()}
FORBIDDEN = {"$ref", "default", "const", "title", "examples", "allOf", "oneOf", "not", "uniqueItems", "nullable"}


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from walk(below, f"{path}.{name}")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), dict):
            yield from walk(schema[name], f"{path}[]")


def schemas(kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for version in DEFINITIONS[kind]["spec"]["versions"]:
        yield from walk(version["schema"]["openAPIV3Schema"])


@pytest.mark.parametrize("kind", list(crd.KINDS))
def test_every_schema_is_structural_and_every_field_says_what_it_means(kind: str) -> None:
    for path, schema in schemas(kind):
        assert not FORBIDDEN & schema.keys(), path
        assert schema.get("type") or schema.get("x-kubernetes-int-or-string"), path
        if not path.endswith("[]") and path not in ("", ".metadata"):
            assert schema.get("description"), path
        if schema.get("additionalProperties"):
            assert "properties" not in schema, path


@pytest.mark.parametrize("kind", list(crd.KINDS))
def test_rules_look_only_at_what_has_a_bound(kind: str) -> None:
    found = 0
    for path, schema in schemas(kind):
        for rule in schema.get("x-kubernetes-validations", []):
            found += 1
            assert rule["message"].startswith("expected"), path
            assert ".all(" not in rule["rule"] and ".exists(" not in rule["rule"] and ".map(" not in rule["rule"]
    assert bool(found) == (kind != "MCPGroup")


def test_the_fields_of_the_schema_are_those_that_the_code_reads() -> None:
    for kind in crd.KINDS.values():
        (version, _) = DEFINITIONS[kind.name]["spec"]["versions"]
        properties = version["schema"]["openAPIV3Schema"]["properties"]
        for part, struct in (("spec", kind.spec), ("status", kind.status)):
            names = {field.encode_name for field in msgspec.structs.fields(struct)}
            assert set(properties[part].get("properties", {})) == names


def test_only_one_version_is_stored_and_the_older_one_warns() -> None:
    for definition in DEFINITIONS.values():
        stored = [version["name"] for version in definition["spec"]["versions"] if version["storage"]]
        deprecated = [version["name"] for version in definition["spec"]["versions"] if version.get("deprecated")]
        assert (stored, deprecated) == (["v1beta1"], ["v1alpha1"])


def test_an_inert_field_says_so_where_a_user_looks() -> None:
    for _, schema in schemas("MCPServer"):
        for name in ("audit", "oidcConfigRef"):
            if name in schema.get("properties", {}):
                assert (
                    "ot enforced" in schema["properties"][name]["description"]
                    or "not acted on" in (schema["properties"][name]["description"])
                )
    assert issubclass(crd.MCPServerSpec, parts.Part)
