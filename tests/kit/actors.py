"""Processes as actors: started, awaited, stopped, killed, frozen, thawed, restarted; what they said is kept.

Nouns: `Process` (one operating-system process with its two log files), `KitError` (an actor did not do what was
asked, with the tail of its log). `started(processes)` starts many at once, awaits them all, and ends them all,
whatever the test does.

Every process leads a session of its own, so that a signal reaches what it has started too; what is still alive when the
interpreter ends is killed. Nothing is ever looked up by name: only processes started here are signalled.
"""

import atexit
import contextlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import typing
from collections.abc import Iterator, Sequence

import pytest

READY_SECONDS_MAX = 30.0  # an SDK's import takes two seconds of CPU, and the suite may start several on two cores
STOP_SECONDS_MAX = 40.0  # a draining proxy may take its drain delay and timeout, 30 s together by default
POLL_SECONDS = 0.01
LOG_TAIL_LINES = 40

_numbers = itertools.count(1)
_living: set["Process"] = set()
_folders: list[pathlib.Path] = []


class KitError(AssertionError):
    """An actor did not do what was asked of it. An assertion, because a test can only fail on it."""


def log_folder() -> pathlib.Path:
    """One folder of logs per interpreter, gone when it ends."""
    if not _folders:
        _folders.append(pathlib.Path(tempfile.mkdtemp(prefix="fastproxy-kit-")))
    return _folders[0]


@atexit.register
def _end_all() -> None:
    for process in list(_living):
        process.kill()
    for folder in _folders:
        shutil.rmtree(folder, ignore_errors=True)


class Process:
    """A process that says on standard output when it is ready. Subclasses say what that looks like."""

    def __init__(self, name: str, command: Sequence[str], environment: dict[str, str] | None = None) -> None:
        self.name = f"{name}#{next(_numbers)}"
        self.command = list(command)
        self.environment = environment or {}
        self.starts = 0
        self._popen: subprocess.Popen[bytes] | None = None

    # What a subclass says about its kind.

    def ready(self, words: str) -> bool:
        """Whether these words, all of standard output so far, say that it is ready; may keep what they say."""
        return any(self.announce(line) for line in words.splitlines() if line.startswith("{"))

    def announce(self, line: str) -> bool:
        try:
            said = json.loads(line)
        except ValueError:
            return False  # a line that is still being written
        return bool(said.get("ready"))

    def restart_command(self) -> list[str]:
        """The command for the next start; a server names its old port here."""
        return self.command

    # Verbs.

    def start(self) -> None:
        """Begin; `await_ready` is separate so that many can begin together."""
        if self.alive:
            raise KitError(f"{self.name} runs already")
        command = self.restart_command() if self.starts else self.command
        self.starts += 1
        with self._stdout.open("wb") as stdout, self._stderr.open("ab") as stderr:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                start_new_session=True,
            )
        _living.add(self)

    def await_ready(self, seconds_max: float = READY_SECONDS_MAX) -> None:
        deadline = time.monotonic() + seconds_max
        while not self.ready(self.stdout):
            if not self.alive:
                raise KitError(f"{self.name} ended with {self.exit_code} before it was ready\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise KitError(f"{self.name} was not ready within {seconds_max} s\n{self.log_tail()}")
            time.sleep(POLL_SECONDS)

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> int:
        """Ask it to end (SIGTERM) and wait; its exit code. A process that does not end in time fails the test."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds_max)

    def kill(self) -> None:
        """End it and what it has started, at once (kill -9); a frozen one too."""
        if self._popen is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        _living.discard(self)

    def freeze(self) -> None:
        """It keeps its sockets and says nothing more, like a machine that hangs."""
        self._signal_group(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_group(signal.SIGCONT)

    def restart(self) -> None:
        """Kill it if it lives, and start it again on the same port."""
        self.kill()
        self.start()
        self.await_ready()

    def signal(self, number: int) -> None:
        if not self.alive:
            raise KitError(f"{self.name} is not running (exit code {self.exit_code})\n{self.log_tail()}")
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, seconds_max: float) -> int:
        assert self._popen is not None
        try:
            code = self._popen.wait(seconds_max)
        except subprocess.TimeoutExpired as error:
            raise KitError(f"{self.name} did not end within {seconds_max} s\n{self.log_tail()}") from error
        self.kill()  # what it has started and left behind
        return code

    def _signal_group(self, number: int) -> None:
        if not self.alive:
            raise KitError(f"{self.name} is not running (exit code {self.exit_code})\n{self.log_tail()}")
        assert self._popen is not None
        os.killpg(self._popen.pid, number)

    # What can be seen.

    @property
    def pid(self) -> int:
        assert self._popen is not None, f"{self.name} has not been started"
        return self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    @property
    def resident_bytes(self) -> int:
        """Memory that it holds now (RSS)."""
        pages = int(pathlib.Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    @property
    def descriptors(self) -> int:
        """How many files and sockets it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    @property
    def stdout(self) -> str:
        """What it has said on standard output since its last start."""
        return self._stdout.read_text(errors="replace") if self._stdout.exists() else ""

    @property
    def stderr(self) -> str:
        """What it has said on standard error, over all its starts."""
        return self._stderr.read_text(errors="replace") if self._stderr.exists() else ""

    def log_tail(self) -> str:
        """The end of what it said, for a failing test."""
        lines = [*self.stdout.splitlines(), *self.stderr.splitlines()[-LOG_TAIL_LINES:]]
        return "\n".join([f"--- {self.name} (pid {self._popen.pid if self._popen else None}) said:", *lines])

    @property
    def _stdout(self) -> pathlib.Path:
        return log_folder() / f"{self.name}.out"

    @property
    def _stderr(self) -> pathlib.Path:
        return log_folder() / f"{self.name}.err"


Kind = typing.TypeVar("Kind", bound=Process)


@contextlib.contextmanager
def started(processes: Sequence[Kind]) -> Iterator[list[Kind]]:
    """All of them running and ready; killed afterwards. When the test fails, the end of each log is shown."""
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.await_ready()
        yield list(processes)
    except (Exception, pytest.fail.Exception):
        for process in processes:
            print(process.log_tail(), file=sys.stderr)
        raise
    finally:
        for process in processes:
            process.kill()
