"""The objects of an MCPServer: its own pods under stable names, and the proxies in front of them. Sans-io.

The StatefulSet's `serviceName` is the headless Service, so each pod has the DNS name by which sessions are pinned. How
many pods there are is told to the proxies by their ConfigMap, which they read again by themselves: a change of a
replica count rolls no pod. A stdio server has no pods of its own: the one proxy starts it, in the server's image.
"""

from typing import Any

from fastproxy.operator import crd, manifest, parts, pod, proxies, storage, surroundings
from fastproxy.operator.manifest import Manifest
from fastproxy.operator.overlay import lay

CONTAINER = "mcp"
ANY_NETWORK = ["0.0.0.0/0", "::/0"]
BACKEND_REPLICAS_MAX = 1000  # of statefulset://
_USER = 1000  # many images name no user; with runAsNonRoot one has to be named


def name_headless(resource: crd.Resource) -> str:
    return f"mcp-{resource.name}-headless"


def is_stdio(spec: crd.MCPServerSpec) -> bool:
    return (spec.transport or "stdio") == "stdio"


def find_command(spec: crd.MCPServerSpec) -> list[str]:
    """What starts a stdio server: the command that the owner's template gives its container, and the arguments.

    Empty where there is none. An image's own entry point cannot be seen from here, and has to be
    `fastproxy serve -- COMMAND` then; it is told by variables all that it would be told by flags.
    """
    over = next((each for each in _list_containers(spec) if each.get("name") == CONTAINER), {})
    return [*over["command"], *(spec.args or over.get("args") or [])] if over.get("command") else []


def _list_containers(spec: crd.MCPServerSpec) -> list[dict[str, Any]]:
    return ((spec.pod_template_spec or {}).get("spec") or {}).get("containers") or []


def render(resource: crd.Resource, around: surroundings.Surroundings) -> list[Manifest]:
    """All objects, in the order to apply."""
    spec = resource.spec
    assert isinstance(spec, crd.MCPServerSpec)
    overrides = spec.resource_overrides or parts.ResourceOverrides()
    inside = has_sidecars(spec)
    objects = [] if inside else [proxies.make_account(resource, proxies.name_account(resource))]
    objects.append(proxies.make_config(resource, _configure(resource, spec, around)))
    if not is_stdio(spec):
        objects += [] if spec.service_account else [_make_own_account(resource)]
        objects += [_make_headless(resource, spec), _make_stateful_set(resource, spec, around)]
    objects.append(proxies.make_service(resource, spec, overrides=overrides.proxy_service, inside=inside))
    if not inside:
        objects.append(_make_deployment(resource, spec, around))
    budget = proxies.make_budget(resource, spec, inside=inside)
    return objects if budget is None or is_stdio(spec) else [*objects, budget]


def has_sidecars(spec: crd.MCPServerSpec) -> bool:
    """Whether the proxies are in the MCP server's pods. A stdio server's is beside it in any case."""
    return bool(spec.sidecar) and not is_stdio(spec)


def _make_own_account(resource: crd.Resource) -> Manifest:
    return manifest.begin(resource, "v1", "ServiceAccount", f"{resource.name}-sa")


def _configure(resource: crd.Resource, spec: crd.MCPServerSpec, around: surroundings.Surroundings) -> dict[str, Any]:
    """What a running proxy takes up by itself when it changes."""
    config: dict[str, Any] = {}
    if not is_stdio(spec):
        set_count = count_backends(spec)
        count = around.backend_replicas if set_count is None else set_count
        replicas = min(max(count or 1, 1), BACKEND_REPLICAS_MAX)  # at zero the one that will be there first
        domain = "" if around.cluster_domain == "cluster.local" else f"&domain={around.cluster_domain}"
        place = f"{resource.name}.{name_headless(resource)}.{resource.namespace}:{find_port(spec)}"
        config["backend"] = [f"statefulset://{place}?replicas={replicas}{domain}"]
    if spec.trust_proxy_headers:
        config["trusted_proxy"] = ANY_NETWORK
    return config


