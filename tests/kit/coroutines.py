"""Tests that are coroutines: run on uvloop, as the product is; a leaked task or a loop exception fails the test.

A folder of such tests says so in its conftest: `from tests.kit.coroutines import pytest_pyfunc_call`.
"""

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

import pytest
import uvloop

TEST_SECONDS_MAX = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in wanted}))
    return True


def run(story: Coroutine[Any, Any, None]) -> None:
    """One story on a loop of its own."""
    complaints: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        async with asyncio.timeout(TEST_SECONDS_MAX):
            await story
        await asyncio.sleep(0)  # what was cancelled last may end
        leaked = asyncio.all_tasks() - {asyncio.current_task()}
        assert not leaked, f"tasks outlive the test: {leaked}"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watched())
    assert not complaints, f"exceptions reached the loop: {complaints}"


async def eventually(holds: Any, *, seconds_max: float = 5.0) -> float:
    """Wait until `holds()` is true; how long that took. It fails the test when the time is over."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while not holds():
        assert loop.time() - started < seconds_max, f"not within {seconds_max} s"
        await asyncio.sleep(0.002)
    return loop.time() - started
