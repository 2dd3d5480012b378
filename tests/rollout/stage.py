"""The processes of a rollout: replicas that are quick (replica.py), proxies on one Redis, and the Service before them.

`Service` does what a cluster's Service does: a new connection goes to a proxy that says it is ready; a connection that
is there stays where it is.
"""

import asyncio
import contextlib
import json
import random
import sys
import urllib.parse
from collections.abc import Iterator, Sequence

from tests import kit
from tests.kit import actors

LOOK_SECONDS = 0.1  # from one question for readiness to the next; a kubelet asks once a second


class Replica(actors.Process):
    """One running replica.py, on the same address after each start."""

    def __init__(self, name: str, *, host: str = "127.0.0.1", port: int = 0, event_seconds: float = 0.5) -> None:
        self.pod = name
        self.host = host
        self.port = port
        self._own = ("--host", host, "--event-seconds", str(event_seconds), "--name", name)
        super().__init__(name, self._command())

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tests.rollout.replica", "--port", str(self.port), *self._own]

    def restart_command(self) -> list[str]:
        return self._command()

    def announce(self, line: str) -> bool:
        if not super().announce(line):
            return False
        self.port = int(json.loads(line)["port"])
        return True

    @property
    def origin(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextlib.contextmanager
def replicas(count: int, *, event_seconds: float = 0.5) -> Iterator[list[Replica]]:
    """So many, ready."""
    members = [Replica(f"replica-{number}", event_seconds=event_seconds) for number in range(count)]
    with actors.started(members) as running:
        yield running


class NobodyReady(Exception):
    """There is no proxy to connect to."""


class Service:
    """Knows which proxies are ready, and connects to one of those by lot."""

    def __init__(self, proxies: Sequence[kit.Proxy], lots: random.Random) -> None:
        self._proxies = list(proxies)
        self._lots = lots
        self._ready = list(proxies)

    async def watch(self) -> None:
        """For ever."""
        while True:
            answers = await asyncio.gather(*(_is_ready(proxy) for proxy in self._proxies))
            self._ready = [proxy for proxy, ready in zip(self._proxies, answers, strict=True) if ready]
            await asyncio.sleep(LOOK_SECONDS)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection."""
        if not self._ready:
            raise NobodyReady("no proxy is ready")
        parts = urllib.parse.urlsplit(self._lots.choice(self._ready).origin)
        return await asyncio.open_connection(parts.hostname, parts.port, limit=2**20)


async def _is_ready(proxy: kit.Proxy) -> bool:
    """What a readiness probe would say."""
    if not proxy.admin_origin:
        return False
    parts = urllib.parse.urlsplit(proxy.admin_origin)
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                return (await reader.read(-1)).startswith(b"HTTP/1.1 200")
            finally:
                writer.transport.abort()
    except (OSError, TimeoutError):
        return False
