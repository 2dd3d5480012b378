"""The pods of a proxy: one container that drains, probed on its admin port, with no rights of any kind. Sans-io.

How a pod leaves: its endpoint is taken away and preStop sleeps while all goes on (as long as `--drain-delay`, since
that is what balancers need); then SIGTERM, readiness turns, and the proxy's own delay and drain follow. The grace
period is made of these numbers, so that it exceeds them by construction; a larger one may be asked for, a smaller one
is raised.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from fastproxy.config import schema
from fastproxy.operator import crd, manifest, overlay, parts, storage
from fastproxy.operator.manifest import Manifest

CONTAINER = "fastproxy"
ADMIN_PORT = 9901
CONFIG_FOLDER = "/etc/fastproxy"
HEADROOM_SECONDS = 5  # to write what is still to be written, and to exit
GRACE_SECONDS = 60  # unless told otherwise
RESTARTED_AT = f"{manifest.DOMAIN}/restarted-at"

RESTRICTED_POD: Manifest = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
RESTRICTED_CONTAINER: Manifest = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
_REQUESTS: Manifest = {"requests": {"cpu": "50m", "memory": "96Mi"}}


class Leave(msgspec.Struct, frozen=True):
    """How long each part of a pod's leave takes."""

    delay_seconds: float
    timeout_seconds: float
    grace_seconds: int
    grace_asked: int | None

    @property
    def pre_stop_seconds(self) -> int:
        return math.ceil(self.delay_seconds)

    @property
    def raised(self) -> bool:
        return self.grace_asked is not None and self.grace_asked < self.grace_seconds


def plan_leave(spec: crd.Proxied) -> Leave:
    """The numbers of a resource's proxies. Its durations have been reviewed."""
    drain = spec.drain or parts.Drain()
    delay = read_duration("drain_delay", drain.delay)
    timeout = read_duration("drain_timeout", drain.timeout)
    least = math.ceil(delay) + math.floor(delay + timeout) + HEADROOM_SECONDS + 1
    asked = spec.termination_grace_period_seconds
    return Leave(delay, timeout, max(least, GRACE_SECONDS if asked is None else asked), asked)


def read_duration(setting: str, text: str | None) -> float:
    """A duration as the proxy itself would read it, its default where there is none."""
    row = schema.SETTINGS[setting]
    seconds = row.default if text is None else row.kind.read(text)
    assert isinstance(seconds, float)
    return seconds


def list_flags(resource: crd.Resource, spec: crd.Proxied, store: storage.Store, *, port: int) -> list[str]:
    """The flags that `serve` and `vmcp` share. What a reload cannot change stands here, so that a change rolls the
    pods."""
    leave = plan_leave(spec)
    flags = ["--name", storage.name_server(resource), "--listen", f"0.0.0.0:{port}", "--admin", f"0.0.0.0:{ADMIN_PORT}"]
    flags += store.list_flags()
    flags += ["--session-ttl", spec.session_ttl] if spec.session_ttl else []
    flags += ["--cache-sessions", str(spec.cache_sessions)] if spec.cache_sessions else []
    flags += ["--drain-delay", _show(leave.delay_seconds), "--drain-timeout", _show(leave.timeout_seconds)]
    return flags


def _show(seconds: float) -> str:
    return str(schema.SETTINGS["drain_delay"].kind.show(seconds))


def write_variables(flags: Sequence[str]) -> list[parts.EnvVar]:
    """Flags as the variables that mean the same: for an entry point that is not ours to write."""
    variables = []
    for flag, value in zip(flags, [*flags[1:], "--"], strict=True):
        if flag.startswith("--"):
            row = schema.SETTINGS[flag[2:].replace("-", "_")]
            variables.append(parts.EnvVar(name=row.variable, value="true" if value.startswith("--") else value))
    return variables


