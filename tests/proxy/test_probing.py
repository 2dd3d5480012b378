"""Replicas that hang, that lose requests, that come back: who gets new sessions meanwhile (`--health-…`).

Real: the proxy as a process; scripted replicas that take connections and say nothing, as a frozen process does (the
kernel takes them for it), or fail. The rules alone: tests/routing/test_health.py.
"""

import contextlib
import time
import typing
from collections.abc import Callable, Iterator

import pytest

from tests.kit import actors_message, actors_wire
from tests.proxy import fleet as fleets

QUICK = ("--health-interval", "250ms", "--health-timeout", "250ms")
Fleet = fleets.Fleet
Replica = fleets.Replica


@contextlib.contextmanager
def probed(*flags: str, count: int = 2) -> Iterator[Fleet]:
    with fleets.replicas(count) as behind, fleets.fleet(*QUICK, *flags, proxies=1, behind=behind) as fleet:
        yield fleet
        assert "Traceback" not in fleet.proxies[0].stderr, fleet.proxies[0].log_tail()


async def hang(_replica: Replica, connection: actors_wire.Connection, _request: actors_message.Message) -> bool:
    await connection.await_end()
    return True


def say(status: str) -> fleets.Act:
    async def act(_: Replica, connection: actors_wire.Connection, _request: actors_message.Message) -> bool:
        await connection.send(actors_message.format_response(status))
        return True

    return act


async def lose(_replica: Replica, connection: actors_wire.Connection, request: actors_message.Message) -> bool:
    if fleets.rpc_method(request) != "tools/call":
        return False
    await connection.reset()
    return True


def state(fleet: Fleet, replica: Replica) -> str:
    [found] = [row["state"] for row in fleet.proxies[0].backends() if row["url"] == replica.origin]
    return typing.cast(str, found)


def await_state(fleet: Fleet, replica: Replica, wanted: str, seconds_max: float = 8.0) -> None:
    fleets.await_that(lambda: state(fleet, replica) == wanted, f"{replica.name} is {wanted}", seconds_max=seconds_max)


def probes(replica: Replica) -> list[actors_message.Message]:
    return replica.got("OPTIONS")


def await_probes(replica: Replica, count: int) -> None:
    begin = len(probes(replica))
    fleets.await_that(lambda: len(probes(replica)) >= begin + count, f"{count} more probes")


def test_a_probe_opens_no_session_and_names_none() -> None:
    with probed() as fleet:
        for replica in fleet.replicas:
            await_probes(replica, 2)
            assert replica.sessions == {}
            for probe in probes(replica):
                assert (probe.target, probe.field("user-agent"), probe.body) == ("/", "fastproxy-health", b"")
        assert fleet.metric("fastproxy_sessions_created_total") == 0


def test_a_replica_that_hangs_gets_nothing_new_until_it_answers_again() -> None:
    with probed() as fleet:
        hung, well = fleet.replicas
        hung.act = hang
        await_state(fleet, hung, "failed")
        assert "health" in next(row["last_error"] for row in fleet.proxies[0].backends() if row["state"] == "failed")
        for _ in range(6):
            fleet.open()
        assert len(well.sessions) == 6
        hung.act = None
        await_state(fleet, hung, "live", 3.0)


def test_a_session_stays_with_a_replica_that_only_seems_ill() -> None:
    with probed() as fleet:
        session = fleet.open()
        home = fleet.replicas[0] if session in fleet.replicas[0].sessions else fleet.replicas[1]

        async def only_probes(_: Replica, connection: actors_wire.Connection, request: actors_message.Message) -> bool:
            return request.method == "OPTIONS" and await hang(home, connection, request)

        home.act = only_probes
        await_state(fleet, home, "failed")
        assert [fleet.count(0, session) for _ in range(3)] == [1, 2, 3]
        assert fleet.metric("fastproxy_session_recoveries_total") == 0


