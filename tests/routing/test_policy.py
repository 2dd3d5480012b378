"""The policies alone: total, fair, and blind to everything but loads and turns. Pure."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy.routing import policy

LOADS = st.lists(st.builds(policy.Load, st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9)
EVERY = [*policy.POLICIES.values(), policy.least_in_flight]


@given(LOADS, st.integers(0, 10_000))
def test_a_policy_always_chooses_one_of_the_candidates(loads: list[policy.Load], turn: int) -> None:
    for rule in EVERY:
        assert 0 <= rule(loads, turn) < len(loads)
        assert rule(loads, turn) == rule(loads, turn), "the same question has the same answer"


@given(LOADS, st.integers(0, 10_000))
def test_least_sessions_chooses_nobody_who_has_more_than_another(loads: list[policy.Load], turn: int) -> None:
    chosen = loads[policy.least_sessions(loads, turn)]
    assert all((chosen.sessions, chosen.in_flight) <= (load.sessions, load.in_flight) for load in loads)


@given(LOADS, st.integers(0, 10_000))
def test_least_in_flight_chooses_nobody_who_is_busier(loads: list[policy.Load], turn: int) -> None:
    chosen = loads[policy.least_in_flight(loads, turn)]
    assert all(chosen.in_flight <= load.in_flight for load in loads)


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equals_fill_evenly(rule: policy.Policy, count: int) -> None:
    equals = [policy.Load(3, 1)] * count
    chosen = collections.Counter(rule(equals, turn) for turn in range(700))
    assert set(chosen) == set(range(count))
    spread = 0.35 * 700 / count if rule is policy.shuffled else 1
    assert max(chosen.values()) - min(chosen.values()) <= spread
