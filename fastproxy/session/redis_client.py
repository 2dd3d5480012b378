"""How to reach a Redis: one place each for redis-py's clients and for what its errors mean to us.

`Address` (what the owner wrote) --connect--> a client of redis-py for a single server, Sentinel or Cluster, with its
own retries off: the deadline is the store's, and a library that retries would multiply it.
An exception of redis-py --fault--> StoreUnavailable or StoreRefused, with what to do about it.
"""

import contextlib
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal, TypeAlias, TypeVar, cast

import msgspec
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.retry
import redis.asyncio.sentinel
import redis.backoff
import redis.exceptions

from fastproxy import errors
from fastproxy.config import schema

Result = TypeVar("Result")
Client: TypeAlias = "redis.asyncio.Redis | redis.asyncio.RedisCluster"

# What its clients and the network raise; TimeoutError is an OSError.
FAULTS = (redis.exceptions.RedisError, redis.exceptions.RedisClusterException, OSError)

# Commands go over RESP2: every server from Redis 5 on speaks it, without a HELLO in the handshake.
# Only the tracking connection (tracking.py) needs RESP3.
_PROTOCOL = 2

# As many idle connections may have been reset as a pool holds.
_RESETS_MAX = 64


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store is and how we present ourselves. `password` never appears in its repr."""

    kind: Literal["redis", "sentinel", "cluster"] = "redis"
    hosts: tuple[tuple[str, int], ...]
    db: int = 0
    username: str | None = None
    password: str | None = None
    service: str = ""  # Sentinel's name of the master
    tls: bool = False
    ca: str | None = None  # files, PEM; without `ca`, the system's trust
    cert: str | None = None
    key: str | None = None

    def __repr__(self) -> str:
        hosts = ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"<{self.kind} {hosts}/{self.db}{' tls' if self.tls else ''}>"

    def ssl_context(self) -> ssl.SSLContext | None:
        """For the tracking connection. StoreRefused: a file can't be used."""
        if not self.tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except (OSError, ssl.SSLError) as error:
            raise errors.StoreRefused(
                f"session store refused: bad TLS files: {error} (see FASTPROXY_REDIS_CA, _CERT and _KEY)"
            ) from error
        return context


def address_of(config: schema.ServeConfig) -> Address:
    """What the owner wants. The kind is not `memory`."""
    url = config.store
    return Address(
        kind=cast(Literal["redis", "sentinel", "cluster"], url.kind),
        hosts=url.hosts,
        db=url.db,
        username=url.user,
        password=url.password,
        service=url.service or "",
        tls=url.tls,
        ca=config.redis_ca,
        cert=config.redis_cert,
        key=config.redis_key,
    )


class Connected(msgspec.Struct):
    """A client, and what answers which master is the master now (Sentinel only)."""

    client: Client
    sentinel: redis.asyncio.sentinel.Sentinel | None = None

    async def renew(self) -> None:
        """Let go of what is not in use, and look again who is master of what. A machine that hangs, or that has gone
        without a word, leaves connections and a map on which every operation would cost a deadline."""
        if not isinstance(self.client, redis.asyncio.RedisCluster):
            await self.client.connection_pool.disconnect(inuse_connections=False)
            return
        for node in self.client.get_nodes():
            await node.disconnect_free_connections()
        await self.client.nodes_manager.initialize()

    async def close(self) -> None:
        await self.client.aclose()
        if self.sentinel is not None:
            await self.sentinel.aclose()


def connect(address: Address, *, operation_seconds_max: float, connections_max: int) -> Connected:
    """The client; it connects at its first command."""
    common: dict[str, Any] = {
        "username": address.username,
        "password": address.password,
        "protocol": _PROTOCOL,
        # Every operation has the store's own deadline. One of redis-py's beside it is a task and a timer for each
        # command, and a task whose failure nobody asks for when its command is cancelled meanwhile.
        "socket_timeout": None,
        "socket_connect_timeout": operation_seconds_max,
        "socket_keepalive": True,
        "max_connections": connections_max,
    } | _tls_arguments(address)
    match address.kind:
        case "redis":
            host, port = address.hosts[0]
            return Connected(redis.asyncio.Redis(host=host, port=port, db=address.db, retry=_retry(0), **common))
        case "cluster":
            nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in address.hosts]
            # One more attempt: the first may have gone by an outdated map of the slots.
            return Connected(redis.asyncio.RedisCluster(startup_nodes=nodes, retry=_retry(1), **common))
        case "sentinel":
            # Sentinels are asked one after the other; all of them must fit into one deadline.
            seconds_max = operation_seconds_max / (len(address.hosts) + 1)
            patience = {"socket_timeout": seconds_max, "socket_connect_timeout": seconds_max, "retry": _retry(0)}
            # redis-py leaves this constructor without types
            sentinel = redis.asyncio.sentinel.Sentinel(  # type: ignore[no-untyped-call]
                address.hosts, sentinel_kwargs=patience | {"protocol": _PROTOCOL} | _tls_arguments(address)
            )
            client = sentinel.master_for(address.service, db=address.db, retry=_retry(0), **common)
            return Connected(client, sentinel)


def _tls_arguments(address: Address) -> dict[str, str | bool | None]:
    if not address.tls:
        return {}
    return {
        "ssl": True,
        "ssl_ca_certs": address.ca,
        "ssl_certfile": address.cert,
        "ssl_keyfile": address.key,
        "ssl_check_hostname": True,
    }


