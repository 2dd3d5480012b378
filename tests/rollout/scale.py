"""Replicas come and go under load: two, then four, then two again; who was moved, and who saw what.

What a cluster does: a new pod listens before DNS tells of it; one that goes is first taken out of DNS, serves on for a
while, is told SIGTERM, finishes what it has and ends. A session whose replica has gone is opened anew on another one
by the proxy at its next request: its client sees no error, and state that began anew.

`Stage` is one row of the table: the calls of that time, and what came of each session.
"""

import asyncio
import collections
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec

from tests import kit
from tests.kit import actors, dns_server, redis_server
from tests.rollout import stage, traffic

SERVICE = "mcp.shop.svc.cluster.local"
TTL_SECONDS = 1
SEEN_SECONDS_MAX = 15.0  # until every proxy knows what DNS tells
LEAVING_SECONDS = 3.0  # from the end of a pod's name to its SIGTERM: what a preStop sleep gives
PHASE_SECONDS = 4.0
CALL_EVERY_SECONDS = 0.4
HOSTS = ("127.0.1.11", "127.0.1.12", "127.0.1.13", "127.0.1.14")


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """What happened to whom while the replicas were these."""

    name: str
    replicas: int
    sessions: int
    opened: dict[str, int]  # sessions that began in it, by replica
    calls: int
    errors: dict[str, int]
    moved: int
    stayed: int
    slowest_call_seconds: float
    streams_cut: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `moved_from`: of whom sessions were moved away."""

    phases: list[Phase]
    moved_from: dict[str, int]
    broken: list[str]


class Scene:
    """Four pods, of which two run at first; the DNS that tells of them; proxies; clients."""

    def __init__(self, pods: Sequence[stage.Replica], dns: dns_server.DnsServer) -> None:
        self._pods = pods
        self._dns = dns
        self.proxies: Sequence[kit.Proxy] = ()
        self._lots = random.Random(11)
        self.tally = traffic.Tally()
        self.clients: list[traffic.Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._end = asyncio.Event()

    def publish(self, count: int) -> None:
        """What the headless Service tells."""
        for pod in self._pods[:count]:
            self._dns.addresses(f"{pod.pod}.{SERVICE}", pod.host, ttl=TTL_SECONDS)
        rows = ((f"{pod.pod}.{SERVICE}", pod.port) for pod in self._pods[:count])
        self._dns.services(f"_http._tcp.{SERVICE}", *rows, ttl=TTL_SECONDS)

    async def see(self, count: int) -> None:
        """Until each proxy takes so many for new sessions."""
        wanted = {pod.pod for pod in self._pods[:count]}
        deadline = time.monotonic() + SEEN_SECONDS_MAX
        for proxy in self.proxies:
            while {row["pod"] for row in await asyncio.to_thread(proxy.backends) if row["state"] == "live"} != wanted:
                if time.monotonic() > deadline:
                    raise actors.KitError(f"{proxy.name} does not see {wanted}\n{proxy.log_tail()}")
                await asyncio.sleep(0.1)

    async def open(self, service: stage.Service, count: int) -> None:
        """So many clients more, who go on calling; each third holds a stream."""
        opened = [traffic.Client(service, self.tally, random.Random(self._lots.random())) for _ in range(count)]
        for number, client in enumerate(opened):
            await client.open()
            await client.call()
            calling = client.call_until(self._end, every_seconds=CALL_EVERY_SECONDS)
            self._tasks.append(asyncio.create_task(calling))
            if number % 3 == 0:
                self._tasks.append(asyncio.create_task(client.listen_until(self._end)))
        self.clients += opened

    @contextlib.asynccontextmanager
    async def phase(self, name: str, replicas: int, found: list[Phase]) -> AsyncIterator[None]:
        """Measures what happens inside."""
        homes = {client: client.replicas[-1] for client in self.clients}
        calls, moves = self.tally.calls, self.tally.moves
        failures, cut = self.tally.failures.copy(), self.tally.streams_cut.total()
        self.tally.slowest_call_seconds = 0.0
        yield
        newcomers = self.clients[len(homes) :]
        stayed = sum(client.replicas[-1] == home for client, home in homes.items())
        found.append(
            Phase(
                name=name,
                replicas=replicas,
                sessions=len(self.clients),
                opened=dict(sorted(collections.Counter(client.replicas[0] for client in newcomers).items())),
                calls=self.tally.calls - calls,
                errors=dict(self.tally.failures - failures),
                moved=self.tally.moves - moves,
                stayed=stayed,
                slowest_call_seconds=round(self.tally.slowest_call_seconds, 3),
                streams_cut=self.tally.streams_cut.total() - cut,
            )
        )

    async def close(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)
        for client in self.clients:
            client.leave()


async def run(scene: Scene, pods: Sequence[stage.Replica], *, sessions: int) -> Outcome:
    """Two, four, two."""
    found: list[Phase] = []
    service = stage.Service(scene.proxies, random.Random(5))
    watching = asyncio.create_task(service.watch())
    await scene.see(2)
    async with scene.phase("two replicas", 2, found):
        await scene.open(service, sessions)
        await asyncio.sleep(PHASE_SECONDS)
    for pod in pods[2:]:
        pod.start()
    for pod in pods[2:]:
        await asyncio.to_thread(pod.await_ready)
    async with scene.phase("two more come", 4, found):
        scene.publish(4)
        await scene.see(4)
        await scene.open(service, sessions)
        await asyncio.sleep(PHASE_SECONDS)
    homes = {client: client.replicas[-1] for client in scene.clients}
    async with scene.phase("two are taken out of DNS", 2, found):
        scene.publish(2)
        await scene.see(2)
        await scene.open(service, sessions // 2)
        await asyncio.sleep(LEAVING_SECONDS)
    async with scene.phase("the two end", 2, found):
        for pod in pods[2:]:
            await asyncio.to_thread(pod.stop)
        await asyncio.sleep(PHASE_SECONDS)
    await scene.close()
    watching.cancel()
    moved_from = collections.Counter(home for client, home in homes.items() if client.replicas[-1] != home)
    return Outcome(
        phases=found,
        moved_from=dict(sorted(moved_from.items())),
        broken=_find_broken(found, moved_from, collections.Counter(homes.values()), [pod.pod for pod in pods]),
    )


def _find_broken(
    phases: Sequence[Phase],
    moved_from: collections.Counter[str],
    homes: collections.Counter[str],
    pods: Sequence[str],
) -> list[str]:
    broken = [f"{phase.name}: {phase.errors}" for phase in phases[:-1] if phase.errors]
    # A replica that ends may close a connection under a call on its way to it: nobody can know whether that ran.
    last = {text: count for text, count in phases[-1].errors.items() if "may_have_run" not in text}
    broken += [f"{phases[-1].name}: {last}"] if last else []
    broken += [f"{phase.name}: {phase.streams_cut} streams cut" for phase in phases if phase.streams_cut]
    broken += [f"{phase.name}: {phase.moved} sessions moved" for phase in phases[:-1] if phase.moved]
    broken += [f"a session of {pod}, which stays, was moved" for pod in pods[:2] if moved_from[pod]]
    for pod in pods[2:]:
        if moved_from[pod] != homes[pod]:
            broken.append(f"of {homes[pod]} sessions of {pod}, which has gone, {moved_from[pod]} were moved")
    even = sum(homes.values()) / len(pods)
    if any(abs(homes[pod] - even) > max(0.1 * even, 4) for pod in pods):
        broken.append(f"four replicas are not even: {dict(homes)}")
    if set(phases[2].opened) & set(pods[2:]):
        broken.append(f"new sessions came to a replica that DNS tells of no more: {phases[2].opened}")
    return broken


@contextlib.contextmanager
def scene() -> Iterator[tuple[Scene, list[stage.Replica]]]:
    """Everything that must run before the first session."""
    port = redis_server.free_port()
    pods = [stage.Replica(f"mcp-{number}", host=host, port=port) for number, host in enumerate(HOSTS)]
    with redis_server.RedisServer() as redis, dns_server.DnsServer() as dns:
        set_up = Scene(pods, dns)
        try:
            with actors.started(pods[:2]):
                set_up.publish(2)
                with kit.proxies(
                    2, backends=[f"dns://{SERVICE}:{port}"], store=redis.url, environment=dns.environment
                ) as proxies:
                    set_up.proxies = proxies
                    yield set_up, pods
                    for proxy in proxies:
                        if "Traceback" in proxy.stderr:
                            raise kit.KitError(proxy.log_tail())
        finally:
            for pod in pods[2:]:
                pod.kill()


HEADS = ("", "sessions", "opened there", "calls", "errors", "moved", "streams cut", "slowest call")


def table(outcome: Outcome) -> str:
    """Markdown."""
    rows = [HEADS, ("---",) * len(HEADS)]
    for phase in outcome.phases:
        opened = ", ".join(f"{pod} {count}" for pod, count in phase.opened.items()) or "–"
        numbers = (sum(phase.errors.values()), phase.moved, phase.streams_cut)
        slowest = f"{phase.slowest_call_seconds * 1000:.0f} ms"
        rows.append((phase.name, str(phase.sessions), opened, str(phase.calls), *map(str, numbers), slowest))
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
