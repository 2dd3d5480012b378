"""Whose an object is, and what has to give way. Pure; test_start.py tries the same on a real API server."""

from typing import Any

import pytest

from fastproxy.operator import adoption, crd, manifest

RESOURCE = crd.Resource(crd.MCP_SERVER, "n", "s", crd.MCPServerSpec(image="i", transport="sse"), uid="mine")


def live(labels: dict[str, str] | None = None, *owners: dict[str, Any], **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": "s",
        "namespace": "n",
        "resourceVersion": "7",
        "labels": labels or {},
        "ownerReferences": list(owners),
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def owner(kind: str, name: str, uid: str, *, controller: bool = True) -> dict[str, Any]:
    return {"kind": kind, "name": name, "uid": uid, "controller": controller}


@pytest.mark.parametrize(
    ("found", "mine", "stale"),
    [
        pytest.param(live({}, owner("MCPServer", "s", "mine")), True, False, id="ours"),
        pytest.param(live({}, owner("MCPServer", "s", "before")), False, True, id="of a namesake that is gone"),
        pytest.param(live({}, owner("VirtualMCPServer", "s", "x")), False, False, id="of another kind"),
        pytest.param(live({}, owner("StatefulSet", "s", "x")), True, False, id="of our workload"),
        pytest.param(live({}, owner("StatefulSet", "t", "x")), False, False, id="of another workload"),
        pytest.param(live({"toolhive-name": "s"}), True, False, id="labelled for us"),
        pytest.param(live({"app": "s", "toolhive": "true"}), True, False, id="labelled as the predecessor did"),
        pytest.param(live({"app": "s"}), False, False, id="a common label"),
        pytest.param(live(), False, False, id="nobody's"),
    ],
)
def test_an_object_is_ours_adoptable_or_left_alone(found: dict[str, Any], mine: bool, stale: bool) -> None:
    verdict = adoption.judge(found, RESOURCE)
    assert (verdict.mine, verdict.stale) == (mine, stale)
    assert bool(verdict.reason) != mine


def test_an_owner_that_would_stand_in_our_way_is_detached_and_no_other() -> None:
    found = live({"toolhive-name": "s"}, owner("StatefulSet", "s", "x"), owner("Other", "o", "y", controller=False))
    plan = adoption.plan_detachment(found, adoption.judge(found, RESOURCE))
    assert plan is not None
    assert [each["uid"] for each in plan["metadata"]["ownerReferences"]] == ["y"]
    assert plan["metadata"]["resourceVersion"] == "7"
    ours = live({}, owner("MCPServer", "s", "mine"))
    assert adoption.plan_detachment(ours, adoption.judge(ours, RESOURCE)) is None


def entry(manager: str, operation: str, fields: dict[str, Any], **more: str) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": fields, **more}


def test_what_the_predecessor_wrote_becomes_ours_and_what_controllers_and_kubectl_wrote_does_not() -> None:
    theirs = {"f:spec": {"f:template": {"f:a": {}}}}
    entries = [
        entry("thv-operator", "Update", theirs),
        entry("toolhive-container-manager", "Apply", {"f:spec": {"f:template": {"f:b": {}}, "f:replicas": {}}}),
        entry("kube-controller-manager", "Update", {"f:metadata": {}}),
        entry("kubectl-scale", "Update", {"f:spec": {"f:replicas": {}}}),
        entry("thv-operator", "Update", {"f:status": {}}),
        entry("hpa", "Update", {"f:spec": {"f:replicas": {}}}, subresource="scale"),
        entry("gitops", "Apply", {"f:metadata": {"f:labels": {}}}),
    ]
    found = live()
    found["metadata"]["managedFields"] = entries
    plan = adoption.plan_takeover(found)
    assert plan is not None
    *kept, ours = plan["metadata"]["managedFields"]
    assert (ours["manager"], ours["operation"]) == (manifest.MANAGER, "Apply")
    assert ours["fieldsV1"] == {"f:spec": {"f:template": {"f:a": {}, "f:b": {}}, "f:replicas": {}}}
    assert kept == entries[2:]
    assert entries[0]["fieldsV1"] == {"f:spec": {"f:template": {"f:a": {}}}}, "nothing that was read is changed"
    found["metadata"]["managedFields"] = [*entries, entry(manifest.MANAGER, "Apply", {})]
    assert adoption.plan_takeover(found) is None


@pytest.mark.parametrize(
    ("message", "rivals"),
    [
        pytest.param('conflict with "gitops"', ["gitops: .spec.x"], id="another applier"),
        pytest.param('conflict with "kubectl" using apps/v1 at 2026-11-20T12:00:00Z', [], id="an edit"),
        pytest.param('conflict with "kubectl-scale" with subresource "scale" using apps/v1', [], id="a scaling"),
        pytest.param('conflict with "toolhive-container-manager"', [], id="the predecessor"),
        pytest.param(f'conflict with "{adoption.RELEASE_MANAGER}"', [], id="ourselves"),
    ],
)
def test_only_what_another_applies_is_a_rivalry(message: str, rivals: list[str]) -> None:
    assert adoption.find_rivals(((".spec.x", message),)) == rivals


def test_what_cannot_be_changed_is_found() -> None:
    wanted = live(selector={"matchLabels": {"a": "b"}})
    assert adoption.find_immutable(live(selector={"matchLabels": {"a": "c"}}), wanted) == "selector"
    assert adoption.find_immutable(live(selector={"matchLabels": {"a": "b"}}, replicas=3), wanted) is None
    service = {"kind": "Service", "spec": {"clusterIP": "None"}}
    assert adoption.find_immutable({"kind": "Service", "spec": {"clusterIP": "10.0.0.1"}}, service) == "clusterIP"
    assert adoption.find_immutable({"kind": "Service", "spec": {"clusterIP": "None"}}, service) is None
