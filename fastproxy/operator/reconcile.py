"""One resource brought to where it shall be: the whole story, level-based.

    read → finalizer → review → render → settle each object → take away what is no longer wanted → say so in the status

It begins from what the mirror shows, never from what the last pass did, so any start converges. What fails for now
raises, and the queue tries again; what fails until somebody edits it is said in a condition and an event, and left.
Renders are pure, and this file only decides the order.
"""

import datetime
import logging
from collections.abc import Callable, Iterable

import msgspec

from fastproxy.operator import (
    conditions,
    crd,
    file,
    kube,
    mirror,
    notes,
    removal,
    render,
    review,
    settle,
    storage,
    surroundings,
)
from fastproxy.operator.manifest import Manifest

logger = logging.getLogger(__name__)


def read_clock() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Reconciler:
    """Brings resources to where they shall be, one at a time per resource."""

    def __init__(
        self,
        client: kube.Kube,
        picture: mirror.Mirror,
        around: surroundings.Surroundings,
        clock: Callable[[], str] = read_clock,
    ) -> None:
        self._kube = client
        self._mirror = picture
        self._around = around
        self._clock = clock
        self._notebook = notes.Notebook(client, clock)
        self.settler = settle.Settler(client, picture, self._notebook.remember)
        self._remover = removal.Remover(client, picture)

    async def reconcile(self, key: mirror.Key) -> None:
        """One pass. Raises where another try may help."""
        live = self._mirror.resources.get(key)
        if live is None:
            return
        if "deletionTimestamp" in live["metadata"]:
            await self._finish(key, live)
            return
        resource = self._mirror.read(key)
        if resource is None:
            await self._refuse_unreadable(key, live)
        elif resource.kind is crd.GROUP_KIND:
            await self._keep_group(resource)
        else:
            await self._keep(resource, live)

    async def _keep(self, resource: crd.Resource, live: Manifest) -> None:
        if resource.kind.finalizer not in (live["metadata"].get("finalizers") or []):
            await self._add_finalizer(resource, live)
        problems = tuple(review.review(resource))
        troubles: list[settle.Trouble] = []
        if not problems:
            objects = render.render(resource, self._surround(resource))
            faults = await self._settle_all(objects, resource, troubles)
            await self._remover.prune(resource, {mirror.key_of(each) for each in objects})
        else:
            faults = []
        findings = self._find(resource, problems, tuple(troubles))
        await self._say(resource, findings)
        if faults:
            raise faults[0]
        waiting = [trouble.message for trouble in troubles if not trouble.final]
        if waiting:
            raise settle.Unsettled("; ".join(waiting))

    async def _settle_all(
        self, objects: Iterable[Manifest], resource: crd.Resource, troubles: list[settle.Trouble]
    ) -> list[kube.Refused]:
        """Each object, whatever becomes of the others. An API server out of reach ends the pass."""
        faults = []
        for wanted in objects:
            try:
                trouble = await self.settler.settle(wanted, resource)
            except kube.Refused as refused:
                faults.append(refused)
            else:
                if trouble is not None:
                    troubles.append(trouble)
        return faults

    async def _add_finalizer(self, resource: crd.Resource, live: Manifest) -> None:
        metadata = live["metadata"]
        finalizers = [*(metadata.get("finalizers") or []), resource.kind.finalizer]
        patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}}
        api = kube.BY_KIND[resource.kind.name]
        self._mirror.note_resource(await self._kube.merge(api, resource.namespace, resource.name, patch))

    def _surround(self, resource: crd.Resource) -> surroundings.Surroundings:
        """What manifests depend on beside the resource."""
        backends = self._mirror.owned.get(("StatefulSet", resource.namespace, resource.name))
        around = msgspec.structs.replace(self._around, backend_replicas=backends.replicas if backends else None)
        if resource.kind is crd.VIRTUAL_SERVER:
            around = file.join(around, resource, self._mirror.list_resources(resource.namespace))
        return around

    def _find(
        self, resource: crd.Resource, problems: tuple[review.Problem, ...], troubles: tuple[settle.Trouble, ...]
    ) -> conditions.Findings:
        def find_owned(kind: str) -> mirror.Owned | None:
            seen = self._mirror.owned.get((kind, resource.namespace, resource.name))
            return seen if seen and seen.controller and seen.controller[2] == resource.uid else None

        assert isinstance(resource.spec, crd.Proxied)
        group = name_group(resource)
        found = (crd.GROUP_KIND.name, resource.namespace, group) in self._mirror.resources if group else None
        members = self._surround(resource).members
        return conditions.Findings(
            problems=problems,
            troubles=troubles,
            proxies=find_owned("StatefulSet" if conditions.is_inside(resource.spec) else "Deployment"),
            backends=find_owned("StatefulSet"),
            group_found=found,
            members=len(members),
            sharers=() if problems else tuple(self._mirror.list_sharers(resource, storage.name_keys(resource))),
        )

    async def _say(self, resource: crd.Resource, findings: conditions.Findings) -> None:
        """Status and events. Events go first: one that was told twice is the same one, one that was not told is
        lost."""
        status = conditions.describe(resource, findings, now=self._clock(), cluster_domain=self._around.cluster_domain)
        await self._notebook.tell(resource, findings)
        await self._write_status(resource, status)

    async def _keep_group(self, resource: crd.Resource) -> None:
        members = [
            each
            for each in self._mirror.list_resources(resource.namespace)
            if surroundings.is_member(each, resource.namespace, resource.name)
        ]
        await self._write_status(resource, conditions.describe_group(resource, members, now=self._clock()))

    async def _write_status(self, resource: crd.Resource, status: Manifest) -> None:
        if conditions.differs(status, resource.status):
            api = kube.BY_KIND[resource.kind.name]
            self._mirror.note_resource(await self._kube.apply_status(api, resource.namespace, resource.name, status))

    async def _refuse_unreadable(self, key: mirror.Key, live: Manifest) -> None:
        try:
            crd.read_resource(live)
        except msgspec.ValidationError as error:
            message = file.describe_validation(error)
        else:
            return
        status = conditions.describe_unreadable(live, message, now=self._clock())
        if conditions.differs(status, live.get("status") or {}):
            await self._notebook.warn(live, "InvalidSpec", message)
            self._mirror.note_resource(await self._kube.apply_status(kube.BY_KIND[key[0]], key[1], key[2], status))

    async def _finish(self, key: mirror.Key, live: Manifest) -> None:
        """Deletion: what is left of it goes, then the finalizer."""
        finalizer = crd.KINDS[key[0]].finalizer
        finalizers = live["metadata"].get("finalizers") or []
        if finalizer not in finalizers:
            return
        if (live.get("status") or {}).get("phase") != "Terminating":
            status = {**(live.get("status") or {}), "phase": "Terminating", "message": "being deleted"}
            api = kube.BY_KIND[key[0]]
            self._mirror.note_resource(await self._kube.apply_status(api, key[1], key[2], status))
        await self._remover.remove_all(key, live["metadata"]["uid"])
        live = self._mirror.resources.get(key, live)
        rest = [each for each in live["metadata"].get("finalizers") or [] if each != finalizer]
        patch = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "finalizers": rest}}
        try:
            await self._kube.merge(kube.BY_KIND[key[0]], key[1], key[2], patch)
        except kube.Refused as refused:
            if refused.code != 404:
                raise


def name_group(resource: crd.Resource) -> str:
    """The group that a resource names, or nothing."""
    spec = resource.spec
    if isinstance(spec, crd.MCPServerSpec | crd.MCPRemoteProxySpec):
        return spec.group_ref.name if spec.group_ref else ""
    return surroundings.find_group(spec)
