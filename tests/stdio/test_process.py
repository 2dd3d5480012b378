"""A program as streams of lines, its warden, and the supply of such programs: real processes.

What a proxy makes of them is in tests/proxy/test_stdio_*.py.
"""

import asyncio
import os
import pathlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from fastproxy.stdio import process, spawner, supply
from tests.proxy import stdio_stage as stage

Story = Callable[[spawner.Spawner], Awaitable[None]]


def tell(story: Story) -> None:
    async def whole() -> None:
        keeper = spawner.Spawner()
        try:
            async with asyncio.timeout(30):
                await story(keeper)
        finally:
            await keeper.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


class Heard:
    """A process and the lines that came of it."""

    def __init__(self, running: process.Process) -> None:
        self.process = running
        self.lines: list[bytes] = []
        self._more = asyncio.Event()
        running.on_line = self._hear
        running.on_end = self._more.set

    def _hear(self, line: bytes) -> None:
        self.lines.append(line)
        self._more.set()

    async def until(self, count: int) -> list[bytes]:
        while len(self.lines) < count and not self.process.ended.done():
            self._more.clear()
            await self._more.wait()
        return self.lines


async def start(keeper: spawner.Spawner, *command: str, line_bytes_max: int = 1 << 20) -> Heard:
    child = await keeper.start(command)
    running = process.Process(child, keeper, name="test", line_bytes_max=line_bytes_max)
    heard = Heard(running)
    await running.open()
    return heard


def test_lines_go_in_and_come_out() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        heard = await start(keeper, "cat")
        for number in range(100):
            await heard.process.write(b"line %d\n" % number)
        assert await heard.until(100) == [b"line %d" % number for number in range(100)]
        assert await heard.process.end("done") == 0
        assert heard.process.explain() == "test ended with status 0 (done)"
        with pytest.raises(process.Ended):
            await heard.process.write(b"more\n")

    tell(story)


def test_the_last_words_of_a_program_are_heard_before_its_end() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        heard = await start(keeper, "sh", "-c", "echo last words; echo why >&2; exit 3")
        assert await heard.process.ended == 3
        assert heard.lines == [b"last words"]
        assert heard.process.explain() == "test ended with status 3: why"

    tell(story)


def test_a_program_is_asked_three_times_to_end() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        polite = await start(keeper, "cat")
        deaf = await start(keeper, "sleep", "1000")
        stubborn = await start(keeper, "sh", "-c", "trap '' TERM; while :; do sleep 1; done")
        began = time.monotonic()
        statuses = await asyncio.gather(*(each.process.end("test") for each in (polite, deaf, stubborn)))
        assert statuses == [0, -signal.SIGTERM, -signal.SIGKILL]
        assert time.monotonic() - began >= process.INPUT_END_SECONDS + process.TERM_SECONDS

    tell(story)


def test_a_program_that_does_not_read_holds_writers_up_and_then_refuses_them() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        heard = await start(keeper, "sleep", "1000")
        line = b"x" * 100_000 + b"\n"
        writers = [asyncio.ensure_future(heard.process.write(line)) for _ in range(100)]
        await asyncio.sleep(0.1)
        refused = [each for each in writers if each.done() and each.exception() is not None]
        assert all(isinstance(each.exception(), process.NotReading) for each in refused)
        waiting = [each for each in writers if not each.done()]
        assert 0 < len(waiting) * len(line) <= process.WAITING_BYTES_MAX
        assert refused
        heard.process.end("test", at_once=True)
        for each in waiting:
            with pytest.raises(process.Ended):
                await each

    tell(story)


def test_a_program_that_is_not_listened_to_has_to_wait() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        heard = await start(keeper, "sh", "-c", "while :; do echo 0123456789012345678901234567890123456789; done")
        await heard.until(10)
        heard.process.hold()
        heard.process.hold()
        await asyncio.sleep(0.05)
        before = len(heard.lines)
        await asyncio.sleep(0.2)
        heard.process.release()
        await asyncio.sleep(0.1)
        assert len(heard.lines) == before
        heard.process.release()
        await heard.until(before + 10)
        assert await heard.process.end("test") < 0

    tell(story)


