"""`python -m tests.chaos`: everything dies once, under load; one table of who noticed; 1 when a promise was broken.

Two proxies on one Redis, three replicas of a real stateful server, and a client fleet (clients.py); the faults of
faults.py one after the other, each with two sessions opened meanwhile; report.py judges. Real processes, all of it.
"""

import argparse
import asyncio
import contextlib
import pathlib
import random
import sys
import tempfile
import time
import urllib.parse

import msgspec

from tests import kit
from tests.chaos import clients, faults, report
from tests.kit import redis_server

SESSIONS = 18
NEWCOMERS = 2  # per fault
KIND = "mcp2-json"
BEFORE_SECONDS, AFTER_SECONDS = 1.0, 3.0
# Quick, so that a frozen replica is found while it is frozen; as patient as a short test can be when draining.
FLAGS = ("--health-interval", "500ms", "--health-timeout", "500ms", "--drain-delay", "500ms", "--drain-timeout", "5s")


class Run:
    """The stage, the fleet on it, and what has come of the faults so far."""

    def __init__(self, stage: faults.Stage, call_log: pathlib.Path, seed: int) -> None:
        self._stage = stage
        self._call_log = call_log
        self._lots = random.Random(seed)
        self._sessions: dict[int, clients.Session] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._end = asyncio.Event()

    async def begin(self) -> None:
        for _ in range(SESSIONS):
            session = self._new()
            await session.open()
            await session.meet_everybody()
            self._start(session)

    async def end(self) -> None:
        self._end.set()
        await asyncio.gather(*self._tasks)

    def _new(self) -> clients.Session:
        ports = [urllib.parse.urlsplit(proxy.origin).port or 0 for proxy in self._stage.proxies]
        session = clients.Session(ports, random.Random(self._lots.random()))
        self._sessions[session.number] = session
        return session

    def _start(self, session: clients.Session) -> None:
        self._tasks.append(asyncio.create_task(session.run(self._end)))

    async def suffer(self, fault: faults.Fault) -> report.Outcome:
        """One fault, from shortly before it to when all is well again."""
        at_home = await self._at_home(fault.victim)
        old_calls = {number: len(session.calls) for number, session in self._sessions.items()}
        old_ran = len(kit.logged_calls(self._call_log))
        await asyncio.sleep(BEFORE_SECONDS)
        acting = asyncio.create_task(fault.act(self._stage))
        await asyncio.sleep(0.3)
        newcomers = [self._new() for _ in range(NEWCOMERS)]
        for session in newcomers:
            self._start(session)
        span = await acting
        await asyncio.sleep(AFTER_SECONDS)
        calls = [c for n, session in self._sessions.items() for c in session.calls[old_calls.get(n, 0) :]]
        arrived = {session.number for session in newcomers}
        involved = report.involve(fault, span, calls, at_home=at_home, newcomers=arrived)
        if fault.concerns == faults.HOME:
            involved |= await self._at_home(fault.victim) & arrived
        ran = kit.logged_calls(self._call_log)[old_ran:]
        return report.judge(fault, span, calls, involved=involved, sessions=self._sessions, ran=ran)

    async def _at_home(self, replica: int) -> set[int]:
        """The sessions on one replica, by the word of a proxy."""
        url = self._stage.replicas[replica].origin
        records = await asyncio.to_thread(self._stage.proxies[0].sessions)
        ids = {record["session_id"] for record in records if record["backend_url"] == url}
        return {number for number, session in self._sessions.items() if session.id in ids}


async def run(stage: faults.Stage, call_log: pathlib.Path, names: list[str], seed: int) -> list[report.Outcome]:
    """Every fault whose name has one of the words; what came of each."""
    fleet = Run(stage, call_log, seed)
    await fleet.begin()
    outcomes = []
    for fault in faults.FAULTS:
        if names and not any(name in fault.name for name in names):
            continue
        print(f"chaos: {fault.name} …", file=sys.stderr, flush=True)
        outcome = await fleet.suffer(fault)
        for error, count in outcome.errors.items():
            print(f"chaos: {count} times: {error}", file=sys.stderr, flush=True)
        for words in outcome.broken:
            print(f"chaos: broken: {words}", file=sys.stderr, flush=True)
        outcomes.append(outcome)
    await fleet.end()
    return outcomes


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("faults", nargs="*", help="only those whose name has one of these words")
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/chaos.json"))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every lot that is drawn")
    asked = parser.parse_args(arguments)
    print(f"chaos: seed {asked.seed}", file=sys.stderr)
    with contextlib.ExitStack() as stack:
        call_log = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory())) / "calls"
        redis = stack.enter_context(redis_server.RedisServer())
        replicas = stack.enter_context(kit.backend(KIND, replicas=3, call_log=call_log))
        proxies = stack.enter_context(kit.proxies(2, backends=replicas, store=redis.url, flags=FLAGS))
        stage = faults.Stage(proxies, replicas, redis)
        outcomes = asyncio.run(run(stage, call_log, asked.faults, asked.seed))
        faulty = [proxy for proxy in proxies if "Traceback" in proxy.stderr]
        for proxy in faulty:
            print(proxy.log_tail(), file=sys.stderr)
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(outcomes)) + b"\n")
    print(report.table(outcomes))
    return 1 if faulty or not outcomes or any(outcome.broken for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
