"""The process around a data plane: sockets, signals, the first two lines on standard output, drain, exit codes.

start -> listen -> serve -> SIGTERM or POST /drain -> drain-delay: all goes on, readiness says 503
      -> no new connections, answers say `Connection: close` -> requests finish, streams end at an event -> exit 0

`serve` (server.py) and `vmcp` are made of it, each with its own plane.
"""

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import address, schema
from fastproxy.proxy import access, admission, garbage, guard, tasks

logger = logging.getLogger(__name__)

BACKLOG = 4096
DRAIN_STEP_SECONDS = 0.05
# In a drain, for clients to ask once more on a connection that is idle, and be told by the answer to take another one:
# closed under a request on its way, it would take that with it. Who asks less often is less likely to be met so.
LAST_REQUEST_SECONDS = 1.0
CUT_SECONDS_MAX = 1.0  # for streams to reach the end of an event, once they were told to end


class Story(Protocol):
    """Who answers at the data address."""

    def begin(self, exchange: core.Exchange) -> None: ...
    def resume(self, exchange: core.Exchange, answer: core.AnswerHead | None) -> None: ...
    def touch(self, key: bytes) -> None: ...


class Pages(Protocol):
    """Who answers at the admin address."""

    async def serve(self, exchange: core.Exchange) -> None: ...


class Served(Protocol):
    """A data plane, as far as the process around it goes. `lifecycle`: starting, serving, draining."""

    lifecycle: str
    drain: Callable[[], None]
    listener: core.Listener | None

    @property
    def reactor(self) -> core.Reactor: ...
    @property
    def tasks(self) -> tasks.Tasks: ...
    @property
    def guard(self) -> guard.Guard: ...
    @property
    def story(self) -> Story: ...
    async def open(self) -> None: ...
    async def close(self) -> None: ...


Plane = TypeVar("Plane", bound=Served)


