"""One running program as streams of lines, each bounded: what it reads, what it says, what it complains of.

    write -> its standard input     a program that does not read holds writers up, and only so many of them
    its standard output -> on_line  `hold` stops reading, so that the pipe fills and the program waits
    its standard error -> the log   cut and thinned out; the last lines are kept, to explain a bad end

It ends once, for one `reason`: end of input, then TERM to its whole group, then KILL, each with a deadline.
"""

import asyncio
import collections
import contextlib
import logging
import os
import signal
from collections.abc import Callable

from fastproxy import errors
from fastproxy.stdio import lines, spawner

logger = logging.getLogger(__name__)

UNREAD_BYTES_MAX = 256 << 10  # beside what the pipe holds; then writers wait
WAITING_BYTES_MAX = 4 << 20  # of messages that wait for that, each several times in memory; a longer one waits alone
INPUT_END_SECONDS = 2.0  # for a program to end by itself once its input has (spec: stdio shutdown)
TERM_SECONDS = 2.0  # and then after SIGTERM
KILL_SECONDS = 5.0  # a process that SIGKILL does not end hangs in the kernel: it is given up
COMPLAINT_BYTES_MAX = 1024  # of one line on standard error
COMPLAINTS_PER_SECOND = 50
COMPLAINTS_KEPT = 5


class Ended(errors.FastproxyError):
    """The program has ended, or is ending."""

    reason = "backend_lost"


class NotReading(errors.FastproxyError):
    """The program does not read what it is sent, and too many wait for it already."""

    reason = "backend_overloaded"


