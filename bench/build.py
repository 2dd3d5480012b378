"""Compiles the bench's C parts into .cache/bench/bin, again only when a source is newer."""

import pathlib
import shutil
import subprocess
import tempfile

import msgspec

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "bench"
BENCH = ROOT / "bench"


class Tools(msgspec.Struct, frozen=True):
    """The compiled programs, and whether the load can speak TLS."""

    load: pathlib.Path
    backend: pathlib.Path
    floor: pathlib.Path
    tls: bool


def compile_tools() -> Tools:
    tls = _can_link_openssl()
    tls_arguments = ["-DBENCH_TLS", "-lssl", "-lcrypto"] if tls else []
    return Tools(
        load=_compile(BENCH / "load" / "load.c", tls_arguments, name="load-tls" if tls else "load"),
        backend=_compile(BENCH / "load" / "backend.c", [], name="backend"),
        floor=_compile(BENCH / "compare" / "floor.c", [], name="floor"),
        tls=tls,
    )


def _compiler() -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        raise SystemExit("bench: no C compiler (cc) was found: install gcc or clang")
    return compiler


def _compile(source: pathlib.Path, arguments: list[str], *, name: str) -> pathlib.Path:
    target = CACHE / "bin" / name
    sources = [source, *(BENCH / "load").glob("*.h")]
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in sources):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [_compiler(), "-O2", "-std=gnu11", "-Wall", "-Wextra", "-o", str(target), str(source), *arguments]
    subprocess.run(command, check=True)
    return target


def _can_link_openssl() -> bool:
    """OpenSSL's headers are a package of their own (libssl-dev); without them the tls scenario is skipped by name."""
    with tempfile.TemporaryDirectory() as directory:
        source = pathlib.Path(directory) / "probe.c"
        source.write_text("#include <openssl/ssl.h>\nint main(void) { return SSL_CTX_new(TLS_method()) == 0; }\n")
        command = [_compiler(), "-o", f"{directory}/probe", str(source), "-lssl", "-lcrypto"]
        return subprocess.run(command, capture_output=True).returncode == 0
