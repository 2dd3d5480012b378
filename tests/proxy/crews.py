"""A proxy of two workers, and a look inside it: its processes, and what becomes of them."""

import asyncio
import contextlib
import pathlib

from tests import kit
from tests.kit import actors_wire, redis_server
from tests.proxy import fleet as fleets

PREFIX = "fastproxy:default:session:"
FLAGS = ["--workers", "2", "--drain-delay", "200ms"]


def workers_of(proxy: kit.Proxy) -> list[int]:
    """The processes that the supervisor has now."""
    children = pathlib.Path(f"/proc/{proxy.pid}/task/{proxy.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


def is_alive(pid: int) -> bool:
    """Alive, and no zombie either."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def is_ready(proxy: kit.Proxy) -> bool:
    return proxy.readiness()[0] == 200


def crew(*flags: str, redis: redis_server.RedisServer | None = None) -> contextlib.AbstractContextManager[fleets.Fleet]:
    """A proxy of two workers in front of two scripted replicas."""
    return fleets.fleet(*FLAGS, *flags, proxies=1, redis=redis)


async def answer_after_a_second(
    replica: fleets.Replica, connection: actors_wire.Connection, request: fleets.Message
) -> bool:
    """What a replica may do: think for a second, then answer as ever."""
    await asyncio.sleep(1.0)
    return False
