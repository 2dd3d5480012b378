"""The CustomResourceDefinitions of our kinds: names, columns, sub-resources, rules. Sans-io.

What a rule in CEL says is said once more in review.py: API servers before 1.25 do not know rules, and `fastproxy
render` asks no server. The scale sub-resource is that of the proxies; the StatefulSet has one of its own for the MCP
server.
"""

from collections.abc import Iterator
from typing import Any

from fastproxy.operator import crd, parts, schema

Manifest = dict[str, Any]

_STORAGE_RULES: tuple[schema.Rule, ...] = (
    (
        "self.provider != 'redis' || has(self.address) || has(self.sentinel) || has(self.cluster)",
        "expected address, sentinel or cluster beside provider redis",
    ),
    (
        "(has(self.address) ? 1 : 0) + (has(self.sentinel) ? 1 : 0) + (has(self.cluster) ? 1 : 0) <= 1",
        "expected one of address, sentinel and cluster",
    ),
    ("!has(self.cluster) || !has(self.db) || self.db == 0", "expected no db beside cluster: it has database 0 only"),
)
_AUTHORIZATION_RULE: schema.Rule = (
    "!(has(self.authzConfig) && has(self.authzConfigRef))",
    "expected authzConfig or authzConfigRef, not both",
)
RULES: schema.Rules = {
    parts.SessionStorage: _STORAGE_RULES,
    crd.MCPServerSpec: (
        _AUTHORIZATION_RULE,
        (
            "!has(self.rateLimiting) || (has(self.sessionStorage) && self.sessionStorage.provider == 'redis')",
            "expected sessionStorage with provider redis beside rateLimiting",
        ),
    ),
    crd.MCPRemoteProxySpec: (_AUTHORIZATION_RULE,),
}

_AGE = ("Age", "date", ".metadata.creationTimestamp")
_COLUMNS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "MCPServer": (
        ("Status", "string", ".status.phase"),
        ("Ready", "integer", ".status.readyReplicas"),
        ("Replicas", "integer", ".status.replicas"),
        ("Backends", "integer", ".status.readyBackendReplicas"),
        ("URL", "string", ".status.url"),
        _AGE,
    ),
    "VirtualMCPServer": (
        ("Phase", "string", ".status.phase"),
        ("URL", "string", ".status.url"),
        ("Backends", "integer", ".status.backendCount"),
        ("Ready", "integer", ".status.readyReplicas"),
        _AGE,
    ),
    "MCPRemoteProxy": (
        ("Phase", "string", ".status.phase"),
        ("Remote URL", "string", ".spec.remoteUrl"),
        ("URL", "string", ".status.url"),
        ("Ready", "integer", ".status.readyReplicas"),
        _AGE,
    ),
    "MCPGroup": (
        ("Servers", "integer", ".status.serverCount"),
        ("Proxies", "integer", ".status.remoteProxyCount"),
        ("Phase", "string", ".status.phase"),
        ("Checked", "string", ".status.conditions[?(@.type=='MCPServersChecked')].status"),
        _AGE,
    ),
}
_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".status.selector",
}


def list_definitions() -> Iterator[Manifest]:
    """The CustomResourceDefinition of each kind."""
    for kind in crd.KINDS.values():
        yield _define(kind)


def _define(kind: crd.Kind) -> Manifest:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{crd.GROUP}"},
        "spec": {
            "group": crd.GROUP,
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": kind.name.lower(),
                "shortNames": list(kind.short),
                "categories": ["toolhive"],
            },
            "scope": "Namespaced",
            "conversion": {"strategy": "None"},
            "versions": [_define_version(kind, version) for version in crd.VERSIONS],
        },
    }


def _define_version(kind: crd.Kind, version: str) -> Manifest:
    described: Manifest = {
        "name": version,
        "served": True,
        "storage": version == crd.STORAGE_VERSION,
        "schema": {"openAPIV3Schema": _describe(kind)},
        "subresources": {"status": {}} if kind is crd.GROUP_KIND else {"status": {}, "scale": dict(_SCALE)},
        "additionalPrinterColumns": [
            {"name": name, "type": type_, "jsonPath": path} for name, type_, path in _COLUMNS[kind.name]
        ],
    }
    if version != crd.STORAGE_VERSION:
        described |= {
            "deprecated": True,
            "deprecationWarning": f"{crd.GROUP}/{version} {kind.name} is deprecated: use {crd.STORAGE_VERSION}",
        }
    return described


def _describe(kind: crd.Kind) -> schema.Schema:
    spec = schema.describe(kind.spec, RULES)
    status = schema.describe(kind.status, {})
    return {
        "type": "object",
        "description": spec["description"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Group and version of this schema."},
            "kind": {"type": "string", "description": "Kind of this object."},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        **({"required": ["spec"]} if spec.get("required") else {}),
    }
