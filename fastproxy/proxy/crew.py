"""The workers as one, for the admin pages: their replicas merged, their numbers added up, their readiness in one word.

    worker --Report--> Crew <--refresh-- supervisor, before it shows a page
                        |--> admin.Plane, admin.Numbers

A replica is as well as the worker thinks that thinks worst of it: who has failed to connect knows more than who has not
tried. Numbers that only the supervisor knows replace those of the workers.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
import prometheus_client
from prometheus_client import core, registry

from fastproxy import errors, telemetry
from fastproxy.config import schema
from fastproxy.proxy import channel, reload, worker
from fastproxy.session import memory, record, store
from fastproxy.telemetry import families, fleet, source

logger = logging.getLogger(__name__)

LOOK_SECONDS_MAX = 1.0  # a worker that takes longer is shown as it was when it last reported
END_SECONDS_MAX = 15.0  # a DELETE at the backend may take ten
_BADNESS = ("live", "leaving", "failed")
_SUPERVISOR = "supervisor"


class Replica(msgspec.Struct):
    """One replica, as all workers see it."""

    url: str
    pod: str | None
    index: int
    state: str
    last_error: str | None = None
    sessions: int = 0
    in_flight: int = 0
    usable: bool = True

    def add(self, seen: worker.Replica) -> None:
        """What one more worker sees."""
        self.state = max(self.state, seen.state, key=_BADNESS.index)
        self.last_error = self.last_error or seen.last_error
        self.sessions += seen.sessions
        self.in_flight += seen.in_flight
        self.usable = self.usable and seen.usable


class Replicas:
    """What the pages ask of the list of replicas."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str | None], Replica] = {}
        self._list: list[Replica] = []

    def merge(self, reports: list[worker.Report]) -> None:
        """Start again from what the workers see now."""
        self._known.clear()
        for report in reports:
            for seen in report.replicas:
                known = self._known.get((seen.url, seen.pod))
                if known is None:
                    known = Replica(seen.url, seen.pod, len(self._known), seen.state)
                    self._known[seen.url, seen.pod] = known
                known.add(seen)
        self._list = list(self._known.values())

    def all(self) -> list[Replica]:
        """Every one that a worker knows."""
        return self._list

    def live(self) -> list[Replica]:
        """Those that may get something new."""
        return [replica for replica in self._list if replica.usable]

    def at(self, index: int) -> Replica:
        """By its index in this list."""
        return self._list[index]

    def count(self, index: int) -> int:
        """Its sessions, in all route tables."""
        return self._list[index].sessions


class Sessions:
    """What the pages ask of the book of sessions: the store, read past every cache."""

    def __init__(self, sessions: store.SessionStore, table: Replicas) -> None:
        self.store = sessions
        self.table = table

    async def load(self, session_id: str) -> record.SessionRecord | None:
        """The record."""
        return await self.store.load(session_id)


