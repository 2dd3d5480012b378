"""The judge of `make chaos`: a promise that is broken is seen, whichever it is. Pure: calls are made up here."""

import random
import typing

import pytest

from tests.chaos import clients, faults, report

SPAN = faults.Span(begin=10.0, done=10.1, servable=10.1)
KILL_PROXY, KILL_REPLICA, *_ = faults.FAULTS
ROLLING = faults.FAULTS[-1]


def call(
    session: int, ended_at: float, error: str | None = None, *, proxy: int = 0, began_at: float = 9.9
) -> clients.Call:
    return clients.Call(session, proxy, began_at, ended_at, error)


def judge(
    fault: faults.Fault,
    calls: list[clients.Call],
    involved: set[int],
    ran: typing.Sequence[str] = (),
    **of_session: typing.Any,
) -> report.Outcome:
    sessions = {}
    for number in (1, 2):
        sessions[number] = clients.Session([1], random.Random(1))
        sessions[number].number = number
    for name, value in of_session.items():
        setattr(sessions[1], name, value)
    return report.judge(fault, SPAN, calls, involved=involved, sessions=sessions, ran=ran)


def test_a_fault_that_only_those_notice_whom_it_concerns_breaks_nothing() -> None:
    calls = [call(1, 10.05, "ConnectionResetError: x"), call(1, 11.0), call(2, 10.5)]
    outcome = judge(KILL_PROXY, calls, {1}, ["a", "b"])
    assert outcome.broken == []
    assert (outcome.errors_of_involved, outcome.errors_of_others, outcome.recovered_seconds) == (1, 0, 0.9)
    assert report.table([outcome]).splitlines()[2].endswith("| 0.90 s | 0 | 0 | 0 | kept |")


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        pytest.param("errors of sessions that are not involved", {"error_of": 2}, id="another's error"),
        pytest.param("does not explain", {"error": "Failed: 500"}, id="another error"),
        pytest.param("recovery took", {"served_at": 13.0}, id="late"),
        pytest.param("not served again", {"served_at": 9.0}, id="never"),
        pytest.param("ran twice", {"ran": ["a", "b", "a"]}, id="twice"),
        pytest.param("were lost", {"lost_at": 10.5}, id="lost"),
        pytest.param("began anew", {"anew_at": [10.5]}, id="anew"),
        pytest.param("counter said", {"wrong": ["counter said 5 after 1"]}, id="another's counter"),
    ],
)
def test_each_promise_that_is_broken_is_named(words: str, changes: dict[str, typing.Any]) -> None:
    number = changes.pop("error_of", 1)
    error = changes.pop("error", "ConnectionResetError: x")
    calls = [call(number, 10.05, error), call(1, changes.pop("served_at", 11.0))]
    outcome = judge(KILL_PROXY, calls, {1}, **changes)
    assert [broken for broken in outcome.broken if words in broken], outcome.broken
    assert "BROKEN" in report.table([outcome])


def test_state_may_be_lost_with_the_process_that_held_it_and_with_no_other() -> None:
    assert judge(KILL_REPLICA, [call(1, 11.0)], {1}, anew_at=[10.5]).broken == []
    assert judge(KILL_REPLICA, [call(1, 11.0), call(2, 11.0)], {2}, anew_at=[10.5]).broken != []
    assert judge(ROLLING, [call(1, 11.0)], set(), anew_at=[9.0]).broken == [], "that was another fault's"


def test_a_killed_proxy_concerns_the_calls_that_it_had_and_a_frozen_one_those_that_came_meanwhile() -> None:
    calls = [call(1, 10.05), call(2, 10.05, proxy=1), call(3, 14.0, began_at=12.0)]
    frozen = next(fault for fault in faults.FAULTS if fault.concerns == faults.CALLS and fault.waits)
    over = faults.Span(begin=10.0, done=10.1, servable=13.0)
    assert report.involve(KILL_PROXY, SPAN, calls, at_home=(), newcomers=()) == {1}
    assert report.involve(frozen, over, [call(4, 11.0, proxy=frozen.victim)], at_home=(), newcomers=()) == {4}
    assert report.involve(KILL_REPLICA, SPAN, calls, at_home={7}, newcomers={8}) == {7}
    assert report.involve(ROLLING, SPAN, calls, at_home={7}, newcomers={8}) == set()
