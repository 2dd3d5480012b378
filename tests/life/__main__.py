"""`python -m tests.life --minutes 15`: sessions by the thousand come and go; is all back where it began? Exit 1 if not.

Two proxies on one Redis, two replicas, sessions that are forgotten after 3 s. What a life leaves behind is measured
after it, at rest, against what a first tenth of it has left behind, since whoever has never worked has no caches,
pools and heaps yet: resident memory, descriptors and route table of each proxy, keys and memory of Redis.
"""

import argparse
import asyncio
import contextlib
import pathlib
import random
import sys
import time
from collections.abc import Sequence

import msgspec
import uvloop

from tests import kit
from tests.kit import redis_server
from tests.life import clients
from tests.rollout import stage, traffic

TTL_SECONDS = 3.0
REST_SECONDS_MIN, REST_SECONDS_MAX = 2 * TTL_SECONDS, 15.0  # until tables and pools of connections have been swept
# An allocator gives back whole pages only: what comes and goes leaves some holes, once. A leak of 100 bytes a session
# would be over this after 20,000 of them.
MEMORY_BYTES_MORE_MAX = 2 << 20
POOL_DESCRIPTORS = 36  # connections to Redis, kept once opened (session/redis.py)
SAMPLES = 20
OWN_KEYS = ("!news", "!probe")  # what proxies tell each other, and what they look whether Redis can be written to with


class Vitals(msgspec.Struct, frozen=True):
    """What is held at one moment; lists have a number per proxy."""

    minutes: float
    sessions_begun: int
    resident_bytes: list[int]
    descriptors: list[int]
    sessions_known: list[int]
    redis_keys: list[str]  # that are not of the proxies themselves
    redis_bytes: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    minutes: float
    sessions: int
    sessions_per_second: float
    fates: dict[str, int]
    calls: int
    failures: dict[str, int]
    began: Vitals
    ended: Vitals
    between: list[Vitals]
    broken: list[str]


