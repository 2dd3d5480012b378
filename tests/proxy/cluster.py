"""A cluster for tests of discovery: pods on loopback addresses of their own, the DNS that tells of them, two proxies on
one Redis that ask it, and clients that call all the time.

    with clusters.proxies(cluster) as fleet, clusters.load(fleet, [fleet.open()]):
        cluster.publish(first, second)
        cluster.await_states(mcp_1="live")

`Load` counts: each session has a counter at its pod, so that a call that went to another one, or ran twice, is seen.
"""

import contextlib
import itertools
import re
import threading
import time
import typing
from collections.abc import Iterator, Sequence

import msgspec

from tests import kit
from tests.kit import actors_wire, dns_server, redis_server
from tests.proxy import fleet as fleets

SERVICE = "mcp.shop.svc.cluster.local"
SERVICES = f"_http._tcp.{SERVICE}"
addresses = (f"127.0.{high}.{low}" for high in itertools.count(2) for low in range(1, 250))


class Pod(fleets.Replica):
    """A replica on an address of its own."""

    def __init__(self, name: str, port: int) -> None:
        super().__init__(name, port=port)
        self.host = next(addresses)

    def move(self) -> None:
        """Another process under the same name, at another address, with the same state, as a volume keeps it."""
        kept = self.sessions
        self.kill()
        self.host = next(addresses)
        self.sessions = kept
        self.start()

    def start(self) -> None:
        backend = actors_wire.ScriptedBackend(self._serve, host=self.host, port=self.port)
        backend.__enter__()
        self._backend = backend

    @property
    def hostname(self) -> str:
        return f"{self.name}.{SERVICE}"


class Cluster:
    """Pods, the DNS that tells of them, and the proxies in front."""

    def __init__(self, dns: dns_server.DnsServer, redis: redis_server.RedisServer) -> None:
        self.dns = dns
        self.redis = redis
        self.port = redis_server.free_port()
        self.pods: dict[str, Pod] = {}
        self.fleet = fleets.Fleet([], [], redis, fast=True)

    def start(self, *names: str) -> list[Pod]:
        """New pods, listening; DNS does not know of them yet."""
        started = [Pod(name, self.port) for name in names]
        for pod in started:
            pod.start()
            self.pods[pod.name] = pod
            self.fleet.replicas.append(pod)
        return started

    def stop(self) -> None:
        for pod in self.fleet.replicas:
            typing.cast(Pod, pod).kill()

    def publish(self, *pods: Pod, ttl: int = 1) -> None:
        """What the headless Service tells: a name per pod, and SRV rows of them all."""
        for pod in pods:
            self.dns.addresses(pod.hostname, pod.host, ttl=ttl)
        self.dns.services(SERVICES, *((pod.hostname, pod.port) for pod in pods), ttl=ttl)

    def publish_addresses(self, *pods: Pod, ttl: int = 1) -> None:
        """What a Service without named ports tells: the addresses."""
        self.dns.addresses(SERVICE, *(pod.host for pod in pods), ttl=ttl)

    def states(self, proxy: int = 0) -> dict[str, str]:
        """Of each pod, or of each address, at one proxy."""
        return {
            row["pod"] or re.sub(r"http://|:\d+$", "", row["url"]): row["state"]
            for row in self.fleet.proxies[proxy].backends()
        }

    def await_states(self, seconds_max: float = 10.0, **wanted: str) -> None:
        """Until every proxy says so of these pods (`_` in a pod's name stands for `-`)."""
        names = {name.replace("_", "-"): state for name, state in wanted.items()}
        for proxy in range(len(self.fleet.proxies)):
            fleets.await_that(
                lambda proxy=proxy: names.items() <= self.states(proxy).items(),  # type: ignore[misc]
                f"{names} at proxy {proxy}, which says {self.states(proxy)}",
                seconds_max=seconds_max,
            )

    def open_on(self, pod: Pod, proxy: int = 0) -> str:
        """A session that lives on that pod: opened until one does."""
        for _ in range(50):
            session = self.fleet.open(proxy)
            if session in pod.sessions:
                return session
        raise kit.KitError(f"no new session came to {pod.name}")

    def spread(self, sessions: Sequence[str]) -> dict[str, int]:
        """How many of them each pod has."""
        return {pod.name: len(set(sessions) & set(pod.sessions)) for pod in self.pods.values()}


@contextlib.contextmanager
def proxies(
    cluster: Cluster,
    backend: str = f"dns://{SERVICE}:{{port}}",
    *,
    count: int = 2,
    ready: bool = True,
    flags: Sequence[str] = (),
) -> Iterator[fleets.Fleet]:
    """Proxies that ask the cluster's DNS; no fault of theirs is overlooked."""
    with kit.proxies(
        count,
        backends=[backend.format(port=cluster.port)],
        store=cluster.redis.url,
        environment=cluster.dns.environment,
        flags=flags,
        await_readyz=ready,
    ) as running:
        cluster.fleet.proxies[:] = running
        yield cluster.fleet
        fleets.assert_sound(cluster.fleet)
        for proxy in running:
            assert proxy.metrics().value("fastproxy_relay_faults_total") == 0, proxy.log_tail()


class Load(msgspec.Struct):
    """Clients that call all the time, each on a session of its own, now through one proxy and now the other."""

    fleet: fleets.Fleet
    sessions: list[str]
    calls: int = 0
    wrong: list[str] = msgspec.field(default_factory=list)
    end: threading.Event = msgspec.field(default_factory=threading.Event)

    def run(self, session: str) -> None:
        expected = 0
        while not self.end.is_set():
            for proxy in range(len(self.fleet.proxies)):
                expected += 1
                self.call(proxy, session, expected)
            time.sleep(0.02)

    def call(self, proxy: int, session: str, expected: int) -> None:
        try:
            answer = self.fleet.call(proxy, session)
            said = answer.json()
        except (OSError, kit.KitError, ValueError) as error:
            self.wrong.append(f"{session}: {error!r}")
            return
        self.calls += 1
        if "result" not in said or said["result"]["count"] != expected:
            self.wrong.append(f"{session}: call {expected} was answered {answer.status} {said}")


@contextlib.contextmanager
def load(fleet: fleets.Fleet, sessions: Sequence[str]) -> Iterator[Load]:
    """These sessions are used all the time; at the end every call must have counted on from the one before."""
    running = Load(fleet, list(sessions))
    threads = [threading.Thread(target=running.run, args=(session,), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    try:
        yield running
    finally:
        running.end.set()
        for thread in threads:
            thread.join(30)
    assert running.wrong == [], f"{len(running.wrong)} of {running.calls}: {running.wrong[:5]}"
    assert running.calls > len(sessions)
