"""Every fastproxy_* family: its name, what it means, where it is read. The HELP texts are the documentation.

A family of one sample is a row of `PLAIN`; those with labels of their own are methods of `Families`. A value of a label
comes from a small set (replicas, methods, statuses, words of ours), never from a client.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client import core, registry

import fastproxy
from fastproxy.telemetry import source

Buckets = list[tuple[str, float]]
StoreTimes = Iterable[tuple[str, Buckets, float]]
"""Operation, cumulative buckets, sum of the seconds."""
Rows = Iterable[tuple[Sequence[str], float]]
"""Samples of a family: the values of its labels but `server`, and the number."""

# Families of one sample: name (a counter's ends in _total), what it means, where it is read.
PLAIN: tuple[tuple[str, str, Callable[[source.Source], float]], ...] = (
    (
        "fastproxy_requests_in_flight",
        "Requests that have begun and not ended, open streams included.",
        lambda proxy: proxy.reactor.in_flight,
    ),
    (
        "fastproxy_streams_open",
        "Answers under way that are event streams.",
        lambda proxy: proxy.reactor.streams_open,
    ),
    (
        "fastproxy_fast_lane_requests_total",
        "Requests forwarded by the compiled fast lane; the others took the story in Python, which costs more CPU.",
        lambda proxy: proxy.reactor.fast_requests,
    ),
    (
        "fastproxy_sessions_active",
        "Sessions in this process's route table: all of them with the embedded store; with a shared one those that it "
        "has served lately. One whose time is over may count for some seconds more.",
        lambda proxy: len(proxy.book.table),
    ),
    (
        "fastproxy_sessions_created_total",
        "Sessions opened through this process.",
        lambda proxy: proxy.book.created_total,
    ),
    (
        "fastproxy_route_table_capacity",
        "Sessions that the route table may hold: --cache-sessions, or with the embedded store a little over "
        "--max-sessions.",
        lambda proxy: proxy.book.table.capacity,
    ),
    (
        "fastproxy_route_table_bytes",
        "Memory that the route table holds.",
        lambda proxy: proxy.book.table.memory_bytes,
    ),
    (
        "fastproxy_route_table_evictions_total",
        "Sessions pushed out by newer ones; each costs a question to the store when it is used again. If this grows "
        "all the time, raise --cache-sessions.",
        lambda proxy: proxy.book.table.evictions,
    ),
    (
        "fastproxy_route_table_expirations_total",
        "Sessions that left the route table because their idle time was over.",
        lambda proxy: proxy.book.table.expirations,
    ),
    (
        "fastproxy_store_errors_total",
        "Session store operations that were not served: refused, too slow, or not tried while it is away.",
        lambda proxy: proxy.book.store.errors_total,
    ),
    (
        "fastproxy_store_available",
        "1 while the session store serves us.",
        lambda proxy: proxy.book.store.available,
    ),
    (
        "fastproxy_store_bad_records_total",
        "Values under our keys that are no session records; their sessions count as missing.",
        lambda proxy: proxy.book.store.bad_records_total,
    ),
    (
        "fastproxy_store_pending_writes",
        "Sessions opened or ended while the store is away, which it has yet to be told. They die with this process.",
        lambda proxy: proxy.book.store.pending if isinstance(proxy.book.store, source.Outage) else 0,
    ),
    (
        "fastproxy_store_lost_writes_total",
        "Such sessions that could not be written: expired meanwhile, their id taken, or the process ended.",
        lambda proxy: proxy.book.store.lost_total if isinstance(proxy.book.store, source.Outage) else 0,
    ),
    (
        "fastproxy_discovery_errors_total",
        "Names of replicas that could not be resolved because no server answered or it failed; what was known of them "
        "holds on.",
        lambda proxy: proxy.discovery.errors_total,
    ),
    (
        "fastproxy_connections_open",
        "Open sockets of the proxy, to clients and to replicas.",
        lambda proxy: proxy.reactor.connections,
    ),
    (
        "fastproxy_connections_accepted_total",
        "Connections accepted from clients.",
        lambda proxy: proxy.reactor.accepted,
    ),
    (
        "fastproxy_connections_refused_total",
        "Connections closed at once because the process had no file descriptor left (raise ulimit -n).",
        lambda proxy: proxy.reactor.refused_accepts,
    ),
    (
        "fastproxy_connections_turned_away_total",
        "Connections told 503 and closed because there were --max-connections already.",
        lambda proxy: proxy.listener.turned_away if proxy.listener is not None else 0,
    ),
    (
        "fastproxy_client_connections",
        "Connections of clients that are open.",
        lambda proxy: proxy.listener.connections if proxy.listener is not None else 0,
    ),
    (
        "fastproxy_calls_abandoned",
        "Calls whose clients have left while their replicas work on; each holds the place of a connection until then.",
        lambda proxy: proxy.listener.abandoned if proxy.listener is not None else 0,
    ),
    (
        "fastproxy_client_connections_max",
        "How many there may be, calls that were abandoned included (--max-connections).",
        lambda proxy: proxy.listener.connections_max if proxy.listener is not None else 0,
    ),
    (
        "fastproxy_client_stalls_total",
        "Clients cut off because they did not take what was sent to them (--idle-timeout).",
        lambda proxy: proxy.reactor.stalls,
    ),
    (
        "fastproxy_tls_failures_total",
        "TLS handshakes with clients that failed.",
        lambda proxy: proxy.reactor.tls_failures,
    ),
    (
        "fastproxy_relay_faults_total",
        "Faults of the proxy's own that cost a connection each; anything but 0 is a bug worth a report.",
        lambda proxy: proxy.reactor.faults,
    ),
    (
        "fastproxy_draining",
        "1 while the proxy finishes what it has, to take nothing new any more.",
        lambda proxy: proxy.lifecycle == "draining",
    ),
)


class Reloads(registry.Collector):
    """What became of the configuration: told by the process that reads it."""

    def __init__(self, server: str, read_counts: Callable[[], Mapping[str, int]]) -> None:
        self._server = server
        self._read_counts = read_counts

    def describe(self) -> Iterable[core.Metric]:
        """Read at the scrape, like all others."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        family = core.CounterMetricFamily(
            "fastproxy_config_reloads_total",
            "Configurations read again (SIGHUP, or the file has changed), by what became of them: applied, "
            "restart_needed for a part of it, or refused as a whole.",
            labels=("server", "outcome"),
        )
        for outcome, count in self._read_counts().items():
            family.add_metric((self._server, outcome), count)
        yield family


