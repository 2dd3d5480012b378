"""Pod templates laid over one another: what a strategic merge patch of kubectl would give. Pure."""

from typing import Any

import pytest

from fastproxy.operator import overlay

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1"}},
    "spec": {
        "containers": [
            {
                "name": "mcp",
                "image": "one",
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "readinessProbe": {"tcpSocket": {"port": 1}, "periodSeconds": 2},
            }
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
}


def lay(**spec: Any) -> dict[str, Any]:
    laid: dict[str, Any] = overlay.lay(BASE, {"spec": spec})["spec"]
    return laid


def test_containers_and_variables_are_merged_by_name_and_new_ones_stand_behind() -> None:
    spec = lay(containers=[{"name": "mcp", "env": [{"name": "B", "value": "3"}, {"name": "C"}]}, {"name": "side"}])
    first, second = spec["containers"]
    assert (first["image"], second) == ("one", {"name": "side"})
    assert first["env"] == [{"name": "A", "value": "1"}, {"name": "B", "value": "3"}, {"name": "C"}]


def test_null_takes_away_and_directives_delete_and_replace() -> None:
    assert "volumes" not in lay(volumes=None)
    assert lay(volumes=[{"name": "v", "$patch": "delete"}])["volumes"] == []
    (container,) = lay(containers=[{"name": "mcp", "$patch": "replace", "image": "two"}])["containers"]
    assert container == {"name": "mcp", "image": "two"}


def test_another_probe_takes_the_place_of_ours() -> None:
    (container,) = lay(containers=[{"name": "mcp", "readinessProbe": {"exec": {"command": ["x"]}}}])["containers"]
    assert container["readinessProbe"] == {"periodSeconds": 2, "exec": {"command": ["x"]}}


def test_a_list_without_names_is_replaced_and_nothing_below_is_changed() -> None:
    before = repr(BASE)
    (container,) = lay(containers=[{"name": "mcp", "args": ["x"]}], tolerations=[{"key": "a"}])["containers"]
    assert container["args"] == ["x"]
    assert repr(BASE) == before


@pytest.mark.parametrize(
    ("template", "words"),
    [
        pytest.param({"spec": 1}, "expected spec to be an object, got a number", id="spec"),
        pytest.param({"spec": {"containers": {}}}, "expected spec.containers to be a list, got an object", id="list"),
        pytest.param(
            {"spec": {"containers": [{}]}}, "expected spec.containers[0] to be an object with name", id="name"
        ),
        pytest.param({"spec": {"containers": [{"name": {}}]}}, "name to be text, got an object", id="odd name"),
        pytest.param(
            {"spec": {"containers": [{"name": "mcp", "env": "A=1"}]}}, "containers[mcp].env to be a list", id="env"
        ),
        pytest.param({"containers": []}, "expected metadata and spec, got containers", id="too high"),
        pytest.param({"spec": {"containers": [{"name": "mpc"}]}}, "expected a container called mcp", id="typing error"),
    ],
)
def test_a_template_of_the_wrong_shape_is_described(template: dict[str, Any], words: str) -> None:
    fault = overlay.find_fault(template, container="mcp")
    assert fault is not None and words in fault


def test_a_template_that_fits_has_no_fault() -> None:
    assert overlay.find_fault(BASE, container="mcp") is None
    assert overlay.find_fault({}, container="mcp") is None
    own = {"spec": {"containers": [{"name": "side", "image": "x"}]}}
    assert overlay.find_fault(own, container="mcp") is None
