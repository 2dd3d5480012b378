"""The group's backends: what is configured of each, and what is known of it by now.

    configuration --Backends--> Backend (endpoint, headers, peer) <--discovery--- era, offers, health
                                   |  ^--- calls: admit, note_success, note_failure --- breaker
                                   '--> on_change(backend): the catalog is built anew, clients are told

Nobody here waits for a backend: what is asked of this file is answered from memory. `offers` stays what it was while a
backend is away; `shown` says what of it clients get to see.
"""

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import vmcp_schema
from fastproxy.proxy import dialer
from fastproxy.vmcp import (
    breaker,
    connections,
    discovery,
    era,
    event_stream,
    health,
    offers,
    outgoing,
    peer,
    programs,
    streamable,
    survey,
)

logger = logging.getLogger(__name__)

IDLE_SECONDS = 1800.0
LEAVE_SECONDS_MAX = 1.0  # for our sessions at all backends to be ended

OnChange = Callable[["Backend"], None]


class _Named(msgspec.Struct):
    name: str = ""


class _Subscribe(msgspec.Struct):
    subscribe: bool = False


class _Tool(msgspec.Struct):
    inputSchema: msgspec.Raw


class Backend:
    """One of them."""

    def __init__(
        self,
        config: vmcp_schema.BackendConfig,
        *,
        endpoint: core.Endpoint | None,
        target: bytes,
        rules: breaker.Rules,
    ) -> None:
        """`endpoint` None: a program that can't be started. `target`: what a request line asks it for."""
        self.config = config
        self.id = config.id
        self.transport = config.transport
        self.timeout_seconds = config.timeout_seconds
        self.endpoint = endpoint
        self.target = target
        self.headers = tuple(outgoing.own(config.headers))
        self.era = era.UNKNOWN
        self.offers: offers.Offers | None = None
        self.health = health.Health()
        self.breaker = breaker.Breaker(rules)
        self.circuit_changed_at: float | None = None
        self._reading: asyncio.Future[None] | None = None
        self._said: frozenset[str] = frozenset()
        self._schemas: dict[str, msgspec.Raw] | None = None  # of tools that want arguments in headers
        self.peer: peer.Peer
        self.discovery: discovery.Discovery

    @property
    def url(self) -> str:
        """Where it is, fit to be shown."""
        return str(self.config.url) if self.config.url is not None else self.config.command[0]

    @property
    def speaks_modern(self) -> bool:
        """Does it serve requests without a session?"""
        return self.era in (era.MODERN, era.DUAL)

    @property
    def speaks_legacy(self) -> bool:
        """Does it have sessions? Of one that never answered it is assumed."""
        return self.era != era.MODERN

    @property
    def tells_updates(self) -> bool:
        """Does it say when a resource that somebody has subscribed to is updated?"""
        raw = None if self.offers is None else self.offers.capabilities.get("resources")
        try:
            return raw is not None and msgspec.json.decode(raw, type=_Subscribe).subscribe
        except msgspec.DecodeError:
            return False

    @property
    def shown(self) -> offers.Offers | None:
        """What clients get to see of what it offers."""
        return None if self.health.hides else self.offers

    @property
    def usable(self) -> bool:
        """Would a call be tried?"""
        return self.breaker.admits(time.monotonic())

    @property
    def circuit(self) -> str:
        """closed, open or half-open."""
        return self.breaker.state(time.monotonic())

    @property
    def last_error(self) -> str | None:
        """Why it was last not to be spoken to; None while it is."""
        return self.discovery.last_error

    def admit(self) -> bool:
        """May this call go to it? Who is admitted says by one of the two below what became of it."""
        return self.breaker.admit(time.monotonic())

    def note_success(self) -> None:
        """It has answered a call, whatever it said."""
        if self.breaker.failures:
            before = self.circuit
            self.breaker.succeeded()
            self._note_circuit(before, "it has answered")

    def note_failure(self, kind: str) -> None:
        """A call has failed; `kind` is the reason (backend_lost, backend_timeout…)."""
        if kind in breaker.ANSWERS:
            self.note_success()
        elif kind in breaker.FAULTS:
            before = self.circuit
            self.breaker.failed(time.monotonic())
            self._note_circuit(before, kind)
            self.discovery.doubt()

    def _note_circuit(self, before: str, reason: str) -> None:
        if self.circuit != before:
            self.circuit_changed_at = time.time()
            logger.warning("circuit: backend=%s state=%s reason=%s", self.id, self.circuit, reason)

    def refresh(self, said: str = "") -> None:
        """Its lists may have changed. `said`: the notification in which it has said so itself."""
        self.discovery.refresh(said)

    def take_said(self) -> frozenset[str]:
        """Of which lists it has said that they have changed, since this was asked last: clients may be told so, though
        they look as before."""
        said, self._said = self._said, frozenset()
        return said

    async def reread(self, *, seconds_max: float) -> None:
        """Wait for its lists to be read anew, but no longer than that."""
        if self._reading is None:
            self._reading = asyncio.get_running_loop().create_future()
        self.discovery.refresh()
        await asyncio.wait({self._reading}, timeout=seconds_max)

    def was_read(self, said: frozenset[str]) -> None:
        """Its lists have been read: whoever waits may go on."""
        self._said |= said
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)
        self._reading = None
        self._schemas = None

    def input_schema(self, params: bytes) -> bytes:
        """Of the tool that these params of a tools/call name; empty when it is not known."""
        if self._schemas is None:
            tools = () if self.offers is None else self.offers.tools
            self._schemas = {tool.name: tool.raw for tool in tools if b"x-mcp-header" in bytes(tool.raw)}
        if not self._schemas:
            return b"{}"
        try:
            name = msgspec.json.decode(params, type=_Named).name
            return bytes(msgspec.json.decode(self._schemas[name], type=_Tool).inputSchema)
        except (msgspec.DecodeError, KeyError):
            return b"{}"


