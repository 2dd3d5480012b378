"""Puts a results file's figures into the README, between two marks, so that no figure there is anybody's word.

    python -m bench.publish bench/results/full.json

A ratio is the median of the rounds' own ratios, fastproxy by HAProxy's stick table. What was not measured is left out.
"""

import json
import pathlib
import statistics
import sys
from typing import Any

import msgspec

README = pathlib.Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- made by `make bench`: begin -->", "<!-- made by `make bench`: end -->"
OURS, RIVAL = "fastproxy", "haproxy-stick"
COLUMNS = {OURS: "fastproxy", RIVAL: "HAProxy, stick table"}
OTHERS = {"nginx-hash": "nginx, hash", "envoy-stateful": "Envoy, stateful", "floor": "C floor"}


class Row(msgspec.Struct, frozen=True):
    label: str
    scenario: str
    value: str
    divisor: float = 1
    decimals: int = 0
    goal: str = ""
    rival: str = RIVAL


ROWS = (
    Row("JSON, known session, µs of CPU a request", "json", "cpu_us", decimals=1, goal="0.90"),
    Row("SSE, 10 events, µs", "sse10", "cpu_us", decimals=1, goal="1.00"),
    Row("the same, HAProxy with `http-no-delay`", "sse10", "cpu_us", decimals=1, rival="haproxy-nodelay"),
    Row("an event's way, p50, µs", "sse-delay", "p50_us"),
    Row("an event's way, p99, µs", "sse-delay", "p99_us", goal="1.00"),
    Row("the same, HAProxy with `http-no-delay`", "sse-delay", "p99_us", rival="haproxy-nodelay"),
    Row("a new connection per request, µs", "new-connections", "cpu_us", decimals=1),
    Row("TLS in front, µs", "tls", "cpu_us", decimals=1, goal="2.00"),
    Row("64 KiB each way, µs", "body64k", "cpu_us"),
    Row("1 MiB each way, µs", "body1m", "cpu_us"),
    Row("`initialize`, µs", "initialize", "cpu_us"),
    Row("`initialize`, stored in Redis, µs", "initialize-redis", "cpu_us"),
    Row("two workers, µs", "workers-2", "cpu_us", decimals=1),
    Row("JSON over 1,000 sessions, µs", "sessions-1k", "cpu_us", decimals=1),
    Row("over 100,000", "sessions-100k", "cpu_us", decimals=1),
    Row("over 1,000,000", "sessions-1m", "cpu_us", decimals=1),
    Row("a session of a million, bytes of memory", "sessions-1m", "bytes_per_session"),
    Row("idle SSE stream, KiB (9,000 of them)", "streams-idle", "rss_bytes_per_stream", 1024, 1, "4.5 KiB"),
    Row("9,000 SSE streams, a comment a second each, µs an event", "streams-heartbeat", "cpu_us_per_event", decimals=1),
    Row("1,000 requests a second, p50, µs", "latency-1000", "p50_us", goal="1.00"),
    Row("p99", "latency-1000", "p99_us", goal="1.00"),
    Row("4,000 requests a second, p50, µs", "latency-4000", "p50_us", goal="1.00"),
    Row("p99", "latency-4000", "p99_us", goal="1.00"),
    Row("idle process, MB", "idle", "rss_bytes", 1e6, goal="40 MB"),
    Row("serving after ms", "idle", "start_ms", goal="500 ms"),
)


def format_figures(result: dict[str, Any]) -> str:
    """The table, and how it came about. Pure."""
    scenarios = {scenario["name"]: scenario for scenario in result["scenarios"]}
    plan, machine = result["plan"], result["machine"]
    headings = ["", *COLUMNS.values(), "ratio", "goal ≤", *OTHERS.values()]
    lines = [
        f"Medians of {plan['rounds']} alternating rounds of {plan['seconds']:g} s, {machine['cpus']} × {machine['cpu']}"
        f", Linux {machine['kernel'].partition('-')[0]}, {result['started_at'][:10]}:",
        "",
        f"| {' | '.join(headings)} |",
        f"|{'---|' * len(headings)}",
    ]
    for row in ROWS:
        scenario = scenarios.get(row.scenario)
        if scenario is not None and OURS in scenario["medians"]:
            lines.append(f"| {' | '.join([row.label, *_cells(row, scenario)])} |")
    flatness = _flatness(scenarios)
    if flatness is not None:
        lines += ["", f"A request among 1,000,000 sessions costs {flatness:.2f} × one among 1,000 (goal: 1.10)."]
    return "\n".join(lines)


def _cells(row: Row, scenario: dict[str, Any]) -> list[str]:
    def figure(proxy: str) -> str:
        value = scenario["medians"].get(proxy, {}).get(row.value)
        return "" if value is None else f"{value / row.divisor:,.{row.decimals}f}"

    ratio = _ratio(row, scenario)
    shown = "" if ratio is None else f"{ratio:.2f}"
    if ratio is not None and ratio <= 1:
        shown = f"**{shown}**"
    others = [figure(proxy) if row.rival == RIVAL else "" for proxy in OTHERS]
    return [figure(OURS), figure(row.rival), shown, row.goal, *others]


def _ratio(row: Row, scenario: dict[str, Any]) -> float | None:
    rounds: dict[int, dict[str, float]] = {}
    for entry in scenario["rounds"]:
        if row.value in entry["values"]:
            rounds.setdefault(entry["round"], {})[entry["proxy"]] = entry["values"][row.value]
    ratios = [
        values[OURS] / values[row.rival] for values in rounds.values() if OURS in values and values.get(row.rival)
    ]
    return statistics.median(ratios) if ratios else None


def _flatness(scenarios: dict[str, Any]) -> float | None:
    costs = [
        scenarios.get(name, {}).get("medians", {}).get(OURS, {}).get("cpu_us")
        for name in ("sessions-1k", "sessions-1m")
    ]
    return None if None in costs else costs[1] / costs[0]


def publish(file: pathlib.Path, readme: pathlib.Path = README) -> None:
    """Replace what stands between the marks."""
    text = readme.read_text()
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        raise SystemExit(f"bench.publish: {readme.name} lacks the marks {BEGIN} and {END}")
    readme.write_text(f"{before}{BEGIN}\n{format_figures(json.loads(file.read_text()))}\n{END}{after}")


if __name__ == "__main__":
    publish(pathlib.Path(sys.argv[1]))
