"""Two replicas of one real server behind two proxies on one Redis, and the real clients that are sent through them.

    with stand.Stand("mcp2-sse", redis) as place:
        with place.client("ts1") as client:                 # each request to one of the proxies by lot
            client.call("counter")
        place.assert_sound()                                # no proxy had to mend anything

`Pair` is a server, a client and a lane; `Visit` a client of such a pair at its stand. Stands are dear (a server imports
its SDK for two seconds of CPU), so `Stands` keeps the newest few, tests are sorted by kind (conftest), and the client
of a visit stays connected over its tests. KIT_MATRIX=1 takes every client with every server, instead of a sample.
"""

import contextlib
import itertools
import os
import time
import typing
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from tests import kit
from tests.kit import redis_server

WHOLE_MATRIX = bool(os.environ.get("KIT_MATRIX"))
STANDS_MAX = 3  # at once: each is two servers of some 80 MiB
SECONDS_MAX = 10.0
DRAIN = ("--drain-delay", "0s", "--drain-timeout", "10s")  # no balancer needs to be told first
LANES = {"fast": (), "story": ("--no-fast-lane",)}

_seeds = itertools.count(1)


class Stand:
    """One kind of server, twice, and the proxies in front of it."""

    def __init__(
        self,
        kind: str,
        redis: redis_server.RedisServer,
        *,
        lane: str = "fast",
        flags: Sequence[str] = (),
        **backend: typing.Any,
    ) -> None:
        """`flags` are the proxies'; what else is given is the servers' (`kit.backend`)."""
        self.kind = kit.KINDS[kind]
        self.name = f"{kind}-{lane}-{next(_seeds)}"  # part of every key, so that no stand sees another's sessions
        self.redis = redis
        self._backend = kit.backend(kind, replicas=2, **backend)
        self._flags = ["--name", self.name, *DRAIN, *LANES[lane], *flags]
        self._stack = contextlib.ExitStack()
        self.replicas: list[kit.Backend] = []
        self.proxies: list[kit.Proxy] = []

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            self.replicas = stack.enter_context(self._backend)
            self.proxies = stack.enter_context(
                kit.proxies(2, backends=self.replicas, store=self.redis.url, flags=self._flags)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: typing.Any) -> None:
        self._stack.__exit__(*exception)

    @property
    def urls(self) -> list[str]:
        """What a client is told: the endpoint on each of the proxies."""
        return [proxy.url(self.kind.path) for proxy in self.proxies]

    @contextlib.contextmanager
    def client(self, sdk: str, **options: typing.Any) -> Iterator[kit.Client]:
        """A connected client that switches between the proxies; each draws lots of its own."""
        with kit.client(sdk, self.urls, **{"seed": next(_seeds), **options}) as connected:
            yield connected

    def replica_of(self, session_id: str) -> kit.Backend:
        """The replica that both proxies say a session is on."""
        records = [proxy.session(session_id) for proxy in self.proxies]
        assert records[0] is not None and records[0] == records[1], records
        [replica] = [each for each in self.replicas if each.origin == records[0]["backend_url"]]
        return replica

    def session_ids(self) -> set[str]:
        return {each["session_id"] for each in self.proxies[0].sessions()}

    def knows(self, session_id: str) -> bool:
        """Whether one of the proxies does."""
        return any(proxy.session(session_id) is not None for proxy in self.proxies)

    def assert_sound(self) -> None:
        """No session was opened anew behind a client's back, and no proxy met a fault of its own."""
        for proxy in self.proxies:
            metrics = proxy.metrics()
            assert metrics.value("fastproxy_session_recoveries_total") == 0, proxy.log_tail()
            assert metrics.value("fastproxy_relay_faults_total") == 0, proxy.log_tail()
            assert "Traceback" not in proxy.stderr, proxy.log_tail()


