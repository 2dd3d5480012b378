"""Many workers' numbers as one sum (fastproxy/telemetry/fleet.py). Real: prometheus_client's registries and its parser.
Real workers behind one `/metrics` are in tests/proxy/test_workers.py."""

import prometheus_client
import pytest
from prometheus_client import parser, registry

from fastproxy import telemetry
from fastproxy.telemetry import fleet

Values = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Worker:
    """A registry as a worker has it, with one metric of each kind."""

    def __init__(self) -> None:
        self.registry = registry.CollectorRegistry()
        self.calls = prometheus_client.Counter("calls", "Calls.", ["backend"], registry=self.registry)
        self.open = prometheus_client.Gauge("open", "Open now.", registry=self.registry)
        self.seconds = prometheus_client.Histogram("seconds", "Time.", buckets=[0.1, 1], registry=self.registry)
        self.live = prometheus_client.Gauge("fastproxy_backend_live", "Live.", ["backend"], registry=self.registry)

    def report(self) -> list[fleet.Family]:
        return fleet.read(self.registry)


def shown(of: fleet.Fleet) -> Values:
    """What a scraper reads."""
    whole = registry.CollectorRegistry()
    whole.register(of)
    text = telemetry.render(whole, "")[0].decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.fixture
def both() -> tuple[fleet.Fleet, Worker, Worker]:
    one, two = Worker(), Worker()
    one.calls.labels("a").inc(3)
    two.calls.labels("a").inc(4)
    two.calls.labels("b").inc(5)
    one.open.set(1)
    two.open.set(2)
    one.seconds.observe(0.05)
    two.seconds.observe(0.5)
    one.live.labels("a").set(1)
    two.live.labels("a").set(0)
    whole = fleet.Fleet(lambda: {})
    whole.report("one", one.report())
    whole.report("two", two.report())
    return whole, one, two


def test_counters_gauges_and_histograms_are_added_up_sample_by_sample(both: tuple[fleet.Fleet, Worker, Worker]) -> None:
    assert shown(both[0]) == {
        ("calls_total", (("backend", "a"),)): 7,
        ("calls_total", (("backend", "b"),)): 5,
        ("open", ()): 3,
        ("seconds_bucket", (("le", "0.1"),)): 1,
        ("seconds_bucket", (("le", "1.0"),)): 2,
        ("seconds_bucket", (("le", "+Inf"),)): 2,
        ("seconds_count", ()): 2,
        ("seconds_sum", ()): pytest.approx(0.55),
        ("fastproxy_backend_live", (("backend", "a"),)): 0,  # the worst: one of them can't reach it
    }


def test_a_report_replaces_the_one_before(both: tuple[fleet.Fleet, Worker, Worker]) -> None:
    whole, one, _ = both
    one.calls.labels("a").inc()
    one.open.set(0)
    whole.report("one", one.report())
    assert shown(whole)["calls_total", (("backend", "a"),)] == 8
    assert shown(whole)["open", ()] == 2


def test_what_a_worker_had_counted_stays_when_it_ends_and_its_gauges_go(
    both: tuple[fleet.Fleet, Worker, Worker],
) -> None:
    whole, _, two = both
    before = shown(whole)
    whole.end("two")
    after = shown(whole)
    gone = {("open", ()): 1, ("fastproxy_backend_live", (("backend", "a"),)): 1}
    assert after == before | gone
    whole.end("one")
    whole.end("nobody")
    assert shown(whole) == {sample: value for sample, value in before.items() if sample not in gone}
    # Those who replace them begin at nought, and are added to the totals.
    whole.report("one", Worker().report())
    two.calls.labels("b").inc()
    whole.report("two", two.report())
    assert shown(whole)["calls_total", (("backend", "b"),)] == 11


def test_what_only_the_supervisor_knows_goes_before_what_workers_say() -> None:
    worker = Worker()
    worker.open.set(9)
    worker.live.labels("a").set(0)
    worker.live.labels("b").set(0)
    whole = fleet.Fleet(lambda: {("open", ""): 4, ("fastproxy_backend_live", "a"): 1})
    whole.report("one", worker.report())
    said = shown(whole)
    assert said["open", ()] == 4
    assert said["fastproxy_backend_live", (("backend", "a"),)] == 1
    assert said["fastproxy_backend_live", (("backend", "b"),)] == 0


def test_the_sum_is_openmetrics_too(both: tuple[fleet.Fleet, Worker, Worker]) -> None:
    whole = registry.CollectorRegistry()
    whole.register(both[0])
    body, content_type = telemetry.render(whole, "application/openmetrics-text")
    assert content_type.startswith("application/openmetrics-text")
    assert b'calls_total{backend="a"} 7.0' in body
    assert body.endswith(b"# EOF\n")
