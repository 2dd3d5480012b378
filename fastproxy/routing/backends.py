"""The replicas of one MCP server, as configured and as they are: who exists, who is alive, who gets what is new.

    configuration --Backends.apply--> Replica (state, last error) --choose--> Replica
    session record (url) --find--> Replica

A replica is `live`, `failed` (health.py says why; it gets nothing new until it is well, unless nobody is) or `leaving`
(no longer configured or discovered; the sessions that it holds still reach it; forgotten when it has none for a while).
Connecting, asking and resolving are not done here.
"""

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Iterable
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from fastproxy import errors
from fastproxy.config import backend
from fastproxy.routing import health, policy

REPLICAS_MAX = 4096  # known at a time, those included that left and are not forgotten yet; each costs up to 38 KiB
IDLE_SECONDS = 60.0  # without sessions and exchanges, until a replica that left is forgotten
FOREIGN_MAX = 1024  # replicas known from records alone; records come from replicas of the proxy with another list


class NoRoom(errors.FastproxyError):
    """More replicas than we can tell apart."""

    reason = "too_many_replicas"


class Replica(msgspec.Struct, gc=False, kw_only=True):
    """One backend process. `endpoint` is what the relay knows it by; its `index` stands in the route table."""

    url: str
    pod: str | None
    host: str
    port: int
    path: str
    scheme: str
    index: int
    state: str = "live"
    condition: health.Health = health.Health()
    turns: float = 0.0  # of taking part in a choice, saved up while it has but a share of them
    last_error: str | None = None
    named: bool = True  # its name has an address; without one it stays failed, though a pod that ends may yet answer
    foreign: bool = False  # known from a record alone
    idle_since: float | None = None  # for which nobody wanted anything of it, since it left


class Fleet(Protocol):
    """What the other proxies have placed (proxy/census.py)."""

    def elsewhere(self, replica: Replica, count: int) -> int:
        """Sessions that they have on it, beside our `count`."""

    def session_opened(self) -> None:
        """We have placed one, or it has come to nothing."""


