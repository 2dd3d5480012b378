"""The sidecar: a proxy's container, added to a workload that has an MCP server in each of its pods. Sans-io.

An annotation says which port the server listens on: `fastproxy.dev/inject: "8080"`. Its pods then have the proxy in
front of that port, each for its own server: drain, limits, metrics and health for a workload that is not an MCPServer.
What is added once is not added again, and a pod that has our container stays as it is.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from fastproxy.config import schema, units
from fastproxy.operator import manifest, parts, pod, storage
from fastproxy.operator.manifest import Manifest

ANNOTATION = f"{manifest.DOMAIN}/inject"
LISTEN_ANNOTATION = f"{manifest.DOMAIN}/listen"
NAME_ANNOTATION = f"{manifest.DOMAIN}/name"
BACKEND_ANNOTATION = f"{manifest.DOMAIN}/backend"
STORE_ANNOTATION = f"{manifest.DOMAIN}/store"
PASSWORD_ANNOTATION = f"{manifest.DOMAIN}/store-password"
PORT = 8081  # of the sidecar, unless told otherwise
_TEMPLATED = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet")
_MARK = f"{manifest.DOMAIN}/injected"


class Wish(msgspec.Struct, frozen=True):
    """What a workload's annotations ask for."""

    server_port: int
    listen_port: int
    name: str
    backend: str
    store: str
    password: tuple[str, str] | None  # Secret and key


def inject(workload: Manifest, *, image: str) -> Manifest:
    """The workload with a sidecar in its pods; itself where it asks for none. Raises `units.WrongValue`."""
    if workload.get("kind") == "Pod":
        return _inject_pod(workload, workload, image=image)
    spec = workload.get("spec")
    if (
        workload.get("kind") not in _TEMPLATED
        or not isinstance(spec, dict)
        or not isinstance(spec.get("template"), dict)
    ):
        return workload
    template = _inject_pod(spec["template"], workload, image=image)
    return workload if template is spec["template"] else {**workload, "spec": {**spec, "template": template}}


def ask(workload: Manifest, port: str) -> Manifest:
    """A workload that asks for a sidecar; what has no pods does not."""
    if workload.get("kind") not in (*_TEMPLATED, "Pod"):
        return workload
    metadata = workload["metadata"]
    annotations = {ANNOTATION: port, **(metadata.get("annotations") or {})}
    return {**workload, "metadata": {**metadata, "annotations": annotations}}


def _inject_pod(template: Manifest, workload: Manifest, *, image: str) -> Manifest:
    annotations = {**_list_annotations(template), **_list_annotations(workload)}
    wish = read_wish(annotations, workload)
    spec = template.get("spec") or {}
    containers = spec.get("containers") or []
    if wish is None or any(each.get("name") == pod.CONTAINER for each in containers):
        return template
    grace = max(spec.get("terminationGracePeriodSeconds") or 30, LEAVE.grace_seconds)
    metadata = template.get("metadata") or {}
    return {
        **template,
        "metadata": {**metadata, "annotations": {**(metadata.get("annotations") or {}), _MARK: str(wish.listen_port)}},
        "spec": {
            **spec,
            "terminationGracePeriodSeconds": grace,
            "containers": [*containers, make_sidecar(wish, image=image, grace_seconds=grace)],
        },
    }


LEAVE = pod.Leave(delay_seconds=5.0, timeout_seconds=25.0, grace_seconds=pod.GRACE_SECONDS, grace_asked=None)


def _list_annotations(manifest_like: Manifest) -> Mapping[str, Any]:
    return (manifest_like.get("metadata") or {}).get("annotations") or {}


def read_wish(annotations: Mapping[str, Any], workload: Manifest) -> Wish | None:
    """What the annotations ask for, or None."""
    text = annotations.get(ANNOTATION)
    if text is None or text == "false":
        return None
    server_port = _read_port(ANNOTATION, text)
    listen_port = _read_port(LISTEN_ANNOTATION, annotations.get(LISTEN_ANNOTATION, str(PORT)))
    if server_port == listen_port:
        raise units.WrongValue(f"{LISTEN_ANNOTATION}: expected another port than the server's own {server_port}")
    metadata = workload.get("metadata") or {}
    own = metadata.get("name") or str(metadata.get("generateName") or "sidecar").rstrip("-")
    name = annotations.get(NAME_ANNOTATION) or f"{metadata.get('namespace') or 'default'}/{own}"
    store = str(annotations.get(STORE_ANNOTATION) or "")
    backend = annotations.get(BACKEND_ANNOTATION)
    if store and backend is None:
        raise units.WrongValue(
            f"{BACKEND_ANNOTATION}: expected it beside {STORE_ANNOTATION}, as in dns://my-headless:{server_port}: in a "
            "shared record 127.0.0.1 would mean another server in each pod"
        )
    for annotation, setting, value in ((STORE_ANNOTATION, "store", store), (BACKEND_ANNOTATION, "backend", backend)):
        try:
            _ = schema.SETTINGS[setting].kind.read(value) if value else None
        except units.WrongValue as wrong:
            raise units.WrongValue(f"{annotation}: {wrong}") from None
    return Wish(
        server_port,
        listen_port,
        str(name),
        str(backend or f"http://127.0.0.1:{server_port}"),
        store,
        _read_password(annotations.get(PASSWORD_ANNOTATION)),
    )


def _read_password(text: object) -> tuple[str, str] | None:
    if text is None:
        return None
    secret, slash, key = str(text).partition("/")
    if not secret or not slash or not key:
        raise units.WrongValue(f"{PASSWORD_ANNOTATION}: expected SECRET/KEY, got {units.quote(text)}")
    return secret, key


def _read_port(name: str, text: object) -> int:
    number = int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 1 <= number <= 65535 or number == pod.ADMIN_PORT:
        raise units.WrongValue(
            f"{name}: expected a port of 1 to 65535 other than {pod.ADMIN_PORT}, as text, got {units.quote(text)}"
        )
    return number


def make_sidecar(wish: Wish, *, image: str, grace_seconds: int) -> Manifest:
    """The container. It has no volume: all it needs to know stands in its arguments."""
    leave = msgspec.structs.replace(LEAVE, grace_seconds=grace_seconds)
    args = ["serve", "--backend", wish.backend, "--name", wish.name]
    args += ["--listen", f"0.0.0.0:{wish.listen_port}", "--admin", f"0.0.0.0:{pod.ADMIN_PORT}"]
    args += ["--store", wish.store] if wish.store else []
    args += ["--drain-delay", "5s", "--drain-timeout", "25s"]
    store = storage.Store()
    if wish.password:
        store = storage.Store(env=(storage.read_password(parts.KeyRef(name=wish.password[0], key=wish.password[1])),))
    container = pod.make_container(image=image, args=args, port=wish.listen_port, leave=leave, store=store)
    del container["volumeMounts"]
    # The names `http` and `admin` may be the workload's own already.
    for port, name in zip(container["ports"], ("fastproxy", "fastproxy-admin"), strict=True):
        port["name"] = name
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        container[probe] = {**container[probe], "httpGet": {**container[probe]["httpGet"], "port": pod.ADMIN_PORT}}
    return container
