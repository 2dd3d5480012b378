"""What the watches have told: our resources whole, the objects that belong to them as the little that decisions need.

An older version of an object never replaces a newer one, whether it came by a watch or as the answer to a request of
ours; but what a list says is how it stands: versions go back where a cluster was restored from a copy.
"""

from collections.abc import Iterator

import msgspec

from fastproxy.operator import crd, manifest, storage
from fastproxy.operator.manifest import Manifest

Key = tuple[str, str, str]  # kind, namespace, name

_PASSING_ANNOTATIONS = ("deployment.kubernetes.io/",)  # a controller's own, which change without anybody's wish


class Owned(msgspec.Struct, frozen=True, gc=False):
    """An object that belongs to a resource of ours, or stands where one shall be."""

    key: Key
    uid: str
    version: int
    fingerprint: str  # of all but its status and its own versions: it changes when somebody changes the object
    controller: tuple[str, str, str] | None  # kind, name, uid
    applied: bool  # by our field manager, ever
    owns_replicas: bool  # our field manager does
    replicas: int | None
    ready: int
    present: int
    failure: str | None
    deleting: bool


def describe(live: Manifest) -> Owned:
    """An object as it came."""
    metadata, spec, status = live["metadata"], live.get("spec") or {}, live.get("status") or {}
    ours = [entry for entry in metadata.get("managedFields") or [] if is_our_apply(entry)]
    return Owned(
        key=key_of(live),
        uid=metadata["uid"],
        version=int(metadata["resourceVersion"]),
        fingerprint=_take_fingerprint(live),
        controller=find_controller(metadata),
        applied=bool(ours),
        owns_replicas=any("f:replicas" in (entry.get("fieldsV1") or {}).get("f:spec", {}) for entry in ours),
        replicas=spec.get("replicas"),
        ready=status.get("readyReplicas") or 0,
        present=status.get("replicas") or 0,
        failure=_find_failure(status),
        deleting="deletionTimestamp" in metadata,
    )


def key_of(live: Manifest) -> Key:
    return live["kind"], live["metadata"]["namespace"], live["metadata"]["name"]


def is_our_apply(entry: Manifest) -> bool:
    return entry.get("manager") == manifest.MANAGER and entry.get("operation") == "Apply"


def find_controller(metadata: Manifest) -> tuple[str, str, str] | None:
    for reference in metadata.get("ownerReferences") or []:
        if reference.get("controller"):
            return reference["kind"], reference["name"], reference["uid"]
    return None


def _take_fingerprint(live: Manifest) -> str:
    metadata = live["metadata"]
    kept = {key: metadata.get(key) for key in ("labels", "ownerReferences", "deletionTimestamp")}
    annotations = metadata.get("annotations") or {}
    kept["annotations"] = {key: value for key, value in annotations.items() if not key.startswith(_PASSING_ANNOTATIONS)}
    rest = {key: value for key, value in live.items() if key not in ("metadata", "status")}
    return manifest.digest([kept, rest])[:32]


def _find_failure(status: Manifest) -> str | None:
    """Why a Deployment does not come up, if it says so."""
    for condition in status.get("conditions") or []:
        failed = (condition.get("type"), condition.get("status")) in (
            ("ReplicaFailure", "True"),
            ("Progressing", "False"),
        )
        if failed:
            return f"{condition.get('reason')}: {condition.get('message')}"
    return None


class Mirror:
    """The picture. Kept by the watches; read by reconciling."""

    def __init__(self) -> None:
        self.resources: dict[Key, Manifest] = {}
        self.owned: dict[Key, Owned] = {}
        self._by_owner: dict[str, set[Key]] = {}  # uid of a resource
        self._read: dict[Key, tuple[str, crd.Resource | None]] = {}
        self._placed: dict[Key, tuple[str, str]] = {}  # where a resource's records lie
        self._places: dict[tuple[str, str], set[Key]] = {}  # and whose lie there

    # ---- our resources

    def note_resource(self, live: Manifest, *, listed: bool = False) -> bool:
        """Whether it was news."""
        key = key_of(live)
        known = self.resources.get(key)
        version = int(live["metadata"]["resourceVersion"])
        if known is not None and known["metadata"]["uid"] == live["metadata"]["uid"]:
            before = int(known["metadata"]["resourceVersion"])
            if before == version or (before > version and not listed):
                return False
        live["metadata"].pop("managedFields", None)  # the larger half of an object, and of no use here
        self.resources[key] = live
        self._place(key, self.read(key))
        return True

    def forget_resource(self, key: Key) -> None:
        self.resources.pop(key, None)
        self._read.pop(key, None)
        self._place(key, None)

    def read(self, key: Key) -> crd.Resource | None:
        """A resource, if it is there and can be read; read once per version."""
        live = self.resources.get(key)
        if live is None:
            return None
        version = live["metadata"]["resourceVersion"]
        known = self._read.get(key)
        if known is None or known[0] != version:
            try:
                resource = crd.read_resource(live)
            except msgspec.ValidationError:
                resource = None
            known = self._read[key] = (version, resource)
        return known[1]

    def list_resources(self, namespace: str) -> Iterator[crd.Resource]:
        """Those of a namespace that can be read."""
        for key in list(self.resources):
            if key[1] == namespace:
                resource = self.read(key)
                if resource is not None:
                    yield resource

    def list_sharers(self, resource: crd.Resource, keys: tuple[str, str] | None) -> list[str]:
        """Other resources whose records lie in the same place."""
        if keys is None:
            return []
        own = (resource.kind.name, resource.namespace, resource.name)
        sharers = [key for key in self._places.get(keys, ()) if key != own]
        return [f"{kind} {namespace}/{name}" for kind, namespace, name in sorted(sharers)]

    def list_placed(self, key: Key) -> set[Key]:
        """The resources whose records lie where this one's do, itself among them."""
        place = self._placed.get(key)
        return set(self._places[place]) if place is not None else set()

    def _place(self, key: Key, resource: crd.Resource | None) -> None:
        """Keep account of where a resource's records lie."""
        before = self._placed.pop(key, None)
        if before is not None:
            self._places[before].discard(key)
        place = storage.name_keys(resource) if resource is not None else None
        if place is not None:
            self._placed[key] = place
            self._places.setdefault(place, set()).add(key)

    # ---- what belongs to them

    def note_owned(self, live: Manifest, *, listed: bool = False) -> Owned:
        """What an object is now; a version that is older than the known one is passed over."""
        seen = describe(live)
        known = self.owned.get(seen.key)
        if known is not None and known.uid == seen.uid and known.version > seen.version and not listed:
            return known
        self.forget_owned(seen.key)
        self.owned[seen.key] = seen
        if seen.controller:
            self._by_owner.setdefault(seen.controller[2], set()).add(seen.key)
        return seen

    def forget_owned(self, key: Key) -> None:
        known = self.owned.pop(key, None)
        if known is not None and known.controller:
            keys = self._by_owner.get(known.controller[2], set())
            keys.discard(key)
            if not keys:
                self._by_owner.pop(known.controller[2], None)

    def list_owned(self, uid: str) -> list[Owned]:
        """The objects whose controller is this resource."""
        return [self.owned[key] for key in sorted(self._by_owner.get(uid, ()))]


def owner_key(seen: Owned) -> Key | None:
    """The resource of ours that an object belongs to."""
    if seen.controller and seen.controller[0] in crd.KINDS:
        return seen.controller[0], seen.key[1], seen.controller[1]
    return None
