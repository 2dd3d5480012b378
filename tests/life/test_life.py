"""Half a minute of what `python -m tests.life --minutes 15` does for a quarter of an hour: everything is real."""

import pytest

from tests.life import __main__ as command


@pytest.mark.slow
def test_sessions_that_come_and_go_leave_nothing_behind() -> None:
    outcome = command.run(seconds=12.0, rate=15.0, seed=5)
    assert outcome.broken == [], outcome
    assert outcome.sessions > 100
    assert all(outcome.fates[fate] > 0 for fate in ("ended", "left", "late", "vanished"))
    assert max(vitals.sessions_known[0] for vitals in outcome.between) > 5, "there was something to leave behind"