class Crew:
    """All workers that serve. `draining`, `store_answered` and `deaths_total` are set by the supervisor, who has the
    store and its `times`."""

    def __init__(
        self,
        config: schema.ServeConfig,
        sessions: store.SessionStore,
        times: telemetry.Telemetry,
        drain: Callable[[], None],
    ) -> None:
        self.config = config
        self.drain = drain
        self.draining = False
        self.store_answered = False
        self.deaths_total = 0
        self.reloads = reload.Reloads()
        self.backends = Replicas()
        self.book = Sessions(sessions, self.backends)
        self.members: dict[object, channel.Channel] = {}
        self._reports: dict[object, worker.Report] = {}
        self._own = registry.CollectorRegistry()  # of the supervisor itself
        prometheus_client.ProcessCollector(registry=self._own)
        self._own.register(Heads(self, times))
        self._own.register(families.Reloads(config.name, lambda: self.reloads.counts))
        self._fleet = fleet.Fleet(self._now)
        self._registry = registry.CollectorRegistry()
        self._registry.register(self._fleet)

    def admit(self, member: object, line: channel.Channel) -> None:
        """A worker serves."""
        self.members[member] = line

    def report(self, member: object, report: worker.Report) -> None:
        """It says how it is."""
        self._reports[member] = report
        self._fleet.report(member, report.families)

    def dismiss(self, member: object) -> None:
        """It is gone; what it has counted stays."""
        self.members.pop(member, None)
        self._reports.pop(member, None)
        self._fleet.end(member)

    async def refresh(self) -> None:
        """Look at every worker."""
        await asyncio.gather(*(self._look(member, line) for member, line in list(self.members.items())))
        self.backends.merge(list(self._reports.values()))
        held = self.book.store
        if isinstance(held, memory.MemoryStore):  # each worker's table knows but the sessions that it has met
            for replica in self.backends.all():
                replica.sessions = held.count(replica.url)

    async def _look(self, member: object, line: channel.Channel) -> None:
        try:
            report = await line.ask(worker.Look(), worker.Report, seconds_max=LOOK_SECONDS_MAX)
        except channel.ChannelLost as error:
            logger.warning("a worker does not report: reason=%s", error)
            return
        if self.members.get(member) is line:  # it may have ended meanwhile, and its numbers be in the totals
            self.report(member, report)

    # ---- admin.Plane

    @property
    def lifecycle(self) -> str:
        """starting (a worker is, or is being replaced), serving or draining."""
        if self.draining:
            return "draining"
        return "serving" if len(self.members) == self.config.workers else "starting"

    @property
    def discovery_fault(self) -> str | None:
        """Why DNS can't say which replicas there are, in the words of one worker."""
        return next((said.discovery_fault for said in self._reports.values() if said.discovery_fault), None)

    def endpoint(self, index: int) -> Replica:
        """What knows how many requests a replica has now."""
        return self.backends.at(index)

    async def end_session(self, session_id: str) -> bool:
        """Any worker can end any session; the others hear of it."""
        for line in list(self.members.values()):
            try:
                return await line.ask(worker.End(session_id), bool, seconds_max=END_SECONDS_MAX)
            except channel.ChannelLost as error:
                logger.warning("a worker could not end a session: reason=%s", error)
        raise errors.StoreUnavailable("no worker serves")

    # ---- admin.Numbers

    def render(self, accept: str) -> tuple[bytes, str]:
        """All workers' metrics as one: body and content type."""
        self._fleet.report(_SUPERVISOR, fleet.read(self._own))
        return telemetry.render(self._registry, accept)

    def _now(self) -> Mapping[tuple[str, str], float]:
        held = self.book.store
        ours = {
            ("fastproxy_draining", ""): float(self.draining),
            ("fastproxy_store_available", ""): float(held.available),
            ("fastproxy_store_errors_total", ""): float(held.errors_total),
            ("fastproxy_store_bad_records_total", ""): float(held.bad_records_total),
        }
        if isinstance(held, source.Outage):
            ours["fastproxy_store_pending_writes", ""] = float(held.pending)
            ours["fastproxy_store_lost_writes_total", ""] = float(held.lost_total)
        if isinstance(held, memory.MemoryStore):
            ours["fastproxy_sessions_active", ""] = float(len(held))
            for replica in self.backends.all():
                ours["fastproxy_backend_sessions", replica.url] = float(replica.sessions)
        return ours


class Heads(registry.Collector):
    """How many workers there are, how many there were, and how long their questions to the store take."""

    def __init__(self, crew: Crew, times: telemetry.Telemetry) -> None:
        self._crew = crew
        self._times = times

    def describe(self) -> Iterable[core.Metric]:
        """Read at the scrape, like all others."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        server = self._crew.config.name
        serving = core.GaugeMetricFamily("fastproxy_workers", "Workers that serve (--workers).", labels=("server",))
        serving.add_metric((server,), len(self._crew.members))
        yield serving
        died = core.CounterMetricFamily(
            "fastproxy_worker_deaths_total", "Workers that ended unasked and were replaced.", labels=("server",)
        )
        died.add_metric((server,), self._crew.deaths_total)
        yield died
        seconds = core.HistogramMetricFamily(
            "fastproxy_store_seconds",
            "Duration of session store operations, failed ones included; none for the embedded store.",
            labels=("server", "operation"),
        )
        for operation, buckets, total in self._times.store_times():
            seconds.add_metric((server, operation), buckets, total)
        yield seconds
