"""What is wrong with a resource: each problem with its place, what was expected and what came. Sans-io.

A schema has refused what a schema can see; here is what it cannot, and what older API servers have no rules for. A
resource with a problem is not rolled out: what runs for it goes on as it is, until an edit. Values that the proxies
will read are read here by the proxies' own reader, so that no pod is ever started to find them wrong.
"""

import functools
import ipaddress
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fastproxy.config import schema, store_url, units, vmcp_file, vmcp_place
from fastproxy.operator import crd, overlay, parts, pod, remote_proxy, server, storage, surroundings, virtual_server

SERVICE_NAME_MAX = 63
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")  # what may stand in a Service's name: no dots, as in a resource's
_PROXY_APPS = ("mcpserver", "virtualmcpserver", "mcpremoteproxy")
ACCEPT_UNPROTECTED = "fastproxy.dev/accept-unprotected"


class Problem(msgspec.Struct, frozen=True):
    """One thing that keeps a resource from being rolled out. `reason` is the condition's word."""

    path: str
    message: str
    reason: str = "InvalidSpec"

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def review(resource: crd.Resource) -> list[Problem]:
    """Everything at once, in the order of the fields."""
    spec = resource.spec
    if not isinstance(spec, crd.Proxied):
        return []
    problems = [*_review_name(resource), *_review_durations(spec), *_review_storage(spec)]
    if isinstance(spec, crd.MCPServerSpec):
        problems += _review_server(spec)
    elif isinstance(spec, crd.VirtualMCPServerSpec):
        problems += _review_virtual(resource, spec)
    elif isinstance(spec, crd.MCPRemoteProxySpec):
        problems += _review_remote(spec)
    if resource.annotations.get(ACCEPT_UNPROTECTED) != "true":
        problems += _review_guards(spec)
    return problems


def _review_name(resource: crd.Resource) -> Iterator[Problem]:
    services = [surroundings.name_service(resource)]
    services += [server.name_headless(resource)] if resource.kind is crd.MCP_SERVER else []
    name_max = SERVICE_NAME_MAX - max(len(service) - len(resource.name) for service in services)
    if len(resource.name) > name_max or not _NAME.fullmatch(resource.name):
        yield Problem(
            "metadata.name",
            f"expected at most {name_max} of a-z, 0-9 and -, since Services are named after it, "
            f"got {units.quote(resource.name)}",
        )
    elif resource.name in _PROXY_APPS:
        yield Problem("metadata.name", f"expected another name: proxies are selected by app={resource.name}")


def _review_durations(spec: crd.Proxied) -> Iterator[Problem]:
    drain = spec.drain or parts.Drain()
    places = (
        ("spec.sessionTTL", "session_ttl", spec.session_ttl),
        ("spec.drain.delay", "drain_delay", drain.delay),
        ("spec.drain.timeout", "drain_timeout", drain.timeout),
    )
    for path, setting, text in places:
        if text is not None:
            try:
                schema.SETTINGS[setting].kind.read(text)
            except units.WrongValue as wrong:
                yield Problem(path, str(wrong))


def _review_storage(spec: crd.Proxied) -> Iterator[Problem]:
    given = spec.session_storage
    if given is None or given.provider == "memory":
        return
    places = [place for place in (given.address, given.sentinel, given.cluster) if place is not None]
    if len(places) != 1:
        yield Problem(
            "spec.sessionStorage", f"expected one of address, sentinel and cluster, got {len(places)} of them"
        )
        return
    try:
        store_url.read_store_url(storage.describe(given).url)
    except units.WrongValue as wrong:
        yield Problem("spec.sessionStorage", str(wrong))
    if given.cluster and given.db:
        yield Problem("spec.sessionStorage.db", f"expected none beside cluster, which has database 0, got {given.db}")


def _review_template(path: str, template: Mapping[str, Any] | None, container: str) -> Iterator[Problem]:
    fault = overlay.find_fault(template, container=container) if template is not None else None
    if fault:
        yield Problem(path, fault, "InvalidPodTemplateSpec")


def _review_server(spec: crd.MCPServerSpec) -> Iterator[Problem]:
    yield from _review_template("spec.podTemplateSpec", spec.pod_template_spec, server.CONTAINER)
    container = server.CONTAINER if server.is_stdio(spec) else pod.CONTAINER
    yield from _review_template("spec.proxyPodTemplateSpec", spec.proxy_pod_template_spec, container)
    if _clashes_with_admin(spec):
        yield Problem("spec.proxyPort", f"expected another port than {pod.ADMIN_PORT}, which is the admin address's")
    if server.has_sidecars(spec) and surroundings.find_port(spec) == server.find_port(spec):
        yield Problem("spec.proxyPort", f"expected another port than mcpPort {server.find_port(spec)} beside sidecar")
    if spec.authz_config is not None and spec.authz_config_ref is not None:
        yield Problem("spec.authzConfigRef", "expected authzConfig or authzConfigRef, not both")


