"""Draws a results file: what a request costs, what a session and a stream weigh. Run by `python -m bench.plot`.

One bar per proxy, shortest on top, its figure written beside it: a reader needs no axis. fastproxy is in colour; a
proxy that sends sessions to replicas that are not theirs is hatched, since its bar is the price of another service.
"""

import json
import pathlib
import sys
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

OURS, OTHERS, FLOOR = "#d1495b", "#7f8c9b", "#c9d1d9"
COST = "CPU µs per request, all processes of the proxy"


def draw(file: pathlib.Path) -> list[pathlib.Path]:
    result = json.loads(file.read_text())
    scenarios = {scenario["name"]: scenario for scenario in result["scenarios"]}
    unsticky = {
        proxy
        for scenario in result["scenarios"]
        for proxy, values in scenario["medians"].items()
        if values.get("violations")
    }
    place = f"{result['machine']['cpus']} × {result['machine']['cpu']}, Linux {result['machine']['kernel']}"
    drawn = []
    for suffix, panels in FIGURES.items():
        present = [panel for panel in panels if panel[1] in scenarios and _values(scenarios[panel[1]], panel[2])]
        if present:
            target = file.with_name(f"{file.stem}-{suffix}.png")
            _draw_figure(target, present, scenarios, unsticky, place)
            drawn.append(target)
    return drawn


# File's suffix → its panels: title, scenario, value, divisor.
FIGURES: dict[str, list[tuple[str, str, str, float]]] = {
    "cost": [
        (f"JSON answer\n{COST}", "json", "cpu_us", 1),
        (f"SSE answer of 10 events\n{COST}", "sse10", "cpu_us", 1),
    ],
    "sessions": [
        ("1,000,000 sessions\nbytes of memory per session", "sessions-1m", "bytes_per_session", 1),
        (f"1,000,000 sessions\n{COST}", "sessions-1m", "cpu_us", 1),
    ],
    "streams": [
        ("Idle SSE streams\nKiB of memory per stream", "streams-idle", "rss_bytes_per_stream", 1024),
        ("SSE streams, one comment a second each\nCPU µs per event", "streams-heartbeat", "cpu_us_per_event", 1),
    ],
    "latency": [
        ("4,000 requests per second\np50, µs", "latency-4000", "p50_us", 1),
        ("4,000 requests per second\np99, µs", "latency-4000", "p99_us", 1),
    ],
}


def _draw_figure(
    target: pathlib.Path,
    panels: list[tuple[str, str, str, float]],
    scenarios: dict[str, Any],
    unsticky: set[str],
    place: str,
) -> None:
    rows = max(len(_values(scenarios[scenario], value)) for _, scenario, value, _ in panels)
    figure, axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 1.3 + 0.36 * rows), squeeze=False)
    for axis, (title, scenario, value, divisor) in zip(axes[0], panels, strict=True):
        _draw_panel(axis, title, _values(scenarios[scenario], value), divisor, unsticky)
    caption = f"medians of alternating rounds · {place}"
    if unsticky:
        caption += "\nhatched: sends requests to replicas that do not hold the session"
    figure.text(0.01, 0.01, caption, fontsize=7, color="#555555")
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    figure.savefig(target, dpi=150)
    plt.close(figure)


def _draw_panel(axis: Axes, title: str, values: dict[str, float], divisor: float, unsticky: set[str]) -> None:
    ordered = sorted(values, key=lambda proxy: values[proxy], reverse=True)
    lengths = [values[proxy] / divisor for proxy in ordered]
    colours = [OURS if name == "fastproxy" else FLOOR if name == "floor" else OTHERS for name in ordered]
    bars = axis.barh(ordered, lengths, color=colours, height=0.7)
    for bar, name, length in zip(bars, ordered, lengths, strict=True):
        if name in unsticky:
            bar.set(hatch="///", edgecolor="white")
        text = f"{length:,.0f}" if length >= 100 else f"{length:,.1f}"
        axis.text(length, bar.get_y() + bar.get_height() / 2, f" {text}", va="center", fontsize=8)
    axis.set_title(title, fontsize=9, loc="left")
    axis.set_xlim(0, max(lengths) * 1.15)
    axis.set_xticks([])
    axis.tick_params(axis="y", labelsize=8, length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)


def _values(scenario: dict[str, Any], name: str) -> dict[str, float]:
    return {proxy: values[name] for proxy, values in scenario["medians"].items() if name in values}


if __name__ == "__main__":
    for path in draw(pathlib.Path(sys.argv[1])):
        print(path)