class Process(Generic[Plane]):
    """One process that serves. It is also the relay's handler: requests go to the story or to the admin pages."""

    def __init__(self, config: schema.ServeConfig, plane: Plane, pages: Pages) -> None:
        self.config = config
        self.plane = plane
        self._pages = pages
        plane.reactor.handler = self
        plane.drain = self.drain
        self.wind_down: Callable[[], None] = lambda: None  # of a drain: nothing new comes any more
        self.agree: Callable[[bool], bool] = bool  # of a drain: may streams be cut, as only they are left here?
        self._access = access.AccessLog()
        self.done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._signals = 0

    async def begin_serving(self) -> None:
        """Listen at both addresses, and say so."""
        warn_of_shortage(self.config)
        data = listen(self.config.listen, "--listen")
        pages = None if self.config.admin is None else listen(self.config.admin, "--admin")
        await self.open(data)
        announce(self.config, self._listener.fd, pages)
        if pages is not None:
            self.plane.reactor.listen(pages.detach(), "admin", fast_lane=False)

    async def open(self, data: socket.socket, *, accepts_max: int | None = None) -> None:
        """Serve on a listening socket. `accepts_max`: connections taken in one go, where other processes accept there,
        too. StartError, StoreRefused: it can't be."""
        tls = make_tls(self.config)
        await self.plane.open()
        listener = self.plane.reactor.listen(data.detach(), "data", tls_context=tls)
        if accepts_max is not None:
            listener.accepts_max = accepts_max
        self._listener = self.plane.listener = listener
        self.configure_listener()
        self.plane.lifecycle = "serving"
        garbage.settle()
        self.plane.tasks.start(garbage.collect_when_quiet(self._is_quiet), name="collect garbage when quiet")

    def _is_quiet(self) -> bool:
        reactor = self.plane.reactor
        return reactor.in_flight <= reactor.streams_open

    def configure_listener(self) -> None:
        """As the configuration has it."""
        listener = self._listener
        listener.any_host = self.plane.guard.any_host
        listener.forget_hosts()
        listener.trusts = trusts(self.config)
        listener.connections_max = admission.connections_max(self.config)

    # ---- the relay's handler

    def begin(self, exchange: core.Exchange) -> None:
        """A head has come that the fast lane does not take."""
        if exchange.listener.tag == "admin":
            self.plane.tasks.start(self._pages.serve(exchange), name="admin")
        else:
            self.plane.story.begin(exchange)

    def resume(self, exchange: core.Exchange, answer: core.AnswerHead | None) -> None:
        """The fast lane gives an exchange up."""
        self.plane.story.resume(exchange, answer)

    def touch(self, key: bytes) -> None:
        """A session's TTL wants renewal."""
        self.plane.story.touch(key)

    def access(self, exchange: core.Exchange) -> None:
        """An exchange is over (only called when access lines are wanted)."""
        if exchange.listener.tag != "admin":
            self._access.write(exchange)

    # ---- signals and drain

    def catch_signals(self, on_hangup: Callable[[], None]) -> None:
        """SIGTERM and SIGINT drain, a second one ends."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._on_stop(self.config.drain_delay))
        loop.add_signal_handler(signal.SIGINT, self._on_stop, 0.0)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)

    def _on_stop(self, delay: float) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("second signal: ending at once")
            self.end(1)
        else:
            self.start_drain(delay)

    def drain(self) -> None:
        """POST /drain: as SIGTERM does."""
        self.start_drain(self.config.drain_delay)

    def start_drain(self, delay: float) -> None:
        """Serve for `delay` seconds more, then finish and end with 0. Idempotent."""
        if self.plane.lifecycle != "draining":
            self.plane.lifecycle = "draining"
            logger.info("draining: delay=%gs timeout=%gs", delay, self.config.drain_timeout)
            self.plane.tasks.start(self._drain(delay), name="drain")

    async def _drain(self, delay: float) -> None:
        await asyncio.sleep(delay)
        self.plane.reactor.stop_accepting()
        self.wind_down()
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.drain_timeout
        for _ in range(int(min(self.config.drain_timeout, LAST_REQUEST_SECONDS) / DRAIN_STEP_SECONDS)):
            if self._listener.connections <= len(self._running()):
                break
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        self.plane.reactor.close_idle()
        while loop.time() < end:
            running = self._running()
            idle = all(exchange.event_stream and exchange.method_name == "GET" for exchange in running)
            if self.agree(idle and not self.plane.reactor.loose_ends):
                break
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        end = loop.time() + CUT_SECONDS_MAX
        while (self._running() or self.plane.reactor.loose_ends) and loop.time() < end:
            for exchange in self._running():
                exchange.cut()
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        left = len(self._running())
        logger.info("drained: cut=%d", left)
        self.end(0)

    def _running(self) -> list[core.Exchange]:
        return [exchange for exchange in self.plane.reactor.exchanges() if exchange.listener.tag != "admin"]

    def end(self, code: int) -> None:
        """At once."""
        if not self.done.done():
            self.done.set_result(code)


def make_tls(config: schema.ServeConfig) -> ssl.SSLContext | None:
    """What the listener needs to serve https; None: it serves http. StartError: certificate or key can't be used."""
    if config.tls_cert is None or config.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(config.tls_cert, config.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise errors.StartError(f"cannot use --tls-cert and --tls-key: {error}") from error
    return context


def warn_of_shortage(config: schema.ServeConfig) -> None:
    """Said once, at start."""
    shortage = admission.find_shortage(config)
    if shortage is not None:
        logger.warning("%s", shortage)


def listen(where: address.Address, flag: str) -> socket.socket:
    """A bound, listening socket. StartError names the flag when the address can't be had."""
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, name = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(name)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.StartError(f"cannot listen on {where} ({flag}): {reason.lower()}") from error
    return listening


def announce(config: schema.ServeConfig, data_fd: int, pages: socket.socket | None) -> None:
    """The first two lines on standard output: it serves, and where."""
    print(f"fastproxy: serving on {'https' if config.tls_cert else 'http'}://{bound(data_fd)}", flush=True)
    if pages is not None:
        print(f"fastproxy: admin on http://{bound(pages.fileno())}", flush=True)


def bound(fd: int) -> str:
    """HOST:PORT of a listening descriptor."""
    with socket.socket(fileno=socket.dup(fd)) as same:
        name = same.getsockname()
    return str(address.Address(name[0], name[1]))


def trusts(config: schema.ServeConfig) -> guard.Trusts | None:
    """Is a peer's word about the client before it believed? None: nobody's is."""
    return guard.Trusts(config.trusted_proxy) if config.trusted_proxy else None
