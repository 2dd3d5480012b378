"""The process around the data plane: sockets, signals, the first two lines on standard output, drain, exit codes.

start -> listen -> serve -> SIGTERM or POST /drain -> drain-delay: all goes on, readiness says 503
      -> no new connections, answers say `Connection: close` -> requests finish, streams end at an event -> exit 0
"""

import asyncio
import logging
import signal
import socket
import ssl

import uvloop

from fastproxy import errors, telemetry
from fastproxy._ext import core
from fastproxy.config import address, schema
from fastproxy.proxy import access, admin, guard, plane

logger = logging.getLogger(__name__)

BACKLOG = 4096
DRAIN_STEP_SECONDS = 0.05
CUT_SECONDS_MAX = 1.0  # for streams to reach the end of an event, once they were told to end


def run(config: schema.ServeConfig) -> int:
    """Serve until told to stop; the exit code. StartError, StoreRefused: it could not begin."""
    access.configure_logging(config.log_level, config.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config))


async def _main(config: schema.ServeConfig) -> int:
    return await Server(config).run()


class Server:
    """One process that serves. It is also the relay's handler: requests go to the story or to the admin pages."""

    def __init__(self, config: schema.ServeConfig) -> None:
        self.config = config
        self.metrics = telemetry.Telemetry(config.name)
        self.plane = plane.Plane(config, self.metrics.observe_store)
        self.plane.reactor.handler = self
        self.metrics.attach(self.plane)
        self.admin = admin.Admin(self.plane, self.metrics)
        self.plane.drain = self.drain
        self._access = access.AccessLog()
        self._done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._signals = 0
        self._tls: ssl.SSLContext | None = None

    async def run(self) -> int:
        """Until the end; the exit code."""
        self._tls = self._make_tls()
        data = listen(self.config.listen, "--listen")
        pages = None if self.config.admin is None else listen(self.config.admin, "--admin")
        await self.plane.open()
        self._serve(data, pages)
        self._catch_signals()
        try:
            return await self._done
        finally:
            await self.plane.close()

    def _serve(self, data: socket.socket, pages: socket.socket | None) -> None:
        listener = self.plane.reactor.listen(data.detach(), "data", tls_context=self._tls)
        listener.any_host = self.plane.guard.any_host
        listener.trusts = trusts(self.config)
        self._listener = listener
        scheme = "https" if self._tls is not None else "http"
        print(f"fastproxy: serving on {scheme}://{bound(listener.fd)}", flush=True)
        if pages is not None:
            fd = self.plane.reactor.listen(pages.detach(), "admin", fast_lane=False).fd
            print(f"fastproxy: admin on http://{bound(fd)}", flush=True)
        self.plane.lifecycle = "serving"

    # ---- the relay's handler

    def begin(self, exchange: core.Exchange) -> None:
        """A head has come that the fast lane does not take."""
        if exchange.listener.tag == "admin":
            self.plane.tasks.start(self._show(exchange), name="admin")
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

    async def _show(self, exchange: core.Exchange) -> None:
        try:
            await self.admin.serve(exchange)
        except core.ExchangeOver:
            return
        except Exception:
            logger.exception("fault in an admin page")
            exchange.abort("fault")

    # ---- signals and drain

    def _catch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._on_stop, self.config.drain_delay)
        loop.add_signal_handler(signal.SIGINT, self._on_stop, 0.0)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop(self, delay: float) -> None:
        self._signals += 1
        if self._signals > 1:
            logger.warning("second signal: ending at once")
            self._end(1)
        else:
            self._start_drain(delay)

    def _on_hangup(self) -> None:
        """Certificates are read again; running connections keep what they have."""
        if self._tls is None:
            return
        try:
            self._tls = self._make_tls()
        except errors.StartError as error:
            logger.error("certificates were not reloaded, the old ones stay: %s", error)
            return
        self._listener.tls_context = self._tls
        logger.info("certificates reloaded")

    def drain(self) -> None:
        """POST /drain: as SIGTERM does."""
        self._start_drain(self.config.drain_delay)

    def _start_drain(self, delay: float) -> None:
        if self.plane.lifecycle != "draining":
            self.plane.lifecycle = "draining"
            logger.info("draining: delay=%gs timeout=%gs", delay, self.config.drain_timeout)
            self.plane.tasks.start(self._drain(delay), name="drain")

    async def _drain(self, delay: float) -> None:
        await asyncio.sleep(delay)
        self.plane.reactor.stop_accepting()
        loop = asyncio.get_running_loop()
        end = loop.time() + self.config.drain_timeout
        while loop.time() < end:
            running = self._running()
            if all(exchange.event_stream and exchange.method_name == "GET" for exchange in running):
                break
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        end = loop.time() + CUT_SECONDS_MAX
        while self._running() and loop.time() < end:
            for exchange in self._running():
                exchange.cut()
            await asyncio.sleep(DRAIN_STEP_SECONDS)
        left = len(self._running())
        logger.info("drained: cut=%d", left)
        self._end(0)

    def _running(self) -> list[core.Exchange]:
        return [exchange for exchange in self.plane.reactor.exchanges() if exchange.listener.tag != "admin"]

    def _end(self, code: int) -> None:
        if not self._done.done():
            self._done.set_result(code)

    def _make_tls(self) -> ssl.SSLContext | None:
        if self.config.tls_cert is None or self.config.tls_key is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self.config.tls_cert, self.config.tls_key)
        except (OSError, ssl.SSLError) as error:
            raise errors.StartError(f"cannot use --tls-cert and --tls-key: {error}") from error
        return context


def listen(where: address.Address, flag: str, *, shared: bool = False) -> socket.socket:
    """A bound, listening socket. StartError names the flag when the address can't be had."""
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, name = found[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(name)
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        reason = error.strerror or str(error)
        raise errors.StartError(f"cannot listen on {where} ({flag}): {reason.lower()}") from error
    return listening


def bound(fd: int) -> str:
    """HOST:PORT of a listening descriptor."""
    with socket.socket(fileno=socket.dup(fd)) as same:
        name = same.getsockname()
    return str(address.Address(name[0], name[1]))


def trusts(config: schema.ServeConfig) -> guard.Trusts | None:
    """Is a peer's word about the client before it believed? None: nobody's is."""
    return guard.Trusts(config.trusted_proxy) if config.trusted_proxy else None
