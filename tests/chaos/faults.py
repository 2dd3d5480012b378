"""What is done to the stage, fault by fault: a verb on one of its processes, and whom it must concern.

A fault is over when everybody is as before: what was killed runs again, what was frozen is thawed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from tests import kit
from tests.kit import actors, redis_server

AWAY_SECONDS = 3.0  # for which somebody is frozen, or the store is stopped
ALL, CALLS, HOME, NEWCOMERS, NOBODY = "all", "calls", "home", "newcomers", "nobody"

GONE = ("ConnectionResetError", "the connection ended")  # who is killed says nothing more
# The proxy says that the call may have run, or breaks off an answer that had begun. After a freeze too: a server's
# keep-alive may have passed meanwhile, and it closes the connection over the request that it has not read.
LOST = ("'backend_lost', 'may_have_run': True", "the connection ended")
LATER = ("session_store_unavailable",)


class Stage(msgspec.Struct):
    """The processes."""

    proxies: list[kit.Proxy]
    replicas: list[kit.Backend]
    redis: redis_server.RedisServer


class Span(msgspec.Struct):
    """When it was done (monotonic), and from when on those concerned can be served again."""

    begin: float
    done: float
    servable: float


class Fault(msgspec.Struct, frozen=True):
    """`concerns`: the calls that `victim` has under way, sessions at home there, sessions opened meanwhile, nobody.
    `forgets`: what a session at home there remembers is lost with its process."""

    name: str
    act: Callable[[Stage], Awaitable[Span]]
    concerns: str
    victim: int = 0
    forgets: bool = False
    waits: bool = False  # calls under way are answered late, when the victim goes on
    tells: tuple[str, ...] = ()  # what an error of those concerned may say: one of these


async def _kill(process: actors.Process, *, rest_seconds: float) -> Span:
    begin = time.monotonic()
    await asyncio.to_thread(process.kill)
    done = time.monotonic()
    await asyncio.sleep(rest_seconds)
    await asyncio.to_thread(process.start)
    await asyncio.to_thread(process.await_ready)
    return Span(begin, done, done)


async def _freeze(process: actors.Process) -> Span:
    begin = time.monotonic()
    process.freeze()
    done = time.monotonic()
    await asyncio.sleep(AWAY_SECONDS)
    process.thaw()
    return Span(begin, done, time.monotonic())


async def kill_a_proxy(stage: Stage) -> Span:
    return await _kill(stage.proxies[0], rest_seconds=1.0)


async def kill_a_replica(stage: Stage) -> Span:
    return await _kill(stage.replicas[0], rest_seconds=1.0)


async def stop_the_store(stage: Stage) -> Span:
    begin = time.monotonic()
    await asyncio.to_thread(stage.redis.stop)
    done = time.monotonic()
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(stage.redis.start)
    return Span(begin, done, time.monotonic())


async def freeze_a_proxy(stage: Stage) -> Span:
    return await _freeze(stage.proxies[1])


async def freeze_a_replica(stage: Stage) -> Span:
    return await _freeze(stage.replicas[1])


async def freeze_the_store(stage: Stage) -> Span:
    return await _freeze(stage.redis)


async def restart_every_proxy(stage: Stage) -> Span:
    begin = time.monotonic()
    for proxy in stage.proxies:
        await asyncio.to_thread(proxy.stop)
        await asyncio.to_thread(proxy.start)
        await asyncio.to_thread(proxy.await_ready)
    return Span(begin, time.monotonic(), time.monotonic())


FAULTS: Sequence[Fault] = (
    Fault("kill -9 a proxy, start it again", kill_a_proxy, CALLS, tells=GONE),
    Fault("kill -9 a replica, start it again", kill_a_replica, HOME, forgets=True, tells=LOST),
    Fault(f"Redis stopped for {AWAY_SECONDS:g} s", stop_the_store, NEWCOMERS, tells=LATER),
    Fault(f"a proxy frozen for {AWAY_SECONDS:g} s", freeze_a_proxy, CALLS, victim=1, waits=True),
    Fault(f"a replica frozen for {AWAY_SECONDS:g} s", freeze_a_replica, HOME, victim=1, tells=LOST),
    Fault(f"Redis frozen for {AWAY_SECONDS:g} s", freeze_the_store, NEWCOMERS, tells=LATER),
    Fault("every proxy restarted, one by one", restart_every_proxy, NOBODY),
)