def _retry(attempts: int) -> redis.asyncio.retry.Retry:
    return redis.asyncio.retry.Retry(redis.backoff.NoBackoff(), attempts)


class NeverSent(redis.exceptions.ConnectionError):
    """The connection was closed before the command: nothing of it has left."""


@contextlib.contextmanager
def closed_means_lost() -> Iterator[None]:
    """uvloop answers a write on a transport that the peer has closed with a RuntimeError; asyncio does not."""
    try:
        yield
    except RuntimeError as error:
        if "closed" not in str(error):
            raise
        raise NeverSent(str(error)) from error


async def until_sent(ask: Callable[[], Awaitable[Result]]) -> Result:
    """redis-py does not see that a connection was reset while it lay idle in its pool; writing to it tells. After an
    outage all of them may be such, and would be outages of their own. Each is made anew when it is used once more."""
    for _ in range(_RESETS_MAX):
        with contextlib.suppress(NeverSent), closed_means_lost():
            return await ask()
    with closed_means_lost():
        return await ask()


async def ask_together(client: Client, commands: Sequence[tuple[str | int, ...]]) -> list[Any]:
    """Commands that may be repeated, in one round trip; the answers in order, errors among them."""

    async def ask() -> list[Any]:
        pipeline = client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = await pipeline.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, RuntimeError):  # a Cluster's pipeline hands out whatever a node's connection raised
                raise answer
        return answers

    return await until_sent(ask)


def is_away(error: Exception) -> bool:
    """Is this about the store as a whole, so that other operations would fare no better? (Not: one denied command.)"""
    if refuses_writes(error):
        return False  # reads go on
    return not isinstance(
        error,
        redis.exceptions.NoPermissionError | redis.exceptions.MaxConnectionsError,  # of our own pool
    )


def refuses_writes(error: Exception) -> bool:
    """Does the store serve reads, and take no writes for now: its disk or its memory is full, or it has no replicas?"""
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return True
    return isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(("MISCONF", "NOREPLICAS"))


def fault(error: Exception) -> errors.StoreError:
    """What an exception of redis-py or the network means: away, or refused and what to do about it."""
    certificate = _find_cause(error, ssl.SSLCertVerificationError)
    if certificate is not None:
        return _refused(f"its certificate is not trusted: {certificate}", "set FASTPROXY_REDIS_CA")
    match error:
        case redis.exceptions.AuthenticationError():
            return _refused_credentials(error)
        case redis.exceptions.NoPermissionError():
            return _refused(f"NOPERM: {error}", "give the user +@read +@write +@scripting and this key prefix")
        case redis.exceptions.InvalidResponse():
            return _refused(f"it does not speak the Redis protocol: {error}", "check host and port of --store")
        case TimeoutError() | redis.exceptions.TimeoutError():
            return errors.StoreUnavailable("session store did not answer in time")
        case redis.asyncio.sentinel.MasterNotFoundError():
            return errors.StoreUnavailable("session store is away: no Sentinel knows a master that is up")
        case redis.exceptions.ConnectionError() | redis.exceptions.ReadOnlyError() | OSError():
            return errors.StoreUnavailable(f"session store is away: {_clip(error)}")
        case redis.exceptions.ClusterError() | redis.exceptions.TryAgainError() | redis.exceptions.OutOfMemoryError():
            return errors.StoreUnavailable(f"session store can't serve now: {_clip(error)}")
        case redis.exceptions.RedisClusterException():
            return _fault_of_cluster(error)
        case redis.exceptions.ResponseError() if str(error).startswith(_PASSING):
            return errors.StoreUnavailable(f"session store can't serve now: {_clip(error)}")
        case redis.exceptions.ResponseError() if "DB index" in str(error):
            return _refused(str(error), "check the database number of --store")
        case _:
            return _refused(str(error), "check --store")


_PASSING = ("MISCONF", "NOREPLICAS", "MASTERDOWN", "CLUSTERDOWN", "BUSY", "TRYAGAIN", "LOADING", "UNBLOCKED")


def _refused_credentials(error: redis.exceptions.AuthenticationError) -> errors.StoreError:
    words = str(error)
    if "Authentication required" in words or "NOAUTH" in words:
        return _refused("NOAUTH", "set FASTPROXY_REDIS_PASSWORD")
    if "without any password" in words:
        return _refused("it has no password set, and we sent one", "unset FASTPROXY_REDIS_PASSWORD")
    return _refused("WRONGPASS", "check FASTPROXY_REDIS_PASSWORD and the user in --store")


def _fault_of_cluster(error: redis.exceptions.RedisClusterException) -> errors.StoreError:
    words = str(error)
    if "cluster support disabled" in words or "Cluster mode is not enabled" in words:
        return _refused("it is not a cluster", "use redis:// instead of redis+cluster://")
    cause = _find_cause(error, redis.exceptions.AuthenticationError)
    if cause is not None:
        return _refused_credentials(cause)
    return errors.StoreUnavailable(f"session store is away: {_clip(error)}")


def _refused(what: str, to_do: str) -> errors.StoreRefused:
    return errors.StoreRefused(f"session store refused: {what[:200]} ({to_do})")


def _clip(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:200]


Cause = TypeVar("Cause", bound=BaseException)


def _find_cause(error: BaseException, wanted: type[Cause]) -> Cause | None:
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, wanted):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None
