"""One object made as it should be: looked at, taken over, replaced where it cannot be changed, applied.

Every step leaves a state from which the next look goes on, so that the operator may die between any two of them. An
object that is as it was when we last applied the same manifest costs no request.
"""

import logging
from collections.abc import Callable

import msgspec

from fastproxy import errors
from fastproxy.operator import adoption, crd, kube, manifest, mirror
from fastproxy.operator.manifest import Manifest

logger = logging.getLogger(__name__)

_FINAL_CODES = frozenset({400, 422})  # the same request would be refused again

Note = Callable[[crd.Resource, str, str], None]  # resource, reason, message: what is worth an event


class Trouble(msgspec.Struct, frozen=True):
    """Why an object is not as it should be. `final`: until somebody edits something."""

    reason: str  # OwnershipConflict, Refused, Waiting
    message: str
    final: bool


class Settler:
    """Applies manifests, and remembers what it has applied."""

    def __init__(self, client: kube.Kube, picture: mirror.Mirror, note: Note) -> None:
        self._kube = client
        self._mirror = picture
        self._note = note
        self._applied: dict[mirror.Key, tuple[str, str]] = {}  # manifest, and the object after it
        self.missing: set[str] = set()  # kinds that this server does not have

    def forget(self, key: mirror.Key) -> None:
        self._applied.pop(key, None)

    async def settle(self, wanted: Manifest, resource: crd.Resource) -> Trouble | None:
        """Make one object so. Raises where trying again may help."""
        if wanted["kind"] in self.missing:
            return None
        key = mirror.key_of(wanted)
        digest = manifest.digest(wanted)
        seen = self._mirror.owned.get(key)
        free = "replicas" not in wanted.get("spec", {"replicas": None})
        if seen is not None and self._applied.get(key) == (digest, seen.fingerprint):
            return None
        try:
            if seen is None or not seen.applied or (free and seen.owns_replicas) or not _is_controlled(seen, resource):
                trouble = await self._prepare(wanted, resource, free=free)
                if trouble is not None:
                    return trouble
            live = await self._apply(wanted)
        except kube.Refused as refused:
            return self._judge_refusal(wanted, refused)
        self._applied[key] = (digest, self._mirror.note_owned(live).fingerprint)
        return None

    async def _prepare(self, wanted: Manifest, resource: crd.Resource, *, free: bool) -> Trouble | None:
        """What has to happen before an object can be applied."""
        api, (_, namespace, name) = kube.BY_KIND[wanted["kind"]], mirror.key_of(wanted)
        live = await self._kube.get(api, namespace, name)
        if live is None:
            return None
        if "deletionTimestamp" in live["metadata"]:
            return Trouble("Waiting", f"{wanted['kind']} {name} is being deleted", final=False)
        verdict = adoption.judge(live, resource)
        if not verdict.mine:
            reason = "Waiting" if verdict.stale else "OwnershipConflict"
            return Trouble(reason, verdict.reason, final=False)
        immutable = adoption.find_immutable(live, wanted)
        if immutable is not None:
            return await self._replace(api, live, resource, immutable)
        for plan in (adoption.plan_detachment(live, verdict), adoption.plan_takeover(live)):
            if plan is not None:
                plan["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"]
                live = await self._kube.merge(api, namespace, name, plan)
                logger.info("adopted kind=%s namespace=%s name=%s", wanted["kind"], namespace, name)
        if free and mirror.describe(live).owns_replicas:
            await self._kube.apply(adoption.plan_release(live), force=False, manager=adoption.RELEASE_MANAGER)
        return None

    async def _replace(self, api: kube.Api, live: Manifest, resource: crd.Resource, field: str) -> Trouble:
        """Delete what cannot be changed; a StatefulSet's pods are kept, and rolled by the new one in its own time."""
        name = live["metadata"]["name"]
        orphan = api.kind == "StatefulSet"
        await self._kube.delete(api, resource.namespace, name, orphan=orphan)
        kept = ", its pods kept" if orphan else ""
        self._note(resource, "Replaced", f"{api.kind} {name} is made anew{kept}: {field} differs and cannot be changed")
        return Trouble("Waiting", f"{api.kind} {name} is being replaced", final=False)

    async def _apply(self, wanted: Manifest) -> Manifest:
        try:
            return await self._kube.apply(wanted, force=False)
        except kube.Refused as refused:
            if refused.code != 409 or not refused.causes or adoption.find_rivals(refused.causes):
                raise
        return await self._kube.apply(wanted, force=True)

    def _judge_refusal(self, wanted: Manifest, refused: kube.Refused) -> Trouble | None:
        place = f"{wanted['kind']} {wanted['metadata']['name']}"
        rivals = adoption.find_rivals(refused.causes) if refused.code == 409 else []
        if rivals:
            return Trouble(
                "OwnershipConflict", f"{place}: fields are applied by others: {', '.join(rivals)}", final=True
            )
        if refused.code == 404 and wanted["kind"] == "PodDisruptionBudget":
            if wanted["kind"] not in self.missing:
                logger.warning("kind=PodDisruptionBudget reason=missing: this API server has no policy/v1 (1.21 has)")
            self.missing.add(wanted["kind"])
            return None
        if refused.code in _FINAL_CODES or refused.code == 403:
            # A right or a quota may be given at any time; a manifest does not become valid by itself.
            return Trouble("Refused", f"{place}: {refused}", final=refused.code != 403)
        raise refused


def _is_controlled(seen: mirror.Owned, resource: crd.Resource) -> bool:
    return seen.controller is not None and seen.controller[2] == resource.uid


class Unsettled(errors.FastproxyError):
    """Something is not as it should be, and another try may help."""

    reason = "unsettled"
