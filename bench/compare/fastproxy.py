"""fastproxy, with everything on that is on by default: strict parsing, header rewriting, limits, timeouts, metrics."""

import importlib.util
import sys

from bench.compare.rival import SESSIONS_MAX, Place, Rival, first_line


def _find() -> str | None:
    """The interpreter, when the package is importable and its extension compiled."""
    try:
        found = importlib.util.find_spec("fastproxy._ext.core") and importlib.util.find_spec("fastproxy.cli")
    except ModuleNotFoundError:
        return None
    return sys.executable if found else None


def _start(place: Place) -> list[str]:
    command = [sys.executable, "-m", "fastproxy", "serve", "--listen", f"127.0.0.1:{place.port}"]
    command += ["--admin", "127.0.0.1:0", "--max-sessions", str(SESSIONS_MAX), "--workers", str(place.workers)]
    command += ["--drain-delay", "0s"]  # the bench stops it often, and nobody watches its readiness
    for port in place.backend_ports:
        command += ["--backend", f"http://127.0.0.1:{port}"]
    if place.redis_url:
        command += ["--store", place.redis_url]
    if place.certificate:
        command += ["--tls-cert", str(place.certificate), "--tls-key", str(place.certificate)]
    return command


RIVAL = Rival(
    name="fastproxy",
    start=_start,
    find=_find,
    version=lambda: first_line(sys.executable, "-m", "fastproxy", "--version"),
    hint="make run, or pip install .",
    abilities=frozenset({"tls", "workers", "redis"}),
)
