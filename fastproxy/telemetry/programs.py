"""What there is to tell of a bridged stdio server: its processes, how many were started, how many died."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import core, registry


class Supply(Protocol):
    """The processes of one program."""

    @property
    def running(self) -> int: ...
    @property
    def spares(self) -> int: ...
    @property
    def started(self) -> int: ...
    @property
    def ended_badly(self) -> int: ...


class Programs(registry.Collector):
    """Read at the scrape."""

    def __init__(self, server: str, supply: Supply) -> None:
        self._server = server
        self._supply = supply

    def collect(self) -> Iterator[core.Metric]:
        """All of it."""
        supply = self._supply
        processes = core.GaugeMetricFamily(
            "fastproxy_stdio_processes",
            "Processes of the stdio server: those that serve, and spares that wait.",
            labels=("server", "state"),
        )
        for state, count in (("serving", supply.running - supply.spares), ("spare", supply.spares)):
            processes.add_metric((self._server, state), count)
        yield processes
        yield self._counter("fastproxy_stdio_starts_total", "Processes of the stdio server begun.", supply.started)
        yield self._counter(
            "fastproxy_stdio_deaths_total",
            "Processes of the stdio server that ended by themselves, and not well.",
            supply.ended_badly,
        )

    def _counter(self, name: str, words: str, count: int) -> core.Metric:
        family = core.CounterMetricFamily(name, words, labels=("server",))
        family.add_metric((self._server,), count)
        return family