def find_port(spec: crd.MCPServerSpec) -> int:
    """The MCP server's own port."""
    return spec.mcp_port or spec.target_port or surroundings.PORT


def _make_headless(resource: crd.Resource, spec: crd.MCPServerSpec) -> Manifest:
    service = manifest.begin(resource, "v1", "Service", name_headless(resource))
    port = {"name": "http", "port": find_port(spec), "targetPort": find_port(spec), "protocol": "TCP"}
    service["spec"] = {
        "type": "ClusterIP",
        "clusterIP": "None",
        # A pod with a sidecar gets ready by finding itself under its name.
        "publishNotReadyAddresses": has_sidecars(spec),
        "selector": manifest.select_backends(resource),
        "ports": [port],
    }
    return service


def count_backends(spec: crd.MCPServerSpec) -> int | None:
    """Replicas of the StatefulSet, where they are set; with sidecars a count of proxies is one of pods."""
    return spec.replicas if has_sidecars(spec) and spec.backend_replicas is None else spec.backend_replicas


def _make_stateful_set(resource: crd.Resource, spec: crd.MCPServerSpec, around: surroundings.Surroundings) -> Manifest:
    overrides = (spec.resource_overrides or parts.ResourceOverrides()).proxy_deployment or parts.DeploymentOverrides()
    stateful_set = manifest.begin(resource, "apps/v1", "StatefulSet", resource.name)
    labels = manifest.select_backends(resource)
    template = _make_backend_template(resource, spec)
    if has_sidecars(spec):
        container = _make_container(resource, spec, around, overrides)
        leave, store = pod.plan_leave(spec), storage.describe(spec.session_storage)
        template = pod.add_sidecar(
            template, container, config_map=proxies.name_config(resource), leave=leave, store=store
        )
    template = lay(template, spec.pod_template_spec or {})
    if has_sidecars(spec):
        template = pod.check_grace(pod.lay_over(template, spec.proxy_pod_template_spec), pod.plan_leave(spec))
    stateful_set["spec"] = manifest.drop_unset(
        {
            "replicas": count_backends(spec),
            "serviceName": name_headless(resource),
            "podManagementPolicy": "Parallel",  # the pods do not need each other
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": labels},
            "template": template,
        }
    )
    # A template of the owner's own labels must still be selected.
    metadata = stateful_set["spec"]["template"].setdefault("metadata", {})
    metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
    return stateful_set


def _make_backend_template(resource: crd.Resource, spec: crd.MCPServerSpec) -> Manifest:
    container = manifest.drop_unset(
        {
            "name": CONTAINER,
            "image": spec.image,
            "args": spec.args,
            "env": _list_variables(spec, network=True),
            "ports": [{"name": "http", "containerPort": find_port(spec), "protocol": "TCP"}],
            # A pod's name is published when it is ready: at the least, when it can be connected to.
            "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 2},
            "securityContext": pod.RESTRICTED_CONTAINER,
            "volumeMounts": _list_mounts(spec),
        }
    )
    return {
        "metadata": {"labels": {**manifest.label(resource), **manifest.select_backends(resource)}},
        "spec": manifest.drop_unset(
            {
                "serviceAccountName": spec.service_account or f"{resource.name}-sa",
                "securityContext": _restrict_backend(),
                "containers": [container],
                "volumes": _list_volumes(spec),
            }
        ),
    }


def _restrict_backend() -> Manifest:
    return {**pod.RESTRICTED_POD, "runAsUser": _USER, "runAsGroup": _USER, "fsGroup": _USER}


def _list_variables(spec: crd.MCPServerSpec, *, network: bool) -> list[Manifest]:
    """The server's environment, by name: what servers are told about their port, the owner's words, Secrets."""
    port = str(find_port(spec))
    own: dict[str, str] = {"MCP_TRANSPORT": spec.transport or "stdio"}
    own |= {"MCP_PORT": port, "FASTMCP_PORT": port, "MCP_HOST": "0.0.0.0"} if network else {}
    variables: dict[str, Manifest] = {name: {"name": name, "value": value} for name, value in own.items()}
    variables |= {entry.name: {"name": entry.name, "value": entry.value} for entry in spec.env or []}
    for secret in spec.secrets or []:
        name = secret.target_env_name or secret.key
        reference = {"name": secret.name, "key": secret.key}
        variables[name] = {"name": name, "valueFrom": {"secretKeyRef": reference}}
    return [variables[name] for name in sorted(variables)]


