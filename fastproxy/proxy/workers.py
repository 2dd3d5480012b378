"""The supervisor: several workers behind one port, which look like one process from outside (--workers above 1).

    supervisor: binds the port, holds the session store, serves the admin address, hears the signals
      |-- channel --> worker 1 \\
      |-- channel --> worker 2  >  accept from the one listening socket, each with a relay and a table of its own
      ...

The listening socket is the supervisor's and is inherited: a connection that waits in its queue belongs to no worker, so
none is lost with one. (Each worker's epoll descriptor is watched by its event loop's, and through two levels
EPOLLEXCLUSIVE does not stop the kernel from waking all; but who comes late finds nothing and sleeps on.)

A worker that dies is replaced at once, one that can't begin after a pause that doubles. Nothing of a request passes
through here: the supervisor is asked for sessions that a worker does not know, and for nothing else.
"""

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys

import uvloop

from fastproxy import errors, telemetry
from fastproxy._ext import core
from fastproxy.config import schema, watch
from fastproxy.proxy import (
    access,
    admin,
    admission,
    channel,
    crew,
    garbage,
    plane,
    reload,
    serving,
    settings,
    tasks,
    worker,
)
from fastproxy.session import shared, store

logger = logging.getLogger(__name__)

STARTS_MAX = 5  # in a row, of one worker, while no other serves: then it will not get better
PAUSE_SECONDS = 0.1  # after the first start in vain; doubles
PAUSE_SECONDS_MAX = 5.0
START_SECONDS_MAX = 30.0  # Python and our imports take half a second of a free processor; for each worker one more
STEADY_SECONDS = 1.0  # who has served so long is replaced at once when it dies
LAST_SECONDS_MAX = 1.0  # from the end of a worker's channel to its own
SPARE_SECONDS = 3.0  # for a worker to end, after what its own drain may take


def run(config: schema.ServeConfig, watched: watch.Watch) -> int:
    """Serve until told to stop; the exit code. StartError, StoreRefused: it could not begin."""
    access.configure_logging(config.log_level, config.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config, watched))


async def _main(config: schema.ServeConfig, watched: watch.Watch) -> int:
    return await Supervisor(config).run(watched)


