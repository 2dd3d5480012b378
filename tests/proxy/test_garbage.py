"""The collector's pauses, once start-up is over. Real: a Python process with the proxy loaded, and its collector."""

import subprocess
import sys

import pytest

from fastproxy.proxy import garbage

# In a process of its own: what is frozen stays so, and the tests' own garbage would be in the way.
PROGRAM = """
import asyncio, gc, time, weakref
from fastproxy import cli
from fastproxy.proxy import garbage

garbage.settle()
assert gc.get_freeze_count() > 10_000
assert gc.get_threshold()[2] == garbage.OLD_MAX

class Knot:
    def __init__(self):
        self.itself = self

async def main():
    garbage.LOOK_SECONDS = 0.01
    knot = Knot()
    gone = weakref.ref(knot)
    gc.collect(1)  # it is old now
    del knot
    busy = True
    task = asyncio.create_task(garbage.collect_when_quiet(lambda: not busy))
    kept = []
    while gc.get_count()[2] < garbage.WORTH_A_WALK:
        kept.append([])
    await asyncio.sleep(0.1)
    assert gone() is not None, "somebody waited, and a full walk was made"
    busy = False
    begin = time.monotonic()
    while gone() is not None and time.monotonic() - begin < 10:
        await asyncio.sleep(0.01)
    assert gone() is None, "old garbage stays"
    task.cancel()

asyncio.run(main())
"""


def test_old_garbage_goes_in_a_quiet_moment_and_start_up_is_walked_over_no_more() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("walks", "quiet", "due"),
    [
        pytest.param(garbage.WORTH_A_WALK - 1, True, False, id="too little"),
        pytest.param(garbage.WORTH_A_WALK, True, True, id="enough, and quiet"),
        pytest.param(garbage.WITHOUT_QUIET_MAX - 1, False, False, id="much, and busy"),
        pytest.param(garbage.WITHOUT_QUIET_MAX, False, True, id="too much"),
    ],
)
def test_a_full_collection_waits_for_quiet_as_long_as_it_can(walks: int, quiet: bool, due: bool) -> None:
    assert garbage.is_due(walks, quiet=quiet) is due