class Backends:
    """All of them, by id. `start` begins to talk to them; `on_change` callbacks are told of each whose offers, era or
    showing have changed. StartError: a certificate file can't be used."""

    def __init__(
        self,
        group: vmcp_schema.Group,
        *,
        reactor: core.Reactor,
        dial: dialer.Dialer,
        trusted: str | None = None,
        idle_seconds: float = IDLE_SECONDS,
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        """`trusted`: PEM file with authorities for https backends that name none of their own (None: the system's).
        `idle_seconds`: of a client's session, after which a program that was started for it is ended."""
        self.on_change: list[OnChange] = []
        self._group = group
        self._reactor = reactor
        self._dialer = dial
        self._trusted = trusted
        self._start_task = start_task
        self._programs = programs.Programs(idle_seconds=idle_seconds)
        self._contexts: dict[str | None, ssl.SSLContext] = {}
        self._running: list[asyncio.Task[Any]] = []
        configs = sorted(group.backends, key=lambda config: config.id)
        self._by_id = {config.id: self._make(config) for config in configs}

    def __iter__(self) -> Iterator[Backend]:
        return iter(self._by_id.values())

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, backend_id: str) -> Backend | None:
        """The backend of that id."""
        return self._by_id.get(backend_id)

    def shown(self) -> dict[str, offers.Offers]:
        """What the catalog is built of."""
        return {backend.id: backend.shown for backend in self if backend.shown is not None}

    def start(self) -> None:
        """Talk to each, from now on."""
        for backend in self:
            name = f"discover {backend.id}"
            self._running.append(self._start_task(backend.discovery.run(), name=name))

    async def close(self) -> None:
        """Talk to none any more, and end our own sessions."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await asyncio.gather(*(backend.discovery.leave(seconds_max=LEAVE_SECONDS_MAX) for backend in self))
        await asyncio.gather(*(backend.peer.close() for backend in self))
        await self._programs.close()

    # ---- one backend

    def _make(self, config: vmcp_schema.BackendConfig) -> Backend:
        settings = self._group.operational
        found = settings.breaker
        rules = breaker.Rules(found.enabled, found.failure_threshold, found.timeout_seconds)
        try:
            place = self._place(config)
            endpoint = self._add_endpoint(config, place)
            backend = Backend(config, endpoint=endpoint, target=place.target.encode("ascii"), rules=rules)
            backend.peer = self._make_peer(backend, endpoint)
        except programs.NoProgram as error:
            backend = Backend(config, endpoint=None, target=b"", rules=rules)
            backend.peer = programs.AbsentPeer(config.id, str(error))
        backend.discovery = discovery.Discovery(
            config.id,
            backend.peer,
            rules=health.Rules(
                settings.health_interval_seconds, settings.unhealthy_threshold, settings.health_timeout_seconds
            ),
            call_seconds_max=config.timeout_seconds,
            may_be_modern=config.transport == vmcp_schema.STREAMABLE,
            told=discovery.Told(
                contact=lambda contact: self._met(backend, contact),
                found=lambda offered, said: self._found(backend, offered, said),
                health=lambda known: self._judged(backend, known),
            ),
            start_task=self._start_task,
        )
        return backend

    def _place(self, config: vmcp_schema.BackendConfig) -> programs.Place:
        url = config.url
        if url is not None:
            return programs.Place(url.origin, url.host, url.port, url.target)
        return self._programs.open(config)

    def _add_endpoint(self, config: vmcp_schema.BackendConfig, place: programs.Place) -> core.Endpoint:
        context = self._trust(config.ca or self._trusted) if place.origin.startswith("https:") else None
        authority = place.origin.partition("://")[2].encode("ascii")
        return self._reactor.add_endpoint(place.origin, config.id, authority, b"", place.host, place.port, context)

    def _trust(self, ca: str | None) -> ssl.SSLContext:
        """The system's authorities, and those of the file."""
        if ca not in self._contexts:
            context = ssl.create_default_context()
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if ca is not None:
                try:
                    context.load_verify_locations(cafile=ca)
                except (OSError, ssl.SSLError) as error:
                    raise errors.StartError(f"cannot use {ca} as certificate authorities: {error}") from error
            self._contexts[ca] = context
        return self._contexts[ca]

    def _make_peer(self, backend: Backend, endpoint: core.Endpoint) -> peer.Peer:
        target = backend.target.decode("ascii")
        line = connections.Line(endpoint, target, reactor=self._reactor, dial=self._dialer)
        kind = event_stream.EventStreamPeer if backend.transport == vmcp_schema.SSE else streamable.StreamablePeer
        return kind(backend.id, line, fields=[*backend.headers], start_task=self._start_task)

    # ---- what discovery tells

    def _met(self, backend: Backend, contact: survey.Contact | None) -> None:
        if contact is not None and backend.era != contact.era:
            backend.era = contact.era
            self._tell(backend)

    def _found(self, backend: Backend, offered: offers.Offers, said: frozenset[str]) -> None:
        before, backend.offers = backend.offers, offered
        backend.was_read(said)
        if before != offered or said:
            self._tell(backend)

    def _judged(self, backend: Backend, known: health.Health) -> None:
        before, backend.health = backend.health, known
        if before.hides != known.hides and backend.offers is not None:
            self._tell(backend)

    def _tell(self, backend: Backend) -> None:
        for told in self.on_change:
            told(backend)
