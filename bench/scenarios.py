"""What is measured: one row per scenario name, and the measurements that the rows are made of.

A measurement gets a stage and a plan and returns numbers by name, unit last. Scenarios that hold their stages keep
all proxies up and measure them in turn, round by round; the others need the whole machine's descriptors, or a fresh
process, and build one stage per measurement.
"""

import time
from collections.abc import Callable

import msgspec

from bench import machine, stage

Values = dict[str, float]

# Each stream is two descriptors in the proxy; some are left for listeners, logs and the POSTs of the load.
STREAMS_WANTED = 9000
DESCRIPTORS_SPARE = 600


class Plan(msgspec.Struct, frozen=True):
    """How much of it: a quick plan shows that everything works, its figures are not worth quoting."""

    rounds: int
    seconds: float
    quick: bool

    @property
    def streams(self) -> int:
        wanted = STREAMS_WANTED // 9 if self.quick else STREAMS_WANTED
        return min(wanted, (machine.open_files_max() - DESCRIPTORS_SPARE) // 2)

    def rounds_of(self, scenario: "Scenario") -> int:
        return min(self.rounds, scenario.rounds_max or self.rounds)

    def sessions(self, wanted: int) -> int:
        return min(wanted, 20_000) if self.quick else wanted


class Scenario(msgspec.Struct, frozen=True):
    about: str
    measure: Callable[[stage.Stage, Plan], Values]
    layout: stage.Layout = stage.Layout()
    sessions: int = 1000
    holds: bool = True
    needs: str | None = None
    """The ability that a rival must have."""
    of_sessions: bool = False
    """Only rivals that hold memory per session have anything to show."""
    rounds_max: int | None = None
    """Of what takes long to set up and hardly varies; None: as many as are wanted."""

    @property
    def of_events(self) -> bool:
        return self.layout.answer == "sse" or self.layout.stream != "idle"


def measure_closed(on: stage.Stage, plan: Plan) -> Values:
    return _measure(on, f"closed {plan.seconds}", warm_up="closed 0.3")


def measure_initialize(on: stage.Stage, plan: Plan) -> Values:
    return _measure(on, f"initialize {plan.seconds}", warm_up="initialize 0.2")


def measure_new_connections(on: stage.Stage, plan: Plan) -> Values:
    return _measure(on, f"fresh {plan.seconds}", warm_up="fresh 0.2")


def measure_at(rate_per_second: int) -> Callable[[stage.Stage, Plan], Values]:
    def measure(on: stage.Stage, plan: Plan) -> Values:
        # at low rates a round needs time to be more than a few ticks of processor time
        return _measure(on, f"open {rate_per_second} {plan.seconds * 2}", warm_up=f"open {rate_per_second} 0.3")

    return measure


def measure_streams(on: stage.Stage, plan: Plan) -> Values:
    """Memory and processor time of open GET streams, and how many outlive their clients at the backend."""
    count = plan.streams
    before = on.rss_bytes()
    opened = on.load.ask(f"streams {count}")
    growth = on.rss_bytes() - before
    busy_before = on.cpu_seconds()
    watched = on.load.ask(f"watch {max(plan.seconds, 2)}")
    busy = on.cpu_seconds() - busy_before
    on.load.ask("hangup")
    left = _streams_left(on)
    values = {
        "rss_bytes_per_stream": growth / max(opened["open"], 1),
        "streams": opened["open"],
        "streams_lost": watched["lost"],
        "streams_left": left,
        "cpu_percent": busy / watched["seconds"] * 100,
    }
    if watched["events"]:
        values |= {"cpu_us_per_event": busy / watched["events"] * 1e6, "events": watched["events"]}
    return values


def measure_event_delay(on: stage.Stage, plan: Plan) -> Values:
    """From the backend's write of an event to the client's read: 64 streams, 4,000 events a second in all."""
    on.load.ask("streams 64")
    on.load.ask("watch 0.3")
    busy_before = on.cpu_seconds()
    watched = on.load.ask(f"watch {max(plan.seconds, 1)}")
    busy = on.cpu_seconds() - busy_before
    on.load.ask("hangup")
    return {
        "p50_us": watched["p50_us"],
        "p99_us": watched["p99_us"],
        "p999_us": watched["p999_us"],
        "cpu_us_per_event": busy / max(watched["events"], 1) * 1e6,
        "events": watched["events"],
        "errors": watched["lost"],
    }


def measure_list(on: stage.Stage, plan: Plan) -> Values:
    return _measure(on, f"list {plan.seconds}", warm_up="list 0.2")


def measure_restore(on: stage.Stage, plan: Plan) -> Values:
    """Sessions that another process has opened and used: one call for each of them, all of it from the store."""
    on.restart()
    opened_before = on.backend.ask("stats")["initializes"]
    busy_before = on.cpu_seconds()
    done = on.load.ask("each 1")
    busy = on.cpu_seconds() - busy_before
    return {
        "cpu_us": busy / max(done["requests"], 1) * 1e6,
        "p50_us": done["p50_us"],
        "p99_us": done["p99_us"],
        "requests": done["requests"],
        "errors": done["errors"],
        "violations": done["violations"],
        "initialized_again": on.backend.ask("stats")["initializes"] - opened_before,
    }


def measure_idle(on: stage.Stage, plan: Plan) -> Values:
    time.sleep(1)
    busy_before = on.cpu_seconds()
    time.sleep(max(plan.seconds, 2))
    busy = on.cpu_seconds() - busy_before
    return {
        "rss_bytes": on.rss_bytes(),
        "start_ms": on.seconds_to_serve * 1000,
        "cpu_percent": busy / max(plan.seconds, 2) * 100,
    }


def _measure(on: stage.Stage, command: str, *, warm_up: str) -> Values:
    warmed = on.load.ask(warm_up)  # its faults count: the first requests after a rest are those that fail
    busy_before = on.cpu_seconds()
    done = on.load.ask(command)
    busy = on.cpu_seconds() - busy_before
    return {
        "cpu_us": busy / max(done["requests"], 1) * 1e6,
        "requests_per_second": done["requests"] / done["seconds"],
        "p50_us": done["p50_us"],
        "p99_us": done["p99_us"],
        "rss_bytes": on.rss_bytes(),
        "processes": len(on.processes()),  # two workers that are one process would be no two workers
        "requests": done["requests"],
        "bytes_per_answer": done["bytes"] / max(done["requests"], 1),
        "errors": done["errors"] + warmed["errors"],
        "violations": done["violations"] + warmed["violations"],
    }


def _streams_left(on: stage.Stage) -> float:
    """Streams that the backend still holds when their clients have been gone for up to three seconds."""
    deadline = time.monotonic() + 3
    while (left := on.backend.ask("stats")["streams_open"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    return float(left)


def group(backends: int, tools: int, *, connections: int = 64, redis: bool = False) -> stage.Layout:
    """Servers of their own with so many tools each, for who makes one of them."""
    return stage.Layout(backends=backends, tools=tools, connections=connections, redis=redis)


JSON = stage.Layout()
SSE = stage.Layout(answer="sse", events=10)

SCENARIOS: dict[str, Scenario] = {
    "json": Scenario("tools/call, JSON answers of about 300 bytes", measure_closed),
    "sse10": Scenario("tools/call, SSE answers of 10 events, each its own write", measure_closed, SSE),
    "body64k": Scenario("64 KiB each way", measure_closed, stage.Layout(body_bytes=64 << 10, answer_bytes=64 << 10)),
    "body1m": Scenario(
        "1 MiB each way", measure_closed, stage.Layout(connections=16, body_bytes=1 << 20, answer_bytes=1 << 20)
    ),
    "initialize": Scenario("new sessions, memory store", measure_initialize),
    "initialize-redis": Scenario(
        "new sessions, each stored in Redis before its answer",
        measure_initialize,
        stage.Layout(redis=True),
        needs="redis",
    ),
    "sessions-1k": Scenario("json over 1,000 sessions", measure_closed, of_sessions=True),
    "sessions-100k": Scenario("json over 100,000 sessions", measure_closed, sessions=100_000, of_sessions=True),
    "sessions-1m": Scenario("json over 1,000,000 sessions", measure_closed, sessions=1_000_000, of_sessions=True),
    "streams-idle": Scenario("GET streams on which nothing happens", measure_streams, holds=False, rounds_max=1),
    "streams-heartbeat": Scenario(
        "GET streams with a comment per second each",
        measure_streams,
        stage.Layout(stream="comment"),
        holds=False,
        rounds_max=1,
    ),
    "new-connections": Scenario("json, a new connection per request", measure_new_connections),
    "workers-2": Scenario("json, two workers", measure_closed, stage.Layout(workers=2), needs="workers"),
    "latency-1000": Scenario("json at 1,000 per second, open loop", measure_at(1000)),
    "latency-4000": Scenario("json at 4,000 per second, open loop", measure_at(4000)),
    "sse-delay": Scenario(
        "an event's way from the backend's write to the client's read, 64 streams, 4,000 events per second",
        measure_event_delay,
        stage.Layout(stream="message", stream_seconds=0.016),
    ),
    "tls": Scenario("json, TLS in front", measure_closed, stage.Layout(tls=True), needs="tls"),
    "group-call-1": Scenario("tools/call through one server's prefix", measure_closed, group(1, 67)),
    "group-call-10": Scenario("tools/call, each at one of ten servers", measure_closed, group(10, 67)),
    "group-list": Scenario(
        "tools/list of 500 tools of ten servers", measure_list, group(10, 50, connections=8), needs="aggregation"
    ),
    "group-initialize": Scenario("new sessions in front of ten servers", measure_initialize, group(10, 67)),
    "group-restore": Scenario(
        "a call in each of 1,000 sessions that another process has opened, one at a time; ten servers, Redis",
        measure_restore,
        group(10, 67, connections=1, redis=True),
        holds=False,
        needs="legs",
    ),
    "group-sessions": Scenario(
        "what a session weighs that has called each of ten servers of 67 tools, and calls over so many",
        measure_closed,
        group(10, 67),
        sessions=5000,
        needs="legs",
        of_sessions=True,
    ),
    "idle": Scenario("a process with nothing to do, and its start", measure_idle, holds=False, rounds_max=2),
}