def test_less_than_the_threshold_is_no_failure() -> None:
    with probed("--health-threshold", "1000") as fleet:
        ill = fleet.replicas[0]
        ill.act = say("503 Service Unavailable")
        await_probes(ill, 3)
        assert state(fleet, ill) == "live"


def test_whoever_can_say_no_is_well_and_whoever_says_5xx_is_not() -> None:
    with probed("--health-threshold", "1") as fleet:
        one, other = fleet.replicas
        for status in ("401 Unauthorized", "404 Not Found", "405 Method Not Allowed", "501 Not Implemented"):
            one.act = say(status)
            await_probes(one, 2)
            assert state(fleet, one) == "live", status
        other.act = say("500 Internal Server Error")
        await_state(fleet, other, "failed")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_when_all_seem_ill_all_are_used(workers: str) -> None:
    ill = say("500 Nothing Works")

    async def ill_to_probes(
        replica: Replica, connection: actors_wire.Connection, request: actors_message.Message
    ) -> bool:
        return request.method == "OPTIONS" and await ill(replica, connection, request)

    with probed("--health-threshold", "1", "--workers", workers) as fleet:
        for replica in fleet.replicas:
            replica.act = ill_to_probes
        for replica in fleet.replicas:
            await_state(fleet, replica, "failed")
        time.sleep(1.0)  # until every worker has found that out
        for _ in range(12):
            fleet.open()
        assert all(len(replica.sessions) >= 3 for replica in fleet.replicas)
        assert fleet.proxies[0].readiness()[0] == 200
        gone, left = fleet.replicas
        gone.kill()
        opened = len(left.sessions)
        for _ in range(4):
            fleet.open()
        assert len(left.sessions) == opened + 4, "who can't be reached at all is no choice even then"


def test_three_losses_in_a_row_fail_a_replica_and_two_do_not() -> None:
    for lane in (True, False):
        with fleets.fleet("--health-interval", "10s", proxies=1, fast=lane) as fleet:
            session = fleet.open()
            home = next(replica for replica in fleet.replicas if session in replica.sessions)
            for _ in range(3):
                home.act = lose
                for _ in range(2):
                    assert "error" in fleet.call(0, session).json()
                assert "replica failed" not in fleet.proxies[0].stderr
                home.act = None
                fleet.count(0, session)
                fleet.count(0, session)
            home.act = lose
            for _ in range(3):
                assert "error" in fleet.call(0, session).json()
            log = fleet.proxies[0].stderr
            assert log.count("requests were lost") == 1, "a probe may have found it well since"
            await_state(fleet, home, "live", 3.0)


def test_without_an_interval_nobody_who_is_well_is_probed() -> None:
    with fleets.fleet("--health-interval", "0", proxies=1) as fleet:
        fleet.open()
        time.sleep(1.5)
        assert [probes(replica) for replica in fleet.replicas] == [[], []]


def opened_while(fleet: Fleet, seconds: float, count: Callable[[], int]) -> tuple[int, int]:
    """Sessions opened one after the other for so long: those that `count` counts, and all."""
    begin, opened, end = count(), 0, time.monotonic() + seconds
    while time.monotonic() < end:
        fleet.open()
        opened += 1
        time.sleep(0.01)
    return count() - begin, opened


def test_a_replica_that_comes_back_gets_new_sessions_gradually() -> None:
    with probed("--policy", "round-robin") as fleet:
        away, _ = fleet.replicas
        away.kill()
        fleet.open()
        await_state(fleet, away, "failed")
        away.start()
        await_state(fleet, away, "live", 3.0)
        early, opened = opened_while(fleet, 1.5, lambda: len(away.sessions))
        assert 1 <= early < 0.3 * opened, "a share of a half"
        time.sleep(9.0)
        late, opened = opened_while(fleet, 1.0, lambda: len(away.sessions))
        assert abs(late - opened / 2) <= 1
