"""Where the proxies keep their sessions, in three make-ups with the same words: one Redis, Sentinel, a Cluster.

    with stores.OneRedis() as store:
        victim = store.master()
        store.kill(victim); store.await_writable(); store.start(victim); store.await_whole()

`Cramped` is one Redis on a file system of a few MiB that is all its own, which can be filled: a mount in a name space
that goes with the process. That takes root, or a kernel that lets users have name spaces (`Cramped.reason`).
"""

import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Protocol, Self

import redis

from tests import kit
from tests.kit import redis_ensemble, redis_server

DISK_MEBIBYTES = 8
NAME_SPACE = ("unshare", "--mount", "--user", "--map-root-user")
PIECE_BYTES = 65_536

Server = redis_server.RedisServer


class Store(Protocol):
    """What faults do to a store."""

    title: str
    servers: list[Server]

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    @property
    def url(self) -> str: ...

    def masters(self) -> list[Server]: ...

    def replicas(self) -> list[Server]: ...

    def await_writable(self) -> None: ...

    def await_whole(self) -> None: ...


class OneRedis(redis_ensemble.Ensemble):
    """A single server."""

    title = "one Redis"

    def __init__(self, *, family: str, server: Server | None = None) -> None:
        super().__init__([server or Server(family=family)])

    def _join(self) -> None:
        """It is one already."""

    def _probes(self) -> list[str]:
        return [redis_ensemble.PROBE % 0]

    @property
    def url(self) -> str:
        return self.servers[0].url


class WithSentinel(redis_ensemble.SentinelEnsemble):
    """A master, two replicas of it, three Sentinels."""

    title = "Sentinel"


class Cluster(redis_ensemble.ClusterEnsemble):
    """Three masters, a replica of each."""

    title = "Cluster"


class _CrampedServer(Server):
    """Its folder is a small file system that nobody else sees."""

    def __init__(self, *, family: str) -> None:
        super().__init__(family=family, options=("--appendfsync", "everysec"))
        server = shlex.join(self.command)
        size = f"size={DISK_MEBIBYTES}m"
        mount = shlex.join(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.folder)])
        self.command = [*NAME_SPACE, "sh", "-c", f"{mount} && exec {server}"]


class Cramped(OneRedis):
    """One Redis whose disk can be filled."""

    title = "one Redis, small disk"

    def __init__(self, *, family: str) -> None:
        super().__init__(family=family, server=_CrampedServer(family=family))
        self._ballast = pathlib.Path()

    @staticmethod
    def reason() -> str | None:
        """Why there can be none; None: there can."""
        if shutil.which(NAME_SPACE[0]) is None:
            return "the program unshare is not installed"
        tried = subprocess.run(
            [*NAME_SPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, text=True, timeout=10
        )
        return f"no file system of its own: {tried.stderr.strip()}" if tried.returncode else None

    def fill_disk(self) -> None:
        """Until the server refuses writes, since its file system has no room."""
        [server] = self.servers
        self._ballast = pathlib.Path("/proc", str(server.pid), "root", str(server.folder).lstrip("/"), "ballast")
        with self._ballast.open("wb", buffering=0) as file:
            for piece in _pieces():
                try:
                    file.write(piece)
                except OSError:
                    break
        self._await_refusal("MISCONF")

    def clear_disk(self) -> None:
        self._ballast.unlink()

    def fill_memory(self) -> None:
        """Until the server refuses writes, since it may take no more memory."""
        self.servers[0].execute("CONFIG", "SET", "maxmemory", "1")
        self._await_refusal("command not allowed")

    def free_memory(self) -> None:
        self.servers[0].execute("CONFIG", "SET", "maxmemory", "0")

    def _await_refusal(self, words: str) -> None:
        redis_server.await_settled(lambda: self._is_refused(words), f"writes are not refused: {words}")

    def _is_refused(self, words: str) -> bool:
        try:  # a file's last page may have room for some small writes still
            self.servers[0].execute("SET", "kit:filler", "x" * PIECE_BYTES, "PX", 1)
        except redis.exceptions.ResponseError as error:
            if words not in str(error):
                raise kit.KitError(f"refused otherwise: {error}") from error
            return True
        return False


def _pieces() -> Iterator[bytes]:
    while True:
        yield bytes(PIECE_BYTES)
