"""`python -m tests.rollout restart | scale`: what clients notice of a rollout; 1 when a promise was broken.

restart: every proxy is restarted, one by one, under 500 calls a second with 200 open streams (restart.py).
scale:   replicas that DNS tells of become four and two again under load (scale.py).
"""

import argparse
import asyncio
import contextlib
import pathlib
import sys
import time

import msgspec
import uvloop

from tests import kit
from tests.kit import redis_server
from tests.rollout import restart, scale, stage

# A Service sees within 0.1 s that a proxy is no longer ready; in a cluster it takes seconds, hence the default of 5 s.
DRAIN = ("--drain-delay", "1s", "--drain-timeout", "10s")


def run_restart(asked: argparse.Namespace) -> restart.Outcome:
    with (
        redis_server.RedisServer() as redis,
        stage.replicas(asked.replicas) as replicas,
        kit.proxies(asked.proxies, backends=replicas, store=redis.url, flags=DRAIN) as proxies,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        outcome = runner.run(
            restart.run(
                proxies,
                clients=asked.streams,
                calls_per_second=asked.rate,
                rounds=asked.rounds,
                seed=asked.seed,
                keeps_connections=asked.connections == "kept",
            )
        )
        for proxy in proxies:
            if "Traceback" in proxy.stderr:
                raise kit.KitError(proxy.log_tail())
    return outcome


def run_scale(asked: argparse.Namespace) -> scale.Outcome:
    with scale.scene() as (scene, pods), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        outcome = runner.run(scale.run(scene, pods, sessions=asked.sessions))
    print(scale.table(outcome))
    return outcome


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.rollout", description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("restart", "scale"))
    parser.add_argument("--rate", type=float, default=500.0, help="calls per second")
    parser.add_argument("--streams", type=int, default=200, help="clients, each with an open stream")
    parser.add_argument("--connections", choices=("kept", "new"), default="kept", help="of calls: for many, or for one")
    parser.add_argument("--proxies", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="how often all are restarted")
    parser.add_argument("--sessions", type=int, default=60, help="scale: that begin with two replicas, and with four")
    parser.add_argument("--json", type=pathlib.Path, help="where to; default: build/rollout-WHAT.json")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of every lot that is drawn")
    asked = parser.parse_args(arguments)
    print(f"rollout: seed {asked.seed}", file=sys.stderr)
    outcome = {"restart": run_restart, "scale": run_scale}[asked.what](asked)
    text = msgspec.json.format(msgspec.json.encode(outcome))
    target = asked.json or pathlib.Path(f"build/rollout-{asked.what}.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(text + b"\n")
    print(text.decode(), file=sys.stderr)
    for words in outcome.broken:
        print(f"rollout: broken: {words}", file=sys.stderr)
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
