"""Redis as it is run in production, as actors: a master with replicas and Sentinels, or a Cluster with replicas.

    with SentinelEnsemble() as ensemble:       # 1 master, 2 replicas of it, 3 Sentinels
        ensemble.masters()[0].kill()
        ensemble.await_writable()               # one of the replicas is master now
        ensemble.await_whole()                  # everybody runs and follows, the old master too

Both kinds speak the same verbs, so that a test can do the same to either. Who is master is asked of the servers
themselves. The families of redis_server.py will do, Valkey from its wheel too.
"""

import contextlib
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any, Self

import redis
import redis.backoff
import redis.retry

from tests.kit import actors, redis_server

HOST = redis_server.HOST
ASK_SECONDS_MAX = 0.3  # a frozen server is passed over
# Shorter, and a busy test machine fails over by itself.
DOWN_MILLISECONDS = 2000
PROBE = "kit:probe:{%s}"
# A replica synchronises at once: a test has no time to wait for others that may want to.
REPLICATION = ("--repl-diskless-sync-delay", "0", "--protected-mode", "no")


class Ensemble:
    """Servers that hold the same or each a part. Frozen and dead ones are passed over when somebody is asked."""

    def __init__(self, servers: Sequence[redis_server.RedisServer]) -> None:
        self.servers = list(servers)

    def __enter__(self) -> Self:
        try:
            for server in self.servers:
                actors.Process.start(server)
            for server in self.servers:
                server.await_ready()
            self._join()
            self.await_whole()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def remove(self) -> None:
        for server in self.servers:
            server.remove()

    def _join(self) -> None:
        """They have started; make them one."""
        raise NotImplementedError

    def _probes(self) -> list[str]:
        """A key for each of the parts."""
        raise NotImplementedError

    def masters(self) -> list[redis_server.RedisServer]:
        """Who takes writes now, as far as they say so themselves."""
        return [server for server in self.servers if ask(server, "ROLE", 0) == b"master"]

    def replicas(self) -> list[redis_server.RedisServer]:
        return [server for server in self.servers if ask(server, "ROLE", 0) == b"slave"]

    def await_writable(self) -> None:
        """Until every part takes writes."""
        for key in self._probes():
            redis_server.await_settled(lambda key=key: self._takes(key), f"nobody takes a write of {key}")

    def await_whole(self) -> None:
        """Until all servers run, and every replica follows its master."""
        self.await_writable()
        redis_server.await_settled(self._is_whole, "a replica does not follow")

    def _takes(self, key: str) -> bool:
        return any(ask(server, "SET", None, key, "1", "PX", 1000) in (b"OK", True) for server in self.servers)

    def _is_whole(self) -> bool:
        following = [ask(server, "ROLE", 3) == b"connected" for server in self.replicas()]
        return all(following) and len(following) == len(self.servers) - len(self._probes())


class SentinelEnsemble(Ensemble):
    """One master, its replicas, and the Sentinels that watch them."""

    SERVICE = "sessions"

    def __init__(self, *, replicas: int = 2, sentinels: int = 3, family: str = "valkey") -> None:
        master = redis_server.RedisServer(family=family, options=REPLICATION)
        follow = ("--replicaof", f"{HOST} {master.port}", *REPLICATION)
        super().__init__([master, *(redis_server.RedisServer(family=family, options=follow) for _ in range(replicas))])
        self.sentinels = [
            Sentinel(self.SERVICE, master.port, quorum=sentinels // 2 + 1, family=family) for _ in range(sentinels)
        ]

    def _join(self) -> None:
        for sentinel in self.sentinels:
            sentinel.start()
        for sentinel in self.sentinels:
            sentinel.await_ready()
        for sentinel in self.sentinels:
            redis_server.await_settled(
                lambda sentinel=sentinel: sentinel.knows(
                    replicas=len(self.servers) - 1, sentinels=len(self.sentinels) - 1
                ),
                f"{sentinel.name} does not know everybody",
            )

    def _probes(self) -> list[str]:
        return [PROBE % 0]

    def remove(self) -> None:
        for sentinel in self.sentinels:
            sentinel.remove()
        super().remove()

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.SERVICE}/0"


