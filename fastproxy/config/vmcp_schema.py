"""What the owner wants of `fastproxy vmcp`: a group of servers, under which names, and the front that serves them.

    VmcpConfig ─┬─ front: ServeConfig     listening, store, limits, drain, logging: the same settings as `serve` has
                └─ group: Group ─┬─ backends      who, where, with which headers, for how long
                                 ├─ aggregation   names, filters, overrides
                                 ├─ operational   health, circuit breaker, partial failure
                                 └─ composite_tools   as written; vmcp/composite reads them

Values here are final and checked. Secrets (values of headers, variables of commands, queries of URLs) never leave by
`effective()` or a repr. Sans-io.
"""

from collections.abc import Mapping

import msgspec

from fastproxy.config import schema, units

STREAMABLE, SSE, STDIO = "streamable-http", "sse", "stdio"
PREFIX, PRIORITY, MANUAL = "prefix", "priority", "manual"
DEFAULT_PREFIX_FORMAT = "{workload}_"
MASK = "***"

# Which settings of `serve` mean something in front of a group, too; the others speak of replicas of one server.
FRONT = (
    *("backend_ca", "config", "name", "listen", "admin", "store", "key_prefix", "session_ttl", "cache_sessions"),
    *("max_sessions", "store_required", "redis_password", "redis_password_file", "redis_ca", "redis_cert", "redis_key"),
    *("connect_timeout", "response_timeout", "header_timeout", "body_timeout", "idle_timeout", "replay_body"),
    *("max_body", "max_header", "max_connections", "max_new_sessions_per_second", "allowed_host", "allowed_origin"),
    *("trusted_proxy", "tls_cert", "tls_key", "access_log", "log_format", "log_level"),
    *("drain_delay", "drain_timeout", "grace_period"),
)


class Header(msgspec.Struct, frozen=True):
    """A header of every request to a backend."""

    name: str
    value: str

    def __repr__(self) -> str:
        return f"Header({self.name!r}, {MASK!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("name", self.name), ("value", MASK)]


class BackendUrl(msgspec.Struct, frozen=True):
    """Where a backend's MCP endpoint is. `target` is what its request line asks for: path and query."""

    scheme: str
    host: str
    port: int
    target: str
    origin: str  # scheme://host:port, in lower case, the port always there

    def __str__(self) -> str:
        """Without the query: clients' files keep keys there."""
        path, mark, _ = self.target.partition("?")
        return f"{self.origin}{path}{f'?{MASK}' if mark else ''}"

    def __repr__(self) -> str:
        return f"BackendUrl({str(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        return [("url", str(self))]


class BackendConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One server of the group. It has a URL, or a command to be started."""

    id: str
    transport: str = STREAMABLE
    url: BackendUrl | None = None
    command: tuple[str, ...] = ()
    environ: tuple[Header, ...] = ()  # variables for the command, in the same two words
    directory: str | None = None
    ca: str | None = None  # PEM file with the authorities trusted for it, beside the system's
    headers: tuple[Header, ...] = ()  # outgoing authentication and what a client's file sets
    timeout_seconds: float = 300.0
    metadata: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"BackendConfig({_show_backend(self)!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(_show_backend(self).items())


class Override(msgspec.Struct, frozen=True):
    """What is said of one tool instead of its backend's words. `annotations` holds only those that are replaced."""

    name: str | None = None
    description: str | None = None
    annotations: Mapping[str, object] = {}


class ToolRules(msgspec.Struct, frozen=True):
    """Which of a backend's tools are shown, and how. Names are the backend's own."""

    workload: str
    filter: tuple[str, ...] = ()
    overrides: Mapping[str, Override] = {}
    exclude_all: bool = False


class Aggregation(msgspec.Struct, frozen=True, kw_only=True):
    """How many servers' offers get one set of names."""

    strategy: str = PREFIX
    prefix_format: str = DEFAULT_PREFIX_FORMAT
    priority_order: tuple[str, ...] = ()
    tools: tuple[ToolRules, ...] = ()
    exclude_all_tools: bool = False
    default_visible: bool = True  # tools of a backend that has no entry in `tools`

    def rules(self, backend: str) -> ToolRules | None:
        """The entry of a backend."""
        return next((rules for rules in self.tools if rules.workload == backend), None)