class World:
    """Processes, and the lives on them."""

    def __init__(
        self, proxies: Sequence[kit.Proxy], redis: redis_server.RedisServer, *, rate: float, seed: int
    ) -> None:
        self._proxies = proxies
        self._redis = redis
        self._rate = rate
        self._lots = random.Random(seed)
        self._began = time.monotonic()
        self._living: set[asyncio.Task[None]] = set()
        self.tally = traffic.Tally()
        self.lives = clients.Lives()

    async def run(self, seconds: float) -> Outcome:
        """A tenth of it first, then all."""
        service = stage.Service(self._proxies, random.Random(self._lots.random()))
        watching = asyncio.create_task(service.watch())
        await self._live(service, max(seconds / 10, 2 * TTL_SECONDS))
        began = await self._rest(None)
        between = []
        before = time.monotonic()
        for _ in range(SAMPLES):
            await self._live(service, seconds / SAMPLES)
            between.append(msgspec.structs.replace(await asyncio.to_thread(self._look), redis_keys=[]))
        lived = time.monotonic() - before
        ended = await self._rest(began)
        watching.cancel()
        begun = ended.sessions_begun - began.sessions_begun
        return Outcome(
            minutes=round(lived / 60, 2),
            sessions=begun,
            sessions_per_second=round(begun / lived, 1),
            fates=dict(self.lives.fates),
            calls=self.tally.calls,
            failures=dict(self.tally.failures + self.tally.streams_cut),
            began=began,
            ended=ended,
            between=between,
            broken=self._find_broken(began, ended),
        )

    async def _live(self, service: stage.Service, seconds: float) -> None:
        """Sessions begin all the time; those that have begun go on beside the next ones."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            life = clients.Life(service, self.tally, random.Random(self._lots.random()), TTL_SECONDS)
            living = asyncio.create_task(life.live(self.lives))
            self._living.add(living)
            living.add_done_callback(self._living.discard)
            await asyncio.sleep(self._lots.expovariate(self._rate))

    async def _rest(self, began: Vitals | None) -> Vitals:
        """Until nothing is left, or what is left will not go."""
        await asyncio.gather(*self._living)
        deadline = time.monotonic() + REST_SECONDS_MAX - REST_SECONDS_MIN
        await asyncio.sleep(REST_SECONDS_MIN)
        while True:
            seen = await asyncio.to_thread(self._look)
            idle = not any(seen.sessions_known) and not seen.redis_keys
            few = began is None or max(seen.descriptors) <= max(began.descriptors) + POOL_DESCRIPTORS // 4
            if (idle and few) or time.monotonic() > deadline:
                return seen
            await asyncio.sleep(1.0)

    def _look(self) -> Vitals:
        names = [name.decode() for name in self._redis.execute("KEYS", "*")]
        return Vitals(
            minutes=round((time.monotonic() - self._began) / 60, 2),
            sessions_begun=self.lives.begun,
            resident_bytes=[proxy.resident_bytes for proxy in self._proxies],
            descriptors=[proxy.descriptors for proxy in self._proxies],
            sessions_known=[int(proxy.metrics().value("fastproxy_sessions_active")) for proxy in self._proxies],
            redis_keys=[name for name in names if not name.endswith(OWN_KEYS)],
            redis_bytes=int(self._redis.execute("INFO", "memory")["used_memory"]),
        )

    def _find_broken(self, began: Vitals, ended: Vitals) -> list[str]:
        failed = self.tally.failures.total() + self.tally.streams_cut.total()
        broken = [f"{failed} failures"] * bool(failed)
        for number, (before, after) in enumerate(zip(began.resident_bytes, ended.resident_bytes, strict=True)):
            if after - before > MEMORY_BYTES_MORE_MAX:
                broken.append(f"proxy {number} holds {(after - before) >> 10} KiB more")
        for number, (before, after) in enumerate(zip(began.descriptors, ended.descriptors, strict=True)):
            if after - before > POOL_DESCRIPTORS // 4:
                broken.append(f"proxy {number} holds {after - before} descriptors more")
        if any(ended.sessions_known):
            broken.append(f"route tables know {ended.sessions_known} sessions")
        if ended.redis_keys:
            broken.append(f"{len(ended.redis_keys)} keys are left in Redis, such as {ended.redis_keys[0]}")
        return broken


def run(*, seconds: float, rate: float, seed: int, workers: int = 1) -> Outcome:
    """The whole of it."""
    flags = ("--session-ttl", f"{TTL_SECONDS:g}s", "--workers", str(workers))
    with (
        redis_server.RedisServer(options=("--appendonly", "no")) as redis,
        stage.replicas(2, event_seconds=0.3) as replicas,
        kit.proxies(2, backends=replicas, store=redis.url, flags=flags) as proxies,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        outcome = runner.run(World(proxies, redis, rate=rate, seed=seed).run(seconds))
        for proxy in proxies:
            if "Traceback" in proxy.stderr:
                raise kit.KitError(proxy.log_tail())
    return outcome


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.life", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=30.0, help="new sessions per second")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/life.json"))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every lot that is drawn")
    asked = parser.parse_args(arguments)
    print(f"life: seed {asked.seed}", file=sys.stderr)
    outcome = run(seconds=asked.minutes * 60, rate=asked.rate, seed=asked.seed)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcome)) + b"\n")
    print(summary(outcome))
    for words in outcome.broken:
        print(f"life: broken: {words}", file=sys.stderr)
    return 1 if outcome.broken else 0


def summary(outcome: Outcome) -> str:
    """A few lines for whoever waits."""

    def mebibytes(vitals: Vitals) -> str:
        return ", ".join(f"{held / 2**20:.1f}" for held in vitals.resident_bytes)

    return (
        f"{outcome.sessions} sessions in {outcome.minutes:g} minutes, {outcome.calls} calls\n"
        f"resident MiB per proxy: {mebibytes(outcome.began)} -> {mebibytes(outcome.ended)}\n"
        f"descriptors per proxy: {outcome.began.descriptors} -> {outcome.ended.descriptors}\n"
        f"keys in Redis: {len(outcome.began.redis_keys)} -> {len(outcome.ended.redis_keys)}; "
        f"bytes {outcome.began.redis_bytes} -> {outcome.ended.redis_bytes}"
    )


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
