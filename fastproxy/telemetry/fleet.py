"""Many processes' numbers as one: what `/metrics` tells when workers share the port.

    worker: registry --read--> Family, Sample --as a message--> Fleet.report --one sum per sample--> render

Nothing here knows a metric but those few that are not sums (`_MERGED`). What a worker had counted when it ended stays
in the totals, so that no counter ever goes down; its gauges go with it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from prometheus_client import core, registry

# What is not summed: the worst or the common value of all.
_MERGED: Mapping[str, Callable[[float, float], float]] = {
    "fastproxy_backend_live": min,
    "fastproxy_build_info": max,
    "fastproxy_draining": max,
    "fastproxy_store_available": min,
    "process_start_time_seconds": min,
}
_ACCUMULATING = frozenset({"counter", "histogram"})


class Sample(msgspec.Struct, frozen=True, array_like=True):
    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True, array_like=True):
    name: str
    words: str
    kind: str
    samples: list[Sample]


_Key = tuple[str, tuple[tuple[str, str], ...]]


class _Total:
    """A family's samples, added up."""

    __slots__ = ("kind", "samples", "words")

    def __init__(self, family: Family) -> None:
        self.words = family.words
        self.kind = family.kind
        self.samples: dict[_Key, float] = {}

    def add(self, samples: Iterable[Sample]) -> None:
        for sample in samples:
            key = (sample.name, tuple(sample.labels.items()))
            known = self.samples.get(key)
            merge = _MERGED.get(sample.name, float.__add__)
            self.samples[key] = sample.value if known is None else merge(known, sample.value)


class Fleet(registry.Collector):
    """The sum of all workers, those that have ended included. `now` answers what only the supervisor knows, by sample
    and backend (or none); it goes before whatever the workers say."""

    def __init__(self, now: Callable[[], Mapping[tuple[str, str], float]]) -> None:
        self._now = now
        self._living: dict[object, list[Family]] = {}
        self._ended: dict[str, _Total] = {}

    def report(self, worker: object, families: list[Family]) -> None:
        """What a worker says of itself, which replaces what it said before."""
        self._living[worker] = families

    def end(self, worker: object) -> None:
        """The worker is gone: what it has counted stays."""
        _add(self._ended, (family for family in self._living.pop(worker, []) if family.kind in _ACCUMULATING))

    def describe(self) -> Iterable[core.Metric]:
        """Nothing is added up before somebody scrapes."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        totals: dict[str, _Total] = {}
        for families in self._living.values():
            _add(totals, families)
        for name, ended in self._ended.items():
            total = totals.get(name)
            if total is None:
                totals[name] = ended
            else:
                total.add(Sample(name, dict(labels), value) for (name, labels), value in ended.samples.items())
        ours = self._now()
        for name, total in totals.items():
            metric = core.Metric(name, total.words, total.kind)
            for (sample, pairs), value in total.samples.items():
                labels = dict(pairs)
                metric.add_sample(sample, labels, ours.get((sample, labels.get("backend", "")), value))
            yield metric


def read(source: registry.CollectorRegistry) -> list[Family]:
    """A registry's families at this moment, to be sent."""
    return [
        Family(
            metric.name,
            metric.documentation,
            metric.type,
            [Sample(sample.name, dict(sample.labels), float(sample.value)) for sample in metric.samples],
        )
        for metric in source.collect()
    ]


def _add(totals: dict[str, _Total], families: Iterable[Family]) -> None:
    for family in families:
        total = totals.get(family.name)
        if total is None:
            total = totals[family.name] = _Total(family)
        total.add(family.samples)
