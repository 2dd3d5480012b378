"""What the tests of the proxy share: running proxies, with and without the fast lane, in front of scripted peers."""

from collections.abc import Iterator

import pytest

from tests.kit import redis_server
from tests.proxy import fleet as fleet_module
from tests.proxy import lanes as lanes_module


@pytest.fixture(scope="session")
def lanes() -> Iterator[lanes_module.Lanes]:
    """Both lanes with the default settings, for tests that need no flags of their own."""
    with lanes_module.lanes() as both:
        yield both


@pytest.fixture(scope="session")
def redis() -> Iterator[redis_server.RedisServer]:
    """One real server for all fleets; nobody stops it."""
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="session", params=["fast", "story"])
def running_fleet(request: pytest.FixtureRequest, redis: redis_server.RedisServer) -> Iterator[fleet_module.Fleet]:
    """Two proxies with the default settings on one Redis, two replicas behind them; once for each lane."""
    with fleet_module.fleet(redis=redis, fast=request.param == "fast") as running:
        yield running


@pytest.fixture
def fleet(running_fleet: fleet_module.Fleet) -> Iterator[fleet_module.Fleet]:
    """The running fleet, as new."""
    running_fleet.begin()
    yield running_fleet
    fleet_module.assert_sound(running_fleet)
