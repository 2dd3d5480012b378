"""How much may go on at a time: requests per replica, new sessions per second, connections.

    --max-requests-per-backend      Admission.is_full, asked before a replica is chosen and before it is asked
    --max-new-sessions-per-second   Admission.begin_session
    --max-connections               counted and kept by the relay (Listener.connections_max); here is its default

A bound never touches what is under way, and never a message that answers a server's question or cancels a call: what
already runs waits for those, and would hold its place for ever. Sessions in memory are bounded by their store.

The bounds are those of the whole program: with --workers each gets its share (`share`), so that the sum is never more.
A worker that has more of the clients than another may then refuse somewhat early; the other way round a replica would
get more than its owner has said that it bears.
"""

import resource
from collections.abc import Callable

import msgspec

from fastproxy._ext import core
from fastproxy.config import schema
from fastproxy.mcp import reply

# Descriptors that no client's connection can have: standard streams, event loop and ports (20), the session store's
# connections (38), the relay's last word to connections that it turns away (64), some for admin pages, discovery and
# requests of our own. Idle connections to replicas need none: the oldest gives way when there is no other.
DESCRIPTORS_RESERVED = 160
CONNECTIONS_MIN = 16  # however few descriptors there are

_FREE_METHODS = ("GET", "DELETE")  # a stream waits more than it works, and an end makes room


class Bucket:
    """So many per second, and a second's worth at once after a pause. 0: without bound."""

    def __init__(self, per_second: int, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._per_second = per_second
        self._tokens = float(per_second)
        self._counted_at = clock()

    def set_rate(self, per_second: int) -> None:
        """Another rate, from now on."""
        self._fill()
        self._tokens = min(self._tokens, float(per_second)) if self._per_second else float(per_second)
        self._per_second = per_second

    def take(self) -> bool:
        """One of them; False: not now."""
        if not self._per_second:
            return True
        self._fill()
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def _fill(self) -> None:
        now = self._clock()
        self._tokens = min(float(self._per_second), self._tokens + (now - self._counted_at) * self._per_second)
        self._counted_at = now


class Admission:
    """Who may begin. `endpoint_of` knows how many requests a replica has."""

    def __init__(
        self,
        *,
        requests_per_backend_max: int,
        new_sessions_per_second: int,
        endpoint_of: Callable[[int], core.Endpoint],
        clock: Callable[[], float],
    ) -> None:
        self._requests_max = requests_per_backend_max
        self._new_sessions = Bucket(new_sessions_per_second, clock)
        self._endpoint_of = endpoint_of

    def set_bounds(self, *, requests_per_backend_max: int, new_sessions_per_second: int) -> None:
        """Others, for what comes from now on. The endpoints' own are the caller's to set."""
        self._requests_max = requests_per_backend_max
        self._new_sessions.set_rate(new_sessions_per_second)

    def counts(self, exchange: core.Exchange) -> bool:
        """Is it one of the requests that are bounded?"""
        return self._requests_max > 0 and exchange.method_name not in _FREE_METHODS

    def is_full(self, index: int) -> bool:
        """Has the replica as many requests as it may?"""
        if not self._requests_max:
            return False
        endpoint = self._endpoint_of(index)
        return endpoint.calls + endpoint.expected >= self._requests_max

    def begin_session(self) -> None:
        """Refusal (429) when enough have begun in this second."""
        if not self._new_sessions.take():
            raise reply.too_many_new_sessions()


SHARED = ("max_connections", "max_requests_per_backend", "max_new_sessions_per_second")


def share(config: schema.ServeConfig, number: int) -> schema.ServeConfig:
    """What worker `number` (from 1) goes by: of each bound its share, and 1 at least, as 0 is no bound."""

    def divide(whole: int) -> int:
        return max(1, whole // config.workers + (number <= whole % config.workers))

    wholes = {name: getattr(config, name) for name in SHARED}
    return msgspec.structs.replace(config, **{name: divide(whole) for name, whole in wholes.items() if whole})


def connections_max(config: schema.ServeConfig) -> int:
    """The bound of this process: what the owner says, or what its descriptors allow when each connection needs one to a
    replica as well."""
    if config.max_connections is not None:
        return config.max_connections
    return max((_descriptors() - DESCRIPTORS_RESERVED) // 2, CONNECTIONS_MIN)


def find_shortage(config: schema.ServeConfig) -> str | None:
    """What to do when the descriptors do not suffice for --max-connections; None: they do."""
    own = share(config, 1).max_connections
    if own is None:
        return None
    needed = 2 * own + DESCRIPTORS_RESERVED
    had = _descriptors()
    if needed <= had:
        return None
    return f"max_connections {config.max_connections} may need {needed} descriptors, there are {had} (raise ulimit -n)"


def _descriptors() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft
