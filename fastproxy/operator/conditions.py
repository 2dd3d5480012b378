"""What a resource's status says: facts as conditions, all of them in one phase. Sans-io.

    resource, what is wrong with it, what was in the way, what the cluster has → status

A condition's time is that of its last change of status; nothing here looks at a clock. Types and reasons are those of
the operator that this one replaces where it has them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fastproxy.operator import crd, manifest, mirror, parts, pod, review, server, settle, storage, surroundings


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a resource at one moment."""

    problems: tuple[review.Problem, ...] = ()
    troubles: tuple[settle.Trouble, ...] = ()
    proxies: mirror.Owned | None = None  # the Deployment
    backends: mirror.Owned | None = None  # the StatefulSet
    group_found: bool | None = None  # None where no group is named
    members: int = 0  # of the group that a VirtualMCPServer joins
    sharers: tuple[str, ...] = ()  # resources whose records lie under the same prefix of the same store


class Fact(msgspec.Struct, frozen=True):
    """A condition before it has a time."""

    type: str
    holds: bool
    reason: str
    message: str  # never empty: some API servers make a null of that


def describe(resource: crd.Resource, findings: Findings, *, now: str, cluster_domain: str) -> dict[str, Any]:
    """The whole status of a resource with proxies, as it shall be."""
    spec = resource.spec
    assert isinstance(spec, crd.Proxied)
    phase, message = find_phase(resource, spec, findings)
    facts = list_facts(resource, spec, findings, phase, message)
    proxies, backends = findings.proxies, findings.backends
    status: dict[str, Any] = {
        "phase": phase,
        "message": message,
        "url": surroundings.write_url(resource, cluster_domain),
        "replicas": proxies.present if proxies else 0,
        "readyReplicas": proxies.ready if proxies else 0,
        "selector": manifest.write_selector(manifest.select_pods(resource, inside=is_inside(spec))),
        "observedGeneration": resource.generation,
        "conditions": date(facts, resource, now),
    }
    if backends is not None:
        status |= {"backendReplicas": backends.present, "readyBackendReplicas": backends.ready}
    if resource.kind is crd.VIRTUAL_SERVER:
        status["backendCount"] = findings.members
    return status


def is_inside(spec: crd.Proxied) -> bool:
    """Whether the proxies are in the pods of their servers."""
    return isinstance(spec, crd.MCPServerSpec) and server.has_sidecars(spec)


def find_phase(resource: crd.Resource, spec: crd.Proxied, findings: Findings) -> tuple[crd.Phase, str]:
    """All in one word, and in a few."""
    proxies = findings.proxies
    ready = proxies.ready if proxies else 0
    if findings.problems:
        return "Failed", "; ".join(str(problem) for problem in findings.problems)
    troubles = [each.message for each in findings.troubles if each.reason in ("Refused", "OwnershipConflict")]
    if troubles and not ready:
        return "Failed", "; ".join(troubles)
    wanted = proxies.replicas if proxies else spec.replicas
    if wanted == 0 or spec.replicas == 0:
        return "Stopped", "scaled to zero"
    if ready and resource.kind is crd.VIRTUAL_SERVER and not findings.members:
        return "Degraded", "ready, but its group has no servers"
    if ready:
        return "Ready", "; ".join([_count(findings), *troubles])
    if proxies and proxies.failure:
        return "Failed", proxies.failure
    return "Pending", f"no proxy is ready yet; {_count(findings)}"


def _count(findings: Findings) -> str:
    def say(seen: mirror.Owned | None, word: str) -> list[str]:
        return [f"{seen.ready} of {1 if seen.replicas is None else seen.replicas} {word} ready"] if seen else []

    return ", ".join([*say(findings.proxies, "proxies"), *say(findings.backends, "backends")]) or "nothing is there yet"


def list_facts(
    resource: crd.Resource, spec: crd.Proxied, findings: Findings, phase: crd.Phase, message: str
) -> list[Fact]:
    """The conditions that apply, in a fixed order."""
    ready = phase in ("Ready", "Degraded")
    facts = [
        Fact("Ready", ready, "Ready" if ready else "NotReady", message),
        _judge_spec(findings.problems),
        _judge_objects(findings),
        _judge_storage(resource, spec, findings),
    ]
    if isinstance(spec, crd.MCPServerSpec):
        facts += [_judge_template(findings.problems), _judge_stdio(spec)]
        facts += [_judge_command(spec)] if server.is_stdio(spec) and not findings.problems else []
    if findings.group_found is not None:
        facts.append(
            Fact("GroupRefValidated", True, "GroupRefIsValid", "the group is there")
            if findings.group_found
            else Fact("GroupRefValidated", False, "GroupRefNotFound", "expected an MCPGroup of that name beside it")
        )
    inert = [path for path, _ in review.list_inert(spec)]
    if inert:
        words = f"accepted, not acted on: {', '.join(inert)}"
        facts.append(Fact("UnsupportedFields", True, "FieldsNotActedOn", words))
    if not findings.problems:
        leave = pod.plan_leave(spec)
        if leave.raised:
            words = f"{leave.grace_asked} s would end a drain; {leave.grace_seconds} s are given"
            facts.append(Fact("GracePeriodRaised", True, "DrainNeedsMore", words))
    return facts


def _judge_spec(problems: tuple[review.Problem, ...]) -> Fact:
    if not problems:
        return Fact("SpecValid", True, "Valid", "nothing is wrong with it")
    return Fact("SpecValid", False, problems[0].reason, "; ".join(str(problem) for problem in problems))


