"""The rights that the operator needs, and no others: as a ClusterRole. Sans-io.

It reads no Secret: pods name theirs, and the kubelet reads them. `update` on finalizers is what a cluster that enforces
owner references asks of whoever writes one that blocks a deletion.
"""

from fastproxy.operator import crd
from fastproxy.operator.manifest import Manifest

NAME = "fastproxy-operator"
_OWNED = (
    ("apps", ("deployments", "statefulsets")),
    ("", ("services", "configmaps", "serviceaccounts")),
    ("policy", ("poddisruptionbudgets",)),
)


def make_role() -> Manifest:
    """The ClusterRole; bound in one namespace it is enough for `--namespace`."""
    ours = [kind.plural for kind in crd.KINDS.values()]
    rules = [
        _allow(crd.GROUP, ours, "get", "list", "watch", "patch"),
        _allow(crd.GROUP, [f"{plural}/status" for plural in ours], "get", "patch"),
        _allow(crd.GROUP, [f"{plural}/finalizers" for plural in ours], "update"),
        *(_allow(group, list(kinds), "get", "list", "watch", "create", "patch", "delete") for group, kinds in _OWNED),
        _allow("", ["events"], "create"),
    ]
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NAME},
        "rules": rules,
    }


def _allow(group: str, kinds: list[str], *verbs: str) -> Manifest:
    return {"apiGroups": [group], "resources": kinds, "verbs": list(verbs)}