class Backends:
    """All replicas, in the order in which they became known. `add` makes the relay's endpoint and answers its index, or
    raises NoRoom; `on_path` hears of a replica that is configured with another path now."""

    def __init__(
        self,
        choose: str,
        load_of: Callable[[Replica], policy.Load],
        add: Callable[[backend.StaticBackend], int],
        on_path: Callable[[Replica], None],
        fleet: Fleet,
        clock: Callable[[], float] = time.monotonic,
        next_turn: Callable[[], int] | None = None,
    ):
        self._policy = policy.POLICIES[choose]
        self._load_of = load_of
        self._add = add
        self._on_path = on_path
        self._fleet = fleet
        self._clock = clock
        self._by_url: dict[str, Replica] = {}
        self._by_index: dict[int, Replica] = {}
        self._next_turn = next_turn or functools.partial(next, itertools.count(1))
        self.on_change: Callable[[], None] = lambda: None  # who exists, or who is live, may be another now
        self._foreign = 0
        self._openings: dict[int, int] = {}

    def set_policy(self, choose: str) -> None:
        """Another policy for sessions that begin from now on."""
        self._policy = policy.POLICIES[choose]

    def apply(self, wanted: Iterable[backend.StaticBackend]) -> None:
        """From now on these are the replicas; those that are not among them leave."""
        kept = set()
        for static in wanted:
            kept.add(static.url)
            replica = self._by_url.get(static.url)
            if replica is None:
                with contextlib.suppress(NoRoom):
                    self._learn(static, state="live")
                continue
            replica.pod = replica.pod or static.pod
            if replica.path != static.path:
                replica.path = static.path
                self._on_path(replica)
            if replica.state == "leaving":
                self._return(replica)
        for url, replica in self._by_url.items():
            if url not in kept:
                replica.state = "leaving"
        self.on_change()

    def _return(self, replica: Replica) -> None:
        replica.state = "live"
        replica.condition = health.Health()
        replica.idle_since = None
        self._foreign -= replica.foreign
        replica.foreign = False

    def _learn(self, static: backend.StaticBackend, *, state: str) -> Replica:
        if len(self._by_url) >= REPLICAS_MAX:
            raise NoRoom(f"{static.url} is one replica too many")
        replica = Replica(
            url=static.url,
            pod=static.pod,
            host=static.host,
            port=static.port,
            path=static.path,
            scheme=static.scheme,
            index=self._add(static),
            state=state,
        )
        self._by_url[replica.url] = replica
        self._by_index[replica.index] = replica
        return replica

    def find(self, url: str, pod: str | None) -> Replica | None:
        """The replica that a record names. One that is not ours is taken on as leaving: its sessions live there."""
        replica = self._by_url.get(url)
        if replica is not None:
            replica.idle_since = None  # who asks may use it for a while yet
            return replica
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError:
            return None
        if parts.scheme not in ("http", "https") or not parts.hostname or not port or self._foreign >= FOREIGN_MAX:
            return None
        paths = {known.path for known in self._by_url.values()}
        path = paths.pop() if len(paths) == 1 else ""
        static = backend.StaticBackend(parts.scheme, parts.hostname, port, path, url, pod)
        try:
            replica = self._learn(static, state="leaving")
        except NoRoom:
            return None
        replica.foreign = True
        self._foreign += 1
        self.on_change()
        return replica

    def forget_idle(self, now: float, drop: Callable[[Replica], bool]) -> list[Replica]:
        """Forget who left and has had neither session nor exchange for a while; who it was. `drop` lets go of the
        endpoint, or says no."""
        forgotten = []
        for replica in self.all():
            load = self._load(replica)
            if replica.state != "leaving" or load.sessions or load.in_flight:
                replica.idle_since = None
            elif replica.idle_since is None:
                replica.idle_since = now
            elif now - replica.idle_since >= IDLE_SECONDS and drop(replica):
                self._foreign -= replica.foreign
                self._openings.pop(replica.index, None)
                del self._by_url[replica.url], self._by_index[replica.index]
                forgotten.append(replica)
        if forgotten:
            self.on_change()
        return forgotten

    def at(self, index: int) -> Replica:
        """The replica of an endpoint's index."""
        return self._by_index[index]

    def all(self) -> list[Replica]:
        """Every replica that is known."""
        return list(self._by_url.values())

    def live(self) -> list[Replica]:
        """Those that may get something new; when all have failed, those that only seem to be ill."""
        known = [replica for replica in self._by_url.values() if replica.state != "leaving" and replica.named]
        usable = health.usable([replica.condition for replica in known])
        return [replica for replica, fit in zip(known, usable, strict=True) if fit]

    def all_well(self) -> list[Replica]:
        """Those that are live, as `choose` sees them; nobody while one of them only seems to be ill."""
        live = self.live()
        return live if all(replica.condition.cause is None for replica in live) else []

    def choose(self, *, for_session: bool, without: Iterable[int] = ()) -> Replica | None:
        """Who gets what is new: by the owner's policy for a session, else the least loaded. None: nobody is live."""
        excluded = set(without)
        candidates = [replica for replica in self.live() if replica.index not in excluded]
        if for_session:
            candidates = self._take_turns(candidates) or candidates
        if not candidates:
            return None
        turn = self._next_turn()
        rule = self._policy if for_session else policy.least_in_flight
        return candidates[rule([self._load_of_all(replica) for replica in candidates], turn)]

    def _take_turns(self, candidates: list[Replica]) -> list[Replica]:
        """Those that take part: one that has come back does in a share of the choices, and with the first."""
        if all(replica.condition.returned_at is None for replica in candidates):
            return candidates
        now = self._clock()
        taking = []
        for replica in candidates:
            replica.turns += health.share(replica.condition, now)
            if replica.turns >= 1.0:
                replica.turns = min(replica.turns - 1.0, 1.0)
                taking.append(replica)
        return taking

    def _load(self, replica: Replica) -> policy.Load:
        load = self._load_of(replica)
        return policy.Load(load.sessions + self._openings.get(replica.index, 0), load.in_flight)

    def _load_of_all(self, replica: Replica) -> policy.Load:
        """With what other proxies have placed there."""
        load = self._load(replica)
        return policy.Load(load.sessions + self._fleet.elsewhere(replica, load.sessions), load.in_flight)

    def opening(self, index: int) -> None:
        """A session is on its way to this replica: it counts until `opened`, so that a burst spreads too."""
        self._openings[index] = self._openings.get(index, 0) + 1

    def opened(self, index: int) -> None:
        """It has begun, and is counted where sessions are; or it came to nothing."""
        self._openings[index] -= 1
        self._fleet.session_opened()

    # ---- what was seen of them

    def failed(self, replica: Replica, error: str) -> bool:
        """A connect to it failed. The answer here and below: is that news of its state?"""
        return self._know(replica, health.connect_failed(replica.condition), error)

    def answered(self, replica: Replica) -> bool:
        """A connect to it succeeded."""
        if replica.condition.cause is None or not replica.named:
            return False
        return self._know(replica, health.connected(replica.condition, self._clock()))

    def probe_failed(self, replica: Replica, error: str, *, threshold: int) -> bool:
        """It was asked how it is, and gave no good answer."""
        return self._know(replica, health.probe_failed(replica.condition, threshold=threshold), error)

    def probe_answered(self, replica: Replica) -> bool:
        """It was asked how it is, and is well."""
        return self._know(replica, health.probe_answered(replica.condition, self._clock()))

    def request_lost(self, replica: Replica, error: str, *, ended: int) -> bool:
        """A request was sent to it, and no answer came. `ended`: exchanges with it that are over."""
        return self._know(replica, health.request_lost(replica.condition, ended=ended), error)

    def _know(self, replica: Replica, known: health.Health, error: str | None = None) -> bool:
        replica.last_error = error or replica.last_error
        if replica.state == "leaving":
            return False
        if known.returned_at is not None and replica.condition.cause is not None:
            replica.turns = 1.0
        replica.condition = known
        state = "live" if known.cause is None else "failed"
        is_news = state != replica.state
        replica.state = state
        self.on_change()
        return is_news

    def set_named(self, replica: Replica, named: bool) -> None:
        """Its name has an address, or has none."""
        replica.named = named
        self.on_change()
