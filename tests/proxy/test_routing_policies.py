"""Who gets a new session: the policies of `--policy`, and replicas that are away (interface §3.1).

Real: proxies with each policy, scripted replicas that die and come back. The arithmetic alone: tests/routing.
"""

import time

import pytest

from tests.proxy import fleet as fleets

Fleet = fleets.Fleet


def loads(fleet: Fleet) -> list[int]:
    return [len(replica.sessions) for replica in fleet.replicas]


@pytest.mark.parametrize("policy", ["least-sessions", "round-robin", "random"])
def test_a_policy_spreads_new_sessions(policy: str) -> None:
    with fleets.replicas(3) as behind, fleets.fleet("--policy", policy, proxies=1, behind=behind) as fleet:
        sessions = [fleet.open() for _ in range(60)]
        if policy == "random":
            assert min(loads(fleet)) > 8
            assert loads(fleet) != [20, 20, 20]
        else:
            assert loads(fleet) == [20, 20, 20]
        told = {backend["url"]: backend["sessions"] for backend in fleet.proxies[0].backends()}
        assert [told[replica.origin] for replica in fleet.replicas] == loads(fleet)
        if policy != "least-sessions":
            return
        for session in [session for session in sessions if session in fleet.replicas[1].sessions]:
            fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": session})
        assert loads(fleet) == [20, 0, 20]
        for _ in range(20):
            fleet.open()
        assert loads(fleet) == [20, 20, 20], "the empty one is filled first"


@pytest.mark.parametrize("policy", ["least-sessions", "round-robin", "random"])
def test_a_replica_that_failed_gets_nothing_new_until_it_answers(policy: str) -> None:
    with fleets.fleet("--policy", policy, proxies=1) as fleet:
        away, here = fleet.replicas
        away.kill()
        for _ in range(6):
            fleet.open()
            assert "result" in fleet.call(0, None).json()
        assert len(here.sessions) == 6
        states = {backend["url"]: (backend["state"], backend["last_error"]) for backend in fleet.proxies[0].backends()}
        assert states[here.origin] == ("live", None)
        assert states[away.origin][0] == "failed"
        assert "refused" in (states[away.origin][1] or "")
        connects = fleet.metric("fastproxy_upstream_connects_total", backend=away.origin, outcome="failed")
        for _ in range(10):
            fleet.call(0, None)
        assert fleet.metric("fastproxy_upstream_connects_total", backend=away.origin, outcome="failed") <= connects + 1
        away.start()
        fleets.await_that(lambda: fleets.are_live(fleet.proxies[0]), "it is found by itself", seconds_max=2.5)
        for _ in range(40):
            fleet.open()
        assert 1 <= len(away.sessions) < 20, "it gets new ones, and fewer than its share for a while"


def test_a_session_stays_where_it_is_when_others_come_and_go(fleet: Fleet) -> None:
    sessions = [fleet.open() for _ in range(4)]
    homes = [fleet.replica_of(session) for session in sessions]
    for number in range(8):
        fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": fleet.open(number % 2)})
    assert [fleet.replica_of(session) for session in sessions] == homes
    assert [fleet.count(1, session) for session in sessions] == [1] * 4


def test_an_initialize_goes_to_the_next_replica_when_one_cannot_be_reached(fleet: Fleet) -> None:
    for away in fleet.replicas:
        fleet.begin()
        away.kill()
        for proxy in (0, 1):
            session = fleet.open(proxy)
            assert fleet.replica_of(session) is fleet.other(away)


def test_without_any_replica_the_answer_is_unavailable() -> None:
    """DNS that names nobody: the proxy runs, and says when to come again."""
    with fleets.fleet("--backend", "dns://nobody.invalid:80", proxies=1, behind=[], ready=False) as fleet:
        answer = fleet.post(0, fleets.message("initialize", 2))
        assert answer.status == 200
        assert answer.json()["id"] == 2
        assert answer.json()["error"]["data"] == {"reason": "backend_unavailable"}
        answer = fleet.ask(0, "GET", "/mcp")
        assert (answer.status, answer.field("retry-after")) == (503, "1")
        status, ready = fleet.proxies[0].readiness()
        assert status == 503
        assert ready["reasons"]


def test_a_path_of_the_backend_goes_before_the_requests() -> None:
    with fleets.replicas(1) as (replica,), fleets.fleet(proxies=1, behind=[Prefixed(replica)]) as fleet:
        session = fleet.open()
        assert fleet.count(0, session) == 1
        replica.forget()
        began = time.monotonic()
        assert fleet.count(0, session) == 1
        assert time.monotonic() - began < 2.0
        assert {request.target for request in replica.requests} == {"/base/mcp"}
        assert fleet.proxies[0].sessions()[0]["path"] == "/mcp"


class Prefixed:
    """A replica whose server lives under a path."""

    def __init__(self, replica: fleets.Replica) -> None:
        self.replica = replica

    @property
    def origin(self) -> str:
        return self.replica.origin + "/base"
