"""The numbers of a running proxy, as Prometheus reads them.

    relay's C counters, book, replicas, store (source.py) --read at the scrape--> families.py --> text or OpenMetrics
    store --observe_store--> durations by operation, the one thing that is collected here
    workers' families --fleet.py--> their sum, where several processes share the port

Nothing is counted twice: what a part of the house counts anyway is read from it when somebody asks. There is no global
registry, so any number of proxies may live in one process. Every fastproxy_* metric carries `server`, the name of the
MCP server; process_* are prometheus_client's own.
"""

import bisect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping

import prometheus_client
from prometheus_client import exposition, registry
from prometheus_client.openmetrics import exposition as openmetrics

from fastproxy.telemetry import families, fleet, programs, source

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text"

# A healthy Redis answers in 0.2 to 2 ms; one second is the longest that an operation may take.
STORE_BOUNDS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Telemetry:
    """What one process tells of itself. A store is given `observe_store`; `attach` says what else there is to read."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._store_counts: dict[str, list[int]] = {}
        self._store_seconds: dict[str, float] = {}
        self._registry = registry.CollectorRegistry()

    def observe_store(self, operation: str, seconds: float, _served: bool) -> None:
        """One operation of the store, served or not: what failed took its time as well (the store counts errors)."""
        counts = self._store_counts.get(operation)
        if counts is None:
            counts = self._store_counts[operation] = [0] * (len(STORE_BOUNDS_SECONDS) + 1)
            self._store_seconds[operation] = 0.0
        counts[bisect.bisect_left(STORE_BOUNDS_SECONDS, seconds)] += 1
        self._store_seconds[operation] += seconds

    def attach(self, proxy: source.Source) -> None:
        """From now on a scrape tells of this proxy. Once."""
        self._registry.register(families.Families(self._server, proxy, self.store_times))
        prometheus_client.ProcessCollector(registry=self._registry)

    def attach_reloads(self, read_counts: Callable[[], Mapping[str, int]]) -> None:
        """This process reads the configuration."""
        self._registry.register(families.Reloads(self._server, read_counts))

    def attach_programs(self, supply: programs.Supply) -> None:
        """A stdio server is bridged here."""
        self._registry.register(programs.Programs(self._server, supply))

    def render(self, accept: str) -> tuple[bytes, str]:
        """Body and content type."""
        return render(self._registry, accept)

    def report(self) -> list[fleet.Family]:
        """All of it as a message to the supervisor, which adds up the workers (fleet.py)."""
        return fleet.read(self._registry)

    def store_times(self) -> Iterator[tuple[str, families.Buckets, float]]:
        """Of each operation: cumulative buckets, and the sum of the seconds."""
        for operation, counts in sorted(self._store_counts.items()):
            totals = itertools.accumulate(counts)
            bounds = (*map(str, STORE_BOUNDS_SECONDS), "+Inf")
            yield operation, list(zip(bounds, totals, strict=True)), self._store_seconds[operation]


def render(numbers: registry.CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Body and content type. Who does not ask for OpenMetrics gets the text format that every scraper reads."""
    if accepts_openmetrics(accept):
        # The package leaves this one function without types.
        body: bytes = openmetrics.generate_latest(numbers)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    return exposition.generate_latest(numbers), TEXT


def accepts_openmetrics(accept: str) -> bool:
    """Does an Accept header name OpenMetrics, and not with a weight of nought?"""
    for choice in accept.lower().split(","):
        media_type, *parameters = (part.strip() for part in choice.split(";"))
        if media_type == OPENMETRICS and not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters):
            return True
    return False
