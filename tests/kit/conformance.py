"""Runs the official conformance suite against a server, and compares two runs check by check.

    the suite → checks.json per scenario → Run (verdicts per check, in order) → compare(direct, proxied) → Difference…

A verdict is kept per (scenario, check id, check name) as an ordered list, since ids repeat inside a scenario. Totals
are never compared: a third of the checks of a modern run pass against a port where nothing listens. For the same
reason a comparison with a direct run that has fewer successes than this backend is known to have is refused as
vacuous, not passed. INFO rows are the suite's diary (each request and event it saw) and depend on timing: they are left
out, so a verdict that turns into one counts as not given.

`python -m tests.kit.conformance DIRECT_URL PROXIED_URL [WIRE…]` is the gate on servers that already run; exit 1 when
a check differs.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import msgspec

from tests.kit import actors, provision

# The successes of a direct run of this suite's version against our backend: all of its checks.
SUCCESSES_MIN = {"2025-03-26": 3, "2025-06-18": 56, "2025-11-25": 84, "2026-07-28": 152}
WIRES = tuple(SUCCESSES_MIN)
SESSION_WIRES = WIRES[:3]
RUN_SECONDS_MAX = (
    180.0  # a run takes 1 to 5 s; one through a proxy that answers nothing waits for the time-outs of its scenarios
)
SCENARIO_MILLISECONDS_MAX = 30000
PROGRAMS = pathlib.Path(__file__).parent / "programs"
RUN_TIME = re.compile(
    r"-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d-\d+Z$"
)  # what the suite appends to the name of a scenario's folder


class Key(msgspec.Struct, frozen=True, order=True):
    """One check, as far as it can be told apart."""

    scenario: str
    check: str
    name: str


class Verdict(msgspec.Struct, frozen=True):
    status: str
    complaint: str


class Run(msgspec.Struct, frozen=True):
    """What the suite said about one URL on one wire."""

    wire: str
    verdicts: dict[Key, tuple[Verdict, ...]]

    @property
    def successes(self) -> int:
        return sum(verdict.status == "SUCCESS" for verdicts in self.verdicts.values() for verdict in verdicts)


class Difference(msgspec.Struct, frozen=True):
    key: Key
    direct: tuple[Verdict, ...]
    proxied: tuple[Verdict, ...]

    def __str__(self) -> str:
        statuses = f"direct {_statuses(self.direct)}, proxied {_statuses(self.proxied)}"
        complaints = "".join(f"\n    {verdict.complaint}" for verdict in self.proxied if verdict.complaint)
        return f"{self.key.scenario} {self.key.check} [{self.key.name}]: {statuses}{complaints}"


class SuiteFailed(Exception):
    """The suite itself broke, or it proved nothing: neither is a pass."""


def run(url: str, wire: str) -> Run:
    """Run every scenario of one wire against the MCP endpoint at `url`; a loopback address, as one scenario demands."""
    program = provision.module("conformance", "@modelcontextprotocol/conformance") / "dist" / "index.js"
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        command = [
            str(provision.node()),
            str(program),
            "server",
            "--url",
            url,
            "--suite",
            "all",
            "--spec-version",
            wire,
        ]
        limits = ["--timeout", str(SCENARIO_MILLISECONDS_MAX), "-o", folder]
        try:
            done = subprocess.run(
                [*command, *limits], capture_output=True, stdin=subprocess.DEVNULL, timeout=RUN_SECONDS_MAX, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SuiteFailed(f"{wire} on {url}: no end after {RUN_SECONDS_MAX:.0f} s") from error
        result = Run(wire, _read(pathlib.Path(folder)))
    if not result.verdicts:  # a failed check makes the suite exit 1 too, so the exit code alone says nothing
        raise SuiteFailed(
            f"{wire} on {url}: no results: {(done.stdout + done.stderr).decode(errors='replace')[-2000:]}"
        )
    return result


def _read(folder: pathlib.Path) -> dict[Key, tuple[Verdict, ...]]:
    verdicts: dict[Key, list[Verdict]] = {}
    for file in sorted(folder.glob("**/checks.json")):
        scenario = RUN_TIME.sub("", file.parent.name)
        for check in json.loads(file.read_bytes()):
            if check["status"] == "INFO":
                continue
            key = Key(scenario, check["id"], check.get("name", ""))
            verdicts.setdefault(key, []).append(Verdict(check["status"], (check.get("errorMessage") or "")[:256]))
    return {key: tuple(found) for key, found in verdicts.items()}


def compare(direct: Run, proxied: Run) -> list[Difference]:
    """The checks whose verdicts are not the same, in the same order, in both runs. A vacuous comparison is an error."""
    if direct.wire != proxied.wire:
        raise SuiteFailed(f"runs of two wires can't be compared: {direct.wire} and {proxied.wire}")
    if direct.successes < SUCCESSES_MIN[direct.wire]:
        raise SuiteFailed(
            f"{direct.wire}: the direct run has {direct.successes} successes, {SUCCESSES_MIN[direct.wire]} expected: "
            f"a comparison would prove nothing"
        )
    keys = sorted(direct.verdicts.keys() | proxied.verdicts.keys())
    pairs = [Difference(key, direct.verdicts.get(key, ()), proxied.verdicts.get(key, ())) for key in keys]
    return [pair for pair in pairs if _statuses(pair.direct) != _statuses(pair.proxied)]


def _statuses(verdicts: tuple[Verdict, ...]) -> list[str]:
    return [verdict.status for verdict in verdicts]


def report(differences: Sequence[Difference]) -> str:
    return "\n".join([f"{len(differences)} checks differ", *map(str, differences)])


class Replica(actors.Process):
    """One process of the conformance backend; `era`: both, legacy or modern."""

    def __init__(self, era: str = "both") -> None:
        command = [str(provision.python("mcp2")), "-m", "everything", "--era", era, "--port", "0"]
        super().__init__("conformance-backend", command, {"PYTHONPATH": str(PROGRAMS)})
        self.port = 0

    def ready(self, words: str) -> bool:
        found = re.search(r"serving on http://127\.0\.0\.1:(\d+)/mcp\n", words)
        if found is not None:
            self.port = int(found[1])
        return found is not None

    def restart_command(self) -> list[str]:
        return [*self.command[:-1], str(self.port)]

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.port)

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"


def replicas(count: int, era: str = "both") -> contextlib.AbstractContextManager[list[Replica]]:
    """So many replicas of the conformance backend, running while the `with` block lasts."""
    return actors.started([Replica(era) for _ in range(count)])


def main(arguments: list[str]) -> int:
    if len(arguments) < 2 or not set(arguments[2:]) <= set(WIRES):
        print(f"usage: python -m tests.kit.conformance DIRECT_URL PROXIED_URL [{'|'.join(WIRES)}]…", file=sys.stderr)
        return 2
    differing = 0
    for wire in arguments[2:] or WIRES:
        direct, proxied = run(arguments[0], wire), run(arguments[1], wire)
        differences = compare(direct, proxied)
        differing += len(differences)
        print(f"{wire}: direct {direct.successes} successes, proxied {proxied.successes}; {report(differences)}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
