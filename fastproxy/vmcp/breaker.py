"""Whether a backend is asked at all: a circuit that opens when its calls fail in a row. Pure; time comes in.

    closed --failures in a row--> open --timeout--> half-open: one call is let through --it is answered--> closed
                                    ^-------------------------- it fails ------------'

It acts on live traffic: calls count, and calls are refused while it is open, at once and without a connection. Answers
of any kind count as success, errors of a tool too; what counts as failure is that no answer came. Probes do not count:
a backend may answer pings and hang on every call.
"""

import msgspec

CLOSED, OPEN, HALF_OPEN = "closed", "open", "half-open"

# What became of a call, by its reason: no answer came, or one that says no. For others (a client that refused to be
# asked) the backend is not to blame, nor do they say that it is well.
FAULTS = frozenset({"backend_unreachable", "backend_lost", "backend_timeout", "backend_protocol_error"})
ANSWERS = frozenset({"backend_refused", "backend_session_lost", "backend_unauthorized", "backend_without_stream"})


class Rules(msgspec.Struct, frozen=True):
    """Off unless the owner wants it."""

    enabled: bool = False
    failure_threshold: int = 5
    timeout_seconds: float = 60.0


class Breaker:
    """One backend's. `now` is of a clock that never steps."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.failures = 0
        self._state = CLOSED
        self._tried_at = 0.0  # when the circuit opened, or the last trial was let through

    def state(self, now: float) -> str:
        """closed, open or half-open."""
        if self._state == OPEN and now - self._tried_at >= self.rules.timeout_seconds:
            return HALF_OPEN
        return self._state

    def admits(self, now: float) -> bool:
        """Would a call be let through?"""
        return not self.rules.enabled or self.state(now) != OPEN

    def admit(self, now: float) -> bool:
        """May this call go? Half-open it is the trial; the next may follow after another timeout, should nobody say
        what became of this one."""
        state = self.state(now)
        if not self.rules.enabled or state == CLOSED:
            return True
        if state == OPEN:
            return False
        self._tried_at = now
        return True

    def succeeded(self) -> None:
        """The backend has answered."""
        self.failures = 0
        self._state = CLOSED

    def failed(self, now: float) -> None:
        """No answer came."""
        self.failures += 1
        if self.rules.enabled and (self._state == OPEN or self.failures >= self.rules.failure_threshold):
            if self._state != OPEN:
                self._tried_at = now
            self._state = OPEN
