"""The data plane of one process, built from a configuration: relay, book, replicas and story, introduced to each other.

Nothing is listened to and no store is asked before `open`. server.py owns the process around it: signals, ports, drain.
"""

import asyncio
import collections
import functools
import importlib
import logging
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.config import backend, schema
from fastproxy.proxy import (
    admission,
    census,
    dialer,
    dialogue,
    discovery,
    guard,
    inquiry,
    listening,
    names,
    opening,
    probing,
    recovery,
    reload,
    stateless,
    story,
    tasks,
)
from fastproxy.routing import backends, policy
from fastproxy.session import book, memory, outage, record, store

logger = logging.getLogger(__name__)

DIALOGUE_SECONDS_MAX = 10.0  # for one request of our own to a backend
# Who looked where a session is may hold the index of a replica that was forgotten since; none nearly as long.
INDEX_REST_SECONDS = 3600.0
SPARE_SECONDS_MAX = 4.0  # the Python SDK's servers close idle connections after 5 s (mcp.md §6.1)


class Plane:
    """Everything that answers requests. `lifecycle`: starting, serving, draining."""

    def __init__(
        self, config: schema.ServeConfig, observe: store.Observer, sessions: store.SessionStore | None = None
    ) -> None:
        self.config = config
        self.lifecycle = "starting"
        self.store_answered = False
        self.drain: Callable[[], None] = lambda: None  # the server's
        self.listener: core.Listener | None = None  # the server's, of the data address
        self.reloads = reload.Reloads()  # the server's to keep
        self.tasks = tasks.Tasks()
        loop = asyncio.get_running_loop()
        in_memory = config.store.kind == "memory"
        self.sessions = make_store(config, observe) if sessions is None else sessions
        # memory: evicts nothing, so the table in front of it must hold as many; some more for what expires lazily.
        capacity = config.max_sessions + 1024 if in_memory else config.cache_sessions
        self.reactor = core.Reactor(
            loop,
            None,
            core.RouteTable(capacity),
            header_seconds=config.header_timeout,
            body_seconds=config.body_timeout,
            idle_seconds=config.idle_timeout,
            connect_seconds=config.connect_timeout,
            response_seconds=config.response_timeout,
            spare_seconds=SPARE_SECONDS_MAX,
        )
        self.reactor.head_bytes_max = config.max_header
        self.reactor.body_bytes_max = config.max_body
        self.reactor.replay_bytes_max = config.replay_body
        self.reactor.fast_lane = config.fast_lane
        self.reactor.logs_access = config.access_log
        self.endpoints: dict[int, core.Endpoint] = {}
        self._dropped: collections.deque[tuple[float, int]] = collections.deque()
        self._backend_tls: ssl.SSLContext | None = None
        self.census = census.Census(self.sessions, self.reactor.table.count)
        self.backends = backends.Backends(
            config.policy,
            self._load_of,
            self._add_endpoint,
            self._set_prefix,
            self.census,
            next_turn=self.reactor.next_turn,
        )
        self.book = book.Book(
            self.reactor.table,
            self.sessions,
            ttl_seconds=config.session_ttl,
            clock=lambda: self.reactor.now_seconds,
            locate=self._locate,
            start_task=self.tasks.start,
        )
        self.reactor.aliases = self.book.aliases
        self.reactor.ttl_seconds = self.book.ttl_seconds
        self.reactor.touch_seconds = self.book.touch_seconds
        self._open_discovery()
        self._open_story()
        self.backends.on_change = self.offer_replicas
        self.offer_replicas()

    def _open_story(self) -> None:
        config = self.config
        self.recovery = recovery.Recovery(self.book, self.backends, self.ask, self.tasks.start)
        self.admission = admission.Admission(
            requests_per_backend_max=config.max_requests_per_backend,
            new_sessions_per_second=config.max_new_sessions_per_second,
            endpoint_of=self.endpoint,
            clock=time.monotonic,
        )
        self.inquiry = inquiry.Inquiry(
            replicas=self.backends,
            dial=self.dialer,
            bounds=self.admission,
            replay_bytes_max=config.replay_body,
            response_seconds=config.response_timeout,
            on_failure=self._replica_failed,
            on_loss=self.prober.request_lost,
            endpoint_of=self.endpoint,
        )
        self.opening = opening.Opening(
            self.book,
            self.backends,
            self.recovery,
            bounds=self.admission,
            room=self._has_room,
            start_task=self.tasks.start,
        )
        self.guard = guard.of_data(config)
        self.story = story.Story(
            reactor=self.reactor,
            gate=self.guard,
            sessions=self.book,
            replicas=self.backends,
            asker=self.inquiry,
            rescue=self.recovery,
            opener=self.opening,
            sessionless=self._make_stateless(),
            on_backend_loss=config.on_backend_loss,
            start_task=self.tasks.start,
        )

    def _make_stateless(self) -> stateless.Stateless:
        listener = listening.Listening(
            replicas=self.backends,
            endpoint_of=self.endpoint,
            open_events=self.open_events,
            start_task=self.tasks.start,
        )
        rules = stateless.Stateless(
            sessions=self.sessions,
            replicas=self.backends,
            listener=listener,
            several=lambda: self.discovery.several,
            start_task=self.tasks.start,
        )
        self.reactor.search = rules.search()
        return rules

    def offer_replicas(self) -> None:
        """Tell the fast lane whom it may choose: what has changed may change that."""
        offered = [self.endpoints[replica.index] for replica in self.backends.all_well()]
        self.reactor.offer(offered, several=self.discovery.several)

    def _open_discovery(self) -> None:
        config = self.config
        self.names = names.Names(
            names.ask_system if config.dns_server is None else self._resolver.find_addresses,
            clock=time.monotonic,
            start_task=self.tasks.start,
            on_moved=self._host_moved,
        )
        self.dialer = dialer.Dialer(self.reactor, self.names)
        self.discovery = discovery.Discovery(
            config.backend,
            lambda item: self._resolver.find_replicas(item),
            replicas=self.backends,
            hosts=self.names,
            clock=time.monotonic,
            start_task=self.tasks.start,
            on_failure=self._replica_failed,
            drop=self._drop_endpoint,
        )
        self.prober = probing.Prober(
            self.backends,
            self.reactor,
            self.dialer,
            rules=probing.rules_of(self.config),
            endpoint_of=self.endpoint,
            on_failure=self._replica_failed,
            start_task=self.tasks.start,
        )

    @functools.cached_property
    def _resolver(self) -> Any:
        # dnspython is 4 MiB and 40 ms, which replicas by URL need not pay for
        return importlib.import_module("fastproxy.proxy.resolver").Resolver(self.config.dns_server)

    @property
    def refusals(self) -> dict[str, int]:
        """How often the proxy answered by itself, by reason."""
        return self.story.refusals

    @property
    def recoveries(self) -> dict[tuple[str, str], int]:
        """How often sessions were recovered, by (reason, outcome)."""
        return self.recovery.counts

    @property
    def connects(self) -> dict[tuple[str, str], int]:
        """How often replicas were connected to, by (url, outcome)."""
        return self.dialer.connects

    @property
    def discovery_fault(self) -> str | None:
        """Why DNS can't say which replicas there are; None when it can."""
        return self.discovery.fault

    async def open(self) -> None:
        """Ask the store. StoreRefused: it will not serve us. Away: we begin all the same, and are not ready."""
        first_replicas = self.tasks.start(self.discovery.open(), name="discover the first replicas")
        try:
            await self.sessions.open()
            self.store_answered = True
        except errors.StoreUnavailable as error:
            logger.warning("session store is away: reason=%s", error)
            self.tasks.start(self._await_store(), name="await the store")
        await first_replicas
        self.tasks.start(self.book.keep_in_use(self._sessions_in_use), name="keep sessions in use")
        self.tasks.start(self.prober.run(), name="probe replicas")
        if self.config.store.kind != "memory" or self.config.workers > 1:
            self.tasks.start(self.census.run(self.backends), name="take a census")

    async def _await_store(self) -> None:
        while not self.store_answered:
            await asyncio.sleep(0.2)
            self.store_answered = self.sessions.available

    async def close(self) -> None:
        """Let go of everything."""
        await self.tasks.stop()
        self.reactor.close()
        await self.sessions.close()

    # ---- replicas

    def endpoint(self, index: int) -> core.Endpoint:
        """The relay's end of a replica."""
        return self.endpoints[index]

    def _add_endpoint(self, static: backend.StaticBackend) -> int:
        tls = self._tls_for_backends() if static.scheme == "https" else None
        authority = static.url.partition("://")[2].encode("ascii")
        index = self._dropped.popleft()[1] if self._dropped and self._dropped[0][0] < time.monotonic() else -1
        path = static.path.encode("ascii")
        try:
            endpoint = self.reactor.add_endpoint(
                static.url, static.pod, authority, path, static.host, static.port, tls, index
            )
        except OverflowError as error:
            raise backends.NoRoom(f"{static.url}: {error}") from error
        endpoint.calls_max = self.config.max_requests_per_backend
        self.endpoints[endpoint.index] = endpoint
        return endpoint.index

    def _set_prefix(self, replica: backends.Replica) -> None:
        self.endpoints[replica.index].prefix = replica.path.encode("ascii")

    def _drop_endpoint(self, replica: backends.Replica) -> bool:
        if not self.reactor.drop_endpoint(self.endpoints[replica.index]):
            return False
        del self.endpoints[replica.index]
        self._dropped.append((time.monotonic() + INDEX_REST_SECONDS, replica.index))
        self.dialer.forget(replica.url)
        return True

    def _host_moved(self, host: str) -> None:
        for endpoint in self.endpoints.values():
            if endpoint.hostname == host:
                logger.info("replica moved: backend=%s", endpoint.url)
                endpoint.moved()

    def _tls_for_backends(self) -> ssl.SSLContext:
        if self._backend_tls is None:
            self._backend_tls = ssl.create_default_context(cafile=self.config.backend_ca)
        return self._backend_tls

    def trust_backends(self, context: ssl.SSLContext) -> None:
        """What new connections to https replicas are verified with; the old ones serve what they have."""
        if self._backend_tls is not None and self._backend_tls.get_ca_certs(True) == context.get_ca_certs(True):
            return
        self._backend_tls = context
        for endpoint in self.endpoints.values():
            if endpoint.tls_context is not None:
                endpoint.tls_context = context
                endpoint.moved()

    def _load_of(self, replica: backends.Replica) -> policy.Load:
        return policy.Load(self.reactor.table.count(replica.index), self.endpoints[replica.index].in_flight)

    def _locate(self, session: record.SessionRecord) -> int | None:
        try:
            replica = self.backends.find(session.backend_url, session.backend_pod)
        except ValueError:
            return None  # somebody else's idea of a URL
        return None if replica is None else replica.index

    def _replica_failed(self, replica: backends.Replica, error: str) -> None:
        if self.backends.failed(replica, error):
            logger.warning("replica failed: backend=%s reason=%s", replica.url, error)
        self.endpoints[replica.index].close_spares()

    async def ask(
        self, replica: backends.Replica, method: str, target: str, fields: list[tuple[bytes, bytes]], body: bytes
    ) -> dialogue.Answer:
        """A request of our own to a replica. DialogueFailed when no whole answer comes."""
        endpoint = self.endpoints[replica.index]
        try:
            address = await self.dialer.address(endpoint)
        except dialer.Unreachable as error:
            raise dialogue.DialogueFailed(str(error)) from error
        return await dialogue.ask(
            address,
            endpoint.port,
            method=method,
            target=replica.path + target,
            authority=endpoint.authority,
            fields=fields,
            body=body,
            tls=endpoint.tls_context,
            hostname=endpoint.hostname,
            seconds_max=DIALOGUE_SECONDS_MAX,
        )

    async def open_events(self, replica: backends.Replica, request: bytes) -> dialogue.EventStream:
        """A request as it is, on a connection of its own, and its answer to be read as it comes."""
        endpoint = self.endpoints[replica.index]
        failure = "its name has no address"
        for address in await self.names.find(endpoint.hostname):
            try:
                stream = await dialogue.open_events(
                    address,
                    endpoint.port,
                    request=request,
                    tls=endpoint.tls_context,
                    hostname=endpoint.hostname,
                    connect_seconds_max=self.config.connect_timeout,
                    head_seconds_max=self.config.response_timeout,
                )
            except dialogue.NotConnected as error:
                failure = f"{address}: {error}"
                continue
            self.backends.answered(replica)
            return stream
        self._replica_failed(replica, f"{replica.url}: {failure}")
        raise dialogue.NotConnected(failure)

    # ---- sessions

    def _has_room(self) -> bool:
        full = self.config.store.kind == "memory" and len(self.reactor.table) >= self.config.max_sessions
        return not full or self.book.doubts  # the store has the last word

    def _sessions_in_use(self) -> Iterator[str]:
        for exchange in self.reactor.exchanges():
            session_id = exchange.session or exchange.note
            if isinstance(session_id, str) and session_id:
                yield session_id

    async def end_session(self, session_id: str) -> bool:
        """End a session here, everywhere, and at its backend. False: there is none."""
        session = await self.book.load(session_id)
        if session is None:
            return False
        await self.book.forget(session_id)
        await self.recovery.end_at_backend(session, [])
        return True


def make_store(config: schema.ServeConfig, observe: store.Observer) -> Any:
    """The session store that the configuration asks for."""
    if config.store.kind == "memory":
        return memory.MemoryStore(ttl_seconds=config.session_ttl, sessions_max=config.max_sessions)
    # redis-py is 10 MiB and 80 ms, which `memory:` need not pay for
    client = importlib.import_module("fastproxy.session.redis_client")
    redis = importlib.import_module("fastproxy.session.redis")
    shared = redis.RedisStore(
        client.address_of(config), key_prefix=config.key_prefix, ttl_seconds=config.session_ttl, observe=observe
    )
    return shared if config.store_required else outage.OutageBuffer(shared, ttl_seconds=config.session_ttl)
