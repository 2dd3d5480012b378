"""Our four resources, as the cluster holds them: specs and statuses.

Group and versions are those of the operator that this one replaces, so that manifests written for it apply unchanged.
A new field is one line here, one in the renderer of its kind, and a golden manifest. Sans-io.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from fastproxy.operator import parts
from fastproxy.operator.parts import Affinity, Count, Duration, Opaque, Port, guard, inert

GROUP = "toolhive.stacklok.dev"
STORAGE_VERSION = "v1beta1"
VERSIONS = ("v1beta1", "v1alpha1")

Phase = Literal["Pending", "Ready", "Degraded", "Failed", "Terminating", "Stopped"]


class Proxied(parts.Part, frozen=True):
    """What every resource with proxies of its own may say about them."""

    replicas: Annotated[
        Count | None,
        Meta(description="Replicas of the proxy. Unset: never touched, kubectl scale and autoscalers own it."),
    ] = None
    session_affinity: Annotated[
        Affinity | None,
        Meta(description="Of the proxy's Service; ClientIP when unset. Correctness never rests on it."),
    ] = None
    session_storage: Annotated[
        parts.SessionStorage | None, Meta(description="Where sessions are kept; unset: in each proxy's memory.")
    ] = None
    session_ttl: Annotated[Duration | None, Meta(description="Idle time after which a session is forgotten.")] = (
        msgspec.field(default=None, name="sessionTTL")
    )
    cache_sessions: Annotated[
        Annotated[int, Meta(ge=1, le=100000000)] | None, Meta(description="Sessions remembered in front of the store.")
    ] = None
    drain: Annotated[parts.Drain | None, Meta(description="How a proxy takes its leave.")] = None
    termination_grace_period_seconds: Annotated[
        Annotated[int, Meta(ge=0, le=86400)] | None,
        Meta(description="Of the proxy's pods. Raised where a drain would not fit into it; 60 when unset."),
    ] = None
    pod_disruption_budget: Annotated[
        parts.DisruptionBudget | None, Meta(description="Of the proxy's pods; at most one at a time when unset.")
    ] = None
    proxy_pod_template_spec: Annotated[
        Opaque | None,
        Meta(description="Merged into the proxy's pod template by name; its container is called fastproxy."),
    ] = None


class MCPServerSpec(Proxied, frozen=True, kw_only=True):
    """An MCP server and the proxies in front of it."""

    image: Annotated[str, Meta(description="Image of the MCP server.", min_length=1, max_length=1024)]
    transport: Annotated[
        Literal["stdio", "streamable-http", "sse"] | None,
        Meta(
            description="What the MCP server speaks; stdio when unset. A stdio server is started by the one proxy "
            "beside it, so its image holds fastproxy too."
        ),
    ] = None
    proxy_mode: Annotated[
        Literal["sse", "streamable-http"] | None,
        Meta(description="What a stdio server's proxy speaks; streamable-http when unset."),
    ] = None
    proxy_port: Annotated[Port | None, Meta(description="Port of the proxy; 8080 when unset.")] = None
    mcp_port: Annotated[Port | None, Meta(description="Port of the MCP server; 8080 when unset.")] = None
    port: Annotated[Port | None, Meta(description="Older name of proxyPort.")] = None
    target_port: Annotated[Port | None, Meta(description="Older name of mcpPort.")] = None
    backend_replicas: Annotated[
        Count | None,
        Meta(description="Replicas of the MCP server. Unset: never touched, kubectl scale and autoscalers own it."),
    ] = None
    sidecar: Annotated[
        bool | None,
        Meta(
            description="Proxies inside of the MCP server's pods, instead of pods of their own: as many as backends. "
            "Every proxy still serves every session. False when unset."
        ),
    ] = None
    args: Annotated[list[str] | None, Meta(description="Arguments of the MCP server.")] = None
    env: Annotated[list[parts.EnvVar] | None, Meta(description="Environment of the MCP server.")] = None
    secrets: Annotated[list[parts.SecretEnv] | None, Meta(description="Its environment from Secrets.")] = None
    volumes: Annotated[list[parts.HostVolume] | None, Meta(description="Folders of the node.")] = None
    resources: Annotated[parts.Resources | None, Meta(description="Of the proxy's container.")] = None
    service_account: Annotated[
        str | None, Meta(description="ServiceAccount of the MCP server; one without rights is made when unset.")
    ] = None
    pod_template_spec: Annotated[
        Opaque | None,
        Meta(description="Merged into the MCP server's pod template by name; its container is called mcp."),
    ] = None
    resource_overrides: Annotated[
        parts.ResourceOverrides | None, Meta(description="Added to the proxy's Deployment and Service.")
    ] = None
    group_ref: Annotated[parts.NameRef | None, Meta(description="The MCPGroup it belongs to.")] = None
    trust_proxy_headers: Annotated[
        bool | None, Meta(description="Believe X-Forwarded-* and Forwarded of whoever connects; false when unset.")
    ] = None
    permission_profile: Annotated[Opaque | None, inert("Permissions of the MCP server.")] = None
    tools: Annotated[list[str] | None, inert("Older filter of tools.")] = None
    endpoint_prefix: Annotated[str | None, inert("Prefix of the endpoint that an SSE stream names.")] = None
    rate_limiting: Annotated[Opaque | None, inert("Limits of calls.")] = None
    tool_config_ref: Annotated[Opaque | None, inert("Filters and new names of tools.")] = None
    telemetry_config_ref: Annotated[Opaque | None, inert("Telemetry.")] = None
    telemetry: Annotated[Opaque | None, inert("Older place of telemetry.")] = None
    audit: Annotated[Opaque | None, inert("Audit log.")] = None
    webhook_config_ref: Annotated[Opaque | None, guard("Webhooks that judge calls.")] = None
    external_auth_config_ref: Annotated[Opaque | None, inert("Credentials towards the MCP server.")] = None
    oidc_config_ref: Annotated[Opaque | None, guard("Who may call.")] = None
    oidc_config: Annotated[Opaque | None, guard("Older place of who may call.")] = None
    authz_config: Annotated[Opaque | None, guard("Who may call what.")] = None
    authz_config_ref: Annotated[Opaque | None, guard("Who may call what.")] = None
    auth_server_ref: Annotated[Opaque | None, guard("Who lets callers in.")] = None


class VirtualMCPServerSpec(Proxied, frozen=True):
    """The MCP servers of a group as one."""

    incoming_auth: Annotated[Opaque | None, Meta(description="Who may call; only type anonymous can be honoured.")] = (
        None
    )
    outgoing_auth: Annotated[
        Opaque | None, Meta(description="Credentials towards the servers; only none can be honoured.")
    ] = None
    group_ref: Annotated[parts.NameRef | None, Meta(description="The MCPGroup whose servers are joined.")] = None
    config: Annotated[
        Opaque | None, Meta(description="The vMCP's configuration: aggregation, composite tools, timeouts and so on.")
    ] = None
    service_type: Annotated[
        Literal["ClusterIP", "NodePort", "LoadBalancer"] | None,
        Meta(description="Of its Service; ClusterIP when unset."),
    ] = None
    service_account: Annotated[str | None, Meta(description="Its ServiceAccount; one without rights when unset.")] = (
        None
    )
    resources: Annotated[parts.Resources | None, Meta(description="Of its container.")] = None
    image_pull_secrets: Annotated[list[parts.NameRef] | None, Meta(description="Secrets to pull images with.")] = None
    pod_template_spec: Annotated[
        Opaque | None, Meta(description="Merged into its pod template by name; its container is called vmcp.")
    ] = None
    telemetry_config_ref: Annotated[Opaque | None, inert("Telemetry.")] = None
    embedding_server_ref: Annotated[Opaque | None, inert("Embeddings of the optimizer.")] = None
    auth_server_config: Annotated[Opaque | None, guard("Who lets callers in.")] = None


class MCPRemoteProxySpec(Proxied, frozen=True, kw_only=True):
    """A remote MCP server and the proxies in front of it."""

    remote_url: Annotated[
        str,
        Meta(description="URL of the remote MCP server.", pattern=r"^https?://[^\s]+$", max_length=2048),
    ]
    allow_private_endpoint: Annotated[
        bool | None, Meta(description="Allow a loopback or private address in remoteUrl; false when unset.")
    ] = None
    proxy_port: Annotated[Port | None, Meta(description="Port of the proxy; 8080 when unset.")] = None
    port: Annotated[Port | None, Meta(description="Older name of proxyPort.")] = None
    transport: Annotated[
        Literal["sse", "streamable-http"] | None,
        Meta(description="What the remote server speaks; streamable-http when unset."),
    ] = None
    resources: Annotated[parts.Resources | None, Meta(description="Of the proxy's container.")] = None
    service_account: Annotated[
        str | None, Meta(description="ServiceAccount of the proxy; one without rights when unset.")
    ] = None
    pod_template_spec: Annotated[
        Opaque | None,
        Meta(description="Merged into the proxy's pod template by name; its container is called fastproxy."),
    ] = None
    resource_overrides: Annotated[
        parts.ResourceOverrides | None, Meta(description="Added to the proxy's Deployment and Service.")
    ] = None
    group_ref: Annotated[parts.NameRef | None, Meta(description="The MCPGroup it belongs to.")] = None
    trust_proxy_headers: Annotated[
        bool | None, Meta(description="Believe X-Forwarded-* and Forwarded of whoever connects; false when unset.")
    ] = None
    header_forward: Annotated[Opaque | None, inert("Headers that are added towards the remote server.")] = None
    external_auth_config_ref: Annotated[Opaque | None, inert("Credentials towards the remote server.")] = None
    tool_config_ref: Annotated[Opaque | None, inert("Filters and new names of tools.")] = None
    telemetry_config_ref: Annotated[Opaque | None, inert("Telemetry.")] = None
    telemetry: Annotated[Opaque | None, inert("Older place of telemetry.")] = None
    audit: Annotated[Opaque | None, inert("Audit log.")] = None
    endpoint_prefix: Annotated[str | None, inert("Prefix of the endpoint that an SSE stream names.")] = None
    oidc_config_ref: Annotated[Opaque | None, guard("Who may call.")] = None
    oidc_config: Annotated[Opaque | None, guard("Older place of who may call.")] = None
    authz_config: Annotated[Opaque | None, guard("Who may call what.")] = None
    authz_config_ref: Annotated[Opaque | None, guard("Who may call what.")] = None
    auth_server_ref: Annotated[Opaque | None, guard("Who lets callers in.")] = None


class MCPGroupSpec(parts.Part, frozen=True):
    """A set of MCP servers that name it."""

    description: Annotated[str | None, Meta(description="What it is for.")] = None


class WorkloadStatus(parts.Part, frozen=True):
    """How a resource with proxies does."""

    phase: Annotated[Phase | None, Meta(description="All in one word.")] = None
    message: Annotated[str | None, Meta(description="The same for people.")] = None
    url: Annotated[str | None, Meta(description="Where clients of the cluster connect.")] = None
    replicas: Annotated[int | None, Meta(description="Pods of the proxy.")] = None
    ready_replicas: Annotated[int | None, Meta(description="Those of them that are ready.")] = None
    backend_replicas: Annotated[int | None, Meta(description="Pods of the MCP server.")] = None
    ready_backend_replicas: Annotated[int | None, Meta(description="Those of them that are ready.")] = None
    selector: Annotated[str | None, Meta(description="Of the proxy's pods: for autoscalers.")] = None
    backend_count: Annotated[int | None, Meta(description="MCP servers that are joined.")] = None
    observed_generation: Annotated[int | None, Meta(description="The generation that was looked at.")] = None
    conditions: Annotated[list[parts.Condition] | None, Meta(description="Facts, one by one.")] = None


class GroupStatus(parts.Part, frozen=True):
    """Who is in a group."""

    phase: Annotated[Phase | None, Meta(description="All in one word.")] = None
    servers: Annotated[list[str] | None, Meta(description="MCPServers that name it.")] = None
    server_count: Annotated[int | None, Meta(description="Their number.")] = None
    remote_proxies: Annotated[list[str] | None, Meta(description="MCPRemoteProxies that name it.")] = None
    remote_proxy_count: Annotated[int | None, Meta(description="Their number.")] = None
    observed_generation: Annotated[int | None, Meta(description="The generation that was looked at.")] = None
    conditions: Annotated[list[parts.Condition] | None, Meta(description="Facts, one by one.")] = None


AnySpec = MCPServerSpec | VirtualMCPServerSpec | MCPRemoteProxySpec | MCPGroupSpec


class Kind(msgspec.Struct, frozen=True):
    """One of our kinds: its names and its structs."""

    name: str
    plural: str
    short: tuple[str, ...]
    spec: type[AnySpec]
    status: type[WorkloadStatus] | type[GroupStatus]

    @property
    def finalizer(self) -> str:
        return f"{self.name.lower()}.{GROUP}/finalizer"


MCP_SERVER = Kind("MCPServer", "mcpservers", ("mcps",), MCPServerSpec, WorkloadStatus)
VIRTUAL_SERVER = Kind("VirtualMCPServer", "virtualmcpservers", ("vmcp",), VirtualMCPServerSpec, WorkloadStatus)
REMOTE_PROXY = Kind("MCPRemoteProxy", "mcpremoteproxies", ("mcprp",), MCPRemoteProxySpec, WorkloadStatus)
GROUP_KIND = Kind("MCPGroup", "mcpgroups", ("mcpg",), MCPGroupSpec, GroupStatus)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (MCP_SERVER, VIRTUAL_SERVER, REMOTE_PROXY, GROUP_KIND)}


class Resource(msgspec.Struct, frozen=True):
    """One resource, read: what the renderer and the conditions look at. `status` is as the cluster has it."""

    kind: Kind
    namespace: str
    name: str
    spec: AnySpec
    uid: str = ""
    generation: int = 1
    annotations: Mapping[str, str] = {}
    status: Mapping[str, Any] = {}


def read_resource(manifest: Mapping[str, Any], *, namespace: str = "default") -> Resource:
    """A resource from its manifest. Raises `msgspec.ValidationError`, whose text has the place, where the spec is
    bad."""
    kind = KINDS[manifest["kind"]]
    metadata = manifest.get("metadata") or {}
    return Resource(
        kind=kind,
        namespace=metadata.get("namespace") or namespace,
        name=metadata["name"],
        spec=msgspec.convert(manifest.get("spec") or {}, kind.spec),
        uid=metadata.get("uid", ""),
        generation=metadata.get("generation", 1),
        annotations=metadata.get("annotations") or {},
        status=manifest.get("status") or {},
    )
