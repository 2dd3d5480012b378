"""Backends that are programs on this machine: each is started behind a port of the bridge, and is asked as any other.

    BackendConfig.command --Programs.open--> proxy/bridge: a process per session, HTTP on loopback --> Place

A leg at such a backend is a process of this replica's: it can't be gone on with elsewhere, only through this replica.
A program that can't be started is a backend that is dead, and no reason for the others to wait.
"""

import asyncio
from typing import NoReturn

import msgspec

from fastproxy import errors
from fastproxy.config import schema, vmcp_schema
from fastproxy.proxy.bridge import server as bridge
from fastproxy.vmcp import connections, peer

_ENDPOINT = "/mcp"


class NoProgram(Exception):
    """There is no such program on this machine."""


class Place(msgspec.Struct, frozen=True):
    """Where a program is asked."""

    origin: str
    host: str
    port: int
    target: str


class Programs:
    """All of one process. `idle_seconds`: after that much silence of a session its process is ended."""

    def __init__(self, *, idle_seconds: float) -> None:
        self._idle_seconds = idle_seconds
        self._bridges: list[bridge.Bridge] = []

    def open(self, config: vmcp_schema.BackendConfig) -> Place:
        """Serve a program from now on; it is started with the first session. NoProgram."""
        own = schema.ServeConfig(
            name=config.id,
            command=config.command,
            env=tuple((variable.name, variable.value) for variable in config.environ),
            cwd=config.directory,
            session_ttl=self._idle_seconds,
        )
        try:
            bridge.program_of(own)  # before a port is taken
        except errors.StartError as error:
            raise NoProgram(str(error)) from error
        made = bridge.Bridge(own, bridge.listen(own))
        made.open()
        self._bridges.append(made)
        return Place(made.backend.url, made.backend.host, made.backend.port, made.backend.path + _ENDPOINT)

    async def close(self) -> None:
        """End them all, in the time that they may take."""
        await asyncio.gather(*(each.close() for each in self._bridges))


class AbsentPeer:
    """Of a program that can't be started: whatever is asked, the answer is why."""

    def __init__(self, backend: str, detail: str) -> None:
        self._backend = backend
        self._detail = detail

    def _refuse(self) -> NoReturn:
        raise peer.BackendError(self._backend, self._detail)

    async def open(
        self, params: bytes, *, headers: connections.Fields, on_message: peer.OnMessage, seconds_max: float
    ) -> peer.Opened:
        self._refuse()

    async def request(
        self,
        method: str,
        params: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: peer.OnMessage,
        seconds_max: float,
    ) -> bytes:
        self._refuse()

    async def send(
        self,
        message: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        seconds_max: float,
    ) -> None:
        self._refuse()

    async def listen(
        self,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: peer.OnMessage,
    ) -> None:
        self._refuse()

    async def end(
        self, leg_session_id: str, *, protocol_version: str, headers: connections.Fields, seconds_max: float
    ) -> None:
        self._refuse()

    async def close(self) -> None:
        """There is nothing to let go of."""
