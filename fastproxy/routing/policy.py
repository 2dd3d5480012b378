"""Who gets a new session, or a request that belongs to none. Pure: counts in, a choice out.

A policy sees the candidates as loads and a number that grows by one with every question, its only memory; it is total
(one candidate is always chosen) and never looks at a clock or a random source of its own.
"""

import random
from collections.abc import Callable, Sequence

import msgspec


class Load(msgspec.Struct, frozen=True, gc=False):
    """What a replica carries now."""

    sessions: int
    in_flight: int


Policy = Callable[[Sequence[Load], int], int]


def least_sessions(loads: Sequence[Load], turn: int) -> int:
    """The fewest sessions; among equals the fewest requests in flight, then in turn, so that equals fill evenly."""
    least = min((load.sessions, load.in_flight) for load in loads)
    equals = [place for place, load in enumerate(loads) if (load.sessions, load.in_flight) == least]
    return equals[turn % len(equals)]


def least_in_flight(loads: Sequence[Load], turn: int) -> int:
    """The fewest requests in flight, equals in turn: for requests that belong to no session."""
    least = min(load.in_flight for load in loads)
    equals = [place for place, load in enumerate(loads) if load.in_flight == least]
    return equals[turn % len(equals)]


def round_robin(loads: Sequence[Load], turn: int) -> int:
    """Each in turn."""
    return turn % len(loads)


def shuffled(loads: Sequence[Load], turn: int) -> int:
    """Any, by a hash of the turn: even in the long run, unrelated from one turn to the next."""
    return random.Random(turn).randrange(len(loads))


POLICIES: dict[str, Policy] = {
    "least-sessions": least_sessions,
    "round-robin": round_robin,
    "random": shuffled,
}
