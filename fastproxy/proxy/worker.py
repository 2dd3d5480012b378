"""One worker: a process that serves the shared port, and does what its supervisor (workers.py) says.

    supervisor --Begin(configuration)--> Server on the inherited socket --Serving--> supervisor
    Drain, Finish, Reload, Changed, Look, End: as they come          Report: each second in which something was counted

A worker lives no longer than its supervisor: the kernel kills it when that dies, and the end of the channel ends it
too. It hears no signal but SIGKILL: a terminal's Ctrl-C and a service manager's SIGTERM reach the whole group, and
there must be one drain for all.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import sys
from typing import NoReturn

import msgspec
import uvloop

from fastproxy import errors
from fastproxy.config import schema
from fastproxy.proxy import access, channel, server, tasks
from fastproxy.session import shared
from fastproxy.telemetry import fleet

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0  # what a worker that is killed had counted since its last report is lost
# Taken in one go. A client opens its pool of connections in a burst; who is awake first would have all of it, for good.
ACCEPTS_MAX = 1
STORE_SECONDS_MAX = 3.0  # more than the supervisor gives Redis; without one it answers in microseconds
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Message(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """By its name; the members follow in their order."""


class Begin(_Message, frozen=True, gc=False):
    config: bytes  # pickled: it has been checked, and comes from our own parent


class Drain(_Message, frozen=True, gc=False):
    """Take nothing new, finish, end."""


class Reload(_Message, frozen=True, gc=False):
    """Another configuration, and the certificates anew from their files."""

    config: bytes


class Finish(_Message, frozen=True, gc=False):
    """Nobody has anything left but streams on which nothing happens: end them."""


class Look(_Message, frozen=True, gc=False):
    """Asked: a Report of this moment."""


class End(_Message, frozen=True, gc=False):
    """Asked: end a session everywhere, at its backend too. False: there is none."""

    session_id: str


class Replica(_Message, frozen=True, gc=False):
    """A replica as one worker sees it."""

    url: str
    pod: str | None
    state: str
    last_error: str | None
    sessions: int
    in_flight: int
    usable: bool  # for what is new


class Report(_Message, frozen=True, gc=False):
    """What a worker has counted, and how its replicas are."""

    families: list[fleet.Family]
    replicas: list[Replica]
    discovery_fault: str | None


class Idle(_Message, frozen=True, gc=False):
    """While it drains: has it nothing left but such streams?"""

    idle: bool


class Serving(_Message, frozen=True, gc=False):
    """It accepts connections."""


class Failed(_Message, frozen=True, gc=False):
    """It can't begin, and says why; a fault would have no words but an exit code."""

    message: str


TO_WORKER = msgspec.msgpack.Decoder(Begin | Drain | Finish | Reload | shared.Changed | shared.Gap | Look | End)
TO_SUPERVISOR = msgspec.msgpack.Decoder(shared.Question | Report | Idle | Serving | Failed)


def main() -> NoReturn:
    """`python -m fastproxy.proxy.worker CHANNEL DATA SUPERVISOR`: two inherited descriptors, and who must be alive."""
    channel_fd, data_fd, supervisor_pid = map(int, sys.argv[1:])
    for heard_by_all in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(heard_by_all, signal.SIG_IGN)
    die_with(supervisor_pid)
    end, data = socket.socket(fileno=channel_fd), socket.socket(fileno=data_fd)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_main(end, data))
    sys.exit(code)


async def _main(end: socket.socket, data: socket.socket) -> int:
    return await Worker(data).run(end)


def die_with(parent_pid: int) -> None:
    """Have the kernel kill this process when its parent dies; at once, if it has died already."""
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(1)


