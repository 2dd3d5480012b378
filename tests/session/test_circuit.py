"""While the store is away: operations fail at once, one task probes, with pauses that grow and that no two share.

Real time, as the pauses are short; the probe is a function of the test's.
"""

import asyncio
import time

import pytest

from fastproxy import errors
from fastproxy.session import circuit
from tests.kit import coroutines

OUTAGE = errors.StoreUnavailable("away")


class Probe:
    """A store that is away for the first so many probes."""

    def __init__(self, failures: int) -> None:
        self.at: list[float] = []
        self._failures = failures

    async def __call__(self) -> None:
        self.at.append(time.monotonic())
        if len(self.at) <= self._failures:
            raise OUTAGE

    @property
    def pauses(self) -> list[float]:
        return [after - before for before, after in zip(self.at, self.at[1:], strict=False)]


async def test_probes_pause_longer_and_longer_up_to_a_bound_until_one_is_served() -> None:
    probe = Probe(failures=7)
    breaker = circuit.Circuit(probe)
    breaker.trip(OUTAGE)
    for _ in range(100):  # whoever asks meanwhile is told at once, and causes no probe
        with pytest.raises(errors.StoreUnavailable):
            breaker.check()
    await coroutines.eventually(lambda: breaker.fault is None)
    breaker.check()
    assert len(probe.at) == 8
    wanted = [0.05, 0.1, 0.2, 0.4, 0.4, 0.4, 0.4]
    assert all(pause >= least / 2 for pause, least in zip(probe.pauses, wanted, strict=True)), probe.pauses
    assert sum(probe.pauses) < 2 * sum(wanted), "a loaded machine is late, and no more"
    await asyncio.sleep(0.5)
    assert len(probe.at) == 8, "nobody probes a store that serves"


def test_pauses_are_spread_over_half_of_their_length() -> None:
    drawn = sorted(circuit.jittered(0.4) for _ in range(1_000))
    assert 0.2 <= drawn[0] < 0.21 and 0.39 < drawn[-1] <= 0.4
    assert 0.28 < drawn[500] < 0.32


async def test_a_fleet_does_not_probe_in_one_stroke() -> None:
    """Twenty proxies lose their store at one moment; their third probes come at twenty moments."""
    probes = [Probe(failures=3) for _ in range(20)]
    breakers = [circuit.Circuit(probe) for probe in probes]
    for breaker in breakers:
        breaker.trip(OUTAGE)
    await coroutines.eventually(lambda: all(breaker.fault is None for breaker in breakers))
    third = [probe.at[2] - probe.at[0] for probe in probes]
    assert max(third) - min(third) > 0.02
    assert len({round(seconds, 4) for seconds in third}) > 10


async def test_an_end_stops_the_probing() -> None:
    probe = Probe(failures=1_000)
    breaker = circuit.Circuit(probe)
    breaker.trip(OUTAGE)
    await asyncio.sleep(0.1)
    await breaker.stop()
    probes = len(probe.at)
    breaker.suspect()
    await asyncio.sleep(0.5)
    assert len(probe.at) == probes
