"""What the end-to-end tests share: one Redis, and stands of real servers behind two proxies."""

import pathlib
from collections.abc import Iterator

import pytest

from tests.e2e import stand
from tests.kit import redis_server

HERE = pathlib.Path(__file__).parent


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


def is_of_stands(item: pytest.Item) -> bool:
    return "stands" in getattr(item, "fixturenames", ())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of one kind of server follow each other, over all modules; of one kind and module, those of one client.

    Otherwise the next test would need again what was just torn down.
    """

    def place_of(item: pytest.Item) -> tuple[str, str, stand.Pair | None]:
        given = getattr(getattr(item, "callspec", None), "params", {})
        pair = given.get("visit")
        kind = pair.kind if pair else given.get("kind", "mcp2-sse")  # what tests without a parameter are about
        return kind, item.nodeid.partition("::")[0], pair

    indexes = [index for index, item in enumerate(items) if HERE in item.path.parents and is_of_stands(item)]
    for index, item in zip(indexes, sorted((items[index] for index in indexes), key=place_of), strict=True):
        items[index] = item
