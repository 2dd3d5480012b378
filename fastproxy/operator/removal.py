"""What goes: objects that a resource no longer wants, and all of them when it is deleted.

Owner references would have the garbage collector do the same, later and in its own order; here the proxies are first.
Nothing is deleted that belongs to somebody else.
"""

import logging

from fastproxy.operator import crd, kube, mirror

logger = logging.getLogger(__name__)

_ORDER = ("Deployment", "PodDisruptionBudget", "Service", "StatefulSet", "ConfigMap", "ServiceAccount")
# What the operator before us left without an owner that is still there.
_LEFT_BEHIND = (("Service", "mcp-{}"), ("Service", "mcp-{}-headless"), ("ConfigMap", "{}-runconfig"))


class Remover:
    """Deletes objects of a resource."""

    def __init__(self, client: kube.Kube, picture: mirror.Mirror) -> None:
        self._kube = client
        self._mirror = picture

    async def prune(self, resource: crd.Resource, wanted: set[mirror.Key]) -> None:
        """Take away what belongs to a resource and is not wanted any more."""
        for seen in self._mirror.list_owned(resource.uid):
            if seen.key not in wanted and not seen.deleting and seen.applied:
                await self._delete(seen.key, "no longer wanted")

    async def remove_all(self, key: mirror.Key, uid: str) -> None:
        """Take away everything of a resource that is being deleted."""
        owned = sorted(self._mirror.list_owned(uid), key=lambda seen: _ORDER.index(seen.key[0]))
        for seen in owned:
            if not seen.deleting:
                await self._delete(seen.key, "its resource is deleted")
        if key[0] == "MCPServer":
            await self._remove_left_behind(key)

    async def _remove_left_behind(self, key: mirror.Key) -> None:
        """Services and the like of the operator before us; recognised by its labels, and by having no owner."""
        _, namespace, name = key
        for kind, pattern in _LEFT_BEHIND:
            api, called = kube.BY_KIND[kind], pattern.format(name)
            live = await self._kube.get(api, namespace, called)
            if live is None or mirror.find_controller(live["metadata"]):
                continue
            labels = live["metadata"].get("labels") or {}
            if labels.get("toolhive") == "true" and name in (labels.get("toolhive-name"), labels.get("app")):
                await self._delete((kind, namespace, called), "left behind by the operator before")

    async def _delete(self, key: mirror.Key, reason: str) -> None:
        kind, namespace, name = key
        await self._kube.delete(kube.BY_KIND[kind], namespace, name)
        logger.info("deleted kind=%s namespace=%s name=%s reason=%s", kind, namespace, name, reason)