def _list_mounts(spec: crd.MCPServerSpec) -> list[Manifest]:
    return [
        {"name": volume.name, "mountPath": volume.mount_path, "readOnly": bool(volume.read_only)}
        for volume in spec.volumes or []
    ]


def _list_volumes(spec: crd.MCPServerSpec) -> list[Manifest]:
    return [{"name": volume.name, "hostPath": {"path": volume.host_path}} for volume in spec.volumes or []]


def _make_container(
    resource: crd.Resource,
    spec: crd.MCPServerSpec,
    around: surroundings.Surroundings,
    overrides: parts.DeploymentOverrides,
) -> Manifest:
    """The proxy's container; a stdio server's runs in the server's own image, and starts it."""
    store, stdio, port = storage.describe(spec.session_storage), is_stdio(spec), surroundings.find_port(spec)
    flags = ["--config", proxies.CONFIG_PATH, *pod.list_flags(resource, spec, store, port=port)]
    env, command, args = list(overrides.env or ()), [], ["serve", *flags]
    if stdio and (started := find_command(spec)):
        command, args = ["fastproxy"], [*args, "--", *started]
    elif stdio:
        env, args = [*env, *pod.write_variables(flags)], spec.args or []
    return pod.make_container(
        name=CONTAINER if stdio else pod.CONTAINER,
        image=spec.image if stdio else around.image,
        command=command,
        args=args,
        port=port,
        leave=pod.plan_leave(spec),
        store=store,
        env=env,
        resources=spec.resources,
    )


def _make_deployment(resource: crd.Resource, spec: crd.MCPServerSpec, around: surroundings.Surroundings) -> Manifest:
    overrides = (spec.resource_overrides or parts.ResourceOverrides()).proxy_deployment or parts.DeploymentOverrides()
    store, leave, stdio = storage.describe(spec.session_storage), pod.plan_leave(spec), is_stdio(spec)
    template = pod.make_template(
        resource,
        _make_container(resource, spec, around, overrides),
        config_map=proxies.name_config(resource),
        service_account=proxies.name_account(resource),
        leave=leave,
        store=store,
    )
    template = _seat_stdio(template, spec) if stdio else template
    template = pod.lay_over(template, spec.proxy_pod_template_spec)
    return proxies.make_deployment(
        resource,
        pod.check_grace(template, leave),
        replicas=limit_replicas(spec),
        overrides=overrides,
        alone=stdio,
    )


def limit_replicas(spec: crd.MCPServerSpec) -> int | None:
    """A stdio server is one process, so it has one proxy; an unset count is set, as an autoscaler would break it."""
    if is_stdio(spec):
        return 1 if spec.replicas is None else min(spec.replicas, 1)
    return spec.replicas


def _seat_stdio(template: Manifest, spec: crd.MCPServerSpec) -> Manifest:
    """The proxy's pod as the MCP server's own too: its variables, volumes, account, and the owner's template."""
    own = template["spec"]["containers"][0]
    seated = {
        "spec": manifest.drop_unset(
            {
                "serviceAccountName": spec.service_account,
                "securityContext": _restrict_backend(),
                "containers": [
                    manifest.drop_unset(
                        {
                            "name": CONTAINER,
                            "env": _list_variables(spec, network=False),
                            "volumeMounts": _list_mounts(spec),
                        }
                    )
                ],
                "volumes": _list_volumes(spec),
            }
        )
    }
    merged = lay(lay(template, seated), spec.pod_template_spec or {})
    if "command" not in own:
        return merged
    # The command is the proxy's: what the owner's template says of it stands behind the -- of its arguments.
    containers = [
        {**each, "command": own["command"], "args": own["args"]} if each["name"] == CONTAINER else each
        for each in merged["spec"]["containers"]
    ]
    return {**merged, "spec": {**merged["spec"], "containers": containers}}
