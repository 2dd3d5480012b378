"""FastMCP's proxy, which aggregates as `fastproxy vmcp` does: one process, JSON answers, its defaults otherwise."""

import pathlib

from bench.compare.rival import CACHE, ROOT, Place, Rival, first_line

PROGRAM = pathlib.Path(__file__).parent / "fastmcp_program.py"


def _find() -> str | None:
    """An interpreter that has it: the bench's own environment, or that of the tests."""
    for environment in (CACHE, ROOT / ".cache" / "kit" / "mcp2"):
        if any(environment.glob("lib/python*/site-packages/fastmcp/__init__.py")):
            return str(environment / "bin" / "python")
    return None


def _start(place: Place) -> list[str]:
    return [str(_find()), "-P", str(PROGRAM), str(place.port), *map(str, place.backend_ports)]


RIVAL = Rival(
    name="fastmcp",
    start=_start,
    find=_find,
    version=lambda: f"fastmcp {first_line(_find(), '-c', 'import fastmcp; print(fastmcp.__version__)')}",
    hint="python -m tests.kit.provision mcp2",
    aggregates=True,
)
