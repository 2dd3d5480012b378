"""The command `fastproxy` as a process: run it with words and variables, and look at what it said.

Nothing of the surrounding FASTPROXY_* environment reaches it.
"""

import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
COMMAND_SECONDS_MAX = 30
PROGRAM = [sys.executable, "-m", "fastproxy"]


def clean_environment(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTPROXY_")}
    return inherited | {"PYTHONPATH": str(ROOT)} | variables


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *words],
        capture_output=True,
        text=True,
        env=clean_environment(**variables),
        stdin=subprocess.DEVNULL,
        timeout=COMMAND_SECONDS_MAX,
        check=False,
    )


def fail(code: int, *words: str, **variables: str) -> list[str]:
    """Runs what must fail, in lines of ours and without a traceback; answers with those lines."""
    done = run(*words, **variables)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("fastproxy: ") for line in lines), done.stderr
    return [line.removeprefix("fastproxy: ") for line in lines]
