"""New sessions are even over all that the proxies of a fleet have placed, not over what each has by itself.

Real: proxies as processes, one killed with its memory; Redis; scripted replicas that count their sessions.
Bursts: test_census_bursts.py. The arithmetic alone: tests/routing/test_placements.py.
"""

import time

from tests.kit import redis_server
from tests.proxy import fleet as fleets

NEWS_SECONDS = 1.5  # proxies tell each other once a second


def sizes(fleet: fleets.Fleet) -> list[int]:
    return [len(replica.sessions) for replica in fleet.replicas]


def assert_even(fleet: fleets.Fleet, total: int) -> None:
    even = total / len(fleet.replicas)
    assert sum(sizes(fleet)) == total
    assert all(0.9 * even <= size <= 1.1 * even for size in sizes(fleet)), sizes(fleet)


def test_a_thousand_sessions_through_two_proxies_on_four_replicas_end_even() -> None:
    with (
        redis_server.RedisServer() as redis,
        fleets.replicas(4) as behind,
        fleets.fleet(redis=redis, behind=behind) as fleet,
    ):
        for number in range(1000):
            fleet.open(number % 2 if number < 500 else number // 10 % 2)
        assert_even(fleet, 1000)


def test_a_proxy_without_memory_of_its_own_fills_what_others_know_to_be_empty() -> None:
    """One replica's sessions have ended and one proxy is new: by itself it would fill all four alike."""
    with (
        redis_server.RedisServer() as redis,
        fleets.replicas(4) as behind,
        fleets.fleet(redis=redis, behind=behind) as fleet,
    ):
        for _ in range(400):
            fleet.open(0)
        for session in list(behind[2].sessions):
            assert fleet.ask(0, "DELETE", "/mcp", {"Mcp-Session-Id": session}).status == 200
        assert sizes(fleet) == [100, 100, 0, 100]
        fleet.proxies[1].restart()
        time.sleep(NEWS_SECONDS)
        for number in range(300):
            fleet.open(1 if number % 3 else 0)
        assert_even(fleet, 600)
