"""A small program beside the proxy that starts its servers, and outlives it just long enough to end them all.

    proxy  --{"do": "start", …} + descriptors-->  warden  --fork, exec-->  server, in a session and group of its own
           <--{"id", "pid"} or {"id", "error"}--
           --{"do": "signal", "id", "signal"}-->          --killpg-->
           <--{"id", "exit"}--

Three things need a process of their own. A parent-death signal fires when the *thread* that forked ends, and here there
is but one, which never does. Servers have children (`npx`, `uvx`, browsers), and only a subreaper inherits those whose
parent has died, so that it can end and reap them. And who is killed by -9 can't clean up; the other end of a socket
notices. Should this program be killed as well, the kernel kills the servers.

Run by its path and in isolation (`python -I -S`), it imports nothing but the standard library, and is 8 MiB small.
"""

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection
from typing import Any, NoReturn

MESSAGE_BYTES_MAX = 1 << 20  # a command with its environment is some KiB
KILL_SECONDS = 2.0  # what SIGKILL does not end hangs in the kernel
END_SECONDS = 0.5  # for servers to see the end of their input, once the proxy is gone
MARK = "FASTPROXY_STDIO_PROCESS"  # in a server's environment: whose its orphans are
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_MSG_CMSG_CLOEXEC = 0x40000000  # linux/socket.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def main() -> NoReturn:
    """`warden.py DESCRIPTOR`: one end of a socket pair whose other end is the proxy's."""
    for heard_by_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(heard_by_all, signal.SIG_IGN)  # a terminal's Ctrl-C and a service manager's stop are the proxy's
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    Warden(socket.socket(fileno=int(sys.argv[1]))).run()
    sys.exit(0)


class Warden:
    """Its servers by the proxy's number for them; each is the leader of a group that has its pid."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._pids: dict[int, int] = {}
        self._numbers: dict[int, int] = {}
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(waker, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def run(self) -> None:
        """Until the proxy is gone, and the servers after it."""
        while True:
            ready, _, _ = select.select([self._channel.fileno(), self._woken], [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
                self._reap()
            if self._channel.fileno() in ready and not self._hear():
                return self._end_all()

    def _hear(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._channel, MESSAGE_BYTES_MAX, 3, _MSG_CMSG_CLOEXEC)
        except ConnectionError:
            return False
        if not data:
            return False
        asked = json.loads(data)
        number = asked["id"]
        if asked["do"] == "signal":
            self._signal(number, asked["signal"])
            return True
        try:
            pid = start(asked["argv"], asked["cwd"], {**asked["env"], MARK: _mark(number)}, descriptors)
        except OSError as error:
            self._tell({"id": number, "error": error.strerror or str(error)})
        else:
            self._pids[number] = pid
            self._numbers[pid] = number
            self._tell({"id": number, "pid": pid})
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self._channel.send(json.dumps(message).encode())
        except OSError:
            return  # the proxy is gone: the next look at the channel says so, too

    def _signal(self, number: int, which: int) -> None:
        pid = self._pids.get(number)
        if pid is None:
            return  # reaped: the pid may be another's by now
        if which == signal.SIGKILL:
            for descendant in _descendants(pid):  # those that have left the group, too
                _kill(os.kill, descendant, which)
        _kill(os.killpg, pid, which)

    def _reap(self) -> None:
        """Whoever has ended."""
        ended = False
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            number = self._numbers.pop(pid, None)
            if number is None:
                continue
            ended = True
            del self._pids[number]
            _kill(os.killpg, pid, signal.SIGKILL)  # who is left in the group has nobody to serve
            self._tell({"id": number, "exit": os.waitstatus_to_exitcode(status)})
        if ended:
            self._end_orphans()

    def _end_orphans(self) -> None:
        """What a server that has ended leaves behind outside of its group."""
        marks = {_mark(number) for number in self._pids}
        for pid in _children(os.getpid()):
            if pid not in self._numbers and (mark := _mark_of(pid)) is not None and mark not in marks:
                _kill(os.kill, pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """The end of the proxy was the end of every server's input; those that do not mind it are killed."""
        self._await(lambda: self._pids, END_SECONDS)
        for number in list(self._pids):
            self._signal(number, signal.SIGKILL)
        for pid in _children(os.getpid()):  # what has left its server's group, or outlived it
            _kill(os.kill, pid, signal.SIGKILL)
        # Until they are reaped: else they would be zombies of whoever inherits them.
        self._await(lambda: _children(os.getpid()), KILL_SECONDS)

    def _await(self, left: Callable[[], Collection[int]], seconds_max: float) -> None:
        deadline = time.monotonic() + seconds_max
        self._reap()
        while left() and time.monotonic() < deadline:
            ready, _, _ = select.select([self._woken], [], [], 0.05)
            if ready:
                os.read(self._woken, 4096)
            self._reap()


def start(argv: list[str], cwd: str | None, environment: dict[str, str], descriptors: list[int]) -> int:
    """The pid of a new process, leader of its own session. OSError: it could not be started."""
    heard, said = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            _become(argv, cwd, environment, descriptors, parent)
        except OSError as error:
            os.write(said, f"{error.errno or 0}".encode())
        finally:
            os._exit(127)
    os.close(said)
    with open(heard, "rb") as pipe:
        failure = pipe.read()  # it ends with the exec
    if failure:
        os.waitpid(pid, 0)
        raise OSError(int(failure), os.strerror(int(failure)))
    return pid


def _become(argv: list[str], cwd: str | None, environment: dict[str, str], descriptors: list[int], parent: int) -> None:
    os.setsid()
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(127)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    if cwd is not None:
        os.chdir(cwd)
    signal.set_wakeup_fd(-1)
    for which in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE, signal.SIGCHLD):
        signal.signal(which, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environment)


def _mark(number: int) -> str:
    return f"{os.getpid()}.{number}"


def _kill(how: Any, pid: int, which: int) -> None:
    try:
        how(pid, which)
    except ProcessLookupError:
        return


def _children(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(child) for child in file.read().split()]
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in _children(pid):
        found += [child, *_descendants(child)]
    return found


def _mark_of(pid: int) -> str | None:
    """Whose server this process descends from; None when nobody's, or when it may not be known."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = file.read().split(b"\0")
    except OSError:
        return None
    prefix = f"{MARK}=".encode()
    return next((one[len(prefix) :].decode() for one in variables if one.startswith(prefix)), None)


if __name__ == "__main__":
    main()
