"""What every object that we render has in common: its head, its labels, who owns it. Sans-io.

A manifest is a plain dict, as it goes over the wire. Labels that select are those of the operator that this one
replaces: a selector can never be changed, and with these an existing Deployment and its pods are taken over as they
stand.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy.operator import crd

Manifest = dict[str, Any]

MANAGER = "fastproxy-operator"  # our field manager, and what our objects say they are managed by
MANAGED_BY = "app.kubernetes.io/managed-by"
DOMAIN = "fastproxy.dev"  # of our own annotations
CHECKSUM = f"{DOMAIN}/config-checksum"

_APPS = {"MCPServer": "mcpserver", "VirtualMCPServer": "virtualmcpserver", "MCPRemoteProxy": "mcpremoteproxy"}


def select_proxies(resource: crd.Resource) -> dict[str, str]:
    """The labels by which a resource's proxies are selected."""
    app = _APPS[resource.kind.name]
    return {
        "app": app,
        "app.kubernetes.io/name": app,
        "app.kubernetes.io/instance": resource.name,
        "toolhive": "true",
        "toolhive-name": resource.name,
    }


def select_backends(resource: crd.Resource) -> dict[str, str]:
    """The label by which an MCP server's own pods are selected."""
    return {"app": resource.name}


def select_pods(resource: crd.Resource, *, inside: bool) -> dict[str, str]:
    """The labels of the pods in which a resource's proxies are."""
    return select_backends(resource) if inside else select_proxies(resource)


def label(resource: crd.Resource) -> dict[str, str]:
    """The labels that each object of a resource carries; the operator watches for the last one."""
    return {
        "app.kubernetes.io/instance": resource.name,
        "toolhive": "true",
        "toolhive-name": resource.name,
        MANAGED_BY: MANAGER,
    }


def write_selector(labels: Mapping[str, str]) -> str:
    """A selector as text, for the scale sub-resource."""
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def begin(
    resource: crd.Resource,
    api_version: str,
    kind: str,
    name: str,
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Manifest:
    """An object's head. Its owner is left out where the resource is not in a cluster yet."""
    metadata: Manifest = {
        "name": name,
        "namespace": resource.namespace,
        "labels": {**(labels or {}), **label(resource)},
    }
    if annotations:
        metadata["annotations"] = dict(annotations)
    if resource.uid:
        metadata["ownerReferences"] = [
            {
                "apiVersion": f"{crd.GROUP}/{crd.STORAGE_VERSION}",
                "kind": resource.kind.name,
                "name": resource.name,
                "uid": resource.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def digest(value: object) -> str:
    """The same text for the same content, whatever its order."""
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def drop_unset(mapping: Mapping[str, Any]) -> Manifest:
    """Without what is None or empty: under server-side apply, to write nothing is to claim nothing."""
    return {key: value for key, value in mapping.items() if value is not None and value != {} and value != []}