class Sentinel(actors.Process):
    """One Sentinel; what it has learned outlives it, in its configuration file."""

    def __init__(self, service: str, master_port: int, *, quorum: int, family: str) -> None:
        program = redis_server.binary(family)
        assert program is not None, f"no server of the family {family} is installed"
        self.port = redis_server.free_port()
        self._service = service
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="fastproxy-sentinel-"))
        configuration = self._folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind {HOST}\ndir {self._folder}\n"
            f"sentinel monitor {service} {HOST} {master_port} {quorum}\n"
            f"sentinel down-after-milliseconds {service} {DOWN_MILLISECONDS}\n"
            f"sentinel failover-timeout {service} {2 * DOWN_MILLISECONDS}\n"
        )
        super().__init__("sentinel", [program, str(configuration), "--sentinel"])

    def ready(self, words: str) -> bool:
        return "+monitor master" in words

    def knows(self, *, replicas: int, sentinels: int) -> bool:
        with redis.Redis(host=HOST, port=self.port, protocol=2) as client:
            others = client.execute_command("SENTINEL", "SENTINELS", self._service)
            return (
                len(others) == sentinels
                and len(client.execute_command("SENTINEL", "REPLICAS", self._service)) == replicas
            )

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class ClusterEnsemble(Ensemble):
    """A Cluster: so many parts, each with a master and a replica of it."""

    def __init__(self, *, parts: int = 3, family: str = "valkey") -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(DOWN_MILLISECONDS), *REPLICATION)
        super().__init__([redis_server.RedisServer(family=family, options=options) for _ in range(2 * parts)])
        self._parts = parts
        self._keys: list[str] = []

    def _join(self) -> None:
        firsts = self.servers[: self._parts]
        for number, server in enumerate(firsts):
            first = number * redis_server.SLOTS // self._parts
            last = (number + 1) * redis_server.SLOTS // self._parts - 1
            server.execute("CLUSTER", "ADDSLOTSRANGE", first, last)
            self._keys.append(self._key_between(first, last))
        for server in self.servers[1:]:
            server.execute("CLUSTER", "MEET", HOST, self.servers[0].port)
        redis_server.await_settled(self._have_met, "the nodes have not met")
        for master, replica in zip(firsts, self.servers[self._parts :], strict=True):
            replica.execute("CLUSTER", "REPLICATE", master.execute("CLUSTER", "MYID"))

    def _key_between(self, first: int, last: int) -> str:
        for number in range(redis_server.SLOTS):
            slot = int(self.servers[0].execute("CLUSTER", "KEYSLOT", PROBE % number))
            if first <= slot <= last:
                return PROBE % number
        raise actors.KitError(f"no key lies in the slots {first}-{last}")

    def _have_met(self) -> bool:
        sizes = f"cluster_known_nodes:{len(self.servers)}".encode()
        return all(sizes in bytes(server.execute("CLUSTER", "INFO")) for server in self.servers)

    def _probes(self) -> list[str]:
        return self._keys

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{HOST}:{server.port}" for server in self.servers)


def ask(server: redis_server.RedisServer, command: str, part: int | None, *words: str | int) -> Any:
    """A server's answer, or a part of a list; None when it is dead, frozen, refuses, or has no such part."""
    if not server.alive:
        return None
    with (
        contextlib.suppress(redis.exceptions.RedisError, OSError, IndexError),
        redis.Redis(
            host=HOST,
            port=server.port,
            protocol=2,
            socket_timeout=ASK_SECONDS_MAX,
            socket_connect_timeout=ASK_SECONDS_MAX,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        ) as client,
    ):
        answer = client.execute_command(command, *words)
        return answer if part is None else answer[part]
    return None
