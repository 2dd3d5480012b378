"""The parts of which our resources' specs are made: references, session storage, drain, templates.

Each struct is both what the code reads and where its schema comes from (schema.py): a description, bounds and patterns
stand at the field, and nowhere else. `inert` marks what existing manifests carry and we accept without acting on it:
the resource's condition names such a field, so nothing is dropped silently. `guard` marks an inert field that was to
protect the server: without it nothing is rolled out, as an open server in its place would be worse than none. Sans-io.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

# A piece of JSON whose schema is somebody else's: pod templates, referenced configurations.
Opaque = dict[str, Any]

INERT, GUARD = "inert", "guard"

DURATION_PATTERN = r"^([0-9]{1,15}(\.[0-9]{1,9})?)(ms|s|m|h)?$"  # what config.units reads, as a schema can say it
HOST_PORT_PATTERN = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}$"
CEL_STRING_MAX = 256  # a bound on what rules look at: the API server refuses a rule whose cost it cannot bound


class Part(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A piece of a resource; unset is None, never a default that the server would write into every object."""


def inert(description: str) -> Meta:
    """A field that is accepted and not acted on."""
    return Meta(description=f"{description} Accepted, not acted on.", extra={INERT: True})


def guard(description: str) -> Meta:
    """A field that protects the server, and that we cannot honour: it holds the roll-out."""
    return Meta(description=f"{description} Not enforced: the roll-out is held.", extra={INERT: True, GUARD: True})


Port = Annotated[int, Meta(ge=1, le=65535)]
Count = Annotated[int, Meta(ge=0, le=2147483647)]
Duration = Annotated[str, Meta(pattern=DURATION_PATTERN, max_length=32)]
Name = Annotated[str, Meta(min_length=1, max_length=253)]
HostPort = Annotated[str, Meta(pattern=HOST_PORT_PATTERN, min_length=1, max_length=CEL_STRING_MAX)]
Database = Annotated[int, Meta(ge=0, le=16383)]
KeyPrefix = Annotated[str, Meta(min_length=1, max_length=CEL_STRING_MAX)]
User = Annotated[str, Meta(min_length=1, max_length=128)]
Affinity = Literal["ClientIP", "None"]
Quantity = int | str


class NameRef(Part, frozen=True):
    """Names an object of the same namespace."""

    name: Annotated[Name, Meta(description="Name of the object.")]


class KeyRef(Part, frozen=True):
    """Names a key of a Secret of the same namespace."""

    name: Annotated[Name, Meta(description="Name of the Secret.")]
    key: Annotated[Name, Meta(description="Key in the Secret.")]


class EnvVar(Part, frozen=True):
    """A variable of the MCP server's environment."""

    name: Annotated[Name, Meta(description="Name of the variable.")]
    value: Annotated[str, Meta(description="Its value.")] = ""


class SecretEnv(Part, frozen=True):
    """A variable of the MCP server's environment, from a Secret."""

    name: Annotated[Name, Meta(description="Name of the Secret.")]
    key: Annotated[Name, Meta(description="Key in the Secret.")]
    target_env_name: Annotated[str | None, Meta(description="Name of the variable; the key when unset.")] = None


class HostVolume(Part, frozen=True):
    """A folder of the node, mounted into the MCP server."""

    name: Annotated[Name, Meta(description="Name of the volume.")]
    host_path: Annotated[str, Meta(description="Folder on the node.")]
    mount_path: Annotated[str, Meta(description="Where the MCP server sees it.")]
    read_only: Annotated[bool | None, Meta(description="Mounted read-only; false when unset.")] = None


class ResourceList(Part, frozen=True):
    """Amounts of what a container may use."""

    cpu: Annotated[Quantity | None, Meta(description="Processor, such as 500m.")] = None
    memory: Annotated[Quantity | None, Meta(description="Memory, such as 128Mi.")] = None


class Resources(Part, frozen=True):
    """What a container asks for, and what it may have."""

    limits: Annotated[ResourceList | None, Meta(description="What it may have at most.")] = None
    requests: Annotated[ResourceList | None, Meta(description="What is set aside for it.")] = None


class StorageTls(Part, frozen=True):
    """TLS to the session store; its presence turns it on."""

    ca_ref: Annotated[
        KeyRef | None, Meta(description="PEM authorities that are trusted; the system's own when unset.")
    ] = None
    client_certificate_ref: Annotated[
        NameRef | None, Meta(description="Secret of type kubernetes.io/tls that is shown to the store (mutual TLS).")
    ] = None


