"""A group of backends as vMCP has it, alone on a reactor of its own: no client, no front.

async with group.running({"a": url, "b": url}) as running:  running.backends, running.changes, running.get("a")
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from fastproxy._ext import core
from fastproxy.config import vmcp_schema
from fastproxy.proxy import dialer, names, tasks
from fastproxy.vmcp import backends
from tests.kit import coroutines


class _Silent:
    """No client ever comes."""

    def begin(self, exchange: core.Exchange) -> None:
        raise AssertionError("nobody listens")

    resume = touch = access = begin


class Running:
    """The group, and what it told of itself."""

    def __init__(self, group: vmcp_schema.Group, trusted: str | None) -> None:
        self.tasks = tasks.Tasks()
        self.reactor = core.Reactor(
            asyncio.get_running_loop(), _Silent(), core.RouteTable(10), connect_seconds=1.0, linger_seconds=0.3
        )
        hosts = names.Names(
            names.ask_system, clock=time.monotonic, start_task=self.tasks.start, on_moved=lambda host: None
        )
        self.backends = backends.Backends(
            group,
            reactor=self.reactor,
            dial=dialer.Dialer(self.reactor, hosts),
            trusted=trusted,
            start_task=self.tasks.start,
        )
        self.changes: list[str] = []
        self.backends.on_change.append(lambda backend: self.changes.append(backend.id))

    def get(self, backend_id: str) -> backends.Backend:
        found = self.backends.get(backend_id)
        assert found is not None
        return found

    def tools(self, backend_id: str) -> list[str] | None:
        """Names of the tools that clients get to see; None while nothing is known."""
        shown = self.get(backend_id).shown
        return None if shown is None else [offer.name for offer in shown.tools]

    async def known(self, *backend_ids: str, seconds_max: float = 10.0) -> None:
        """Wait until these have told what they offer."""
        await coroutines.eventually(
            lambda: all(self.get(each).shown is not None for each in backend_ids), seconds_max=seconds_max
        )


def url(text: str) -> vmcp_schema.BackendUrl:
    parts = urlsplit(text)
    assert parts.hostname and parts.port
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return vmcp_schema.BackendUrl(
        parts.scheme, parts.hostname, parts.port, target, f"{parts.scheme}://{parts.hostname}:{parts.port}"
    )


def config(backend_id: str, where: str, **members: Any) -> vmcp_schema.BackendConfig:
    transport = "sse" if where.endswith("/sse") else "streamable-http"
    return vmcp_schema.BackendConfig(**{"id": backend_id, "url": url(where), "transport": transport, **members})


@contextlib.asynccontextmanager
async def running(
    where: Mapping[str, str | vmcp_schema.BackendConfig],
    *,
    timeout_seconds: float = 10.0,
    trusted: str | None = None,
    **operational: Any,
) -> AsyncIterator[Running]:
    """Started; `operational` as in the configuration."""
    configs = tuple(
        each if isinstance(each, vmcp_schema.BackendConfig) else config(key, each, timeout_seconds=timeout_seconds)
        for key, each in where.items()
    )
    found = Running(vmcp_schema.Group(backends=configs, operational=vmcp_schema.Operational(**operational)), trusted)
    found.backends.start()
    try:
        yield found
    finally:
        await found.backends.close()
        await found.tasks.stop()
        found.reactor.close()