class Families(registry.Collector):
    """Every fastproxy_* family, made anew at each scrape."""

    def __init__(
        self,
        server: str,
        proxy: source.Source,
        read_store_times: Callable[[], StoreTimes],
    ) -> None:
        self._server = server
        self._proxy = proxy
        self._read_store_times = read_store_times

    def describe(self) -> Iterable[core.Metric]:
        """Nothing is read before somebody scrapes; names can't clash in a registry of our own."""
        return ()

    def collect(self) -> Iterator[core.Metric]:
        for name, words, read in PLAIN:
            yield self._family(name, words, (), [((), float(read(self._proxy)))])
        yield self._read_requests()
        yield self._read_request_seconds()
        yield self._family(
            "fastproxy_refusals_total",
            "Requests that the proxy answered by itself, by data.reason of the answer: limits (too_many_sessions, "
            "too_many_new_sessions, backend_overloaded) and faults (such as backend_unreachable).",
            ("reason",),
            [((reason,), count) for reason, count in sorted(self._proxy.refusals.items())],
        )
        yield from self._read_sessions()
        yield self._read_store_seconds()
        yield from self._read_replicas()
        yield self._family(
            "fastproxy_build_info",
            "Always 1; its labels say what runs.",
            ("version", "python"),
            [((fastproxy.__version__, platform.python_version()), 1)],
        )

    def _read_requests(self) -> core.Metric:
        answers = [("", self._proxy.reactor.answers())]
        answers += [(replica.url, endpoint.answers()) for replica, endpoint in self._replicas()]
        return self._family(
            "fastproxy_requests_total",
            "Requests that have ended, by the replica that had them last (empty: answered by the proxy itself), HTTP "
            "method and the status sent to the client. 499: the client left before an answer; 0: the connection was "
            "closed without one.",
            ("backend", "method", "status"),
            [((url, method, str(status)), count) for url, rows in answers for method, status, count in rows],
        )

    def _read_request_seconds(self) -> core.Metric:
        bounds, total, seconds = self._proxy.reactor.durations()
        family = core.HistogramMetricFamily(
            "fastproxy_request_seconds",
            "From a request's whole head to the last byte of its answer; an event stream counts when it ends.",
            labels=("server",),
        )
        buckets = [*((str(bound), float(count)) for bound, count in bounds), ("+Inf", float(total))]
        family.add_metric((self._server,), buckets, seconds)
        return family

    def _read_store_seconds(self) -> core.Metric:
        family = core.HistogramMetricFamily(
            "fastproxy_store_seconds",
            "Duration of session store operations, failed ones included; none for the embedded store.",
            labels=("server", "operation"),
        )
        for operation, buckets, seconds in self._read_store_times():
            family.add_metric((self._server, operation), buckets, seconds)
        return family

    def _read_sessions(self) -> Iterator[core.Metric]:
        lookups = dict(self._proxy.book.lookups)
        lookups["cache"] = lookups.get("cache", 0) + self._proxy.reactor.fast_requests
        yield self._family(
            "fastproxy_session_lookups_total",
            "Where a request's session was found: in the route table (cache) or the session store; missing: nowhere "
            "(404); error: the store did not answer (503).",
            ("result",),
            [((result,), count) for result, count in sorted(lookups.items())],
        )
        yield self._family(
            "fastproxy_session_recoveries_total",
            "Sessions opened anew on another replica because theirs was lost or had forgotten them, by why, and how "
            "that ended.",
            ("reason", "outcome"),
            sorted(self._proxy.recoveries.items()),
        )

    def _read_replicas(self) -> Iterator[core.Metric]:
        replicas = list(self._replicas())
        count_sessions = self._proxy.book.table.count
        yield self._family(
            "fastproxy_upstream_connects_total",
            "Connections to replicas that were tried, by how that ended.",
            ("backend", "outcome"),
            sorted(self._proxy.connects.items()),
        )
        yield self._family(
            "fastproxy_upstream_connections",
            "Connections to replicas: idle ones wait for a request, busy ones have one, connecting ones are opening.",
            ("backend", "state"),
            [
                ((replica.url, state), count)
                for replica, endpoint in replicas
                for state, count in (
                    ("idle", endpoint.spare_count),
                    ("busy", endpoint.busy),
                    ("connecting", endpoint.connecting),
                )
            ],
        )
        yield self._family(
            "fastproxy_backend_live",
            "1 while the replica may get new sessions; 0 when it can't be connected to, or is leaving.",
            ("backend",),
            [((replica.url,), float(replica.state == "live")) for replica, _ in replicas],
        )
        yield self._family(
            "fastproxy_backend_sessions",
            "Sessions of the replica in this process's route table.",
            ("backend",),
            [((replica.url,), count_sessions(replica.index)) for replica, _ in replicas],
        )
        yield self._family(
            "fastproxy_backend_requests_in_flight",
            "Requests that the replica has now.",
            ("backend",),
            [((replica.url,), endpoint.in_flight) for replica, endpoint in replicas],
        )
        yield self._family(
            "fastproxy_backend_waits_for_acks",
            "1 when the replica's server holds the second piece of an answer back until the first is acknowledged (no "
            "TCP_NODELAY there: 40 ms a call without us); the relay then acknowledges at once.",
            ("backend",),
            [((replica.url,), int(endpoint.waits_for_us > 0)) for replica, endpoint in replicas],
        )

    def _replicas(self) -> Iterator[tuple[source.Replica, source.Endpoint]]:
        for replica in self._proxy.backends.all():
            yield replica, self._proxy.endpoint(replica.index)

    def _family(self, name: str, words: str, labels: Sequence[str], rows: Rows) -> core.Metric:
        kind = core.CounterMetricFamily if name.endswith("_total") else core.GaugeMetricFamily
        family = kind(name, words, labels=("server", *labels))
        for values, number in rows:
            family.add_metric((self._server, *values), number)
        return family
