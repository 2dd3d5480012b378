"""The process of `serve`: serving.py around plane.py, with its configuration read again while it runs.

With --workers above 1 it is the process of one worker (worker.py), which hears from its supervisor what to do.
"""

import asyncio
import socket

import uvloop

from fastproxy import telemetry
from fastproxy.config import schema, watch
from fastproxy.proxy import access, admin, plane, reload, serving, settings
from fastproxy.proxy.bridge import server as bridge
from fastproxy.session import store


def run(config: schema.ServeConfig, watched: watch.Watch) -> int:
    """Serve until told to stop; the exit code. StartError, StoreRefused: it could not begin."""
    access.configure_logging(config.log_level, config.log_format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_main(config, watched))


async def _main(config: schema.ServeConfig, watched: watch.Watch) -> int:
    return await Server(config).run(watched)


class Server(serving.Process[plane.Plane]):
    """One process that serves."""

    def __init__(self, config: schema.ServeConfig, sessions: store.SessionStore | None = None) -> None:
        """`sessions`: where they are kept, when not where the configuration says."""
        self.metrics = telemetry.Telemetry(config.name)
        self.bridge = bridge.Bridge(config, bridge.listen(config)) if config.command else None
        built = plane.Plane(config, self.metrics.observe_store, sessions)
        if self.bridge is not None:
            built.discovery.configure((self.bridge.backend,))
            self.metrics.attach_programs(self.bridge.supply)
        self.metrics.attach(built)
        self.admin = admin.Admin(built, self.metrics)
        super().__init__(config, built, self.admin)

    async def run(self, watched: watch.Watch) -> int:
        """Until the end; the exit code."""
        await self.begin_serving()
        reloader = reload.Reloader(self.config, watched, self.plane.reloads, self.configure)
        self.metrics.attach_reloads(lambda: self.plane.reloads.counts)
        self.catch_signals(reloader.reload)
        self.plane.tasks.start(reloader.follow(), name="follow the configuration")
        try:
            code = await self.done
            if code != 0 and self.bridge is not None:  # a second signal: at once
                await self.bridge.kill()
            return code
        finally:
            await self.close()

    async def open(self, data: socket.socket, *, accepts_max: int | None = None) -> None:
        if self.bridge is not None:
            self.bridge.open()
        await super().open(data, accepts_max=accepts_max)

    async def close(self) -> None:
        """Let go of everything."""
        await self.plane.close()
        if self.bridge is not None:
            await self.bridge.close()

    def configure(self, config: schema.ServeConfig) -> None:
        """From now on this holds, for what comes. StartError: it can't, and nothing has changed."""
        tls = serving.make_tls(config)
        settings.apply(self.plane, config)
        if self.bridge is not None:
            self.bridge.configure(config)
        self.config = config
        self._listener.tls_context = tls
        self.configure_listener()
        self.admin.configure(config)
        access.configure_logging(config.log_level, config.log_format)
