"""The hot path does not grow unseen: instructions per request, counted by callgrind on the real process.

Real: the proxy under valgrind, a client and a backend on loopback. The count holds for one toolchain; where another
one builds the extension, or valgrind is missing, the test is skipped by name (`python -m bench.instructions --write`
takes a baseline).
"""

import json
import shutil

import pytest

from bench import instructions

BASELINES = json.loads(instructions.BASELINES.read_text()) if instructions.BASELINES.exists() else {}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
@pytest.mark.skipif(instructions.toolchain() not in BASELINES, reason="no baseline of instructions for this toolchain")
def test_a_request_costs_at_most_a_tenth_more_instructions_than_its_baseline() -> None:
    baseline = BASELINES[instructions.toolchain()]
    found = instructions.measure()
    assert found.keys() == baseline.keys()
    grown = {name: (count, baseline[name]) for name, count in found.items() if count > baseline[name] * 1.1}
    assert grown == {}