class CircuitBreaker(msgspec.Struct, frozen=True):
    """When a backend that fails gets no more calls, and for how long."""

    enabled: bool = False
    failure_threshold: int = 5
    timeout_seconds: float = 60.0


class Operational(msgspec.Struct, frozen=True, kw_only=True):
    """How ill backends are treated."""

    health_interval_seconds: float = 30.0
    health_timeout_seconds: float | None = 10.0  # None: a probe may take as long as it likes
    unhealthy_threshold: int = 3
    status_interval_seconds: float = 30.0
    partial_failure_fails: bool = False  # `fail`: /readyz is 503 while a backend is missing
    breaker: CircuitBreaker = CircuitBreaker()


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """The servers that are to look like one."""

    name: str | None = None
    group_ref: str | None = None
    backends: tuple[BackendConfig, ...] = ()  # by id, in order
    aggregation: Aggregation = Aggregation()
    operational: Operational = Operational()
    composite_tools: tuple[Mapping[str, object], ...] = ()
    passthrough_headers: tuple[str, ...] = ()  # in lower case
    metadata: tuple[tuple[str, str], ...] = ()


class VmcpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the owner wants of `fastproxy vmcp`, checked."""

    front: schema.ServeConfig
    group: Group

    def effective(self) -> dict[str, object]:
        """All of it as files would hold it, secrets masked: what /config answers."""
        front = self.front.effective()
        return {**{name: front[name] for name in FRONT}, "group": show(self.group)}

    def __repr__(self) -> str:
        return f"VmcpConfig({self.effective()!r})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return list(self.effective().items())


def show(group: Group) -> dict[str, object]:
    """A group in the words of its file, secrets masked."""
    rules = group.aggregation
    ill = group.operational
    return {
        "name": group.name,
        "groupRef": group.group_ref,
        "backends": [_show_backend(one) for one in group.backends],
        "aggregation": {
            "conflictResolution": rules.strategy,
            "conflictResolutionConfig": {
                "prefixFormat": rules.prefix_format,
                "priorityOrder": list(rules.priority_order),
            },
            "tools": [_show_rules(one) for one in rules.tools],
            "excludeAllTools": rules.exclude_all_tools,
            "defaultToolVisibility": "allow" if rules.default_visible else "deny",
        },
        "operational": {
            "failureHandling": {
                "healthCheckInterval": units.show_duration(ill.health_interval_seconds),
                "healthCheckTimeout": units.show_duration(ill.health_timeout_seconds or 0.0),
                "unhealthyThreshold": ill.unhealthy_threshold,
                "statusReportingInterval": units.show_duration(ill.status_interval_seconds),
                "partialFailureMode": "fail" if ill.partial_failure_fails else "best_effort",
                "circuitBreaker": {
                    "enabled": ill.breaker.enabled,
                    "failureThreshold": ill.breaker.failure_threshold,
                    "timeout": units.show_duration(ill.breaker.timeout_seconds),
                },
            }
        },
        "compositeTools": [dict(one) for one in group.composite_tools],
        "passthroughHeaders": list(group.passthrough_headers),
        "metadata": dict(group.metadata),
    }


def _show_backend(backend: BackendConfig) -> dict[str, object]:
    shown: dict[str, object] = {"name": backend.id, "transport": backend.transport}
    if backend.url is not None:
        shown["url"] = str(backend.url)
    if backend.command:
        # What follows the program may hold a key, as clients' files do.
        shown["command"] = [backend.command[0], *(MASK for _ in backend.command[1:])]
    optional = {
        "caBundlePath": backend.ca,
        "headers": {header.name: MASK for header in backend.headers},
        "env": {variable.name: MASK for variable in backend.environ},
        "metadata": dict(backend.metadata),
    }
    shown |= {name: value for name, value in optional.items() if value}
    return shown | {"timeout": units.show_duration(backend.timeout_seconds)}


def _show_rules(rules: ToolRules) -> dict[str, object]:
    overrides: dict[str, object] = {}
    for tool, override in rules.overrides.items():
        words = {"name": override.name, "description": override.description, "annotations": dict(override.annotations)}
        overrides[tool] = {name: value for name, value in words.items() if value}
    return {
        "workload": rules.workload,
        "filter": list(rules.filter),
        "overrides": overrides,
        "excludeAll": rules.exclude_all,
    }
