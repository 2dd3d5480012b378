"""Cyclic garbage without pauses. Python's collector stops the loop while it walks over objects; ours walks over few.

    at start      what start-up has made (some 35,000 objects, 12 ms a walk) is frozen: nobody walks over it again
    while serving the two young generations as ever, smaller (below half a millisecond); the full one never by itself
    when quiet    the full one, once there is enough to look at: nobody waits for an answer then

Sessions are no part of it: neither the route table nor the store holds what the collector tracks. Nor does the fast
lane leave garbage. What is left are cycles of the story's (an exception and its frames), some twenty objects in ten
thousand requests; so one quiet moment in a while is enough, and without any the bound below comes first.
"""

import asyncio
import gc
from collections.abc import Callable

YOUNG_MAX = 700  # Python's own
MIDDLE_MAX = 4  # of 10: a walk over 3,500 objects at the most
OLD_MAX = 1 << 30  # never by itself
LOOK_SECONDS = 5.0
WORTH_A_WALK = 10  # walks over the middle generation since the last full one: some 35,000 objects have grown old
WITHOUT_QUIET_MAX = 2_000  # of them: 7 million objects, then it is done whoever waits


def settle() -> None:
    """Start-up is over: what there is now stays."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_MAX, MIDDLE_MAX, OLD_MAX)


def is_due(walks: int, *, quiet: bool) -> bool:
    """Is it time for a full collection, `walks` over the middle generation after the last?"""
    return walks >= (WORTH_A_WALK if quiet else WITHOUT_QUIET_MAX)


async def collect_when_quiet(is_quiet: Callable[[], bool]) -> None:
    """For ever. `is_quiet`: does nobody wait for an answer?"""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        if is_due(gc.get_count()[2], quiet=is_quiet()):
            gc.collect()
