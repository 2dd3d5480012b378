"""Session storage: from a resource's field to what its proxies are told. Sans-io.

The address goes into a flag; the password, the authorities and the certificate stay in their Secrets and reach the pod
as a variable and as files. Nothing secret passes through a manifest of ours.
"""

import urllib.parse

import msgspec

from fastproxy.operator import crd, parts
from fastproxy.operator.manifest import Manifest

CERTIFICATES = "/etc/fastproxy-store"  # where Secrets of the store are mounted


class Store(msgspec.Struct, frozen=True):
    """What a pod needs to reach the session store."""

    url: str = "memory:"
    key_prefix: str | None = None
    required: bool = False
    env: tuple[Manifest, ...] = ()
    volumes: tuple[Manifest, ...] = ()
    mounts: tuple[Manifest, ...] = ()

    @property
    def shared(self) -> bool:
        return self.url != "memory:"

    def list_flags(self) -> list[str]:
        """The flags of `serve` and `vmcp` alike."""
        flags = ["--store", self.url] if self.shared else []
        flags += ["--key-prefix", self.key_prefix] if self.key_prefix is not None else []
        return flags + (["--store-required"] if self.required else [])


def describe(storage: parts.SessionStorage | None) -> Store:
    """The store of a resource's proxies."""
    if storage is None or storage.provider == "memory":
        return Store()
    env, volumes, mounts = [], [], []
    if storage.password_ref:
        env.append(read_password(storage.password_ref))
    if storage.tls and storage.tls.ca_ref:
        env.append({"name": "FASTPROXY_REDIS_CA", "value": f"{CERTIFICATES}/ca/ca.crt"})
        items = [{"key": storage.tls.ca_ref.key, "path": "ca.crt"}]
        volumes.append({"name": "store-ca", "secret": {"secretName": storage.tls.ca_ref.name, "items": items}})
        mounts.append({"name": "store-ca", "mountPath": f"{CERTIFICATES}/ca", "readOnly": True})
    if storage.tls and storage.tls.client_certificate_ref:
        folder = f"{CERTIFICATES}/client"
        env.append({"name": "FASTPROXY_REDIS_CERT", "value": f"{folder}/tls.crt"})
        env.append({"name": "FASTPROXY_REDIS_KEY", "value": f"{folder}/tls.key"})
        secret = {"secretName": storage.tls.client_certificate_ref.name}
        volumes.append({"name": "store-client", "secret": secret})
        mounts.append({"name": "store-client", "mountPath": folder, "readOnly": True})
    return Store(
        url=_write_url(storage),
        key_prefix=_end_with_colon(storage.key_prefix),
        required=bool(storage.required),
        env=tuple(env),
        volumes=tuple(volumes),
        mounts=tuple(mounts),
    )


def _write_url(storage: parts.SessionStorage) -> str:
    scheme = "redis" if storage.tls is None else "rediss"
    user = f"{urllib.parse.quote(storage.username, safe='')}@" if storage.username else ""
    db = storage.db or 0
    if storage.sentinel:
        service = urllib.parse.quote(storage.sentinel.master_name, safe="")
        return f"{scheme}+sentinel://{user}{','.join(storage.sentinel.addresses)}/{service}/{db}"
    if storage.cluster:
        return f"{scheme}+cluster://{user}{','.join(storage.cluster.addresses)}"
    return f"{scheme}://{user}{storage.address}/{db}"


def _end_with_colon(prefix: str | None) -> str | None:
    return prefix if prefix is None or prefix.endswith(":") else f"{prefix}:"


def read_password(reference: parts.KeyRef) -> Manifest:
    """The variable of a store's password, from its Secret."""
    selector = {"name": reference.name, "key": reference.key}
    return {"name": "FASTPROXY_REDIS_PASSWORD", "valueFrom": {"secretKeyRef": selector}}


def name_keys(resource: crd.Resource) -> tuple[str, str] | None:
    """Where a resource's records lie: store and prefix. Two resources of one pair would find each other's sessions."""
    spec = resource.spec
    if not isinstance(spec, crd.Proxied):
        return None
    store = describe(spec.session_storage)
    if not store.shared:
        return None
    own = f"fastproxy:{name_server(resource)}:{'vsession' if resource.kind is crd.VIRTUAL_SERVER else 'session'}:"
    return store.url, store.key_prefix or own


def name_server(resource: crd.Resource) -> str:
    """`--name`: the same in no two resources, since it is part of every key in a store that they may share."""
    kind = "" if resource.kind is crd.MCP_SERVER else f"{resource.kind.name.lower()}/"
    return f"{resource.namespace}/{kind}{resource.name}"
