"""How well a backend is, from what its probes say. Pure: what is known and what happened in, what is known then out.

    unknown ---answered---> healthy --answered, but slowly, or once more after failures--> degraded
    healthy, degraded --failed--> degraded, `unhealthy_threshold` times in a row--> unhealthy, or unauthenticated

Only the last two hide what a backend offers: one probe that fails says little, and a list of tools that flickers is
worse than a tool that fails. A probe asks for nothing that opens a session (discovery.py).
"""

import msgspec

UNKNOWN, HEALTHY, DEGRADED = "unknown", "healthy", "degraded"
UNHEALTHY, UNAUTHENTICATED = "unhealthy", "unauthenticated"
STATUSES = (HEALTHY, DEGRADED, UNHEALTHY, UNKNOWN, UNAUTHENTICATED)
SLOW_SECONDS = 5.0

# What a failure is called where operators read it, by its reason.
CATEGORIES = {
    "backend_unreachable": "connection_failed",
    "backend_lost": "connection_failed",
    "backend_timeout": "timeout",
    "backend_unauthorized": "authentication_failed",
    "backend_unavailable": "backend_unavailable",
}


class Rules(msgspec.Struct, frozen=True):
    """`interval_seconds` between two probes of a backend; `timeout_seconds` of one, None: only the call's."""

    interval_seconds: float = 30.0
    unhealthy_threshold: int = 3
    timeout_seconds: float | None = 10.0


class Health(msgspec.Struct, frozen=True, gc=False):
    """What is known of one backend. Times are seconds since the epoch; `category` of the last failure."""

    status: str = UNKNOWN
    failures: int = 0  # in a row
    checked_at: float | None = None
    changed_at: float | None = None
    category: str = ""

    @property
    def hides(self) -> bool:
        """Is it so ill that what it offers is not to be listed?"""
        return self.status in (UNHEALTHY, UNAUTHENTICATED)


def answered(known: Health, now: float, *, seconds: float) -> Health:
    """A probe was answered, within so many seconds."""
    status = DEGRADED if seconds > SLOW_SECONDS or known.failures else HEALTHY
    return _moved(known, status, now, failures=0, category="")


def failed(known: Health, now: float, reason: str, rules: Rules) -> Health:
    """A probe was answered by a fault, or not at all."""
    failures = known.failures + 1
    category = CATEGORIES.get(reason, "health_check_failed")
    denied = category == "authentication_failed"
    if failures >= rules.unhealthy_threshold or known.hides:
        status = UNAUTHENTICATED if denied else UNHEALTHY
    elif known.status in (HEALTHY, DEGRADED):
        status = DEGRADED
    else:
        status = UNAUTHENTICATED if denied else UNKNOWN  # it has offered nothing yet that could be hidden
    return _moved(known, status, now, failures=failures, category=category)


def counts(known: Health, now: float, rules: Rules) -> bool:
    """Does a failed attempt to reach it count as a probe? One per interval does: a backend that is sought more often
    while it is away must not be called ill sooner for that."""
    if not known.failures or known.checked_at is None:
        return True
    return not 0 <= now - known.checked_at < rules.interval_seconds  # below 0 the clock was set back


def _moved(known: Health, status: str, now: float, *, failures: int, category: str) -> Health:
    changed_at = known.changed_at if status == known.status else now
    return Health(status, failures, now, changed_at, category)