class Sentinel(Part, frozen=True):
    """A master that sentinels name."""

    master_name: Annotated[str, Meta(description="Name by which the sentinels know the master.", min_length=1)]
    addresses: Annotated[list[HostPort], Meta(description="The sentinels.", min_length=1, max_length=32)]


class Cluster(Part, frozen=True):
    """A Redis Cluster."""

    addresses: Annotated[list[HostPort], Meta(description="Some of its nodes.", min_length=1, max_length=64)]


class SessionStorage(Part, frozen=True):
    """Where sessions are kept so that every replica can serve them."""

    provider: Annotated[Literal["memory", "redis"], Meta(description="memory: each proxy for itself; redis: shared.")]
    address: Annotated[HostPort | None, Meta(description="HOST:PORT of a single Redis.")] = None
    db: Annotated[Database | None, Meta(description="Number of the database; 0 when unset.")] = None
    key_prefix: Annotated[
        KeyPrefix | None,
        Meta(description="Begins every key; a missing final colon is added. Unset: a prefix of this resource's own."),
    ] = None
    username: Annotated[User | None, Meta(description="ACL user; the default user when unset.")] = None
    password_ref: Annotated[KeyRef | None, Meta(description="Secret that holds the password.")] = None
    tls: Annotated[StorageTls | None, Meta(description="TLS to the store; {} is enough to turn it on.")] = None
    sentinel: Annotated[Sentinel | None, Meta(description="Instead of an address: sentinels.")] = None
    cluster: Annotated[Cluster | None, Meta(description="Instead of an address: a Redis Cluster.")] = None
    required: Annotated[
        bool | None, Meta(description="Refuse new sessions while the store is away; false when unset.")
    ] = None


class Drain(Part, frozen=True):
    """How a proxy takes its leave."""

    delay: Annotated[
        Duration | None,
        Meta(description="How long all goes on after readiness has turned, until balancers know; 5s when unset."),
    ] = None
    timeout: Annotated[
        Duration | None, Meta(description="How long open streams may go on after that; 25s when unset.")
    ] = None


class DisruptionBudget(Part, frozen=True):
    """How many of the proxies an eviction may take at a time."""

    enabled: Annotated[bool | None, Meta(description="Whether there is one; true when unset.")] = None
    max_unavailable: Annotated[int | str | None, Meta(description="A number or a percentage; 1 when unset.")] = None


class ObjectOverrides(Part, frozen=True):
    """Labels and annotations that are added to an object."""

    annotations: Annotated[dict[str, str] | None, Meta(description="Annotations to add.")] = None
    labels: Annotated[dict[str, str] | None, Meta(description="Labels to add; our own win.")] = None


class DeploymentOverrides(ObjectOverrides, frozen=True):
    """What is added to the proxy's Deployment."""

    pod_template_metadata_overrides: Annotated[
        ObjectOverrides | None, Meta(description="Labels and annotations of its pods.")
    ] = None
    env: Annotated[list[EnvVar] | None, Meta(description="Variables of the proxy, such as FASTPROXY_LOG_LEVEL.")] = None
    image_pull_secrets: Annotated[list[NameRef] | None, Meta(description="Secrets to pull images with.")] = None


class ResourceOverrides(Part, frozen=True):
    """What is added to the objects that are made for a resource."""

    proxy_deployment: Annotated[DeploymentOverrides | None, Meta(description="Of the proxy's Deployment.")] = None
    proxy_service: Annotated[ObjectOverrides | None, Meta(description="Of the proxy's Service.")] = None


class Condition(Part, frozen=True):
    """One fact about a resource, as Kubernetes writes it."""

    type: Annotated[str, Meta(description="What it is about.", max_length=316)]
    status: Annotated[Literal["True", "False", "Unknown"], Meta(description="Whether it holds.")]
    reason: Annotated[str, Meta(description="Why, in one word.", max_length=1024)]
    last_transition_time: Annotated[str, Meta(description="When the status last changed.")]
    message: Annotated[str, Meta(description="Why, for people.", max_length=32768)] = ""
    observed_generation: Annotated[int | None, Meta(description="The generation that was looked at.")] = None
