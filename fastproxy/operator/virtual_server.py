"""The objects of a VirtualMCPServer: the MCP servers of a group as one. Sans-io.

Its configuration is the file that `fastproxy vmcp` reads. A change of it rolls the pods, one after the other, by a
checksum in their template; sessions in shared storage outlive that. What cannot be honoured (who may call, other than
anyone) has held the roll-out before it comes to this file.
"""

from typing import Any

from fastproxy.operator import crd, manifest, parts, pod, proxies, storage, surroundings
from fastproxy.operator.manifest import Manifest

CONTAINER = "vmcp"
_UNAUTHENTICATED = {"source": "inline", "default": {"type": "unauthenticated"}}


def list_incoming(spec: crd.VirtualMCPServerSpec) -> list[tuple[str, Any]]:
    """Where it is said who may call, and what."""
    places = (
        ("spec.incomingAuth", spec.incoming_auth),
        ("spec.config.incomingAuth", (spec.config or {}).get("incomingAuth")),
    )
    return [(path, auth) for path, auth in places if auth is not None]


def is_open(auth: Any) -> bool:
    """Whether anyone may call anything."""
    return (
        isinstance(auth, dict)
        and auth.get("type", "anonymous") == "anonymous"
        and not (auth.get("authzConfig") or auth.get("authz"))
    )


def render(resource: crd.Resource, around: surroundings.Surroundings) -> list[Manifest]:
    """All objects, in the order to apply."""
    spec = resource.spec
    assert isinstance(spec, crd.VirtualMCPServerSpec)
    account = spec.service_account or proxies.name_account(resource)
    config = configure(resource, spec, around)
    objects = [] if spec.service_account else [proxies.make_account(resource, account)]
    objects += [
        proxies.make_config(resource, config),
        proxies.make_service(resource, spec, type_=spec.service_type or "ClusterIP"),
        _make_deployment(resource, spec, around, account, manifest.digest(config)),
    ]
    budget = proxies.make_budget(resource, spec)
    return objects if budget is None else [*objects, budget]


def configure(
    resource: crd.Resource, spec: crd.VirtualMCPServerSpec, around: surroundings.Surroundings
) -> dict[str, Any]:
    """The file of `fastproxy vmcp`: the owner's configuration, with what the cluster knows better."""
    config = {key: value for key, value in (spec.config or {}).items() if key != "group"}
    if spec.session_storage:  # told by flags, which can say more
        config.pop("sessionStorage", None)
    members = [{"name": each.name, "url": each.url, "transport": each.transport} for each in around.members]
    listed = {each["name"] for each in members}
    own = [each for each in config.get("backends") or [] if isinstance(each, dict) and each.get("name") not in listed]
    aggregation = {"conflictResolution": "prefix", **(config.get("aggregation") or {})}
    if aggregation["conflictResolution"] == "prefix":
        aggregation["conflictResolutionConfig"] = {
            "prefixFormat": "{workload}_",
            **(aggregation.get("conflictResolutionConfig") or {}),
        }
    return config | {
        "name": config.get("name") or resource.name,
        "groupRef": surroundings.find_group(spec),
        "backends": members + own,
        "incomingAuth": {"type": "anonymous"},
        "outgoingAuth": config.get("outgoingAuth") or _UNAUTHENTICATED,
        "aggregation": aggregation,
    }


def _make_deployment(
    resource: crd.Resource,
    spec: crd.VirtualMCPServerSpec,
    around: surroundings.Surroundings,
    account: str,
    checksum: str,
) -> Manifest:
    store, leave, port = storage.describe(spec.session_storage), pod.plan_leave(spec), surroundings.VIRTUAL_PORT
    container = pod.make_container(
        name=CONTAINER,
        image=around.image,
        args=["vmcp", "--config", proxies.CONFIG_PATH, *pod.list_flags(resource, spec, store, port=port)],
        port=port,
        leave=leave,
        store=store,
        resources=spec.resources,
    )
    template = pod.make_template(
        resource,
        container,
        config_map=proxies.name_config(resource),
        service_account=account,
        leave=leave,
        store=store,
        annotations={manifest.CHECKSUM: checksum},
    )
    template = pod.lay_over(template, spec.pod_template_spec, spec.proxy_pod_template_spec)
    overrides = parts.DeploymentOverrides(image_pull_secrets=spec.image_pull_secrets)
    return proxies.make_deployment(
        resource, pod.check_grace(template, leave), replicas=spec.replicas, overrides=overrides
    )
