"""From rounds to a result: medians, ratios within one run, and the table for people. Pure."""

import statistics

import msgspec

# What a proxy costs, in order: the first of them that a scenario measures is what ratios are made of.
COSTS = ("cpu_us", "cpu_us_per_event", "rss_bytes_per_stream", "rss_bytes")
YARDSTICKS = ("haproxy-stick", "floor")
# Heading, divisor and decimals of each column, in the table's order; anything else is in the JSON only.
COLUMNS: dict[str, tuple[str, float, int]] = {
    "cpu_us": ("CPU µs/request", 1, 1),
    "cpu_us_per_event": ("CPU µs/event", 1, 1),
    "rss_bytes_per_stream": ("KiB/stream", 1024, 2),
    "bytes_per_session": ("bytes/session", 1, 0),
    "start_ms": ("start ms", 1, 0),
    "requests_per_second": ("requests/s", 1, 0),
    "p50_us": ("p50 µs", 1, 0),
    "p99_us": ("p99 µs", 1, 0),
    "rss_bytes": ("RSS MB", 1e6, 1),
    "processes": ("processes", 1, 0),
    "cpu_percent": ("CPU %", 1, 1),
    "streams": ("streams", 1, 0),
    "streams_lost": ("lost", 1, 0),
    "streams_left": ("left at backend", 1, 0),
    "bytes_per_answer": ("bytes/answer", 1, 0),
    "initialized_again": ("initialized again", 1, 0),
    "errors": ("errors", 1, 0),
    "violations": ("violations", 1, 0),
}
# Faults do not average out: one is one.
SUMMED = ("errors", "violations")
WORST = ("streams_lost", "streams_left")
FAULTS = SUMMED + WORST


class Round(msgspec.Struct, frozen=True):
    """One proxy measured once."""

    round: int
    proxy: str
    values: dict[str, float]


class ScenarioResult(msgspec.Struct, frozen=True):
    name: str
    about: str
    load: dict[str, float | str | bool]
    rounds: list[Round]
    medians: dict[str, dict[str, float]]
    ratios: dict[str, dict[str, float]]
    """Of the scenario's cost, proxy by yardstick: the median of the rounds' own ratios."""
    skipped: dict[str, str]
    """Proxy to reason: nothing is left out in silence."""


def conclude(
    name: str, about: str, load: dict[str, float | str | bool], rounds: list[Round], skipped: dict[str, str]
) -> ScenarioResult:
    proxies = list(dict.fromkeys(entry.proxy for entry in rounds))
    medians = {proxy: _medians([entry.values for entry in rounds if entry.proxy == proxy]) for proxy in proxies}
    ratios = {proxy: _ratios(proxy, rounds) for proxy in proxies}
    return ScenarioResult(
        name=name, about=about, load=load, rounds=rounds, medians=medians, ratios=ratios, skipped=skipped
    )


def format_table(result: ScenarioResult) -> str:
    if not result.medians:
        return "\n".join([f"\n{result.name}: nothing was measured", *_format_skipped(result)])
    shown = [name for name in COLUMNS if any(name in values for values in result.medians.values())]
    yardsticks = [name for name in YARDSTICKS if any(name in ratios for ratios in result.ratios.values())]
    rows = [["proxy", *(COLUMNS[name][0] for name in shown), *(f"× {name}" for name in yardsticks)]]
    for proxy, values in result.medians.items():
        cells = [_cell(values.get(name), *COLUMNS[name][1:]) for name in shown]
        rows.append([proxy, *cells, *(_cell(result.ratios[proxy].get(name), 1, 2) for name in yardsticks)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"\n{result.name}: {result.about} ({_format_load(result.load)})"]
    for row in rows:
        lines.append(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
        )
    return "\n".join([*lines, *_format_skipped(result)])


def _format_skipped(result: ScenarioResult) -> list[str]:
    """One line per reason, with all the proxies that share it."""
    by_reason: dict[str, list[str]] = {}
    for proxy, reason in result.skipped.items():
        by_reason.setdefault(reason, []).append(proxy)
    return [f"skipped {', '.join(proxies)}: {reason}" for reason, proxies in by_reason.items()]


def _medians(measured: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for values in measured for name in values)
    return {name: _conclude_value(name, [values[name] for values in measured if name in values]) for name in names}


def _conclude_value(name: str, values: list[float]) -> float:
    return sum(values) if name in SUMMED else max(values) if name in WORST else statistics.median(values)


def _ratios(proxy: str, rounds: list[Round]) -> dict[str, float]:
    by_round = {(entry.round, entry.proxy): entry.values for entry in rounds}
    cost = next((name for name in COSTS if any(name in entry.values for entry in rounds)), None)
    ratios = {}
    for yardstick in YARDSTICKS:
        paired = [
            values[cost] / peer[cost]
            for (number, name), values in by_round.items()
            if name == proxy and cost and (peer := by_round.get((number, yardstick))) and peer.get(cost)
        ]
        if paired:
            ratios[yardstick] = statistics.median(paired)
    return ratios


def _cell(value: float | None, divisor: float, decimals: int) -> str:
    return "–" if value is None else f"{value / divisor:,.{decimals}f}"


def _format_load(load: dict[str, float | str | bool]) -> str:
    return f"{load['sessions']:,} sessions, {load['connections']} connections, {load['body_bytes']:,} bytes asked"
