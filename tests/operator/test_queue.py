"""The work queue: no key twice at once, none forgotten, a failure holds nobody up. Real: the loop and its clock."""

import asyncio
from collections.abc import Awaitable, Callable

from fastproxy.operator import queue


def play(conversation: Callable[[queue.WorkQueue[str]], Awaitable[None]]) -> None:
    async def run() -> None:
        work: queue.WorkQueue[str] = queue.WorkQueue()
        async with asyncio.timeout(20):
            await conversation(work)
        work.close()

    asyncio.run(run())


async def is_empty(work: queue.WorkQueue[str]) -> bool:
    try:
        async with asyncio.timeout(0.05):
            work.add(await work.take())
    except TimeoutError:
        return True
    return False


def test_a_key_that_is_added_often_is_taken_once_in_its_turn() -> None:
    async def conversation(work: queue.WorkQueue[str]) -> None:
        for key in ("a", "b", "a", "a", "b", "c"):
            work.add(key)
        assert [await work.take() for _ in range(3)] == ["a", "b", "c"]
        assert await is_empty(work)

    play(conversation)


def test_a_key_that_is_added_while_it_is_worked_on_is_taken_once_more_afterwards() -> None:
    async def conversation(work: queue.WorkQueue[str]) -> None:
        work.add("a")
        assert await work.take() == "a"
        work.add("a")
        work.add("a")
        assert await is_empty(work)
        work.done("a")
        assert await work.take() == "a"
        work.done("a")
        assert await is_empty(work)
        assert len(work) == 0

    play(conversation)


def test_a_failure_waits_longer_each_time_and_holds_nobody_up() -> None:
    async def conversation(work: queue.WorkQueue[str]) -> None:
        waits = []
        work.add("ill")
        for _ in range(3):
            assert await work.take() == "ill"
            waits.append(work.failed("ill"))
            work.add("well")
            assert await work.take() == "well"
            work.done("well")
            work.add("ill")  # news from a watch: no reason to hurry
            assert await is_empty(work)
            assert work.delayed == 1
        assert waits == sorted(waits) and waits[2] > 2 * waits[0]
        assert await work.take() == "ill"
        work.done("ill")
        work.add("ill")
        assert await work.take() == "ill"
        assert work.failed("ill") < waits[1], "what was well again begins anew"

    play(conversation)


def test_an_edit_ends_the_waiting_at_once() -> None:
    async def conversation(work: queue.WorkQueue[str]) -> None:
        work.add("a")
        for _ in range(40):
            assert await work.take() == "a"
            assert work.failed("a") < 1.0
            work.add("a", edited=True)
        assert work.delayed == 0

    play(conversation)


def test_the_longest_wait_has_a_bound() -> None:
    async def conversation(work: queue.WorkQueue[str]) -> None:
        work.add("a")
        for _ in range(40):
            assert await work.take() == "a"
            assert work.failed("a") <= queue.LAST_SECONDS * 1.25
            work._timers.pop("a").cancel()
            work.add("a")

    play(conversation)