def test_a_line_over_the_limit_ends_the_program() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        heard = await start(
            keeper, "sh", "-c", "echo short; head -c 20000 /dev/zero; sleep 1000", line_bytes_max=10_000
        )
        assert await heard.process.ended == -signal.SIGKILL
        assert heard.lines == [b"short"]
        assert heard.process.reason == "a line of more than 10000 bytes"

    tell(story)


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (["/no/such/program"], "/no/such/program: no such file or directory"),
        (["/etc"], "/etc: permission denied"),
    ],
)
def test_what_cannot_be_started_is_named(command: list[str], problem: str) -> None:
    async def story(keeper: spawner.Spawner) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            with pytest.raises(spawner.NotStarted, match=problem):
                await keeper.start(command)
        assert len(os.listdir("/proc/self/fd")) - before <= 1  # the warden's channel

    tell(story)


def test_environment_and_folder_are_the_programs_own(tmp_path: pathlib.Path) -> None:
    async def story(keeper: spawner.Spawner) -> None:
        environment = {"PATH": os.environ["PATH"], "A": "1"}
        child = await keeper.start(
            ["sh", "-c", "pwd; echo $A; echo ${HOME-none}"], cwd=str(tmp_path), environment=environment
        )
        heard = Heard(process.Process(child, keeper, name="test", line_bytes_max=1000))
        await heard.process.open()
        await heard.process.ended
        assert heard.lines == [str(tmp_path).encode(), b"1", b"none"]

    tell(story)


def test_programs_are_started_side_by_side_and_none_is_left() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        children = await asyncio.gather(*(keeper.start(["sleep", "1000"]) for _ in range(30)))
        assert len({child.pid for child in children}) == 30
        await keeper.close()
        assert [child.pid for child in children if stage.is_there(child.pid)] == []
        assert {await child.exited for child in children} == {-signal.SIGKILL}
        for child in children:
            for descriptor in (child.stdin, child.stdout, child.stderr):
                os.close(descriptor)

    tell(story)


def test_the_warden_is_small() -> None:
    async def story(keeper: spawner.Spawner) -> None:
        child = await keeper.start(["sleep", "1000"])
        [warden] = [pid for pid in stage.children(os.getpid()) if child.pid in stage.children(pid)]
        assert resident_bytes(warden) < 20 << 20

    tell(story)


def resident_bytes(pid: int) -> int:
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# The supply.


def supplied(story: Callable[[supply.Supply], Awaitable[None]], *command: str, most: int = 3, spares: int = 0) -> None:
    async def whole() -> None:
        running: set[asyncio.Task[object]] = set()

        def start_task(work: object, *, name: str) -> asyncio.Task[object]:
            task = asyncio.get_running_loop().create_task(work, name=name)  # type: ignore[arg-type]
            running.add(task)
            return task

        program = supply.Program(command, dict(os.environ))
        source = supply.Supply(
            program, processes_max=most, spares=spares, line_bytes_max=1 << 20, start_task=start_task
        )
        keeping = start_task(source.run(), name="keep spares")
        try:
            async with asyncio.timeout(30):
                await story(source)
        finally:
            keeping.cancel()
            await source.close("test")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


async def settle(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 - what it waits for is none of ours
        await asyncio.sleep(0.01)


def test_no_more_run_than_may() -> None:
    async def story(source: supply.Supply) -> None:
        taken = [await source.take() for _ in range(3)]
        with pytest.raises(supply.NoRoom, match="3 processes run already"):
            await source.take()
        await taken[0].end("test")
        assert (await source.take()).running
        assert source.running == 3

    supplied(story, "cat")


def test_spares_are_kept_and_count() -> None:
    async def story(source: supply.Supply) -> None:
        await settle(lambda: source.spares == 2)
        first = await source.take()
        await settle(lambda: source.spares == 2)
        assert source.running == 3
        second = await source.take()
        assert first is not second
        assert (source.running, source.spares) == (3, 1)
        await second.end("test")
        await settle(lambda: source.spares == 2)

    supplied(story, "cat", spares=2)


def test_a_program_that_dies_at_once_is_not_started_without_end() -> None:
    async def story(source: supply.Supply) -> None:
        await asyncio.sleep(1.0)
        assert 1 <= source.started <= 6  # after 0.1, 0.2, 0.5 s …

    supplied(story, sys.executable, "-S", "-c", "import os; os._exit(1)", spares=1)


def test_the_wait_grows_and_a_long_life_forgets_it() -> None:
    back_off = supply.BackOff()
    assert [back_off.seconds(0.0) for _ in range(10)] == [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 30.0, 30.0]
    assert back_off.seconds(supply.HEALTHY_SECONDS) == 0.1