class Stands:
    """Stands by what they are made of, made when they are asked for; the newest few are kept."""

    def __init__(self, redis: redis_server.RedisServer) -> None:
        self._redis = redis
        self._running: dict[typing.Hashable, Stand] = {}

    def of(self, kind: str, lane: str = "fast", **options: typing.Any) -> Stand:
        key = (kind, lane, *sorted(options.items()))
        found = self._running.pop(key, None)
        if found is None:
            while len(self._running) >= STANDS_MAX:
                self._running.pop(next(iter(self._running))).__exit__(None, None, None)
            found = Stand(kind, self._redis, lane=lane, **options).__enter__()
        self._running[key] = found  # the last one is the newest
        return found

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].__exit__(None, None, None)


class Pair(msgspec.Struct, frozen=True, order=True):
    """Who speaks to whom, and which lane their requests may take."""

    kind: str
    lane: str
    sdk: str

    def __str__(self) -> str:
        return f"{self.sdk}-to-{self.kind}" + ("" if self.lane == "fast" else f"-{self.lane}")


def couples(kinds: Sequence[str], sdks: Sequence[str] = kit.CLIENTS) -> pytest.MarkDecorator:
    """Parameters `kind` and `sdk`: all of them, or a sample in which each kind is met once, by the clients in turn."""
    if WHOLE_MATRIX:
        chosen = [(kind, sdk) for kind in kinds for sdk in sdks]
    else:
        chosen = [(kind, sdks[number % len(sdks)]) for number, kind in enumerate(kinds)]
    return pytest.mark.parametrize(("kind", "sdk"), chosen)


def pairs() -> list[Pair]:
    """All of them on both lanes, or a sample: every kind of server once, those with event streams twice, every client
    with every family of servers, and every family on the story alone."""
    if WHOLE_MATRIX:
        return [Pair(kind, lane, sdk) for kind in kit.KINDS for lane in LANES for sdk in kit.CLIENTS]
    sample = []
    for number, kind in enumerate(kit.KINDS):
        first = number + number // len(kit.CLIENTS)  # a family has four kinds: begin each one at another client
        steps = (0, 2) if kind.endswith("-sse") or kind == "everything" else (0,)
        sample += [Pair(kind, "fast", kit.CLIENTS[(first + step) % len(kit.CLIENTS)]) for step in steps]
    alone = [("mcp2-sse", "mcp2"), ("mcp1-sse", "ts2"), ("fastmcp-httpsse", "mcp1"), ("everything", "ts1")]
    return sample + [Pair(kind, "story", sdk) for kind, sdk in alone]


class Visit:
    """A client at a stand."""

    def __init__(self, pair: Pair, place: Stand, client: kit.Client) -> None:
        self.pair = pair
        self.place = place
        self.client = client

    def count(self, calls: int) -> list[int]:
        """What the counter of this session says to so many calls, one after the other."""
        return [int(self.client.call("counter").text) for _ in range(calls)]

    def targets(self, since: int = 0, **wanted: typing.Any) -> list[int]:
        """Which proxy each request went to, of those that have these members."""
        return [each["target"] for each in self.client.exchanges[since:] if wanted.items() <= each.items()]

    def ask_until_crossed(self, ask: Callable[[], None], rpc: str = "tools/call", tries_max: int = 30) -> int:
        """Ask until the client's answer to the server's request took another way than the call that caused it.

        How often it took. By lot half of them do: thirty that do not are no chance (1 in 10⁹).
        """
        for number in range(1, tries_max + 1):
            begin = len(self.client.exchanges)
            ask()
            [call] = self.targets(begin, method="POST", rpc=rpc)
            [answer] = self.targets(begin, method="POST", rpc=None)
            if call != answer:
                return number
        raise AssertionError(f"no answer of {tries_max} took another way than its call")


def gets(client: kit.Client) -> list[dict[str, typing.Any]]:
    """The client's GET streams, refused ones too."""
    return [each for each in client.exchanges if each["method"] == "GET"]


def has_stream(client: kit.Client, streams: int) -> bool:
    """Whether the client has opened another GET stream after its first so many."""
    return any(each.get("status") == 200 for each in gets(client)[streams:])


def await_that(holds: Callable[[], bool], wanted: str, seconds_max: float = SECONDS_MAX) -> None:
    """Wait until it holds; the test fails when it does not in time."""
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds_max} s: {wanted}"
        time.sleep(0.02)