def _judge_template(problems: tuple[review.Problem, ...]) -> Fact:
    bad = [problem for problem in problems if problem.reason == "InvalidPodTemplateSpec"]
    if bad:
        return Fact("PodTemplateValid", False, "InvalidPodTemplateSpec", "; ".join(str(problem) for problem in bad))
    return Fact("PodTemplateValid", True, "ValidPodTemplateSpec", "nothing is wrong with it")


def _judge_objects(findings: Findings) -> Fact:
    if findings.problems:
        return Fact("ObjectsApplied", False, "SpecInvalid", "nothing was changed")
    if findings.troubles:
        reasons = {trouble.reason for trouble in findings.troubles}
        reason = next(each for each in ("OwnershipConflict", "Refused", "Waiting") if each in reasons)
        return Fact("ObjectsApplied", False, reason, "; ".join(trouble.message for trouble in findings.troubles))
    return Fact("ObjectsApplied", True, "Applied", "every object is as it shall be")


def _judge_stdio(spec: crd.MCPServerSpec) -> Fact:
    counts = {"replicas": spec.replicas, "backendReplicas": spec.backend_replicas}
    capped = {name: count for name, count in counts.items() if count is not None and count > 1}
    if not server.is_stdio(spec) or not capped:
        return Fact("StdioReplicaCapped", False, "StdioReplicaCapNotActive", "no count is capped")
    asked = " and ".join(f"{name} {count}" for name, count in capped.items())
    words = f"{asked} asked for, 1 given: a stdio server is one process beside its one proxy"
    return Fact("StdioReplicaCapped", True, "StdioTransportCapAt1", words)


def _judge_command(spec: crd.MCPServerSpec) -> Fact:
    if server.find_command(spec):
        return Fact("StdioCommandGiven", True, "CommandOfTemplate", "the proxy starts the command of the template")
    words = (
        "podTemplateSpec gives the container mcp no command, and an image's own entry point cannot be seen from here: "
        "expected it to be fastproxy serve -- COMMAND"
    )
    return Fact("StdioCommandGiven", False, "EntryPointOfImage", words)


def _judge_storage(resource: crd.Resource, spec: crd.Proxied, findings: Findings) -> Fact:
    type_ = "SessionStorageWarning"
    if findings.sharers:
        words = f"the same store and key prefix as {', '.join(findings.sharers)}: they would find each other's sessions"
        return Fact(type_, True, "SessionStoragePrefixShared", words)
    counts = {"replicas": spec.replicas}
    if isinstance(spec, crd.MCPServerSpec):
        counts["backendReplicas"] = spec.backend_replicas
    several = [name for name, count in counts.items() if count is not None and count > 1]
    if not several or (isinstance(spec, crd.MCPServerSpec) and server.is_stdio(spec)):
        return Fact(type_, False, "SessionStorageWarningNotApplicable", "no set count is above 1")
    if spec.session_storage is not None and storage.describe(spec.session_storage).shared:
        return Fact(type_, False, "SessionStorageConfigured", "every proxy knows every session")
    words = (
        f"{' and '.join(several)} above 1 without sessionStorage of provider redis: a proxy knows only the sessions "
        "that began at it"
    )
    return Fact(type_, True, "SessionStorageMissingForReplicas", words)


def describe_group(resource: crd.Resource, members: Iterable[crd.Resource], *, now: str) -> dict[str, Any]:
    """The whole status of a group."""
    names: dict[str, list[str]] = {crd.MCP_SERVER.name: [], crd.REMOTE_PROXY.name: []}
    for member in members:
        names[member.kind.name].append(member.name)
    servers, proxies = (sorted(names[kind.name]) for kind in (crd.MCP_SERVER, crd.REMOTE_PROXY))
    return {
        "phase": "Ready",
        "servers": servers,
        "serverCount": len(servers),
        "remoteProxies": proxies,
        "remoteProxyCount": len(proxies),
        "observedGeneration": resource.generation,
        "conditions": date(
            [Fact("MCPServersChecked", True, "ListMCPServersSucceeded", "every one that names it is listed")],
            resource,
            now,
        ),
    }


def describe_unreadable(live: Mapping[str, Any], message: str, *, now: str) -> dict[str, Any]:
    """The status of a resource that our structs cannot read: written past a schema, or under an older one."""
    generation = live["metadata"].get("generation", 1)
    known = {each["type"]: each for each in (live.get("status") or {}).get("conditions") or []}
    facts = [Fact("Ready", False, "NotReady", message), Fact("SpecValid", False, "InvalidSpec", message)]
    conditions = [_date_one(fact, known.get(fact.type), generation, now) for fact in facts]
    return {"phase": "Failed", "message": message, "observedGeneration": generation, "conditions": conditions}


def date(facts: Iterable[Fact], resource: crd.Resource, now: str) -> list[dict[str, Any]]:
    """Facts as conditions: one whose status is what it was keeps its time."""
    known = {each["type"]: each for each in resource.status.get("conditions") or []}
    return [_date_one(fact, known.get(fact.type), resource.generation, now) for fact in facts]


def _date_one(fact: Fact, before: Mapping[str, Any] | None, generation: int, now: str) -> dict[str, Any]:
    status = "True" if fact.holds else "False"
    same = before is not None and before.get("status") == status
    condition = parts.Condition(
        type=fact.type,
        status="True" if fact.holds else "False",
        reason=fact.reason,
        message=fact.message,
        last_transition_time=before["lastTransitionTime"] if before is not None and same else now,
        observed_generation=generation,
    )
    built: dict[str, Any] = msgspec.to_builtins(condition)
    return built


def differs(status: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    """Whether writing a status would change anything; what others say there does not count."""
    ours = {key: value for key, value in status.items() if key != "conditions"}
    if any(live.get(key) != value for key, value in ours.items()):
        return True
    there = {each["type"]: each for each in live.get("conditions") or []}
    return any(there.get(each["type"]) != each for each in status["conditions"])
