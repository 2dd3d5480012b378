"""A cluster on one machine, as Kubernetes would have it: proxies, replicas behind a headless Service, a store, DNS.

    client --door--> proxy --store way--> store          each arrow is a link that can be cut, lossy, slow (kit/link);
                       |----replica ways--> replicas     Sentinel and Cluster tell their own addresses: no links there
                       |----its own resolver             SRV and A of the pods, at the addresses that this proxy sees

Every proxy sees each replica at an address of its own, by the same name: that is where the link between the two is.
Replicas outlast a stage, all else is made for it. The fleet goes to `doors`: the proxies' own addresses, but for the
faults of the links before them.
"""

import asyncio
import contextlib
import pathlib
import time
import urllib.parse
from collections.abc import Iterator, Sequence

import msgspec

from tests import kit
from tests.chaos import stores
from tests.kit import actors, dns_server, link

SERVICE = "mcp.shop.svc.cluster.local"
PORT = 8000  # of the Service, which nobody needs where SRV tells the pods' own
KIND = "mcp2-json"
PROXIES, REPLICAS = 2, 3
DNS_TTL_SECONDS = 1
REPLICA_HOST = "127.0.0.2"  # not the one for which the SDK lets nobody use another name
# Quick, so that a frozen replica is found while it is frozen; as patient as a short test can be when draining.
FLAGS = ("--health-interval", "500ms", "--health-timeout", "500ms", "--drain-delay", "500ms", "--drain-timeout", "5s")

Door = tuple[str, int]


class Stage(msgspec.Struct):
    """See the module. `replica_ways[proxy][replica]`."""

    store: stores.Store
    replicas: list[kit.Backend]
    proxies: list[kit.Proxy]
    resolvers: list[dns_server.DnsServer]
    replica_ways: list[list[link.Link]]
    store_ways: list[link.Link]
    door_ways: list[link.Link]
    doors: list[Door]
    struck: asyncio.Event = msgspec.field(default_factory=asyncio.Event)

    def strike(self) -> float:
        """The harm is done: say so to whoever comes meanwhile. The time (monotonic)."""
        self.struck.set()
        return time.monotonic()

    def kill_replica(self, number: int) -> None:
        """A link answers connects by itself, so it dies with what is behind it."""
        for ways in self.replica_ways:
            ways[number].cut()
        self.replicas[number].kill()

    def start_replica(self, number: int) -> None:
        self.replicas[number].start()
        self.replicas[number].await_ready()
        for ways in self.replica_ways:
            ways[number].heal()

    def kill_store(self, server: stores.Server) -> None:
        for way in self.store_ways:
            way.cut()
        server.kill()

    def start_store(self, server: stores.Server) -> None:
        server.start()
        for way in self.store_ways:
            way.heal()

    def enter_by_ways(self, proxy: int) -> None:
        """The fleet goes to this proxy by its link from now on."""
        way = self.door_ways[proxy]
        self.doors[proxy] = (way.host, way.port)

    def enter_directly(self) -> None:
        self.doors[:] = [_door(proxy) for proxy in self.proxies]


@contextlib.contextmanager
def replicas(call_log: pathlib.Path) -> Iterator[list[kit.Backend]]:
    """Real servers, for all stages."""
    with kit.backend(KIND, replicas=REPLICAS, call_log=call_log, hosts=(REPLICA_HOST,)) as running:
        yield running


@contextlib.contextmanager
def stage(store: stores.Store, running: Sequence[kit.Backend]) -> Iterator[Stage]:
    """Everybody is ready when it begins. A traceback in a proxy's log is a broken promise: see __main__."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(store)
        network = stack.enter_context(link.Network())
        resolvers = [stack.enter_context(dns_server.DnsServer()) for _ in range(PROXIES)]
        replica_ways = [_lay_replica_ways(network, proxy, running) for proxy in range(PROXIES)]
        for resolver, ways in zip(resolvers, replica_ways, strict=True):
            _publish(resolver, ways)
        store_ways = []
        if isinstance(store, stores.OneRedis):
            server = store.servers[0]
            store_ways = [network.link(_host(proxy, 0), 0, to=("127.0.0.1", server.port)) for proxy in range(PROXIES)]
        proxies = [
            _proxy(f"redis://{store_ways[number].authority}/0" if store_ways else store.url, resolvers[number])
            for number in range(PROXIES)
        ]
        stack.enter_context(actors.started(proxies))
        door_ways = [network.link(_host(number, 250), 0, to=_door(proxy)) for number, proxy in enumerate(proxies)]
        made = Stage(store, list(running), proxies, resolvers, replica_ways, store_ways, door_ways, [])
        made.enter_directly()
        yield made


def _lay_replica_ways(network: link.Network, proxy: int, running: Sequence[kit.Backend]) -> list[link.Link]:
    return [
        network.link(_host(proxy, number + 1), replica.port, to=(replica.host, replica.port))
        for number, replica in enumerate(running)
    ]


def _publish(resolver: dns_server.DnsServer, ways: Sequence[link.Link]) -> None:
    for number, way in enumerate(ways):
        resolver.addresses(pod_host(number), way.host, ttl=DNS_TTL_SECONDS)
    rows = ((pod_host(number), way.port) for number, way in enumerate(ways))
    resolver.services(f"_http._tcp.{SERVICE}", *rows, ttl=DNS_TTL_SECONDS)


def _proxy(store_url: str, resolver: dns_server.DnsServer) -> kit.Proxy:
    flags = ("--backend", f"dns://{SERVICE}:{PORT}", "--allowed-host", "*", *FLAGS)
    return kit.Proxy(flags, environment={"FASTPROXY_STORE": store_url, **resolver.environment})


def pod(number: int) -> str:
    return f"mcp-{number}"


def pod_host(number: int) -> str:
    return f"{pod(number)}.{SERVICE}"


def _host(proxy: int, number: int) -> str:
    """Loopback addresses of one proxy's links."""
    return f"127.0.{11 + proxy}.{number}"


def _door(proxy: kit.Proxy) -> Door:
    place = urllib.parse.urlsplit(proxy.origin)
    assert place.hostname is not None and place.port is not None
    return place.hostname, place.port
