"""The C floor: an epoll loop that only copies, with one lookup by session id (floor.c)."""

from bench.compare.rival import CACHE, Rival

PROGRAM = CACHE / "bin" / "floor"

RIVAL = Rival(
    name="floor",
    start=lambda place: [str(PROGRAM), str(place.port), *(str(port) for port in place.backend_ports)],
    find=lambda: str(PROGRAM) if PROGRAM.exists() else None,
    version=lambda: "bench/compare/floor.c, cc -O2",
    hint="python -m bench compiles it",
)
