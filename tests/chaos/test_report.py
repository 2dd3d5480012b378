"""The judge of `make chaos`: a promise that is broken is seen, whichever it is. Pure: calls are made up here.

The table in the README is the one of the results that lie in bench/results, whole.
"""

import random
import typing

import msgspec
import pytest

from tests import tree
from tests.chaos import clients, deeds, faults, report

SPAN = deeds.Span(begin=10.0, done=10.1, servable=10.1)
FAULTS = [fault for setting in faults.SETTINGS for fault in setting.faults]
LOSING = next(fault for fault in FAULTS if fault.loses)


def call(
    session: int, ended_at: float, error: str | None = None, *, proxy: int = 0, began_at: float = 9.9
) -> clients.Call:
    return clients.Call(session, proxy, began_at, ended_at, error)


def judge(
    fault: faults.Fault,
    calls: list[clients.Call],
    involved: set[int],
    ran: typing.Sequence[str] = (),
    *,
    newcomers: typing.Collection[int] = (),
    **of_session: typing.Any,
) -> report.Outcome:
    sessions = {}
    for number in (1, 2):
        sessions[number] = clients.Session([("127.0.0.1", 1)], random.Random(1))
        sessions[number].number = number
    for name, value in of_session.items():
        setattr(sessions[1], name, value)
    return report.judge(
        fault, SPAN, calls, store="one", involved=involved, newcomers=newcomers, sessions=sessions, ran=ran
    )


def test_a_fault_that_only_those_notice_whom_it_concerns_breaks_nothing() -> None:
    calls = [call(1, 10.05, "ConnectionResetError: x"), call(1, 11.0), call(2, 10.5)]
    outcome = judge(faults.PROXY_KILLED, calls, {1}, ["a", "b"])
    assert outcome.broken == []
    assert (outcome.errors_of_involved, outcome.errors_of_others, outcome.recovered_seconds) == (1, 0, 0.9)
    assert report.table([outcome]).splitlines()[2].endswith("| 0.90 s | 0 | 0 | 0 | kept |")


@pytest.mark.parametrize(
    ("words", "changes"),
    [
        pytest.param("errors of sessions that are not involved", {"error_of": 2}, id="another's error"),
        pytest.param("does not explain", {"error": "Failed: 500"}, id="another error"),
        pytest.param("a call of another session took 6.1 s", {"slow": True}, id="another's wait"),
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
    if changes.pop("slow", False):
        calls.append(call(2, 16.0))
    outcome = judge(faults.PROXY_KILLED, calls, {1}, **changes)
    assert [broken for broken in outcome.broken if words in broken], outcome.broken
    assert "BROKEN" in report.table([outcome])


def test_state_may_be_lost_with_the_process_that_held_it_and_with_no_other() -> None:
    assert judge(faults.REPLICA_KILLED, [call(1, 11.0)], {1}, anew_at=[10.5]).broken == []
    assert judge(faults.REPLICA_KILLED, [call(1, 11.0), call(2, 11.0)], {2}, anew_at=[10.5]).broken != []
    assert judge(faults.PROXIES_RESTARTED, [call(1, 11.0)], set(), anew_at=[9.0]).broken == [], "another fault's"


def test_a_session_may_be_lost_where_it_must_if_it_is_new_and_was_told_so() -> None:
    told = [call(1, 10.5, "Failed: 404 b'Session not found'"), call(2, 10.6)]
    assert judge(LOSING, told, {1, 2}, newcomers={1, 2}, lost_at=10.5).broken == []
    assert "1 of 1 that it must" in report.table([judge(LOSING, told, {1}, newcomers={1}, lost_at=10.5)])
    assert "1 sessions were lost" in judge(LOSING, told, {1, 2}, newcomers={2}, lost_at=10.5).broken
    silent = judge(LOSING, [call(1, 10.5, "Failed: 503 session_store_unavailable")], {1}, newcomers={1})
    assert "a session was not served again" in silent.broken, "lost without a word"


def test_whom_a_fault_concerns_is_found_by_their_calls_their_homes_and_their_arrival() -> None:
    def involve(fault: faults.Fault, span: deeds.Span, *calls: clients.Call) -> set[int]:
        return report.involve(fault, span, calls, at_home={7}, newcomers={8})

    calls = [call(1, 10.05), call(2, 10.05, proxy=1), call(3, 14.0, began_at=12.0)]
    frozen = next(fault for fault in FAULTS if fault.waits)
    over = deeds.Span(begin=10.0, done=10.1, servable=13.0)
    assert involve(faults.PROXY_KILLED, SPAN, *calls) == {1}
    assert involve(frozen, over, call(4, 11.0, proxy=frozen.proxy), call(5, 14.0, began_at=13.5)) == {4}
    assert involve(faults.REPLICA_KILLED, SPAN, *calls) == {7}
    assert involve(LOSING, SPAN, *calls) == {8}
    assert involve(faults.PROXIES_RESTARTED, SPAN, *calls) == set()


def test_every_fault_of_a_store_has_a_name_of_its_own_and_says_what_those_concerned_may_be_told() -> None:
    for setting in faults.SETTINGS:
        names = [fault.name for fault in setting.faults]
        assert len(names) == len(set(names))
    for fault in FAULTS:
        assert fault.concerns or not (fault.tells or fault.forgets or fault.waits or fault.loses), fault.name


def test_the_table_of_the_readme_is_that_of_the_results_and_nothing_is_missing() -> None:
    written = (tree.ROOT / "bench/results/chaos.json").read_bytes()
    result = msgspec.json.decode(written, type=report.Result)
    page = (tree.ROOT / "README.md").read_text()
    assert report.put_in(page, result) == page, "run `make chaos`"
    ran = [(outcome.store, outcome.fault) for outcome in result.outcomes]
    assert ran == [(setting.title, fault.name) for setting in faults.SETTINGS for fault in setting.faults]
    assert result.left_out == {}


def test_a_page_without_the_marks_is_not_written_to() -> None:
    result = msgspec.json.decode((tree.ROOT / "bench/results/chaos.json").read_bytes(), type=report.Result)
    for page in ("# a page\n", report.TABLE_BEGINS, report.TABLE_ENDS + report.TABLE_BEGINS):
        with pytest.raises(ValueError, match="made by"):
            report.put_in(page, result)
