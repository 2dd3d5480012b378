"""A burst of new sessions, hundreds a second, is even over a fleet as well: nobody waits for the next news.

Real: two proxies as processes on Redis; four replicas as processes (tests/rollout/replica.py), quick enough; clients on
connections of their own that open sessions as fast as they are answered. Slow openings: test_census.py.
"""

import asyncio
import collections
import random
import time
from collections.abc import Iterator, Sequence

import msgspec
import pytest

from tests import kit
from tests.kit import redis_server
from tests.rollout import stage, traffic

CROWD = 24  # clients at a time
BEFORE, BURST = 400, 600


class Place(msgspec.Struct):
    """Where it happens."""

    proxies: list[kit.Proxy]
    replicas: list[stage.Replica]
    redis: redis_server.RedisServer

    def sizes(self) -> list[int]:
        """Sessions by replica, as the records say."""
        homes = collections.Counter(record["backend_url"] for record in self.proxies[0].sessions())
        return [homes[replica.origin] for replica in self.replicas]

    def homes(self) -> dict[str, str]:
        return {record["session_id"]: record["backend_url"] for record in self.proxies[0].sessions()}


@pytest.fixture
def place(redis: redis_server.RedisServer) -> Iterator[Place]:
    environment = {"FASTPROXY_KEY_PREFIX": f"burst-{time.monotonic_ns()}:"}
    with (
        stage.replicas(4) as replicas,
        kit.proxies(2, backends=replicas, store=redis.url, environment=environment) as proxies,
    ):
        yield Place(proxies, replicas, redis)


async def open_many(proxies: Sequence[kit.Proxy], count: int) -> list[traffic.Client]:
    """As many as there may be at a time, each through one of these proxies by lot."""
    service = stage.Service(proxies, random.Random(7))
    clients = [traffic.Client(service, traffic.Tally(), random.Random(number)) for number in range(count)]
    waiting = iter(clients)

    async def open_some() -> None:
        for client in waiting:
            await client.open()
            client.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(CROWD):
            group.create_task(open_some())
    return clients


async def end_all(clients: Sequence[traffic.Client]) -> None:
    for client in clients:
        await client.close()


def assert_even(sizes: list[int], total: int) -> None:
    assert sum(sizes) == total
    assert all(0.9 * total / 4 <= size <= 1.1 * total / 4 for size in sizes), sizes


def test_a_thousand_sessions_in_one_burst_end_even(place: Place) -> None:
    asyncio.run(open_many(place.proxies, 1000))
    assert_even(place.sizes(), 1000)


@pytest.mark.parametrize("burst_through", [(0,), (1,)], ids=["one proxy", "a new proxy"])
def test_a_burst_fills_the_replicas_that_are_empty_and_no_more(place: Place, burst_through: tuple[int, ...]) -> None:
    """Two replicas have lost their sessions: to a fleet that is what two new ones are."""
    opened = asyncio.run(open_many(place.proxies, BEFORE))
    homes = place.homes()
    away = {replica.origin for replica in place.replicas[2:]}
    asyncio.run(end_all([client for client in opened if homes[client.session_id] in away]))
    assert place.sizes()[2:] == [0, 0]
    time.sleep(1.5)  # news of the end
    if burst_through == (1,):
        place.proxies[1].restart()
    began = time.monotonic()
    asyncio.run(open_many([place.proxies[number] for number in burst_through], BURST))
    print(f"{BURST / (time.monotonic() - began):.0f} sessions a second")
    assert_even(place.sizes(), sum(place.sizes()))