class Supervisor:
    """Starts, watches and ends the workers, and speaks for them."""

    def __init__(self, config: schema.ServeConfig) -> None:
        self.config = config
        self._tasks = tasks.Tasks()
        self._numbers = telemetry.Telemetry(config.name)
        self._sessions: store.SessionStore = plane.make_store(config, self._numbers.observe_store)
        self._host = shared.Host(self._sessions)
        self._crew = crew.Crew(config, self._sessions, self._numbers, self.drain)
        self._admin = admin.Admin(self._crew, self._crew)
        self._seats = [Seat(number) for number in range(1, config.workers + 1)]
        self._reactor: core.Reactor | None = None
        self._data: socket.socket | None = None
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._signals = 0
        self._start_seconds_max = START_SECONDS_MAX + config.workers
        self._leaving = False  # who ends now is not replaced

    async def run(self, watched: watch.Watch) -> int:
        """Until the end; the exit code."""
        serving.warn_of_shortage(self.config)
        serving.make_tls(self.config)  # what is wrong with it is said once
        self._data = serving.listen(self.config.listen, "--listen")
        pages = None if self.config.admin is None else serving.listen(self.config.admin, "--admin")
        await self._open_store()
        reloader = reload.Reloader(self.config, watched, self._crew.reloads, self._configure)
        self._catch_signals(reloader)
        self._tasks.start(reloader.follow(), name="follow the configuration")
        keepers = [self._tasks.start(self._keep(seat), name=f"keep worker {seat.number}") for seat in self._seats]
        for keeper in keepers:
            keeper.add_done_callback(self._on_task_end)
        try:
            announcement = self._tasks.start(self._announce(self._data, pages), name="announce")
            announcement.add_done_callback(self._on_task_end)
            code = await self._done
            announcement.cancel()
            return code
        finally:
            self._leaving = True
            for seat in self._seats:
                seat.kill()
            await asyncio.gather(*keepers, return_exceptions=True)
            if self._reactor is not None:
                self._reactor.close()
            await self._tasks.stop()
            await self._sessions.close()

    async def _open_store(self) -> None:
        try:
            await self._sessions.open()
            self._crew.store_answered = True
        except errors.StoreUnavailable as error:
            logger.warning("session store is away: reason=%s", error)
            self._tasks.start(self._await_store(), name="await the store")

    async def _await_store(self) -> None:
        while not self._crew.store_answered:
            await asyncio.sleep(0.2)
            self._crew.store_answered = self._sessions.available

    async def _announce(self, data: socket.socket, pages: socket.socket | None) -> None:
        """When all workers serve: the first two lines, and the admin address."""
        for seat in self._seats:
            await seat.served_once.wait()
        garbage.settle()
        self._tasks.start(garbage.collect_when_quiet(lambda: True), name="collect garbage when quiet")
        serving.announce(self.config, data.fileno(), pages)
        if pages is not None:
            reactor = core.Reactor(
                asyncio.get_running_loop(), self, core.RouteTable(1), header_seconds=self.config.header_timeout
            )
            reactor.listen(pages.detach(), "admin", fast_lane=False)
            self._reactor = reactor

    # ---- the relay's handler: every exchange is for the admin pages

    def begin(self, exchange: core.Exchange) -> None:
        """Somebody asks for a page."""
        alone = exchange.target.partition(b"?")[0] == b"/healthz"  # says that this process lives, and no more
        self._tasks.start(self._admin.serve(exchange) if alone else self._show(exchange), name="admin")

    def resume(self, exchange: core.Exchange, _answer: core.AnswerHead | None) -> None:
        """There is no fast lane here."""
        exchange.abort("fault")

    def touch(self, key: bytes) -> None:
        """There are no sessions here."""

    def access(self, exchange: core.Exchange) -> None:
        """Admin pages have no access lines."""

    async def _show(self, exchange: core.Exchange) -> None:
        await self._crew.refresh()
        await self._admin.serve(exchange)

    # ---- workers

    async def _keep(self, seat: "Seat") -> None:
        """A worker on this seat, for ever."""
        loop = asyncio.get_running_loop()
        in_vain, pause_seconds = 0, PAUSE_SECONDS
        while not self._leaving:
            began = loop.time()
            words = await self._run_worker(seat)
            if self._leaving:
                return
            self._crew.deaths_total += 1
            served = seat.served_at is not None
            logger.error("worker %s: worker=%d reason=%s", "died" if served else "did not start", seat.number, words)
            if seat.served_at is not None and loop.time() - seat.served_at >= STEADY_SECONDS:
                in_vain, pause_seconds = 0, PAUSE_SECONDS
                continue
            in_vain = 0 if served else in_vain + 1
            hopeless = seat.refused or in_vain >= STARTS_MAX or loop.time() - began >= self._start_seconds_max
            if hopeless and not self._crew.members:
                self._give_up(errors.StartError(words if seat.refused else f"no worker comes up: {words}"))
                return
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, PAUSE_SECONDS_MAX)

    async def _run_worker(self, seat: "Seat") -> str:
        """One worker's life; why it ended."""
        assert self._data is not None
        seat.clear()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                seat.process = process = await start(theirs.fileno(), self._data.fileno())
        except OSError as error:
            ours.close()
            return f"no process could be started: {error.strerror or error}"
        ended = asyncio.Event()
        line = channel.Channel(
            worker.TO_SUPERVISOR,
            serve=lambda question: self._answer(seat, question),
            hear=lambda notice: self._hear(seat, notice),
            lost=ended.set,
            start_task=self._tasks.start,
        )
        await line.open(ours)
        seat.line = line
        self._host.admit(seat, line.tell)  # before it has asked for anything
        if self._leaving:
            seat.kill()
        line.tell(worker.Begin(pickle.dumps(admission.share(self.config, seat.number))))
        slow = asyncio.get_running_loop().call_later(self._start_seconds_max, seat.kill_unless_serving)
        await ended.wait()  # all that it had to say has been heard by then
        slow.cancel()
        code = await self._bury(process)
        seat.idle = True
        self._finish_together()
        self._crew.dismiss(seat)
        self._host.dismiss(seat)
        line.close()
        return seat.refused or (f"exit code {code}" if code >= 0 else signal.Signals(-code).name)

    async def _bury(self, process: asyncio.subprocess.Process) -> int:
        """Nothing can be said to a worker any more: it is about to end, or must. Its exit code."""
        try:
            return await asyncio.wait_for(process.wait(), LAST_SECONDS_MAX)
        except TimeoutError:
            kill(process)
            return await process.wait()

    async def _answer(self, seat: "Seat", question: shared.Question) -> object:
        return await self._host.answer(seat, question)

    def _hear(self, seat: "Seat", notice: worker.Report | worker.Idle | worker.Serving | worker.Failed) -> None:
        assert seat.line is not None
        match notice:
            case worker.Report():
                self._crew.report(seat, notice)
            case worker.Idle():
                seat.idle = notice.idle
                self._finish_together()
            case worker.Failed():
                seat.refused = notice.message
            case worker.Serving():
                seat.served_at = asyncio.get_running_loop().time()
                seat.served_once.set()
                self._crew.admit(seat, seat.line)

    def _finish_together(self) -> None:
        """In a drain: when nobody has anything left but idle streams, all may end theirs."""
        if self._leaving and all(seat.idle for seat in self._seats):
            for seat in self._seats:
                if seat.line is not None:
                    seat.line.tell(worker.Finish())

    def _on_task_end(self, task: asyncio.Task[None]) -> None:
        """A fault of ours would leave a seat empty for good, or no admin address, and nobody would see it."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._give_up(error)

    def _give_up(self, error: BaseException) -> None:
        if not self._done.done():
            self._done.set_exception(error)

    # ---- signals and drain

    def _catch_signals(self, reloader: reload.Reloader) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._on_stop(self.config.drain_delay))
        loop.add_signal_handler(signal.SIGINT, self._on_stop, 0.0)
        loop.add_signal_handler(signal.SIGHUP, reloader.reload)

    def _on_stop(self, delay: float) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("second signal: ending at once")
            self._end(1)
        else:
            self._start_drain(delay)

    def _configure(self, config: schema.ServeConfig) -> None:
        """Every worker does it, and those that come later begin with it. StartError: none could."""
        serving.make_tls(config)
        settings.load_backend_trust(config)
        self.config = self._crew.config = config
        self._admin.configure(config)
        access.configure_logging(config.log_level, config.log_format)
        for seat in self._seats:
            if seat.line is not None:
                seat.line.tell(worker.Reload(pickle.dumps(admission.share(config, seat.number))))

    def drain(self) -> None:
        """POST /drain: as SIGTERM does."""
        self._start_drain(self.config.drain_delay)

    def _start_drain(self, delay: float) -> None:
        if not self._crew.draining:
            self._crew.draining = True
            logger.info("draining: delay=%gs timeout=%gs", delay, self.config.drain_timeout)
            self._tasks.start(self._drain(delay), name="drain")

    async def _drain(self, delay: float) -> None:
        """All go on for `delay`, with replacements; then the port is closed, and each finishes what it has."""
        await asyncio.sleep(delay)
        self._leaving = True
        assert self._data is not None
        self._data.close()
        endings = [seat.process.wait() for seat in self._seats if seat.process is not None and seat.is_serving]
        for seat in self._seats:
            seat.dismiss()
        try:
            async with asyncio.timeout(self.config.drain_timeout + serving.CUT_SECONDS_MAX + SPARE_SECONDS):
                codes = await asyncio.gather(*endings)
        except TimeoutError:
            logger.error("workers did not end in time and are killed")
            self._end(1)
            return
        logger.info("drained: workers=%d", len(codes))
        self._end(0 if not any(codes) else 1)

    def _end(self, code: int) -> None:
        if not self._done.done():
            self._done.set_result(code)


async def start(channel_fd: int, data_fd: int) -> asyncio.subprocess.Process:
    """A worker's process. It imports what we have imported, from wherever that came."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-P", "-m", worker.__name__, str(channel_fd), str(data_fd), str(os.getpid())),
        stdin=asyncio.subprocess.DEVNULL,
        pass_fds=(channel_fd, data_fd),
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def kill(process: asyncio.subprocess.Process) -> None:
    """At once, if it is not dead already."""
    if process.returncode is None:
        process.kill()


class Seat:
    """Where a worker is, and after it the one that replaces it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.line: channel.Channel | None = None
        self.served_at: float | None = None
        self.served_once = asyncio.Event()
        self.idle = False  # in a drain: nothing is left but streams on which nothing happens
        self.refused = ""  # why the worker said that it can't begin

    def clear(self) -> None:
        """For a new worker: nothing is known of it."""
        self.process = None
        self.line = None
        self.served_at = None
        self.idle = False
        self.refused = ""

    @property
    def is_serving(self) -> bool:
        """It has begun, and has not ended."""
        return self.served_at is not None and self.process is not None and self.process.returncode is None

    def dismiss(self) -> None:
        """Let the worker finish; one that has not begun to serve has nothing to finish."""
        if self.is_serving and self.line is not None:
            self.line.tell(worker.Drain())
        else:
            self.kill()

    def kill_unless_serving(self) -> None:
        """Its time to begin is over."""
        if self.served_at is None:
            self.kill()

    def kill(self) -> None:
        """At once. It may be dead already."""
        if self.process is not None:
            kill(self.process)
