"""Limits with `--workers 2`: what was asked for is what all workers together keep.

Real: the supervisor and two workers; scripted replicas count how many calls they have at a time.
One process alone, and everything else about limits: test_limits.py.
"""

import concurrent.futures
import contextlib
import time
from collections.abc import Iterator

import pytest

from fastproxy.config import load
from fastproxy.proxy import admission
from tests.proxy import crews, test_limits
from tests.proxy import fleet as fleets

CROWD = 40


@pytest.fixture
def crowd() -> Iterator[concurrent.futures.ThreadPoolExecutor]:
    with concurrent.futures.ThreadPoolExecutor(CROWD) as pool:
        yield pool


def test_a_replica_has_no_more_calls_of_all_workers_than_it_may(
    crowd: concurrent.futures.ThreadPoolExecutor,
) -> None:
    with crews.crew("--max-requests-per-backend", "4") as fleet:
        desks = [test_limits.Desk([replica], seconds=0.1) for replica in fleet.replicas]
        sessions = [fleet.open() for _ in range(8)]
        calls = [crowd.submit(fleet.call, 0, sessions[number % 8], number) for number in range(300)]
        answers = [call.result() for call in calls]
        refused = [answer for answer in answers if test_limits.reason_of(answer)]
        assert [desk.most for desk in desks] == [4, 4], "the bound is met, and kept"
        assert {test_limits.reason_of(answer) for answer in refused} == {"backend_overloaded"}
        assert test_limits.refusals(fleet, "backend_overloaded") == len(refused)
        assert sum(desk.begun for desk in desks) == 300 - len(refused), "what was refused has not run"


def test_no_more_sessions_a_second_begin_at_all_workers(crowd: concurrent.futures.ThreadPoolExecutor) -> None:
    with crews.crew("--max-new-sessions-per-second", "10") as fleet:
        began = time.monotonic()
        body = fleets.message("initialize", 5, **fleets.INITIALIZE)
        answers = [attempt.result() for attempt in [crowd.submit(fleet.post, 0, body) for _ in range(150)]]
        seconds = time.monotonic() - began
        refused = [answer for answer in answers if answer.status == 429]
        assert {test_limits.reason_of(answer) for answer in refused} == {"too_many_new_sessions"}
        assert test_limits.refusals(fleet, "too_many_new_sessions") == len(refused)
        begun = len(fleet.got("POST", "initialize"))
        assert begun == 150 - len(refused)
        assert 5 <= begun <= 10 + 10 * seconds + 2, "a second's worth at once, then so many a second"


def test_connections_of_all_workers_are_as_many_as_there_may_be() -> None:
    with crews.crew("--max-connections", "6") as fleet, contextlib.ExitStack() as stack:
        session = fleet.open()
        assert fleet.metric("fastproxy_client_connections_max") == 6
        turned_away = 0
        for _ in range(40):
            client = stack.enter_context(fleet.client())
            client.send(test_limits.call_of(client, session))
            turned_away += client.response().status == 503
        assert turned_away == 40 - 6
        assert fleet.metric("fastproxy_client_connections") == 6


@pytest.mark.parametrize(
    ("whole", "shares"),
    [(8, [3, 3, 2]), (3, [1, 1, 1]), (1, [1, 1, 1]), (0, [0, 0, 0])],
    ids=["with a rest", "one each", "fewer than workers", "no bound"],
)
def test_shares_add_up_to_the_whole_and_none_is_without_bound(whole: int, shares: list[int]) -> None:
    given = {"backend": ["http://127.0.0.1:9"], "workers": "3", "max_requests_per_backend": str(whole)}
    config = load.load(given, {}).config
    found = [admission.share(config, number) for number in (1, 2, 3)]
    assert [each.max_requests_per_backend for each in found] == shares
    assert {each.max_connections for each in found} == {None}, "each process counts its own descriptors"
    assert found[0].backend == config.backend