def make_container(
    *,
    name: str = CONTAINER,
    image: str,
    command: Sequence[str] = (),
    args: Sequence[str],
    port: int,
    leave: Leave,
    store: storage.Store,
    env: Sequence[parts.EnvVar] = (),
    resources: parts.Resources | None = None,
) -> Manifest:
    """A proxy's container. The owner's variables stand before ours, which win."""
    own = [{"name": "FASTPROXY_GRACE_PERIOD", "value": f"{leave.grace_seconds - leave.pre_stop_seconds}s"}]
    variables = {entry.name: {"name": entry.name, "value": entry.value} for entry in env}
    variables |= {entry["name"]: entry for entry in [*own, *store.env]}
    return manifest.drop_unset(
        {
            "name": name,
            "image": image,
            "command": list(command),
            "args": list(args),
            "env": list(variables.values()),
            "ports": [
                {"name": "http", "containerPort": port, "protocol": "TCP"},
                {"name": "admin", "containerPort": ADMIN_PORT, "protocol": "TCP"},
            ],
            "startupProbe": _probe("/healthz", periodSeconds=1, timeoutSeconds=3, failureThreshold=60),
            "livenessProbe": _probe("/healthz", periodSeconds=10, timeoutSeconds=5, failureThreshold=3),
            "readinessProbe": _probe("/readyz", periodSeconds=2, timeoutSeconds=3, failureThreshold=1),
            "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(leave.pre_stop_seconds)]}}}
            if leave.pre_stop_seconds
            else None,
            "resources": _REQUESTS if resources is None else _describe_resources(resources),
            "securityContext": RESTRICTED_CONTAINER,
            "volumeMounts": [{"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True}, *store.mounts],
        }
    )


def _describe_resources(resources: parts.Resources) -> Manifest:
    """Amounts as text, whichever way they were written: the server would write them so too."""
    built = msgspec.to_builtins(resources)
    return {part: {name: str(amount) for name, amount in amounts.items()} for part, amounts in built.items()}


def _probe(path: str, **numbers: int) -> Manifest:
    return {"httpGet": {"path": path, "port": "admin", "scheme": "HTTP"}, **numbers}


def make_template(
    resource: crd.Resource,
    container: Manifest,
    *,
    config_map: str,
    service_account: str,
    leave: Leave,
    store: storage.Store,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """The pod template around a proxy's container."""
    labels = manifest.select_proxies(resource)
    spread = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    restarted = _find_restart(resource)
    return {
        "metadata": manifest.drop_unset(
            {
                "labels": {**labels, manifest.MANAGED_BY: manifest.MANAGER},
                "annotations": {
                    "prometheus.io/scrape": "true",
                    "prometheus.io/port": str(ADMIN_PORT),
                    "prometheus.io/path": "/metrics",
                    **(annotations or {}),
                    **({RESTARTED_AT: restarted} if restarted else {}),
                },
            }
        ),
        "spec": {
            "serviceAccountName": service_account,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": leave.grace_seconds,
            "securityContext": RESTRICTED_POD,
            "affinity": {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "podAffinityTerm": spread}]
                }
            },
            "containers": [container],
            "volumes": [{"name": "config", "configMap": {"name": config_map}}, *store.volumes],
        },
    }


def add_sidecar(
    template: Manifest, container: Manifest, *, config_map: str, leave: Leave, store: storage.Store
) -> Manifest:
    """A proxy's container in the pod of its own server. The server's port is called http already."""
    ports = [{**port, "name": "proxy"} if port["name"] == "http" else port for port in container["ports"]]
    spec = template["spec"]
    volumes = [{"name": "config", "configMap": {"name": config_map}}, *store.volumes]
    return {
        **template,
        "spec": {
            **spec,
            "terminationGracePeriodSeconds": leave.grace_seconds,
            "containers": [*spec["containers"], {**container, "ports": ports}],
            "volumes": [*spec.get("volumes", []), *volumes],
        },
    }


def _find_restart(resource: crd.Resource) -> str | None:
    """When a restart was asked for by the annotation that the operator before us knew."""
    return resource.annotations.get(f"{resource.kind.name.lower()}.{crd.GROUP}/restarted-at")


def lay_over(template: Manifest, *over: Mapping[str, Any] | None) -> Manifest:
    """A template with the owner's laid over it, one after the other."""
    for each in over:
        template = template if each is None else overlay.lay(template, each)
    return template


def check_grace(template: Manifest, leave: Leave) -> Manifest:
    """The owner's template may ask for another grace period; one that a drain does not fit into is raised."""
    spec = template["spec"]
    asked = spec.get("terminationGracePeriodSeconds")
    least = leave.pre_stop_seconds + math.floor(leave.delay_seconds + leave.timeout_seconds) + HEADROOM_SECONDS + 1
    if not isinstance(asked, int) or asked < least:
        spec = {**spec, "terminationGracePeriodSeconds": max(least, leave.grace_seconds)}
    return {**template, "spec": spec}
