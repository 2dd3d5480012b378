"""A sample of `make chaos`, one fault of each kind: of a link, of a store's link, of a disk, of a master.

All is real (stages.py). The whole with KIT_MATRIX=1. Seconds are not judged as strictly as by the command: a test's
machine may be busy.
"""

import os
import time

import pytest

from tests.chaos import faults, report, runs

SAMPLE = {
    "proxy–replica loses every packet": "one Redis",
    "proxy–Redis cut": "one Redis",
    "Redis's disk full": "one Redis, small disk",
    "Redis's master killed": "Cluster",
}
PATIENT = report.Limits(recovered_seconds=15.0, slowest_call_of_others_seconds=8.0)


def is_chosen(setting: faults.Setting, fault: faults.Fault) -> bool:
    if os.environ.get("KIT_MATRIX"):
        return True
    return any(fault.name.startswith(name) and setting.title == title for name, title in SAMPLE.items())


def chosen() -> list[tuple[faults.Setting, list[faults.Fault]]]:
    found = [(setting, [fault for fault in setting.faults if is_chosen(setting, fault)]) for setting in faults.SETTINGS]
    return [(setting, wanted) for setting, wanted in found if wanted]


def test_the_sample_names_faults_that_there_are() -> None:
    assert sum(len(wanted) for _, wanted in chosen()) >= len(SAMPLE)


def test_nobody_but_those_concerned_sees_a_fault_and_these_are_served_again_soon() -> None:
    left_out: dict[str, str] = {}
    outcomes = runs.run(chosen(), seed=int(time.time()), leave_out=left_out.__setitem__, limits=PATIENT)
    assert {f"{outcome.store}: {outcome.fault}": outcome.broken for outcome in outcomes if outcome.broken} == {}
    assert all(outcome.calls > 50 for outcome in outcomes)
    if left_out:
        pytest.skip("; ".join(f"{store}: {reason}" for store, reason in left_out.items()) + " (the others are well)")
