"""Short strings that are kept for a while, in memory: bounded, the oldest out first.

What they stand for is their owner's business (proxy/stateless.py: which replica a key leads to). A memo that is lost
costs what having none costs, so nothing here is dear: no sweep, no lock, no copy.
"""

from collections.abc import Callable


class Memos:
    """At most `memos_max` of them. A memo that is written again counts as new."""

    def __init__(self, *, memos_max: int, clock: Callable[[], float]) -> None:
        self._memos_max = memos_max
        self._clock = clock
        self._held: dict[str, tuple[str, float]] = {}

    def __len__(self) -> int:
        """Those included that have expired and were not met since."""
        return len(self._held)

    def put(self, key: str, value: str, seconds: float) -> None:
        """Keep it for so long."""
        self._held.pop(key, None)
        if len(self._held) >= self._memos_max:
            del self._held[next(iter(self._held))]
        self._held[key] = (value, self._clock() + seconds)

    def get(self, key: str) -> str | None:
        """What was put there; None when it has expired, or was never known."""
        value, seconds_left = self.look(key)
        return value if seconds_left > 0 else None

    def look(self, key: str) -> tuple[str, float]:
        """The same, and how long it stays; zero seconds when there is none."""
        value, until = self._held.get(key, ("", 0.0))
        seconds_left = until - self._clock()
        if seconds_left > 0:
            return value, seconds_left
        self._held.pop(key, None)
        return "", 0.0
