"""The process of `fastproxy vmcp`: serving.py around plane.py."""

import asyncio
import logging

import uvloop

from fastproxy import telemetry
from fastproxy.config import vmcp_schema
from fastproxy.proxy import access, serving
from fastproxy.vmcp import admin, heap, plane

logger = logging.getLogger(__name__)


def run(config: vmcp_schema.VmcpConfig) -> int:
    """Serve until told to stop; the exit code. StartError, StoreRefused: it could not begin."""
    access.configure_logging(config.front.log_level, config.front.log_format)
    heap.keep_freed_memory()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config))


async def _main(config: vmcp_schema.VmcpConfig) -> int:
    return await Server(config).run()


class Server(serving.Process[plane.Plane]):
    """One process that serves a group of servers as one."""

    def __init__(self, config: vmcp_schema.VmcpConfig) -> None:
        self.metrics = telemetry.Telemetry(config.front.name)
        built = plane.Plane(config, self.metrics.observe_store)
        self.metrics.attach(built)
        super().__init__(config.front, built, admin.Admin(built, self.metrics))
        self.wind_down = built.subscriptions.close  # with a result: their clients open them anew elsewhere

    async def run(self) -> int:
        """Until the end; the exit code."""
        self.catch_signals(self._read_certificate)
        try:
            await self.begin_serving()
            return await self.done
        finally:
            await self.plane.close()

    def _read_certificate(self) -> None:
        """SIGHUP: certificate and key anew from their files; a group is not changed while it is served."""
        logger.info("certificate read again; other changes of the configuration need a restart")
        self._listener.tls_context = serving.make_tls(self.config)
