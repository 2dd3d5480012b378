"""The data plane of `fastproxy vmcp`: its rooms, introduced to each other.

    relay -> Story -> Legacy | Modern -> Calls -> Legs, Peer        backends -> catalog -> clients' lists
                  \\-> Hub <- what backends say                      store <- Sessions, Bus

Nothing is listened to and no backend is asked before `open`. server.py owns the process around it.
"""

import asyncio
import functools
import importlib
import logging
import math
import secrets
import time
from collections.abc import Callable
from typing import Any

import msgspec

import fastproxy
from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import schema, vmcp_schema
from fastproxy.proxy import dialer, guard, names, reload, tasks
from fastproxy.session import outage, shelf, store
from fastproxy.vmcp import (
    backends,
    berths,
    bus,
    calls,
    catalog,
    errands,
    hub,
    legacy,
    legs,
    modern,
    outgoing,
    paging,
    parking,
    record,
    sessions,
    story,
    streams,
    subscriptions,
    views,
    watches,
    words,
)

logger = logging.getLogger(__name__)

SPARE_SECONDS_MAX = 4.0  # the Python SDK's servers close idle connections after 5 s (mcp.md §6.1)
COALESCE_SECONDS = 0.05  # backends that join together change the catalog once
LISTED_AT_ONCE_MAX = 1000  # tools and resources: some 10 ms of work; a longer catalog is made beside the loop
# For the first look at every backend: a client that has met another process knows names that this one does not yet.
SETTLE_SECONDS_MAX = 3.0
SETTLE_STEP_SECONDS = 0.01
CLOSE_SECONDS_MAX = 3.0


