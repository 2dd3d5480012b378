"""Whose is an object that stands where one of ours shall be, and what has to give way before it can be ours. Sans-io.

    ours            its controller is the resource
    adoptable       nobody's, or a workload's of the same name, and labelled as what the operator before us made
    stale           of a resource of the same name that is gone: the garbage collector is on its way
    somebody else's everything else; it is left alone, and reported

Fields have owners too. What an *Update* wrote (an edit by hand, kubectl scale) is drift, and is taken back; what
another *Apply* holds would be written again by its owner, so a conflict with it is reported, not fought.
"""

import re
from typing import Any

import msgspec

from fastproxy.operator import crd, manifest, mirror
from fastproxy.operator.manifest import Manifest

PREDECESSORS = frozenset(
    {"toolhive-container-manager", "thv-operator", "thv-proxyrunner", "toolhive-operator", "manager"}
)
RELEASE_MANAGER = "fastproxy-released"  # holds a count that its owner has stopped setting, until somebody sets it again
_OURS = PREDECESSORS | {RELEASE_MANAGER, manifest.MANAGER}
_CONTROLLERS = ("kube-controller-manager", "kubectl")  # what these wrote stays theirs, whoever owns the object
_CONFLICT = re.compile(r'conflicts? with "([^"]+)"(?: with subresource "[^"]+")?( using )?')


class Verdict(msgspec.Struct, frozen=True):
    """What may be done with an object. `detach` are owner references that would stand in our way."""

    mine: bool
    reason: str = ""
    stale: bool = False
    detach: tuple[str, ...] = ()


def judge(live: Manifest, resource: crd.Resource) -> Verdict:
    """Whose an object is."""
    metadata = live["metadata"]
    controller = mirror.find_controller(metadata)
    place = f"{live['kind']} {metadata['name']}"
    if controller is None:
        if _is_labelled(metadata.get("labels") or {}, resource):
            return Verdict(mine=True, detach=_list_workloads(metadata, resource))
        return Verdict(
            mine=False,
            reason=f"{place} exists and belongs to nobody (the label toolhive-name={resource.name} hands it over)",
        )
    kind, name, uid = controller
    if uid == resource.uid:
        return Verdict(mine=True)
    if (kind, name) == (resource.kind.name, resource.name):
        return Verdict(mine=False, stale=True, reason=f"{place} still belongs to a {kind} {name} that is gone")
    if _is_workload(kind, name, resource):
        return Verdict(mine=True, detach=(uid,))
    return Verdict(mine=False, reason=f"{place} belongs to {kind} {name}")


def _is_labelled(labels: dict[str, str], resource: crd.Resource) -> bool:
    if labels.get("toolhive-name") == resource.name:
        return True
    named = resource.name in (labels.get("app"), labels.get("app.kubernetes.io/instance"))
    return named and (labels.get("toolhive") == "true" or labels.get(manifest.MANAGED_BY) == manifest.MANAGER)


def _is_workload(kind: str, name: str, resource: crd.Resource) -> bool:
    """What the operator before us let own Services: the StatefulSet that they select."""
    return kind in ("StatefulSet", "Deployment") and name == resource.name


def _list_workloads(metadata: Manifest, resource: crd.Resource) -> tuple[str, ...]:
    return tuple(
        reference["uid"]
        for reference in metadata.get("ownerReferences") or []
        if _is_workload(reference["kind"], reference["name"], resource)
    )


def plan_detachment(live: Manifest, verdict: Verdict) -> Manifest | None:
    """The patch that takes owner references away, or None."""
    if not verdict.detach:
        return None
    kept = [each for each in live["metadata"]["ownerReferences"] if each["uid"] not in verdict.detach]
    return {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "ownerReferences": kept}}


def plan_takeover(live: Manifest) -> Manifest | None:
    """The patch that makes us the owner of what our predecessor wrote, so that what we do not write goes; or None.

    Without it its container, variables and volumes would stay beside ours for ever: server-side apply takes away only
    what the applier owned. It holds for an object that we have never applied.
    """
    entries = live["metadata"].get("managedFields") or []
    if any(mirror.is_our_apply(entry) for entry in entries):
        return None
    taken = [entry for entry in entries if _is_takeable(entry)]
    if not taken:
        return None
    fields: dict[str, Any] = {}
    for entry in taken:
        _join(fields, entry.get("fieldsV1") or {})
    ours = {
        "manager": manifest.MANAGER,
        "operation": "Apply",
        "apiVersion": live["apiVersion"],
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    }
    kept = [entry for entry in entries if not _is_takeable(entry)]
    metadata = live["metadata"]
    return {"metadata": {"resourceVersion": metadata["resourceVersion"], "managedFields": [*kept, ours]}}


def _is_takeable(entry: Manifest) -> bool:
    manager = str(entry.get("manager"))
    if entry.get("subresource") or manager.startswith(_CONTROLLERS):
        return False
    if set(entry.get("fieldsV1") or {}) <= {"f:status"}:
        return False
    return entry.get("operation") == "Update" or manager in PREDECESSORS


def _join(fields: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        if key != "f:status":
            _join(fields.setdefault(key, {}), value)


def find_immutable(live: Manifest, wanted: Manifest) -> str | None:
    """A field that differs and cannot be changed: the object has to be made anew. Or None."""
    old, new = live.get("spec") or {}, wanted.get("spec") or {}
    if wanted["kind"] == "StatefulSet":
        paths = ["serviceName", "podManagementPolicy", "selector"]
    elif wanted["kind"] == "Deployment":
        paths = ["selector"]
    elif wanted["kind"] == "Service" and (old.get("clusterIP") == "None") != (new.get("clusterIP") == "None"):
        return "clusterIP"
    else:
        return None
    return next((path for path in paths if old.get(path) != new.get(path)), None)


def find_rivals(causes: tuple[tuple[str, str], ...]) -> list[str]:
    """Who holds fields by applying them, from the causes of a conflict: `manager: field`, sorted."""
    rivals = []
    for field, message in causes:
        match = _CONFLICT.search(message)
        if match and not match[2] and match[1] not in _OURS:
            rivals.append(f"{match[1]}: {field}")
    return sorted(rivals)


def plan_release(live: Manifest) -> Manifest:
    """What somebody else applies so that a count stays when we stop writing it: the count as it stands."""
    metadata = live["metadata"]
    return {
        "apiVersion": live["apiVersion"],
        "kind": live["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": {"replicas": live["spec"]["replicas"]},
    }
