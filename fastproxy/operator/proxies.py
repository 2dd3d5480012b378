"""The objects around a resource's proxies, alike for every kind: account, ConfigMap, Service, Deployment, budget. Sans-
io."""

from collections.abc import Mapping
from typing import Any

import yaml

from fastproxy.operator import crd, manifest, parts, pod, surroundings
from fastproxy.operator.manifest import Manifest

CONFIG_FILE = "fastproxy.yaml"
CONFIG_PATH = f"{pod.CONFIG_FOLDER}/{CONFIG_FILE}"


def name_config(resource: crd.Resource) -> str:
    return f"{surroundings.name_service(resource)}-config"


def name_account(resource: crd.Resource) -> str:
    return f"{surroundings.name_service(resource)}-account"


def make_account(resource: crd.Resource, name: str) -> Manifest:
    """A ServiceAccount to which nobody binds a right."""
    account = manifest.begin(resource, "v1", "ServiceAccount", name)
    account["automountServiceAccountToken"] = False
    return account


def make_config(resource: crd.Resource, config: Mapping[str, Any]) -> Manifest:
    """The file that proxies read; what stands in `serve`'s is what a running proxy takes up by itself."""
    config_map = manifest.begin(resource, "v1", "ConfigMap", name_config(resource))
    config_map["data"] = {CONFIG_FILE: yaml.safe_dump(dict(config), sort_keys=False, width=1000)}
    return config_map


def make_service(
    resource: crd.Resource,
    spec: crd.Proxied,
    *,
    overrides: parts.ObjectOverrides | None = None,
    type_: str = "ClusterIP",
    inside: bool = False,
) -> Manifest:
    """The Service in front of the proxies, which may be `inside` of their servers' pods."""
    port = surroundings.find_port(resource.spec)
    over = overrides or parts.ObjectOverrides()
    service = manifest.begin(
        resource,
        "v1",
        "Service",
        surroundings.name_service(resource),
        labels=over.labels,
        annotations=over.annotations,
    )
    service["spec"] = {
        "type": type_,
        "selector": manifest.select_pods(resource, inside=inside),
        "ports": [{"name": "http", "port": port, "targetPort": "proxy" if inside else "http", "protocol": "TCP"}],
        "sessionAffinity": spec.session_affinity or "ClientIP",
    }
    return service


def make_deployment(
    resource: crd.Resource,
    template: Manifest,
    *,
    replicas: int | None,
    overrides: parts.DeploymentOverrides | None = None,
    alone: bool = False,
) -> Manifest:
    """The proxies. A count that is not set is not written, so that it stays whoever's it is."""
    over = overrides or parts.DeploymentOverrides()
    pods = over.pod_template_metadata_overrides or parts.ObjectOverrides()
    metadata = template["metadata"]
    metadata = {
        "labels": {**(pods.labels or {}), **metadata["labels"]},
        "annotations": {**(pods.annotations or {}), **metadata.get("annotations", {})},
    }
    if over.image_pull_secrets:
        secrets = [{"name": secret.name} for secret in over.image_pull_secrets]
        template = {**template, "spec": {"imagePullSecrets": secrets, **template["spec"]}}
    deployment = manifest.begin(
        resource, "apps/v1", "Deployment", resource.name, labels=over.labels, annotations=over.annotations
    )
    deployment["spec"] = manifest.drop_unset(
        {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "selector": {"matchLabels": manifest.select_proxies(resource)},
            # Two at once would be two stdio servers, each with half of the sessions.
            "strategy": {"type": "Recreate"}
            if alone
            else {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {**template, "metadata": metadata},
        }
    )
    return deployment


def make_budget(resource: crd.Resource, spec: crd.Proxied, *, inside: bool = False) -> Manifest | None:
    """The PodDisruptionBudget. It counts what may be missing, so that it holds for any number of replicas."""
    budget = spec.pod_disruption_budget or parts.DisruptionBudget()
    if budget.enabled is False:
        return None
    limit = 1 if budget.max_unavailable is None else budget.max_unavailable
    made = manifest.begin(resource, "policy/v1", "PodDisruptionBudget", surroundings.name_service(resource))
    made["spec"] = {"maxUnavailable": limit, "selector": {"matchLabels": manifest.select_pods(resource, inside=inside)}}
    return made