class Plane:
    """Everything that answers requests. `lifecycle`: starting, serving, draining."""

    def __init__(self, config: vmcp_schema.VmcpConfig, observe: store.Observer) -> None:
        self.vmcp_config = config
        self.config = front = config.front
        self.lifecycle = "starting"
        self.store_answered = False
        self.drain: Callable[[], None] = lambda: None
        self.listener: core.Listener | None = None
        self.reloads = reload.Reloads()
        self.tasks = tasks.Tasks()
        self.discovery_fault: str | None = None
        self.guard = guard.of_data(front)
        self.reactor = _make_reactor(front, config.group)
        self._names = names.Names(
            names.ask_system, clock=time.monotonic, start_task=self.tasks.start, on_moved=self._host_moved
        )
        self._dialer = dialer.Dialer(self.reactor, self._names)
        self.group = backends.Backends(
            config.group,
            reactor=self.reactor,
            dial=self._dialer,
            trusted=front.backend_ca,
            idle_seconds=front.session_ttl,
            start_task=self.tasks.start,
        )
        kept, carrier = make_store(front, observe)
        alone = front.store.kind == "memory"
        self.sessions = sessions.Sessions(
            kept,
            ttl_seconds=front.session_ttl,
            sessions_max=front.cache_sessions,
            alone=alone,
            start_task=self.tasks.start,
        )
        self.bus = bus.Bus(carrier, start_task=self.tasks.start)
        # A client takes its cursor to any replica: all of a group have the key.
        secret = secrets.token_hex() if alone else front.store.password or ""
        self._seal = paging.Seal(paging.derive_key(front.key_prefix, secret))
        self._version = 0
        self._changing = self._outdated = self._settled = False
        self._opened_at: float | None = None
        self.group.on_change.append(lambda _backend: self._backend_changed())
        self._open_rooms()
        self.catalog = self._finish_catalog(self._begin_catalog(None)())
        self.book = views.Book(self.sessions, self.group)
        self.backends = views.Rows(self.group)
        self.discovery = views.Names(lambda: self._names.errors_total)

    def _open_rooms(self) -> None:
        config = self.vmcp_config
        self.watches = watches.Watches(self.group, start_task=self.tasks.start)
        self.streams = streams.Streams(
            self.sessions,
            self.group,
            replica=self.bus.replica,
            tell=self.bus.tell,
            hear=lambda *said: self.hub.hear(*said),
            watched=self.watches,
            locate=self._locate,
            start_task=self.tasks.start,
        )
        self.hub = hub.Hub(
            self.sessions,
            self.group,
            self.streams,
            replica=self.bus.replica,
            tell=self.bus.tell,
            start_task=self.tasks.start,
        )
        self.bus.on(words.Answered, self.hub.answered)
        self.legs = legs.Legs(
            self.sessions,
            replica=self.bus.replica,
            hears=self.hub.hear,
            locate=self._locate,
            on_opened=self.streams.tend,
            start_task=self.tasks.start,
        )
        self.calls = calls.Calls(self.sessions, self.group, self.legs, self.hub, self.bus, start_task=self.tasks.start)
        asked = legacy.Legacy(
            self.sessions,
            self.group,
            self.calls,
            catalog_of=lambda: self.catalog,
            run_composite=lambda *asked: self.composites.run_in_session(*asked),
            tend=self.streams.tend,
        )
        self.story = story.Story(
            name=self.config.name,
            gate=self.guard,
            known=self.sessions,
            group=self.group,
            legs_of=self.legs,
            hub_of=self.hub,
            streams_of=self.streams,
            fleet=self.bus,
            asked=asked,
            stateless=self._make_modern(),
            catalog_of=lambda: self.catalog,
            passed_on=config.group.passthrough_headers,
            body_bytes_max=self.config.max_body,
            is_settled=self.is_settled,
            settle=self.settle,
            start_task=self.tasks.start,
        )

    def _make_modern(self) -> modern.Modern:
        server_info = msgspec.json.encode({"name": self.config.name, "version": fastproxy.__version__})
        self.parking = parking.Parking(self.bus.replica, server_info=server_info, start_task=self.tasks.start)
        self.berths = berths.Berths(hear=self.parking.hear, start_task=self.tasks.start)
        self.subscriptions = subscriptions.Subscriptions(
            self.watches, locate=self._locate, server_info=server_info, start_task=self.tasks.start
        )
        names_passed = self.vmcp_config.group.passthrough_headers
        self.composites = self._make_composites(server_info)
        return modern.Modern(
            self.group,
            parked=self.parking,
            carried=errands.Errands(self.parking, self.bus, start_task=self.tasks.start),
            ours=self.berths,
            listeners=self.subscriptions,
            catalog_of=lambda: self.catalog,
            pass_on=lambda fields: outgoing.passed_on(names_passed, fields, []),
            call_composite=lambda *asked: self.composites.run_for_visit(*asked),
            server_info=server_info,
        )

    def _make_composites(self, server_info: bytes) -> Any:
        """None without any: jsonschema is 60 ms and some MiB, which others need not pay for."""
        raw = self.vmcp_config.group.composite_tools
        if not raw:
            return None
        return importlib.import_module("fastproxy.vmcp.composites").Composites(
            raw,
            self.group,
            caller=self.calls,
            hub_of=self.hub,
            ours=self.berths,
            catalog_of=lambda: self.catalog,
            server_info=server_info,
            start_task=self.tasks.start,
        )

    async def open(self) -> None:
        """Ask the store, and begin to look for the backends. StoreRefused: the store will not serve us."""
        try:
            await self.sessions.store.open()
            self.store_answered = True
        except errors.StoreUnavailable as error:
            logger.warning("session store is away: reason=%s", error)
            self.tasks.start(self._await_store(), name="await the store")
        self.tasks.start(self.sessions.keep_in_use(), name="keep sessions in use")
        self.group.start()
        self._opened_at = time.monotonic()

    async def _await_store(self) -> None:
        while not self.store_answered:
            await asyncio.sleep(0.2)
            self.store_answered = self.sessions.store.available

    async def close(self) -> None:
        """Let go of everything."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS_MAX):
                self.subscriptions.close()
                await self.parking.close()
                await self.berths.close(self.group.get)
                await self.group.close()
        except TimeoutError:
            logger.info("not every backend was told that we end")
        await self.tasks.stop()
        self.reactor.close()
        await self.sessions.store.close()

    # ---- the catalog

    def is_settled(self) -> bool:
        """Has every backend been looked at, or has that had its time? `initialize` does not wait for it."""
        if not self._settled and not self._changing and self._opened_at is not None:
            unknown = any(backend.offers is None and backend.last_error is None for backend in self.group)
            self._settled = not unknown or time.monotonic() - self._opened_at > SETTLE_SECONDS_MAX
        return self._settled

    async def settle(self) -> None:
        """Wait until it is so."""
        for _ in range(math.ceil(SETTLE_SECONDS_MAX / SETTLE_STEP_SECONDS) + 1):
            if self.is_settled():
                return
            await asyncio.sleep(SETTLE_STEP_SECONDS)

    def _backend_changed(self) -> None:
        self._outdated = True
        if not self._changing:
            self._changing = True
            self.tasks.start(self._follow_backends(), name="build the catalog anew")

    async def _follow_backends(self) -> None:
        try:
            while self._outdated:
                await asyncio.sleep(COALESCE_SECONDS)
                self._outdated = False
                build = self._begin_catalog(self.catalog)
                offered = sum(len(each.tools) + len(each.resources) for each in self.group.shown().values())
                # Long lists take tenths of a second, in which nobody else's call shall wait.
                built = await asyncio.to_thread(build) if offered > LISTED_AT_ONCE_MAX else build()
                self._change_catalog(self._finish_catalog(built))
        finally:
            self._changing = False

    def _change_catalog(self, built: catalog.Catalog) -> None:
        before, self.catalog = self.catalog, built
        for line in self.catalog.left_out:
            if line not in before.left_out:
                logger.warning("left out: %s", line)
        for line in self.catalog.doubts:
            if line not in before.doubts:
                logger.warning("configuration: %s", line)
        changed = self.catalog.changes(before)
        told = changed.union(*(backend.take_said() for backend in self.group if backend.shown is not None))
        if changed:
            counts = self.catalog.counts()
            logger.info("catalog: version=%d %s", self._version, " ".join(f"{k}={v}" for k, v in counts.items()))
        if told:
            self.streams.announce(told)
            self.subscriptions.announce(told)

    def _begin_catalog(self, before: catalog.Catalog | None) -> Callable[[], catalog.Catalog]:
        """What is known now is taken now; it may be put together anywhere."""
        self._version += 1
        rules = self.vmcp_config.group.aggregation
        return functools.partial(
            catalog.build, rules, self.group.shown(), seal=self._seal, version=self._version, before=before
        )

    def _finish_catalog(self, built: catalog.Catalog) -> catalog.Catalog:
        return built if self.composites is None else self.composites.add_to(built)

    def _locate(self, uri: str) -> str | None:
        target = self.catalog.resource(uri)
        return None if target is None else target.backend

    # ---- for the admin pages and the metrics

    @property
    def refusals(self) -> dict[str, int]:
        """How often vMCP answered by itself, by reason."""
        return self.story.refusals

    @property
    def recoveries(self) -> dict[tuple[str, str], int]:
        """Legs that were opened, by why."""
        counts: dict[tuple[str, str], int] = {}
        for (_, why), count in self.legs.opened.items():
            if why != "first":
                counts[why, "recovered"] = counts.get((why, "recovered"), 0) + count
        return counts

    @property
    def connects(self) -> dict[tuple[str, str], int]:
        """How often backends were connected to, by (backend, outcome)."""
        named = {endpoint.url: endpoint.pod or endpoint.url for endpoint in self._endpoints()}
        counts: dict[tuple[str, str], int] = {}
        for (url, outcome), count in self._dialer.connects.items():
            key = (named.get(url, url), outcome)
            counts[key] = counts.get(key, 0) + count
        return counts

    def endpoint(self, index: int) -> views.Endpoint:
        """What the relay counts for a backend."""
        return list(self.group)[index].endpoint or views.NoEndpoint()

    async def end_session(self, session_id: str) -> bool:
        """End a session here, everywhere, and its legs. False: there is none."""
        session = await self.sessions.store.load(session_id)
        if session is None:
            return False
        await self.story.end_session(session)
        return True

    def _endpoints(self) -> list[core.Endpoint]:
        return [backend.endpoint for backend in self.group if backend.endpoint is not None]

    def _host_moved(self, host: str) -> None:
        for endpoint in self._endpoints():
            if endpoint.hostname == host:
                endpoint.moved()


def _make_reactor(front: schema.ServeConfig, group: vmcp_schema.Group) -> core.Reactor:
    # Every call has a deadline of its own, by its backend; the relay's is beyond all of them.
    longest = max([front.response_timeout, *(each.timeout_seconds for each in group.backends)])
    reactor = core.Reactor(
        asyncio.get_running_loop(),
        None,
        core.RouteTable(16),  # the fast lane's, which is off
        header_seconds=front.header_timeout,
        body_seconds=front.body_timeout,
        idle_seconds=front.idle_timeout,
        connect_seconds=front.connect_timeout,
        response_seconds=longest + parking.WAIT_SECONDS_MAX,
        spare_seconds=SPARE_SECONDS_MAX,
    )
    reactor.head_bytes_max = front.max_header
    reactor.body_bytes_max = front.max_body
    reactor.replay_bytes_max = front.max_body + 1  # a message is read whole
    reactor.fast_lane = False
    reactor.logs_access = front.access_log
    return reactor


def make_store(
    front: schema.ServeConfig, observe: store.Observer
) -> tuple[store.RecordStore[record.VmcpRecord], store.Bus]:
    """Where sessions are kept, and what carries words between the processes."""
    form = record.Form()
    url = front.store
    if url.kind == "memory":
        held = shelf.WholeShelf[record.VmcpRecord](ttl_seconds=front.session_ttl, sessions_max=front.max_sessions)
        return held, held
    # redis-py is 10 MiB and 80 ms, which `memory:` need not pay for
    client: Any = importlib.import_module("fastproxy.session.redis_client")
    redis: Any = importlib.import_module("fastproxy.session.redis")
    shared = redis.RedisRecords(
        client.address_of(front),
        form=form,
        key_prefix=front.key_prefix,
        ttl_seconds=front.session_ttl,
        observe=observe,
    )
    if front.store_required:
        return shared, shared
    return outage.OutageBuffer(shared, ttl_seconds=front.session_ttl), shared
