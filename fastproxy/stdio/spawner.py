"""Our end of the warden (warden.py): it starts programs for us, and tells when they have ended.

The warden is started with the first program, and anew should it die; the kernel has then ended its programs.
"""

import asyncio
import contextlib
import json
import logging
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fastproxy import errors

logger = logging.getLogger(__name__)

_WARDEN = pathlib.Path(__file__).with_name("warden.py")
_END_SECONDS_MAX = 5.0
_REPLY_BYTES_MAX = 65536


class NotStarted(errors.FastproxyError):
    """A program could not be started."""

    reason = "backend_unreachable"


class Child:
    """A program that runs. Its three descriptors are the caller's; `exited` becomes its status (-9: by SIGKILL)."""

    def __init__(self, number: int, pid: int, exited: asyncio.Future[int], pipes: tuple[int, int, int]) -> None:
        self.number = number
        self.pid = pid
        self.exited = exited
        self.stdin, self.stdout, self.stderr = pipes


class Spawner:
    """Starts programs through a warden of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._channel: socket.socket | None = None
        self._warden: subprocess.Popen[bytes] | None = None
        self._number = 0
        self._started: dict[int, asyncio.Future[int]] = {}
        self._exited: dict[int, asyncio.Future[int]] = {}

    async def start(
        self, command: Sequence[str], *, cwd: str | None = None, environment: Mapping[str, str] | None = None
    ) -> Child:
        """Run a program with three pipes. NotStarted says why it can't be."""
        self._number += 1
        number = self._number
        stdin_theirs, stdin_ours = os.pipe()
        stdout_ours, stdout_theirs = os.pipe()
        stderr_ours, stderr_theirs = os.pipe()
        theirs, ours = (stdin_theirs, stdout_theirs, stderr_theirs), (stdin_ours, stdout_ours, stderr_ours)
        answer: asyncio.Future[int] = self._loop.create_future()
        self._started[number] = answer
        # A child that ends at once may say so in one breath with its pid.
        exited: asyncio.Future[int] = self._loop.create_future()
        self._exited[number] = exited
        try:
            asked = {
                "do": "start",
                "id": number,
                "argv": list(command),
                "cwd": cwd,
                "env": dict(os.environ if environment is None else environment),
            }
            await self._tell(asked, theirs)
            pid = await answer
        except BaseException as error:
            del self._exited[number]
            _close(ours)
            if isinstance(error, OSError):
                raise NotStarted(f"{command[0]}: {error.strerror or error}".lower()) from error
            raise
        finally:
            self._started.pop(number, None)
            _close(theirs)
        return Child(number, pid, exited, ours)

    async def signal(self, child: Child, which: signal.Signals) -> None:
        """To the program and its group, unless it has ended."""
        if not child.exited.done():
            with contextlib.suppress(OSError):
                await self._tell({"do": "signal", "id": child.number, "signal": int(which)}, ())

    def abandon(self) -> None:
        """SIGKILL for every program and its group."""
        for number in list(self._exited):
            with contextlib.suppress(OSError):
                self._send({"do": "signal", "id": number, "signal": int(signal.SIGKILL)}, ())

    async def close(self) -> None:
        """The end of whatever still runs."""
        warden = self._warden
        self._lost()
        if warden is None:
            return
        deadline = self._loop.time() + _END_SECONDS_MAX
        while warden.poll() is None:
            if self._loop.time() > deadline:
                warden.kill()
            await asyncio.sleep(0.01)

    # ---- the channel

    def _open(self) -> socket.socket:
        if self._channel is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                self._warden = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(_WARDEN), str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    start_new_session=True,
                )
            ours.setblocking(False)
            self._channel = ours
            self._loop.add_reader(ours, self._hear)
        return self._channel

    async def _tell(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        while True:
            try:
                self._send(message, descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(0.005)  # it is starting something; each start takes it a millisecond
            except (BrokenPipeError, ConnectionError):
                self._lost()

    def _send(self, message: dict[str, Any], descriptors: Sequence[int]) -> None:
        socket.send_fds(self._open(), [json.dumps(message).encode()], list(descriptors))

    def _hear(self) -> None:
        while self._channel is not None:
            try:
                data = self._channel.recv(_REPLY_BYTES_MAX)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                logger.error("the warden of stdio servers is gone, and its servers with it")
                return self._lost()
            said = json.loads(data)
            if "exit" in said:
                exited = self._exited.pop(said["id"], None)
                if exited is not None and not exited.done():
                    exited.set_result(said["exit"])
                continue
            started = self._started.pop(said["id"], None)
            if started is not None and not started.done():
                if "pid" in said:
                    started.set_result(said["pid"])
                else:
                    started.set_exception(OSError(0, said["error"]))

    def _lost(self) -> None:
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._channel.close()
            self._channel = None
        if self._warden is not None:
            self._warden.poll()
        self._warden = None
        started, self._started = self._started, {}
        exited, self._exited = self._exited, {}
        for waiting in started.values():
            if not waiting.done():
                waiting.set_exception(OSError(0, "the warden of stdio servers is gone"))
        for ending in exited.values():
            if not ending.done():
                ending.set_result(-signal.SIGKILL)


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
