"""How many sessions each replica has, by the word of all proxies of a fleet. Pure: news in, numbers out.

    our counts --Placements.news--> a line for the store        lines of all proxies --Placements.hear--> elsewhere(url)

A proxy counts the sessions that it knows, so one that is used through two proxies counts twice: who is in use weighs
more than who was opened and left. When a proxy dies, its word holds for a while yet, and the sessions that it had come
to others and are counted there. Nobody's clock is compared with anybody else's: a line that has not changed for long by
our own is of a proxy that is gone.

News are old, and all proxies would fill the replica that was emptiest then. So what we have opened since is taken to
have been opened by the others too: since the last hearing, and half of what we opened between the one before and that,
for a line that is heard was written at any time in between. How many of theirs come to one of ours is what their news
have shown lately; while there is nothing to be seen, each is taken to open as many as we do, since a burst that begins
is everybody's.
"""

import zlib
from collections.abc import Mapping

import msgspec

GONE_SECONDS = 35.0  # without another beat, of which there is one in ten seconds at least
PACE_SESSIONS_MIN = 8  # that we must have opened between two hearings to compare the others' pace with ours


class _Heard(msgspec.Struct):
    beat: str
    counts: dict[str, int]
    at: float


class Placements:
    """What the others have, beside what we have."""

    def __init__(self) -> None:
        self._beat = 0
        self._heard: dict[str, _Heard] = {}
        self._elsewhere: dict[str, int] = {}
        self._at_last: dict[str, int] = {}  # what we had at the last hearing
        self._before: dict[str, int] = {}  # and at the one before
        self._others = 0
        self._pace = 0.0  # sessions that come to be known elsewhere while we open one

    def news(self, counts: Mapping[str, int]) -> str:
        """Our line: sessions by the URL of their replica."""
        self._beat += 1
        told = {_key(url): count for url, count in counts.items() if count}
        return f"{self._beat};" + ",".join(f"{key}:{count}" for key, count in told.items())

    def hear(self, lines: Mapping[str, str], counts: Mapping[str, int], now: float) -> None:
        """The lines of the others, and what we have at this moment."""
        for member in self._heard.keys() - lines.keys():
            del self._heard[member]
        theirs = 0
        for member, line in lines.items():
            beat, _, said = line.partition(";")
            known = self._heard.get(member)
            if known is None or known.beat != beat:
                self._heard[member] = _Heard(beat, _read(said), now)
                theirs += 0 if known is None else _growth(known.counts, self._heard[member].counts)
        alive = [heard for heard in self._heard.values() if now - heard.at < GONE_SECONDS]
        self._keep_pace(_growth(self._at_last, counts), theirs, others=len(alive))
        self._elsewhere = {}
        for heard in alive:
            for key, count in heard.counts.items():
                self._elsewhere[key] = self._elsewhere.get(key, 0) + count
        self._before, self._at_last = self._at_last or dict(counts), dict(counts)

    def _keep_pace(self, ours: int, theirs: int, *, others: int) -> None:
        if others != self._others or not ours + theirs:
            self._pace = float(others)
        elif ours >= PACE_SESSIONS_MIN:
            # Half of what it was: our news and theirs are not of the same moments.
            self._pace = min((self._pace + theirs / ours) / 2, float(others))
        self._others = others

    def gone(self, now: float) -> list[str]:
        """Whose lines nobody needs any more."""
        return [member for member, heard in self._heard.items() if now - heard.at >= GONE_SECONDS]

    def elsewhere(self, url: str, count: int) -> int:
        """Of a replica that has `count` of our own."""
        if not self._others:
            return 0
        at_last = min(self._at_last.get(url, 0), count)  # some may have ended in between
        before = min(self._before.get(url, 0), at_last)
        since = count - at_last + (at_last - before) / 2
        return self._elsewhere.get(_key(url), 0) + round(since * self._pace)


def _key(url: str) -> str:
    """Two that collide share their counts: a worse choice, no wrong one."""
    return f"{zlib.crc32(url.encode()):08x}"


def _growth(before: Mapping[str, int], after: Mapping[str, int]) -> int:
    return sum(max(0, count - before.get(key, 0)) for key, count in after.items())


def _read(said: str) -> dict[str, int]:
    """What another program wrote that we can't read counts as nothing."""
    found = {}
    for pair in said.split(","):
        key, _, count = pair.partition(":")
        if count.isascii() and count.isdigit():
            found[key] = int(count)
    return found
