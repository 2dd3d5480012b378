"""Looks at the store, and what makes them outdated.

News of a session and the store's answers about it travel on different connections and may overtake each other. Whoever
waits for an answer holds a `Look`; every change to that session, and every gap in the news, makes it outdated; what an
outdated look has seen may be used once and never remembered.
"""

import contextlib
from collections.abc import Iterator


class Look:
    """Somebody waits for the store about one session. `outdated`: what will be seen may have changed already."""

    __slots__ = ("key", "outdated")

    def __init__(self, key: str) -> None:
        self.key = key
        self.outdated = False


class Looks:
    """All that are under way."""

    def __init__(self) -> None:
        self._looks: dict[str, list[Look]] = {}

    @contextlib.contextmanager
    def looking(self, key: str) -> Iterator[Look]:
        """A look at that session, for as long as the block runs."""
        look = Look(key)
        looks = self._looks.setdefault(key, [])
        looks.append(look)
        try:
            yield look
        finally:
            looks.remove(look)
            if not looks:
                del self._looks[key]

    def outdate(self, key: str, but: Look | None = None) -> None:
        """The session has changed; `but` is the look of who has changed it."""
        for look in self._looks.get(key, ()):
            if look is not but:
                look.outdated = True

    def outdate_all(self) -> None:
        """Anything may have changed."""
        for looks in self._looks.values():
            for look in looks:
                look.outdated = True
