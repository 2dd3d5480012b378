"""Headers that repeat arguments (`x-mcp-header`), held against the arguments. Pure; through a proxy: the conformance
suite (tests/e2e/test_stdio_conformance.py)."""

import base64

import pytest

from fastproxy.proxy.bridge import mirrored

SCHEMA = {
    "type": "object",
    "properties": {
        "region": {"type": "string", "x-mcp-header": "Region"},
        "count": {"type": "integer", "x-mcp-header": "count"},
        "inner": {"type": "object", "properties": {"flag": {"type": "boolean", "x-mcp-header": "Flag"}}},
        "list": {"type": "array", "x-mcp-header": "List", "items": {"type": "string", "x-mcp-header": "Item"}},
        "plain": {"type": "string"},
    },
}
MIRRORS = tuple(mirrored.find_mirrors(SCHEMA))


def test_only_plain_values_along_properties_are_mirrored() -> None:
    assert [(mirror.header, mirror.path) for mirror in MIRRORS] == [
        (b"mcp-param-region", ("region",)),
        (b"mcp-param-count", ("count",)),
        (b"mcp-param-flag", ("inner", "flag")),
    ]
    for odd in (None, [], {"properties": []}, {"properties": {"a": 1}}):
        assert list(mirrored.find_mirrors(odd)) == []


@pytest.mark.parametrize(
    ("arguments", "headers", "differing"),
    [
        pytest.param({"region": "eu"}, {"region": "eu"}, None, id="the same"),
        pytest.param({"region": "eu"}, {"region": "us"}, "region", id="another"),
        pytest.param({"region": "eu"}, {}, "region", id="missing"),
        pytest.param({}, {"region": "eu"}, "region", id="without its argument"),
        pytest.param({"region": None}, {}, None, id="null is absent"),
        pytest.param(
            {"region": "é"}, {"region": "=?base64?" + base64.b64encode("é".encode()).decode() + "?="}, None, id="Base64"
        ),
        pytest.param({"region": "eu"}, {"region": "=?base64?ZX=U?="}, "region", id="no Base64"),
        pytest.param({"region": "=?base64?"}, {"region": "=?base64?"}, None, id="a prefix alone is itself"),
        pytest.param({"count": 42}, {"count": "42.0"}, None, id="numbers by value"),
        pytest.param({"count": 42}, {"count": "43"}, "count", id="another number"),
        pytest.param({"count": 42}, {"count": "many"}, "count", id="no number"),
        pytest.param({"inner": {"flag": True}}, {"flag": "true"}, None, id="a truth value"),
        pytest.param({"inner": {"flag": True}}, {"flag": "True"}, "flag", id="spelled otherwise"),
        pytest.param({"inner": 1}, {"flag": "true"}, "flag", id="no object on the way"),
        pytest.param({}, {"unknown": "x"}, None, id="nobody's business"),
    ],
)
def test_a_header_says_what_its_argument_says(
    arguments: dict[str, object], headers: dict[str, str], differing: str | None
) -> None:
    given = {b"mcp-param-" + name.encode(): value.encode() for name, value in headers.items()}
    expected = None if differing is None else f"mcp-param-{differing}"
    assert mirrored.find_difference(MIRRORS, arguments, given) == expected
