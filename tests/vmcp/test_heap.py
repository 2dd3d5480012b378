"""Long answers are put together in memory that stays: a process of its own counts the pages that it asks for anew.

Real: the process and its C library.
"""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from fastproxy.vmcp import heap
kept = heap.keep_freed_memory() if sys.argv[1] == "kept" else True
page = bytes(270_000)
def answer():
    return b"HTTP/1.1 200 OK" + (b"result" + (b"{" + page + b"}"))
answer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(100):
    answer()
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    took, faults = map(int, done.stdout.split())
    if not took:
        pytest.skip("this C library has no mallopt")
    return faults


def test_a_long_answer_needs_no_new_pages_when_freed_memory_is_kept() -> None:
    without, kept = count_faults("plain"), count_faults("kept")
    assert kept < 1000, f"{kept} faults in 100 answers"
    assert without > 10 * kept, "or the C library does it by itself by now, and heap.py can go"
