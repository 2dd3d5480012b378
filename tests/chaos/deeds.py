"""What can be done to a stage, each a verb that undoes itself: when it returns everybody is as before.

What was killed runs again, what was frozen is thawed, links are healed. Each answers with a `Span`: when it was done,
and from when on those whom it concerns can be served again.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from tests.chaos import stages, stores
from tests.kit import actors, link

AWAY_SECONDS = 3.0  # for which somebody is frozen, away, or cut off
SOON_SECONDS = 1.0  # until what was killed is started again, where its coming back is not the point
SLOW_SECONDS = 0.1  # that a slow link adds in each direction

Stage = stages.Stage
Ways = Callable[[Stage], Sequence[link.Link]]


class Span(msgspec.Struct):
    """When it was done (monotonic), and from when on those concerned can be served again."""

    begin: float
    done: float
    servable: float


Act = Callable[[Stage], Coroutine[Any, Any, Span]]


# ---- proxies


def kill_proxy(number: int) -> Act:
    async def act(stage: Stage) -> Span:
        proxy = stage.proxies[number]
        begin = time.monotonic()
        await asyncio.to_thread(proxy.kill)
        done = stage.strike()
        await asyncio.sleep(SOON_SECONDS)
        await asyncio.to_thread(proxy.start)
        await asyncio.to_thread(proxy.await_ready)
        return Span(begin, done, done)  # the others serve at once

    return act


def freeze_proxy(number: int) -> Act:
    async def act(stage: Stage) -> Span:
        return await _freeze(stage, stage.proxies[number])

    return act


async def restart_every_proxy(stage: Stage) -> Span:
    begin = stage.strike()
    for proxy in stage.proxies:
        await asyncio.to_thread(proxy.stop)
        await asyncio.to_thread(proxy.start)
        await asyncio.to_thread(proxy.await_ready)
    return Span(begin, time.monotonic(), time.monotonic())


# ---- replicas


def kill_replica(number: int) -> Act:
    async def act(stage: Stage) -> Span:
        begin = time.monotonic()
        await asyncio.to_thread(stage.kill_replica, number)
        done = stage.strike()
        await asyncio.sleep(SOON_SECONDS)
        await asyncio.to_thread(stage.start_replica, number)
        return Span(begin, done, done)

    return act


def freeze_replica(number: int) -> Act:
    async def act(stage: Stage) -> Span:
        return await _freeze(stage, stage.replicas[number])

    return act


async def _freeze(stage: Stage, process: actors.Process) -> Span:
    begin = time.monotonic()
    process.freeze()
    done = stage.strike()
    await asyncio.sleep(AWAY_SECONDS)
    process.thaw()
    return Span(begin, done, time.monotonic())


# ---- the store


async def kill_store(stage: Stage) -> Span:
    """The only server there is."""
    [server] = stage.store.servers
    begin = time.monotonic()
    await asyncio.to_thread(stage.kill_store, server)
    done = stage.strike()
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(stage.start_store, server)
    return Span(begin, done, time.monotonic())


async def freeze_store(stage: Stage) -> Span:
    return await _freeze(stage, stage.store.servers[0])


async def kill_master(stage: Stage) -> Span:
    """A replica of it becomes master; it comes back as a replica."""
    victim = (await asyncio.to_thread(stage.store.masters))[0]
    begin = time.monotonic()
    victim.kill()
    done = stage.strike()
    await asyncio.to_thread(stage.store.await_writable)
    servable = time.monotonic()
    await asyncio.sleep(AWAY_SECONDS)  # nobody is helped by its return
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(stage.store.await_whole)
    return Span(begin, done, servable)


async def freeze_master(stage: Stage) -> Span:
    """As `kill_master`; but it wakes up as the master that it was, until somebody tells it better."""
    victim = (await asyncio.to_thread(stage.store.masters))[0]
    begin = time.monotonic()
    victim.freeze()
    done = stage.strike()
    await asyncio.to_thread(stage.store.await_writable)
    servable = time.monotonic()
    await asyncio.sleep(AWAY_SECONDS)  # nobody is helped by its return
    victim.thaw()
    await asyncio.to_thread(stage.store.await_whole)
    return Span(begin, done, servable)


async def kill_store_replica(stage: Stage) -> Span:
    victim = (await asyncio.to_thread(stage.store.replicas))[0]
    begin = time.monotonic()
    victim.kill()
    done = stage.strike()
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(stage.store.await_whole)
    return Span(begin, done, done)


async def kill_sentinel(stage: Stage) -> Span:
    """The first: whom everybody asks first."""
    assert isinstance(stage.store, stores.WithSentinel)
    victim = stage.store.sentinels[0]
    begin = time.monotonic()
    victim.kill()
    done = stage.strike()
    await asyncio.sleep(AWAY_SECONDS)
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(victim.await_ready)
    return Span(begin, done, done)


def fill(fill_up: Callable[[stores.Cramped], None], make_room: Callable[[stores.Cramped], None]) -> Act:
    """It serves reads and refuses writes."""

    async def act(stage: Stage) -> Span:
        assert isinstance(stage.store, stores.Cramped)
        begin = time.monotonic()
        await asyncio.to_thread(fill_up, stage.store)
        done = stage.strike()
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(make_room, stage.store)
        await asyncio.to_thread(stage.store.await_writable)
        return Span(begin, done, time.monotonic())

    return act


# ---- links


def to_replica(proxy: int, replica: int) -> Ways:
    return lambda stage: [stage.replica_ways[proxy][replica]]


def to_store(proxy: int) -> Ways:
    return lambda stage: [stage.store_ways[proxy]]


def to_proxy(proxy: int) -> Ways:
    """The fleet goes by it from then on."""

    def find(stage: Stage) -> Sequence[link.Link]:
        stage.enter_by_ways(proxy)
        return [stage.door_ways[proxy]]

    return find


def cut(ways: Ways) -> Act:
    return _strain(ways, link.Link.cut)


def lose(ways: Ways) -> Act:
    return _strain(ways, link.Link.lose)


def slow(ways: Ways) -> Act:
    return _strain(ways, lambda way: way.delay(SLOW_SECONDS))


def _strain(ways: Ways, verb: Callable[[link.Link], None]) -> Act:
    async def act(stage: Stage) -> Span:
        found = ways(stage)
        await asyncio.sleep(SOON_SECONDS)  # something is under way
        begin = time.monotonic()
        for way in found:
            await asyncio.to_thread(verb, way)
        done = stage.strike()
        await asyncio.sleep(AWAY_SECONDS)
        for way in found:
            await asyncio.to_thread(way.heal)
        healed = time.monotonic()
        stage.enter_directly()
        return Span(begin, done, healed)

    return act


# ---- names


def spoil_names(illness: str) -> Act:
    """Every resolver answers so, for every name."""

    async def act(stage: Stage) -> Span:
        begin = time.monotonic()
        for resolver in stage.resolvers:
            resolver.fall_ill(illness)
        done = stage.strike()
        await asyncio.sleep(AWAY_SECONDS)
        for resolver in stage.resolvers:
            resolver.recover()
        return Span(begin, done, time.monotonic())

    return act


def while_names_are_spoilt(illness: str, then: Act) -> Act:
    """Nobody can tell where anybody is, and then that."""

    async def act(stage: Stage) -> Span:
        for resolver in stage.resolvers:
            resolver.fall_ill(illness)
        try:
            await asyncio.sleep(SOON_SECONDS)
            return await then(stage)
        finally:
            for resolver in stage.resolvers:
                resolver.recover()

    return act