def _clashes_with_admin(spec: crd.MCPServerSpec | crd.MCPRemoteProxySpec) -> bool:
    """Whether the proxies' port is that of their own admin address."""
    return (spec.proxy_port or spec.port) == pod.ADMIN_PORT


class _Environment(Mapping[str, str]):
    """The variables of a pod that is not there yet: each that is asked for, since templates and Secrets bring them."""

    def __getitem__(self, name: str) -> str:
        return name

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _review_virtual(resource: crd.Resource, spec: crd.VirtualMCPServerSpec) -> Iterator[Problem]:
    yield from _review_template("spec.podTemplateSpec", spec.pod_template_spec, virtual_server.CONTAINER)
    yield from _review_template("spec.proxyPodTemplateSpec", spec.proxy_pod_template_spec, virtual_server.CONTAINER)
    if not surroundings.find_group(spec):
        yield Problem("spec.groupRef", "expected the name of the MCPGroup whose servers are joined")
    for field in ("backends", "compositeTools"):
        value = (spec.config or {}).get(field)
        if value is not None and not isinstance(value, list):
            yield Problem(f"spec.config.{field}", f"expected a list, got {units.quote(value)}")
    aggregation = (spec.config or {}).get("aggregation")
    if aggregation is not None and not isinstance(aggregation, dict):
        yield Problem("spec.config.aggregation", f"expected an object, got {units.quote(aggregation)}")
        return
    # Read as the pods will read it; what composite tools mean is known to them alone.
    notes = vmcp_place.Notes()
    config = virtual_server.configure(resource, spec, surroundings.Surroundings(image=""))
    vmcp_file.read(vmcp_place.Place(notes, _Environment()), config)
    for problem in notes.problems:
        yield Problem("spec.config", problem)


def _review_remote(spec: crd.MCPRemoteProxySpec) -> Iterator[Problem]:
    yield from _review_template("spec.podTemplateSpec", remote_proxy.find_template(spec), pod.CONTAINER)
    yield from _review_template("spec.proxyPodTemplateSpec", spec.proxy_pod_template_spec, pod.CONTAINER)
    if _clashes_with_admin(spec):
        yield Problem("spec.proxyPort", f"expected another port than {pod.ADMIN_PORT}, which is the admin address's")
    backend, _ = surroundings.split_remote(spec.remote_url, spec.transport or "streamable-http")
    try:
        schema.SETTINGS["backend"].kind.read(backend)
    except units.WrongValue as wrong:
        yield Problem("spec.remoteUrl", str(wrong))
        return
    host = urllib.parse.urlsplit(spec.remote_url).hostname or ""
    if not spec.allow_private_endpoint and _is_private(host):
        yield Problem(
            "spec.remoteUrl",
            f"expected a public address, got {units.quote(host)} (allowPrivateEndpoint: true allows it)",
            "PrivateEndpointNotAllowed",
        )


def _is_private(host: str) -> bool:
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal", ".svc"))


def _review_guards(spec: crd.Proxied) -> Iterator[Problem]:
    guards = [path for path, guards in list_inert(spec) if guards]
    if isinstance(spec, crd.VirtualMCPServerSpec):
        guards += [path for path, auth in virtual_server.list_incoming(spec) if not virtual_server.is_open(auth)]
    for path in guards:
        yield Problem(
            path,
            "expected none: fastproxy does not enforce it, and an open server in its place would be worse than none "
            f'(authenticate in front of the Service and set the annotation {ACCEPT_UNPROTECTED}: "true")',
            "ProtectionNotSupported",
        )


def list_inert(spec: parts.Part) -> Iterator[tuple[str, bool]]:
    """The fields that are set and not acted on, and whether each was to protect the server."""
    for attribute, name, guards in _tabulate_inert(type(spec)):
        if getattr(spec, attribute) is not None:
            yield f"spec.{name}", guards
    if isinstance(spec, crd.VirtualMCPServerSpec):
        config = spec.outgoing_auth or {}
        if set(config) - {"source"}:
            yield "spec.outgoingAuth", False


@functools.cache
def _tabulate_inert(kind: type[parts.Part]) -> list[tuple[str, str, bool]]:
    """The fields that are marked so: attribute, name, and whether it guards. Looked up once, since it takes 10 ms."""
    marked = []
    for field in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined] # a struct's has them
        extra = getattr(field.type, "extra", None) or {}
        if extra.get(parts.INERT):
            marked.append((field.name, field.encode_name, bool(extra.get(parts.GUARD))))
    return marked
