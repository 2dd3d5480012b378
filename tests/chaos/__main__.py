"""`python -m tests.chaos`: everything that can go wrong does so once, under load; a table of who noticed; 1 when a
promise was broken.

The map: runs.py goes through the stages (stages.py: proxies, replicas, a store of stores.py, DNS, the links between
them), each with a fleet (fleet.py) of client sessions (clients.py) that suffers one fault after the other (faults.py,
done by deeds.py); report.py judges. Real processes, all of it. With names of faults or stores only those run; with
`--publish` the results and the README's table are written.
"""

import argparse
import datetime
import pathlib
import sys
import time
from collections.abc import Sequence

import msgspec

from bench import machine
from tests.chaos import faults, report, runs, stages

RESULTS = pathlib.Path("bench/results/chaos.json")
README = pathlib.Path("README.md")


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


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only the faults whose name, or whose store's, has one of these words")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/chaos.json"))
    parser.add_argument("--publish", action="store_true", help=f"write {RESULTS} and the table in {README}")
    parser.add_argument("--family", choices=("valkey", "redis"), default="valkey", help="whose servers the stores are")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every lot that is drawn")
    asked = parser.parse_args(arguments)
    if asked.publish:
        report.check(README.read_text())
    runs.say(f"seed {asked.seed}")
    started, began = datetime.datetime.now(datetime.UTC), time.monotonic()
    left_out: dict[str, str] = {}
    outcomes = runs.run(choose(asked.names), seed=asked.seed, leave_out=left_out.__setitem__, family=asked.family)
    result = report.Result(
        started_at=started.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began),
        seed=asked.seed,
        family=asked.family,
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
