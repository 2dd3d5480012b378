"""`python -m tests.chaos`: everything that can go wrong does so once, under load; a table of who noticed; 1 when a
promise was broken.

Stage by stage (one Redis, one with a small disk, Sentinel, a Cluster; stages.py), a client fleet (clients.py) and the
faults of faults.py one after the other, each with some sessions opened meanwhile; report.py judges. Real processes, all
of it. With names of faults or stores only those run; with `--publish` the results and the README's table are written.
"""

import argparse
import asyncio
import contextlib
import datetime
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import msgspec

from bench import machine
from tests import kit
from tests.chaos import faults, fleet, report, stages

RESULTS = pathlib.Path("bench/results/chaos.json")
README = pathlib.Path("README.md")


def say(words: str) -> None:
    print(f"chaos: {words}", file=sys.stderr, flush=True)


def choose(names: Sequence[str]) -> list[tuple[faults.Setting, list[faults.Fault]]]:
    """The faults whose name, or whose store's, has one of the words; all when there is no word."""
    chosen = []
    for setting in faults.SETTINGS:
        wanted = [
            fault
            for fault in setting.faults
            if not names or any(name in f"{setting.title}: {fault.name}" for name in names)
        ]
        if wanted:
            chosen.append((setting, wanted))
    return chosen


async def suffer_all(
    stage: stages.Stage, call_log: pathlib.Path, setting: faults.Setting, chosen: Sequence[faults.Fault], seed: int
) -> list[report.Outcome]:
    """One fault after the other; what came of each."""
    running = fleet.Fleet(stage, call_log, seed)
    await running.begin()
    outcomes = []
    for fault in chosen:
        say(f"{setting.title}: {fault.name} …")
        outcome = await running.suffer(setting.title, fault)
        for error, count in outcome.errors.items():
            say(f"{count} times: {error}")
        for words in outcome.broken:
            say(f"broken: {words}")
        if outcome.broken:
            for proxy in stage.proxies:
                say(proxy.log_tail())
        outcomes.append(outcome)
    await running.end()
    return outcomes


def run(
    chosen: Sequence[tuple[faults.Setting, Sequence[faults.Fault]]], seed: int, leave_out: Callable[[str, str], None]
) -> list[report.Outcome]:
    """All stages. Faults of a proxy's own are no outcome, but an error: KitError."""
    outcomes: list[report.Outcome] = []
    with contextlib.ExitStack() as stack:
        call_log = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls"
        replicas = stack.enter_context(stages.replicas(call_log))
        for setting, wanted in chosen:
            reason = setting.reason()
            if reason is not None:
                leave_out(setting.title, reason)
                continue
            with stages.stage(setting.make(), replicas) as stage:
                outcomes += asyncio.run(suffer_all(stage, call_log, setting, wanted, seed))
                for proxy in stage.proxies:
                    if "Traceback" in proxy.stderr:
                        raise kit.KitError(proxy.log_tail())
    return outcomes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only the faults whose name, or whose store's, has one of these words")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/chaos.json"))
    parser.add_argument("--publish", action="store_true", help=f"write {RESULTS} and the table in {README}")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every lot that is drawn")
    asked = parser.parse_args(arguments)
    say(f"seed {asked.seed}")
    started, began = datetime.datetime.now(datetime.UTC), time.monotonic()
    left_out: dict[str, str] = {}
    outcomes = run(choose(asked.names), asked.seed, left_out.__setitem__)
    result = report.Result(
        started_at=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began),
        seed=asked.seed,
        machine=machine.describe(),
        proxies=stages.PROXIES,
        replicas=stages.REPLICAS,
        limits=report.LIMITS,
        left_out=left_out,
        outcomes=outcomes,
    )
    target = RESULTS if asked.publish else asked.json
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    if asked.publish:
        README.write_text(report.put_in(README.read_text(), result))
    print(report.passage(result))
    return 1 if not outcomes or any(outcome.broken for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
