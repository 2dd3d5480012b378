"""What the bench must know about a proxy to run it: the nouns Rival and Place."""

import pathlib
import shutil
import subprocess
from collections.abc import Callable

import msgspec

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
CACHE = ROOT / ".cache" / "bench"
# Larger than any scenario needs: every proxy with a table of sessions gets this capacity.
SESSIONS_MAX = 4_000_000


class Place(msgspec.Struct, frozen=True):
    """Where a proxy is to run: its port, its backends, a directory of its own."""

    directory: pathlib.Path
    port: int
    backend_ports: tuple[int, ...]
    open_files_max: int
    workers: int = 1
    redis_url: str | None = None
    certificate: pathlib.Path | None = None
    """Certificate and key in one PEM file: serve TLS with it."""


class Rival(msgspec.Struct, frozen=True):
    """One proxy in one configuration."""

    name: str
    start: Callable[[Place], list[str]]
    """Writes what configuration it needs into the place, and returns the command."""
    find: Callable[[], str | None]
    """The program's path; None when it isn't installed."""
    version: Callable[[], str]
    hint: str
    """How to install it."""
    learns: bool = True
    """It remembers which replica issued a session; without, stickiness is not to be expected."""
    remembers: bool = True
    """It holds memory per session (Envoy's stateful session puts the address into the id instead)."""
    of_events: bool = False
    """A variant that differs only where events are streamed."""
    aggregates: bool = False
    """It makes one server of many: it has nothing to do with replicas of one, but is measured beside who has."""
    abilities: frozenset[str] = frozenset()
    """Of `tls`, `workers`, `redis`, `legs` (a session keeps its backends' sessions, in the store too)."""


def find_program(name: str) -> str | None:
    # nginx lives in sbin, which is not on everybody's path
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def first_line(*command: str | None) -> str:
    """Of what a program says about its version, on whichever stream."""
    finished = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    text = (finished.stdout + finished.stderr).strip().replace(f"{pathlib.Path(str(command[0])).parent}/", "")
    return text.splitlines()[0] if text else "unknown"
