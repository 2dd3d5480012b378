"""A plain reverse proxy on aiohttp, as one would write it in an afternoon: see aiohttp_proxy.py."""

import pathlib

from bench.compare.rival import CACHE, Place, Rival, first_line

PROGRAM = pathlib.Path(__file__).with_name("aiohttp_proxy.py")


def _find() -> str | None:
    """The bench's own interpreter, when aiohttp is installed there: fastproxy's environment needs none of it."""
    found = list(CACHE.glob("lib/python3*/site-packages/aiohttp"))
    return str(CACHE / "bin" / "python") if found else None


def _start(place: Place) -> list[str]:
    # -P: this directory must not be the first place to import from, its files have packages' names
    ports = [str(port) for port in place.backend_ports]
    return [str(_find()), "-P", str(PROGRAM), str(place.port), *ports]


RIVAL = Rival(
    name="aiohttp",
    start=_start,
    find=_find,
    version=lambda: "aiohttp " + first_line(_find(), "-c", "import aiohttp; print(aiohttp.__version__)"),
    hint="bench/compare/install.sh",
)
