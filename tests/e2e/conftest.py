"""What the end-to-end tests share: one Redis, and stands of real servers behind two proxies."""

from collections.abc import Iterator

import pytest

from tests.e2e import stand
from tests.kit import redis_server


@pytest.fixture(scope="session")
def redis() -> Iterator[redis_server.RedisServer]:
    """One real server for all stands; nobody stops it."""
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="package")
def stands(redis: redis_server.RedisServer) -> Iterator[stand.Stands]:
    kept = stand.Stands(redis)
    yield kept
    kept.close()


@pytest.fixture(scope="module")
def visit(request: pytest.FixtureRequest, stands: stand.Stands) -> Iterator[stand.Visit]:
    """A connected client; the tests of one pair share it."""
    pair: stand.Pair = request.param
    place = stands.of(pair.kind, pair.lane)
    with place.client(pair.sdk) as connected:
        yield stand.Visit(pair, place, connected)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one pair follow each other: pytest would sort by a pair's place in each test's own list of pairs."""

    def pair_of(item: pytest.Item) -> tuple[str, stand.Pair]:
        return item.nodeid.partition("::")[0], item.callspec.params["visit"]  # type: ignore[attr-defined]

    places = [
        index for index, item in enumerate(items) if "visit" in getattr(getattr(item, "callspec", None), "params", {})
    ]
    for index, item in zip(places, sorted((items[index] for index in places), key=pair_of), strict=True):
        items[index] = item
