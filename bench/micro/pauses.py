"""How long single calls of the route table and of the embedded store take while they grow to a million sessions:
`python -m bench.micro.pauses`; `--write` keeps the histograms in bench/results/pauses.json.

Each call is timed alone; the histogram shows powers of two of microseconds. Two clocks: the thread's CPU time, which
is what a call does, and the wall, which on a shared machine also counts what others do with the processor. Interrupts
and the hypervisor take their time of either, so everything is done twice, alike, and of each call the quicker one
counts: what a call does by itself it does again. What must hold is that no call does more than a millisecond of work.
The collector of cyclic garbage runs as it does in the proxy (fastproxy/proxy/garbage.py), and is shown by itself, too.
"""

import argparse
import array
import collections
import gc
import json
import pathlib
import random
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

from fastproxy._ext import core
from fastproxy.proxy import garbage
from fastproxy.session import memory, record

RESULTS = pathlib.Path(__file__).parent.parent / "results" / "pauses.json"

SWEEP_BUDGET = 1_024
SWEEP_EVERY = 256


class Pauses:
    """Durations of one verb, call by call."""

    def __init__(self) -> None:
        self.cpu_ns = array.array("Q")
        self.wall_ns = array.array("Q")

    def time(self, call: Callable[[], object]) -> None:
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        call()
        self.add(time.thread_time_ns() - cpu, time.perf_counter_ns() - wall)

    def add(self, cpu: int, wall: int) -> None:
        self.cpu_ns.append(cpu)
        self.wall_ns.append(wall)

    def least(self, other: "Pauses") -> "Pauses":
        """Of the same calls, made twice."""
        least = Pauses()
        least.cpu_ns.extend(map(min, self.cpu_ns, other.cpu_ns))
        least.wall_ns.extend(map(min, self.wall_ns, other.wall_ns))
        return least

    def report(self) -> dict[str, object]:
        histogram = collections.Counter((cpu // 1000).bit_length() for cpu in self.cpu_ns)
        return {
            "longest_cpu_us": max(self.cpu_ns, default=0) / 1000,
            "longest_wall_us": max(self.wall_ns, default=0) / 1000,
            "calls_below_us": {str(1 << bits): count for bits, count in sorted(histogram.items())},
        }


class Collector:
    """Hears when the collector of cyclic garbage stops the process."""

    def __init__(self) -> None:
        self.pauses = Pauses()
        self._began = (0, 0)
        gc.callbacks.append(self._hear)

    def _hear(self, phase: str, _: dict[str, int]) -> None:
        now = (time.thread_time_ns(), time.perf_counter_ns())
        if phase == "stop":
            self.pauses.add(now[0] - self._began[0], now[1] - self._began[1])
        self._began = now


def measure_store(sessions: int) -> dict[str, Pauses]:
    """Every session is created, looked up and touched; at the end a quarter of them is deleted, a page is read."""
    chance = random.Random(2)
    store = memory.MemoryStore(ttl_seconds=7200, sessions_max=sessions)
    pauses = {verb: Pauses() for verb in ("store: create", "store: find", "store: touch", "store: delete")}

    def run(verb: str, act: Coroutine[Any, Any, object]) -> None:
        def step() -> None:
            try:
                act.send(None)  # memory never waits
            except StopIteration:
                return
            raise AssertionError("the embedded store waited for something")

        pauses[verb].time(step)

    keys = []
    for number in range(sessions):
        key = f"{chance.getrandbits(128):032x}"
        keys.append(key)
        session = record.SessionRecord(
            session_id=key,
            backend_url=f"http://127.0.0.1:{9000 + number % 4}",
            protocol_version="2025-11-25",
            initialize={"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "mcp"}},
            created_at=f"2026-11-20T12:{number // 60 % 60:02}:{number % 60:02}Z",
        )
        run("store: create", store.create(session))
        probe = keys[chance.randrange(number + 1)]
        run("store: find", store.find(probe))
        if number % 16 == 0:
            run("store: touch", store.touch([probe]))
    for key in chance.sample(keys, sessions // 4):
        run("store: delete", store.delete(key))
    return pauses


def measure_table(sessions: int) -> dict[str, Pauses]:
    """Growth to so many sessions, lookups and sweeps meanwhile; evictions, removals."""
    chance = random.Random(1)
    table = core.RouteTable(sessions, secret=bytes(16))
    verbs = ("put", "get", "sweep", "put that evicts", "mark_all_stale", "remove")
    pauses = {verb: Pauses() for verb in verbs}
    keys = [b"%032x" % chance.getrandbits(128) for _ in range(sessions)]
    for number, key in enumerate(keys):
        expires = 7200 if number % 8 else 1
        pauses["put"].time(lambda: table.put(key, 1, expires=expires, touch_at=720))  # noqa: B023
        probe = keys[chance.randrange(number + 1)]
        pauses["get"].time(lambda: table.get(probe, 0))  # noqa: B023
        if number % SWEEP_EVERY == 0:
            pauses["sweep"].time(lambda: table.sweep(0, SWEEP_BUDGET))
    for _ in range(2 * sessions // SWEEP_BUDGET):  # one session in eight has expired
        pauses["sweep"].time(lambda: table.sweep(100, SWEEP_BUDGET))
    for _ in range(sessions // 4):
        key = b"%032x" % chance.getrandbits(128)
        pauses["put that evicts"].time(lambda: table.put(key, 1, expires=7200, touch_at=720))  # noqa: B023
    for _ in range(100):
        pauses["mark_all_stale"].time(table.mark_all_stale)
    for key in chance.sample(keys, sessions // 4):
        pauses["remove"].time(lambda: table.remove(key))  # noqa: B023
    return {f"table: {verb}": pause for verb, pause in pauses.items()}


def measure(sessions: int) -> dict[str, object]:
    collector = Collector()
    result: dict[str, object] = {"sessions": sessions}
    for each in (measure_table, measure_store):
        once, again = each(sessions), each(sessions)
        result |= {verb: once[verb].least(again[verb]).report() for verb in once}
    return result | {"collector of garbage, not the quicker of two": collector.pauses.report()}


def show(result: dict[str, object]) -> None:
    for verb, report in result.items():
        if not isinstance(report, dict):
            continue
        print(
            f"{verb}: longest {report['longest_cpu_us']:.0f} µs of CPU, {report['longest_wall_us']:.0f} µs on the wall"
        )
        for below, count in report["calls_below_us"].items():
            print(f"    below {below:>6} µs  {count:>9,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true", help="print the histograms as JSON")
    parser.add_argument("--write", action="store_true", help="keep them in bench/results/pauses.json")
    arguments = parser.parse_args()
    garbage.settle()
    result = measure(arguments.sessions)
    if arguments.write:
        RESULTS.write_text(json.dumps(result, indent=1) + "\n")
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
    else:
        show(result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
