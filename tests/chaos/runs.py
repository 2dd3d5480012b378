"""A run: stage by stage, fault by fault; what came of each. What it says meanwhile goes to standard error."""

import asyncio
import contextlib
import pathlib
import sys
import tempfile
from collections.abc import Callable, Sequence

from tests import kit
from tests.chaos import faults, fleet, report, stages


def say(words: str) -> None:
    print(f"chaos: {words}", file=sys.stderr, flush=True)


async def suffer_all(
    stage: stages.Stage,
    call_log: pathlib.Path,
    setting: faults.Setting,
    chosen: Sequence[faults.Fault],
    seed: int,
    limits: report.Limits,
) -> list[report.Outcome]:
    """One fault after the other; what came of each."""
    running = fleet.Fleet(stage, call_log, seed, limits)
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
    chosen: Sequence[tuple[faults.Setting, Sequence[faults.Fault]]],
    *,
    seed: int,
    leave_out: Callable[[str, str], None],
    limits: report.Limits = report.LIMITS,
    family: str = "valkey",
) -> list[report.Outcome]:
    """All stages; `leave_out` hears of those that this machine can't have, and why. KitError: a proxy met a fault of
    its own, which is no outcome."""
    outcomes: list[report.Outcome] = []
    with contextlib.ExitStack() as stack:
        call_log = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls"
        replicas = stack.enter_context(stages.replicas(call_log))
        for setting, wanted in chosen:
            reason = setting.reason()
            if reason is not None:
                leave_out(setting.title, reason)
                continue
            with stages.stage(setting.make(family=family), replicas) as stage:
                outcomes += asyncio.run(suffer_all(stage, call_log, setting, wanted, seed, limits))
                for proxy in stage.proxies:
                    if "Traceback" in proxy.stderr:
                        raise kit.KitError(proxy.log_tail())
    return outcomes