class Process:
    """A program that was started. `on_line` gets each line that it says, `on_end` is told once that it has ended."""

    def __init__(self, child: spawner.Child, keeper: spawner.Spawner, *, name: str, line_bytes_max: int) -> None:
        self.name = name
        self.pid = child.pid
        self.reason = ""  # why it was ended; empty while it runs, and when it has ended by itself
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.on_line: Callable[[bytes], None] = lambda line: None
        self.on_end: Callable[[], None] = lambda: None
        self._child = child
        self._keeper = keeper
        self._lines = lines.Lines(line_bytes_max)
        self._complaints = _Complaints(f"{name}[{child.pid}]")
        self._stdin: asyncio.WriteTransport | None = None
        self._stdout: asyncio.ReadTransport | None = None
        self._stderr: asyncio.ReadTransport | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._waiting_bytes = 0
        self._holds = 0
        self._ending: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect the pipes; from now on lines come."""
        loop = asyncio.get_running_loop()
        child = self._child
        for descriptor in (child.stdin, child.stdout, child.stderr):
            os.set_blocking(descriptor, False)
        stdin, _ = await loop.connect_write_pipe(lambda: _Input(self), os.fdopen(child.stdin, "wb", 0))
        self._stdin = stdin
        self._stdin.set_write_buffer_limits(UNREAD_BYTES_MAX)
        stderr, _ = await loop.connect_read_pipe(lambda: self._complaints, os.fdopen(child.stderr, "rb", 0))
        self._stderr = stderr
        stdout, _ = await loop.connect_read_pipe(lambda: _Output(self), os.fdopen(child.stdout, "rb", 0))
        self._stdout = stdout
        self._watching = loop.create_task(self._watch(), name="watch a stdio server")

    @property
    def running(self) -> bool:
        """Neither ended nor told to."""
        return not self.ended.done() and not self.reason

    @property
    def takes(self) -> bool:
        """Could a line be written at once?"""
        return self._room.is_set() and self.running and self._stdin is not None

    def put(self, line: bytes) -> None:
        """Write at once, as it `takes`."""
        assert self._stdin is not None
        self._stdin.write(line)

    async def write(self, line: bytes) -> None:
        """Send a whole line; it may wait until the program reads. Ended, NotReading."""
        if not self._room.is_set():
            if self._waiting_bytes and self._waiting_bytes + len(line) > WAITING_BYTES_MAX:
                raise NotReading(f"{self.name} does not read its input")
            self._waiting_bytes += len(line)
            try:
                while self.running and not self._room.is_set():
                    await self._room.wait()
            finally:
                self._waiting_bytes -= len(line)
        if not self.running or self._stdin is None:
            raise Ended(self.explain())
        self._stdin.write(line)

    def hold(self) -> None:
        """Hear nothing more until `release`: somebody lags. Calls nest."""
        self._holds += 1
        if self._holds == 1 and self._stdout is not None:
            self._stdout.pause_reading()

    def release(self) -> None:
        """Who lagged has caught up, or is gone."""
        self._holds -= 1
        if self._holds == 0 and self._stdout is not None and not self._stdout.is_closing():
            self._stdout.resume_reading()

    def explain(self) -> str:
        """For people: how it ended, and what it said about that."""
        if self.ended.done():
            status = self.ended.result()
            how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        else:
            how = "is being ended"
        why = f" ({self.reason})" if self.reason else ""
        last = self._complaints.last()
        return f"{self.name} {how}{why}" + (f": {last}" if last and not self.reason else "")

    def end(self, reason: str, *, at_once: bool = False) -> asyncio.Future[int]:
        """See it off; `at_once` begins with SIGKILL. The future of its exit status."""
        if self.running:
            self.reason = reason
            self._room.set()
            self._ending = asyncio.get_running_loop().create_task(self._end(at_once), name="end a stdio server")
        return self.ended

    async def _end(self, at_once: bool) -> None:
        if self._stdin is not None:
            if at_once:
                self._stdin.abort()
            else:
                self._stdin.close()  # after what is on its way
        if self._stdout is not None and not self._stdout.is_closing():
            self._holds = 0
            self._stdout.resume_reading()  # who is stuck in writing never sees the end of the input
        steps = [(None, INPUT_END_SECONDS), (signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, KILL_SECONDS)]
        for which, seconds in steps[2:] if at_once else steps:
            if which is not None:
                await self._keeper.signal(self._child, which)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self.ended), seconds)
                return
        logger.error("a stdio server can't be killed: name=%s pid=%d", self.name, self.pid)
        if not self._child.exited.done():
            self._child.exited.set_result(-signal.SIGKILL)

    async def _watch(self) -> None:
        """Its end: what it has said to the last is heard before it is told of."""
        status = await self._child.exited
        assert self._stdin is not None and self._stdout is not None and self._stderr is not None
        for _ in range(50):  # a pipe ends with its last writer, and the group is dead
            if self._stdout.is_closing() or self._holds:
                break
            await asyncio.sleep(0.01)
        for pipe in (self._stdin, self._stdout, self._stderr):
            pipe.close()
        self.ended.set_result(status)
        self._room.set()
        self.on_end()

    # ---- what the pipes say

    def said(self, data: bytes) -> None:
        """Its standard output; nothing of it is wanted any more once it is being ended."""
        if self.reason:
            return
        try:
            whole = self._lines.feed(data)
        except lines.LineTooLong as error:
            logger.error("a stdio server is ended: name=%s pid=%d reason=%s", self.name, self.pid, error)
            self.end(str(error), at_once=True)
            return
        for line in whole:
            self.on_line(line)

    def has_room(self, room: bool) -> None:
        """Its standard input."""
        if room or self.reason:
            self._room.set()
        else:
            self._room.clear()


class _Input(asyncio.BaseProtocol):
    def __init__(self, process: Process) -> None:
        self._process = process

    def pause_writing(self) -> None:
        self._process.has_room(False)

    def resume_writing(self) -> None:
        self._process.has_room(True)


class _Output(asyncio.Protocol):
    def __init__(self, process: Process) -> None:
        self._process = process

    def data_received(self, data: bytes) -> None:
        self._process.said(data)


class _Complaints(asyncio.Protocol):
    """Standard error, line by line into the log: at most so many a second, and never a long one."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._begun = b""
        self._kept: collections.deque[str] = collections.deque(maxlen=COMPLAINTS_KEPT)
        self._second = 0
        self._logged = self._left_out = 0

    def last(self) -> str:
        """The last lines, as one."""
        return " | ".join(self._kept)[-512:]

    def data_received(self, data: bytes) -> None:
        *whole, rest = (self._begun + data).split(b"\n")
        self._begun = rest[:COMPLAINT_BYTES_MAX]
        for line in whole:
            self._log(line)

    def connection_lost(self, error: Exception | None) -> None:
        self._log(self._begun)
        self._begun = b""

    def _log(self, line: bytes) -> None:
        text = line[:COMPLAINT_BYTES_MAX].decode("utf-8", "replace").rstrip()
        if not text:
            return
        text = "".join(character if character.isprintable() else " " for character in text)
        self._kept.append(text)
        second = int(asyncio.get_running_loop().time())
        if second != self._second:
            if self._left_out:
                logger.info("%s: … %d more lines on standard error", self._who, self._left_out)
            self._second, self._logged, self._left_out = second, 0, 0
        if self._logged < COMPLAINTS_PER_SECOND:
            self._logged += 1
            logger.info("%s: %s", self._who, text)
        else:
            self._left_out += 1