class Worker:
    """The worker's end of the channel, and the Server that it lets serve."""

    def __init__(self, data: socket.socket) -> None:
        self._data = data
        self._tasks = tasks.Tasks()
        self._begun: asyncio.Future[schema.ServeConfig] = asyncio.get_running_loop().create_future()
        self._sessions = shared.SharedStore(self._ask_store)
        self._server: server.Server | None = None
        self._wanted: schema.ServeConfig | None = None  # said before there was a server
        self._idle = self._all_idle = False
        self._channel = channel.Channel(
            TO_WORKER, serve=self._answer, hear=self._hear, lost=self._orphaned, start_task=self._tasks.start
        )

    async def run(self, end: socket.socket) -> int:
        """Until the supervisor, or the end of it, says so; the exit code."""
        await self._channel.open(end)
        try:
            config = await self._begun
            access.configure_logging(config.log_level, config.log_format)
            serving = server.Server(config, self._sessions)
            await serving.open(self._data, accepts_max=ACCEPTS_MAX)
        except errors.FastproxyError as error:
            self._channel.tell(Failed(str(error)))
            self._channel.close()
            return 1
        self._server = serving
        self._configure()
        serving.agree = self._agree
        self._channel.tell(Serving())
        reports = self._tasks.start(self._report_for_ever(serving), name="report")
        try:
            return await serving.done
        finally:
            reports.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await reports
            self._channel.tell(report(serving))
            await serving.close()
            self._channel.close()

    def _hear(self, notice: Begin | Drain | Finish | Reload | shared.Changed | shared.Gap) -> None:
        match notice:
            case shared.Changed() | shared.Gap():
                self._sessions.hear(notice)
            case Begin():
                self._begun.set_result(pickle.loads(notice.config))
            case Drain():
                if self._server is not None:
                    self._server.start_drain(0.0)
            case Finish():
                self._all_idle = True
            case Reload():
                self._wanted = pickle.loads(notice.config)
                self._configure()

    def _configure(self) -> None:
        """The supervisor has found nothing wrong with it; a file may have changed since."""
        if self._server is None or self._wanted is None:
            return
        try:
            self._server.configure(self._wanted)
        except errors.StartError as error:
            logger.error("configuration was not reloaded, the old one stays: %s", error)
        self._wanted = None

    async def _answer(self, question: Look | End) -> object:
        if self._server is None:
            raise errors.StoreUnavailable("the worker is starting")
        match question:
            case Look():
                return report(self._server)
            case End():
                return await self._server.plane.end_session(question.session_id)

    async def _ask_store(self, question: shared.Question, expected: type[shared.Expected]) -> shared.Expected:
        try:
            return await self._channel.ask(question, expected, seconds_max=STORE_SECONDS_MAX)
        except channel.ChannelLost as error:
            raise errors.StoreUnavailable(f"session store: {error}") from error

    def _agree(self, idle: bool) -> bool:
        """A client that loses a stream opens it again, and may fail when it can't: first all calls on all workers."""
        if idle != self._idle:
            self._idle = idle
            self._channel.tell(Idle(idle))
        return self._all_idle

    def _orphaned(self) -> None:
        """The supervisor is gone, or has given this worker up."""
        if self._server is not None:
            self._server.end(1)
        elif not self._begun.done():
            self._begun.set_exception(channel.ChannelLost("the supervisor is gone"))

    async def _report_for_ever(self, serving: server.Server) -> None:
        reported = (0, 0)
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            reactor = serving.plane.reactor
            counted = (reactor.accepted, reactor.durations()[1])
            if counted != reported:
                reported = counted
                self._channel.tell(report(serving))


def report(serving: server.Server) -> Report:
    """This moment."""
    plane = serving.plane
    usable = {replica.index for replica in plane.backends.live()}
    return Report(
        families=serving.metrics.report(),
        replicas=[
            Replica(
                url=replica.url,
                pod=replica.pod,
                state=replica.state,
                last_error=replica.last_error,
                sessions=plane.book.table.count(replica.index),
                in_flight=plane.endpoint(replica.index).in_flight,
                usable=replica.index in usable,
            )
            for replica in plane.backends.all()
        ],
        discovery_fault=plane.discovery_fault,
    )


if __name__ == "__main__":
    main()
