"""`fastproxy vmcp` in front of the replicas, each a server of its own: b0, b1 …; all that is on by default is on."""

import sys

from bench.compare import fastproxy
from bench.compare.rival import SESSIONS_MAX, Place, Rival, first_line


def _start(place: Place) -> list[str]:
    command = [sys.executable, "-m", "fastproxy", "vmcp", "--listen", f"127.0.0.1:{place.port}"]
    command += ["--admin", "127.0.0.1:0", "--max-sessions", str(SESSIONS_MAX), "--cache-sessions", str(SESSIONS_MAX)]
    command += ["--drain-delay", "0s"]  # the bench stops it often, and nobody watches its readiness
    for number, port in enumerate(place.backend_ports):
        command += ["--backend", f"b{number}=http://127.0.0.1:{port}/mcp"]
    if place.redis_url:
        command += ["--store", place.redis_url]
    return command


RIVAL = Rival(
    name="fastproxy-vmcp",
    start=_start,
    find=fastproxy.RIVAL.find,
    version=lambda: first_line(sys.executable, "-m", "fastproxy", "--version"),
    hint="make run, or pip install .",
    aggregates=True,
    abilities=frozenset({"redis", "legs"}),
)
