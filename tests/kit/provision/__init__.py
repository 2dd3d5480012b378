"""Installs the real MCP servers and clients that the tests drive: two Python environments, several Node folders.

`python -m tests.kit.provision [WHAT…]` installs what is named (all of it by default) and says in one line each what
it did. A test calls `ensure(WHAT)`, which does the same on demand and raises `Unprovisioned` with the reason, so that
the test can be skipped by name.

Data flow: a row of `RECIPES` → a folder `.cache/kit/WHAT` of the checkout → a stamp, written last, that holds the row
it was made from. A folder without a stamp, or with another row's, is made anew. One lock file per folder, so two
processes may ask at once and one waits. Registries are those that this machine's pip and npm are configured for: no
address may ever be written here.
"""

import contextlib
import fcntl
import functools
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator

import msgspec
import pytest

CHECKOUT = pathlib.Path(__file__).resolve().parents[3]
CACHE = pathlib.Path(
    os.environ.get("KIT_CACHE", CHECKOUT / ".cache" / "kit")
)  # KIT_CACHE: one cache for several checkouts
INSTALL_SECONDS_MAX = 600.0  # the inspector pulls several hundred packages; a cold registry mirror is slow


class Unprovisioned(Exception):
    """What was asked for can't be had on this machine; the text says why, in one line."""


class Recipe(msgspec.Struct, frozen=True, gc=False):
    """What a folder holds: exact pins, so that a surprise of today is a surprise of tomorrow."""

    installer: str
    packages: tuple[str, ...]


RECIPES: dict[str, Recipe] = {
    "mcp2": Recipe("pip", ("mcp==2.3.0", "fastmcp==4.1.2")),
    "mcp1": Recipe("pip", ("mcp==1.30.0",)),
    # One folder per tree: their transitive zod, hono and SDK versions differ, and a shared one would hoist one to all.
    "node": Recipe("npm", ("node@24",)),  # the conformance suite needs fs.globSync, so Node 22 at least
    "ts1": Recipe("npm", ("@modelcontextprotocol/sdk@1.32.2",)),
    "ts2": Recipe("npm", ("@modelcontextprotocol/client@2.4.0", "@modelcontextprotocol/server@2.4.0")),
    "everything": Recipe("npm", ("@modelcontextprotocol/server-everything@2026.8.31",)),
    "stdio-npm": Recipe(
        "npm",
        ("@modelcontextprotocol/server-filesystem@2026.8.31", "@modelcontextprotocol/server-memory@2026.8.31"),
    ),
    "stdio-pip": Recipe("pip", ("mcp-server-time==2026.10.19", "mcp-server-fetch==2026.10.24")),
    "inspector": Recipe("npm", ("@modelcontextprotocol/inspector@2.12.0",)),
    "conformance": Recipe("npm", ("@modelcontextprotocol/conformance@0.2.0-alpha.12",)),
}


def folder(what: str) -> pathlib.Path:
    return CACHE / what


def require(what: str) -> pathlib.Path:
    """As `ensure`, for a test: what can't be had skips it by name. With KIT_REQUIRED set (in CI) it fails instead."""
    try:
        return ensure(what)
    except Unprovisioned as error:
        if os.environ.get("KIT_REQUIRED"):
            pytest.fail(f"KIT_REQUIRED is set, and {error}", pytrace=False)
        pytest.skip(str(error))


def python(what: str) -> pathlib.Path:
    """The interpreter of a Python environment, provisioned."""
    return require(what) / "bin" / "python"


def node() -> pathlib.Path:
    """The Node binary that every JavaScript program of the kit runs on."""
    return require("node") / "node_modules" / "node" / "bin" / "node"


def module(what: str, name: str) -> pathlib.Path:
    """The folder of an npm package inside its provisioned tree."""
    return require(what) / "node_modules" / name


def ensure(what: str) -> pathlib.Path:
    """The folder of `what`, installed if need be. Failure is remembered: one process asks a broken registry once."""
    reason = _attempt(what)
    if reason is not None:
        raise Unprovisioned(reason)
    return folder(what)


@functools.cache
def _attempt(what: str) -> str | None:
    try:
        provision(what)
    except Unprovisioned as error:
        return str(error)
    return None


def provision(what: str) -> bool:
    """Make the folder of `what` current; False when there was nothing to do."""
    recipe = RECIPES.get(what)
    if recipe is None:
        raise Unprovisioned(f"unknown: {what} (one of {', '.join(RECIPES)})")
    if _is_current(what, recipe):
        return False
    with _lock(what):
        if _is_current(what, recipe):  # another process made it while we waited
            return False
        shutil.rmtree(folder(what), ignore_errors=True)
        folder(what).mkdir(parents=True)
        if recipe.installer == "pip":
            _install_python(what, recipe)
        else:
            _install_node(what, recipe)
        _stamp(what).write_bytes(_fingerprint(recipe))
    return True


def _install_python(what: str, recipe: Recipe) -> None:
    _run(what, [sys.executable, "-m", "venv", str(folder(what))])
    pip = [str(folder(what) / "bin" / "python"), "-m", "pip", "--quiet", "--no-input", "install"]
    _run(what, [*pip, "--disable-pip-version-check", *recipe.packages])


def _install_node(what: str, recipe: Recipe) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise Unprovisioned(f"{what}: npm is not on PATH (install Node.js)")
    manifest = {
        "name": f"kit-{what}",
        "private": True,
        "version": "0.0.0",
        "description": "real MCP programs for the tests",
    }
    (folder(what) / "package.json").write_text(json.dumps(manifest))
    quiet = ["--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error"]
    # Only the node package needs its install script (it fetches the binary of this platform); no other script is run.
    scripts = [] if what == "node" else ["--ignore-scripts"]
    _run(what, [npm, "install", *quiet, *scripts, "--save-exact", *recipe.packages], cwd=folder(what))


def _run(what: str, command: list[str], cwd: pathlib.Path | None = None) -> None:
    log = CACHE / f"{what}.log"
    with log.open("ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                timeout=INSTALL_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unprovisioned(
                f"{what}: {command[0]} took longer than {INSTALL_SECONDS_MAX:.0f} s (log: {log})"
            ) from error
    if done.returncode != 0:
        raise Unprovisioned(f"{what}: {_last_complaint(log)} (log: {log})")


def _last_complaint(log: pathlib.Path) -> str:
    """The line that a reader of the log would look for: the last one that says error, else the last one."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    complaints = [line for line in lines if "error" in line.lower()]
    return (complaints or lines or ["no output"])[-1][:256]


def _is_current(what: str, recipe: Recipe) -> bool:
    try:
        return _stamp(what).read_bytes() == _fingerprint(recipe)
    except FileNotFoundError:
        return False


def _fingerprint(recipe: Recipe) -> bytes:
    # A venv and a Node binary belong to one interpreter, machine type and path: a checkout that moves is made anew.
    return json.dumps(
        [recipe.installer, *recipe.packages, platform.machine(), platform.python_version(), str(CACHE)]
    ).encode()


def _stamp(what: str) -> pathlib.Path:
    return folder(what) / "kit-stamp.json"


@contextlib.contextmanager
def _lock(what: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(CACHE / f"{what}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        (CACHE / f"{what}.log").write_bytes(b"")
        yield
    finally:
        os.close(descriptor)
