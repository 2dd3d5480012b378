"""What a status says of what is known. Pure: time comes in as text."""

from typing import Any

import pytest

from fastproxy.operator import conditions, crd, mirror, review, settle

NOW, BEFORE = "2026-11-20T12:00:00Z", "2026-11-19T12:00:00Z"


def resource(kind: crd.Kind = crd.MCP_SERVER, status: dict[str, Any] | None = None, **spec: Any) -> crd.Resource:
    made = {"image": "i", "transport": "sse", **spec} if kind is crd.MCP_SERVER else spec
    metadata = {"name": "s", "namespace": "n", "uid": "u", "generation": 3}
    return crd.read_resource({"kind": kind.name, "metadata": metadata, "spec": made, "status": status or {}})


def owned(
    kind: str = "Deployment", *, ready: int = 0, replicas: int | None = 2, failure: str | None = None
) -> mirror.Owned:
    return mirror.Owned(
        key=(kind, "n", "s"),
        uid="o",
        version=1,
        fingerprint="f",
        controller=("MCPServer", "s", "u"),
        applied=True,
        owns_replicas=False,
        replicas=replicas,
        ready=ready,
        present=replicas or 0,
        failure=failure,
        deleting=False,
    )


def describe(subject: crd.Resource, **known: Any) -> dict[str, Any]:
    return conditions.describe(subject, conditions.Findings(**known), now=NOW, cluster_domain="cluster.local")


def reasons(status: dict[str, Any]) -> dict[str, str]:
    return {each["type"]: each["reason"] for each in status["conditions"]}


PROBLEM = review.Problem("spec.x", "expected y, got z")
CONFLICT = settle.Trouble("OwnershipConflict", "Service s belongs to somebody", final=False)


@pytest.mark.parametrize(
    ("known", "phase"),
    [
        pytest.param({}, "Pending", id="nothing yet"),
        pytest.param({"proxies": owned(ready=1)}, "Ready", id="one is ready"),
        pytest.param({"proxies": owned(failure="Quota: exceeded")}, "Failed", id="none comes up"),
        pytest.param({"proxies": owned(ready=1, failure="Quota: exceeded")}, "Ready", id="one of two comes up"),
        pytest.param({"proxies": owned(replicas=0)}, "Stopped", id="scaled to zero by hand"),
        pytest.param({"proxies": owned(ready=1), "problems": (PROBLEM,)}, "Failed", id="invalid"),
        pytest.param({"troubles": (CONFLICT,)}, "Failed", id="in conflict"),
        pytest.param({"proxies": owned(ready=1), "troubles": (CONFLICT,)}, "Ready", id="ready beside a conflict"),
    ],
)
def test_the_phase_is_the_whole_in_one_word(known: dict[str, Any], phase: str) -> None:
    status = describe(resource(), **known)
    assert status["phase"] == phase
    assert reasons(status)["Ready"] == ("Ready" if phase == "Ready" else "NotReady")
    assert status["message"] and all(each["message"] for each in status["conditions"])


def test_a_vmcp_without_servers_is_degraded() -> None:
    subject = resource(crd.VIRTUAL_SERVER, groupRef={"name": "g"})
    assert describe(subject, proxies=owned(ready=1), group_found=True)["phase"] == "Degraded"
    status = describe(subject, proxies=owned(ready=1), group_found=False, members=2)
    assert (status["phase"], reasons(status)["GroupRefValidated"]) == ("Ready", "GroupRefNotFound")


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        pytest.param({}, "SessionStorageWarningNotApplicable", id="unset"),
        pytest.param({"replicas": 1, "backendReplicas": 1}, "SessionStorageWarningNotApplicable", id="one"),
        pytest.param({"replicas": 2}, "SessionStorageMissingForReplicas", id="proxies"),
        pytest.param({"backendReplicas": 2}, "SessionStorageMissingForReplicas", id="backends"),
        pytest.param(
            {"replicas": 2, "sessionStorage": {"provider": "memory"}}, "SessionStorageMissingForReplicas", id="memory"
        ),
        pytest.param(
            {"replicas": 2, "sessionStorage": {"provider": "redis", "address": "r:1"}},
            "SessionStorageConfigured",
            id="redis",
        ),
        pytest.param({"replicas": 2, "transport": "stdio"}, "SessionStorageWarningNotApplicable", id="stdio"),
    ],
)
def test_replicas_without_shared_storage_are_warned_of(spec: dict[str, Any], reason: str) -> None:
    assert reasons(describe(resource(**spec)))["SessionStorageWarning"] == reason


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    first = describe(resource(), proxies=owned())
    for each in first["conditions"]:
        each["lastTransitionTime"] = BEFORE
    second = describe(resource(status=first), proxies=owned(ready=1))
    times = {each["type"]: each["lastTransitionTime"] for each in second["conditions"]}
    assert times.pop("Ready") == NOW
    assert set(times.values()) == {BEFORE}
    assert not conditions.differs(describe(resource(status=second), proxies=owned(ready=1)), second)


def test_what_others_say_in_a_status_is_no_difference() -> None:
    status = describe(resource())
    foreign = {"type": "Theirs", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": BEFORE}
    assert not conditions.differs(status, {**status, "conditions": [foreign, *status["conditions"]], "other": 1})
    assert conditions.differs(status, {**status, "phase": "Ready"})


def test_a_grace_period_that_was_raised_and_fields_without_effect_are_named() -> None:
    status = describe(resource(terminationGracePeriodSeconds=10, audit={"enabled": True}))
    facts = {each["type"]: each for each in status["conditions"]}
    assert "10 s would end a drain; 41 s are given" in facts["GracePeriodRaised"]["message"]
    assert facts["UnsupportedFields"]["message"] == "accepted, not acted on: spec.audit"
    assert all(each["observedGeneration"] == 3 for each in status["conditions"])
