"""What names are known to mean: how an answer of DNS becomes replicas, and when it is believed. Pure: time comes in.

    resolv.conf's search list --candidates--> names to ask for
    SRV rows --from_services--+
    addresses --from_addresses+--> Found --Memory.learn--> what holds until the next answer
    no answer at all -------------------> Memory.fail

Resolvers lie for moments: they time out, they answer "no such name" while they restart, and a pod that misses one
readiness check is out of its Service for a second. New names are therefore believed at once, but the loss of what was
known only when it is said again and for `DOUBT_SECONDS`; a resolver that does not answer changes nothing at all.
Believing too late costs one failed connect, which is noticed at once; believing too early would end sessions.
"""

from collections.abc import Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from fastproxy.config import address, backend, units

KEPT_SECONDS_MAX = 5.0  # an answer is asked for again after its TTL, but no later than this
KEPT_SECONDS_MIN = 1.0  # and no sooner: a TTL of nought is a habit of headless Services, not a wish to be asked always
DOUBT_SECONDS = 2.0
PARTING_SECONDS = 30.0  # a pod's default grace: that long it may still serve after its name has gone
REPLICAS_MAX = backend.REPLICAS_MAX  # of one name; more is a wrong name, and each costs memory
NDOTS = 1  # resolv.conf(5), when it says nothing

# How much a name is known to mean; falling back to less has to be said twice.
NOTHING, ADDRESSES, SERVICES = 0, 1, 2

Item = TypeVar("Item")


class Found(msgspec.Struct, Generic[Item], frozen=True):
    """An answer: what the name means now, perhaps nothing, and how long that is good."""

    items: tuple[Item, ...]
    seconds: float = KEPT_SECONDS_MIN
    rank: int = ADDRESSES


class Service(msgspec.Struct, frozen=True, gc=False):
    """A row of SRV. Priority and weight are not read: which replica gets what is our own policy's choice."""

    target: str
    port: int


class Memory(Generic[Item]):
    """What a name means, as far as we know. `ask_at` is when to ask again, `asked_at` when that was last done; `error`
    says why nobody could tell."""

    def __init__(self) -> None:
        self.items: tuple[Item, ...] = ()
        self.ask_at = 0.0
        self.asked_at = -KEPT_SECONDS_MIN
        self.error: str | None = None
        self.known = False  # an answer has come once, be it that there is nothing
        self._parting: tuple[Item, ...] = ()  # what the name meant when it was last known to mean something
        self._parting_until = 0.0
        self._rank = NOTHING
        self._doubted_at: float | None = None

    def learn(self, found: Found[Item], now: float) -> bool:
        """An answer has come. True: the name means something else than before."""
        self.error = None
        self.asked_at = now
        rank = found.rank if found.items else NOTHING
        self.ask_at = now + (keep_seconds(found.seconds) if rank else KEPT_SECONDS_MIN)
        if rank < self._rank and not self._is_beyond_doubt(now):
            self.ask_at = now + KEPT_SECONDS_MIN
            return False
        self._doubted_at = None
        changed = not self.known or set(found.items) != set(self.items)
        if changed:
            self._parting, self._parting_until = self.items, now + PARTING_SECONDS
        self.known = True
        self.items = found.items
        self._rank = rank
        return changed

    def _is_beyond_doubt(self, now: float) -> bool:
        if self._doubted_at is None:
            self._doubted_at = now
        return now - self._doubted_at >= DOUBT_SECONDS

    def fail(self, reason: str, now: float) -> bool:
        """Nobody could answer; what was known holds. True: this is the first failure in a row."""
        first = self.error is None
        self.error = reason
        self.asked_at = now
        self.ask_at = now + KEPT_SECONDS_MIN
        return first

    def parting(self, now: float) -> tuple[Item, ...]:
        """What the name meant until a moment ago, now that it means nothing."""
        return self._parting if not self.items and now < self._parting_until else ()

    def part(self) -> None:
        """Nobody is there any more either."""
        self._parting = ()


def keep_seconds(ttl_seconds: float) -> float:
    """How long an answer of this TTL is good for us."""
    return min(max(ttl_seconds, KEPT_SECONDS_MIN), KEPT_SECONDS_MAX)


def candidates(name: str, search: Sequence[str], ndots: int) -> tuple[str, ...]:
    """The absolute names that `name` may stand for, in the order of resolv.conf(5): the first that exists is meant."""
    if name.endswith("."):
        return (name,)
    absolute = name + "."
    searched = tuple(f"{name}.{domain.strip('.')}." for domain in search if domain.strip("."))
    return (absolute, *searched) if name.count(".") >= ndots else (*searched, absolute)


def from_addresses(addresses: Iterable[str], port: int) -> tuple[backend.StaticBackend, ...]:
    """A replica per address, in an order of their own: resolvers shuffle their answers."""
    return _make_replicas((found, port) for found in sorted(set(addresses)))


def from_services(rows: Iterable[Service]) -> tuple[backend.StaticBackend, ...]:
    """A replica per row under its target's name, whose first label is the pod's own. Targets that could not stand in a
    URL are left out, and so is the root: it says that there is no such service (RFC 2782)."""
    rooms = sorted({(row.target.lower().removesuffix("."), row.port) for row in rows})
    return _make_replicas(((target, port) for target, port in rooms if target and port), named=True)


def _make_replicas(places: Iterable[tuple[str, int]], *, named: bool = False) -> tuple[backend.StaticBackend, ...]:
    found: list[backend.StaticBackend] = []
    for place, port in places:
        try:
            host = address.read_host(address.bracket(place))
        except units.WrongValue:
            continue
        url = f"http://{address.bracket(host)}:{port}"
        found.append(backend.StaticBackend("http", host, port, "", url, host.partition(".")[0] if named else None))
    return tuple(found[:REPLICAS_MAX])


def in_hosts_file(text: str, name: str) -> tuple[str, ...]:
    """The addresses that a hosts(5) file gives a name."""
    wanted = name.lower().removesuffix(".")
    rows = (line.partition("#")[0].split() for line in text.splitlines())
    return tuple(dict.fromkeys(row[0] for row in rows if wanted in (word.lower() for word in row[1:])))
