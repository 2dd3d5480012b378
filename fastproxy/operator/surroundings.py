"""What a renderer is told beside the resource itself, and where a resource's proxies are reached. Sans-io."""

import urllib.parse
from collections.abc import Iterable

import msgspec

from fastproxy.operator import crd

PORT = 8080  # of proxies and of MCP servers, unless told otherwise
VIRTUAL_PORT = 4483


class Member(msgspec.Struct, frozen=True):
    """One MCP server of a group, as a vMCP reaches it."""

    name: str
    url: str
    transport: str


class Surroundings(msgspec.Struct, frozen=True):
    """All that manifests depend on beside the resource."""

    image: str  # of fastproxy
    cluster_domain: str = "cluster.local"
    backend_replicas: int | None = None  # of the StatefulSet as it stands, where nobody but an autoscaler sets them
    members: tuple[Member, ...] = ()  # of the group that a VirtualMCPServer names


def name_service(resource: crd.Resource) -> str:
    """The Service in front of a resource's proxies."""
    if resource.kind is crd.VIRTUAL_SERVER:
        return f"vmcp-{resource.name}"
    return f"mcp-{resource.name}-{'remote-proxy' if resource.kind is crd.REMOTE_PROXY else 'proxy'}"


def find_port(spec: crd.AnySpec) -> int:
    """The port of that Service and of the proxies."""
    if isinstance(spec, crd.MCPServerSpec | crd.MCPRemoteProxySpec):
        return spec.proxy_port or spec.port or PORT
    return VIRTUAL_PORT


def find_transport(spec: crd.AnySpec) -> str:
    """What clients speak to the proxies."""
    if isinstance(spec, crd.MCPServerSpec):
        transport = spec.transport or "stdio"
        return (spec.proxy_mode or "streamable-http") if transport == "stdio" else transport
    if isinstance(spec, crd.MCPRemoteProxySpec):
        return spec.transport or "streamable-http"
    return "streamable-http"


def split_remote(url: str, transport: str) -> tuple[str, str]:
    """A remote server's URL as `--backend`, and the path that clients ask us for; a usual end of it is theirs."""
    parsed = urllib.parse.urlsplit(url)
    path = parsed.path.rstrip("/")
    end = "/sse" if transport == "sse" else "/mcp"
    base = path.removesuffix(end) if path.endswith(end) else ""
    return f"{parsed.scheme}://{parsed.netloc}{base}", end if path.endswith(end) or not path else path


def write_url(resource: crd.Resource, cluster_domain: str) -> str:
    """Where clients of the cluster connect."""
    transport = find_transport(resource.spec)
    path = "/sse" if transport == "sse" else "/mcp"
    if isinstance(resource.spec, crd.MCPRemoteProxySpec):
        _, path = split_remote(resource.spec.remote_url, transport)
    host = f"{name_service(resource)}.{resource.namespace}.svc.{cluster_domain}"
    return f"http://{host}:{find_port(resource.spec)}{path}"


def describe_member(resource: crd.Resource, cluster_domain: str) -> Member:
    """A group's MCPServer or MCPRemoteProxy, for the vMCP in front of it."""
    return Member(resource.name, write_url(resource, cluster_domain), find_transport(resource.spec))


def find_group(spec: crd.AnySpec) -> str:
    """The group that a VirtualMCPServer joins: a field of its own, or, in older manifests, one of its configuration."""
    if not isinstance(spec, crd.VirtualMCPServerSpec):
        return ""
    config = spec.config or {}
    return spec.group_ref.name if spec.group_ref else str(config.get("groupRef") or config.get("group") or "")


def is_member(resource: crd.Resource, namespace: str, group: str) -> bool:
    """Whether a resource belongs to a group: it names it, in the same namespace."""
    spec = resource.spec
    if not isinstance(spec, crd.MCPServerSpec | crd.MCPRemoteProxySpec) or spec.group_ref is None:
        return False
    return resource.namespace == namespace and spec.group_ref.name == group


def list_members(resource: crd.Resource, others: Iterable[crd.Resource], cluster_domain: str) -> tuple[Member, ...]:
    """The members of the group that a VirtualMCPServer names, by name; nothing for other kinds."""
    group = find_group(resource.spec)
    found = [describe_member(each, cluster_domain) for each in others if is_member(each, resource.namespace, group)]
    return tuple(sorted(found, key=lambda member: member.name)) if group else ()
