"""Walking the pages of a Redis, against a model of SCAN in memory. With real servers: tests/contracts."""

import asyncio
import re

import hypothesis
import pytest
from hypothesis import strategies

from fastproxy.session import redis_scan

PREFIX = "p:"


async def all_pages(nodes: dict[str, list[bytes]], limit: int) -> list[str]:
    """Everything, with cursors that travel as text."""

    async def scan(node: str, place: int, count: int) -> tuple[int, list[bytes]]:
        names = nodes[node]
        end = place + count
        return (0 if end >= len(names) else end), names[place:end]

    keys: list[str] = []
    cursor: redis_scan.Cursor | None = None
    for _ in range(10_000):
        page, following = await redis_scan.walk(cursor, limit, nodes=list(nodes), prefix=PREFIX, scan=scan)
        assert len(page) <= limit
        keys += page
        if following is None:
            return keys
        cursor = redis_scan.Cursor.parse(str(following))
        assert cursor == following
        assert len(str(cursor)) < 16_000, "it must fit into a request line"
    raise AssertionError("the pages never end")


names = strategies.lists(
    strategies.one_of(
        strategies.from_regex(r"p:[a-z0-9._~-]{1,40}", fullmatch=True),
        strategies.sampled_from(["p:!claim:x", "p:!probe", "p:foreign name", "p:"]),
    ),
    max_size=300,
    unique=True,
)


@hypothesis.given(names=names, nodes=strategies.integers(1, 3), limit=strategies.integers(1, 300))
def test_pages_hold_each_session_once_and_nothing_else(names: list[str], nodes: int, limit: int) -> None:
    held = {f"10.0.0.{number}:6379": [name.encode() for name in names[number::nodes]] for number in range(nodes)}
    if nodes == 1:
        held = {"": held.popitem()[1]}  # what a single server is called
    wanted = [name[2:] for name in names if re.fullmatch(r"p:[a-z0-9._~-]{1,40}", name)]
    assert sorted(asyncio.run(all_pages(held, limit))) == sorted(wanted)


def test_a_page_among_foreign_keys_only_ends_empty_and_goes_on() -> None:
    held = {"": [b"p:!%d" % number for number in range(100_000)] + [b"p:s-1"]}
    assert asyncio.run(all_pages(held, 5)) == ["s-1"]


@pytest.mark.parametrize("text", ["", "x", "-1", "1@", "1!", "1!a b", "1@a b", "9" * 21, "1\n"])
def test_a_foreign_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        redis_scan.Cursor.parse(text)


@pytest.mark.parametrize("prefix", ["a*b:", "[x]?:", "back\\slash:", "^{name}:"])
def test_a_prefix_means_itself_whatever_its_characters(prefix: str) -> None:
    assert re.sub(r"\\(.)", r"\1", redis_scan.pattern(prefix)) == prefix + "*"
    assert not re.search(r"(?<!\\)[*?\[](?!$)", redis_scan.pattern(prefix)[:-1].replace("\\\\", ""))
