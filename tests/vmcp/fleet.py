"""A fleet of vMCP processes on one Redis, in front of real servers, and real clients that meet any of them.

    with fleet.running(redis, ["mcp2-sse", "mcp1-json", "mcp2-stdio"]) as place:
        with place.client("ts1") as client:            # each request goes to one of the processes by lot
            client.call(place.name("mcp2-sse", "counter"))

A backend's name is its kind's, without what a tool's name may not hold.
"""

import contextlib
import itertools
import json
import pathlib
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence

from tests import kit
from tests.kit import provision, redis_server

DRAIN = ("--drain-delay", "0s", "--drain-timeout", "10s")
SECONDS_MAX = 20.0
_numbers = itertools.count(1)


class Place:
    """The processes and what is behind them."""

    def __init__(self, name: str, members: list[kit.Proxy], backends: dict[str, kit.Backend]) -> None:
        self.group = name
        self.members = members
        self.backends = backends  # by kind; a stdio server has no process of its own here
        self._seeds = itertools.count(1)

    def name(self, kind: str, tool: str) -> str:
        """What a backend's tool is called through vMCP."""
        return f"{backend_id(kind)}_{tool}"

    @contextlib.contextmanager
    def client(self, sdk: str, **options: typing.Any) -> Iterator[kit.Client]:
        urls = options.pop("urls", [member.url() for member in self.members])
        with kit.client(sdk, urls, seed=next(self._seeds), **options) as connected:
            yield connected

    def record(self, session_id: str) -> dict[str, typing.Any]:
        found = self.members[0].session(session_id)
        assert found is not None
        return found

    def legs(self, session_id: str) -> dict[str, str]:
        """Backend: its own id of the session."""
        return {leg["backend_id"]: leg["backend_session_id"] for leg in self.record(session_id)["backends"]}


def backend_id(kind: str) -> str:
    return kind.replace("-", "")


def entry(kind: str, backend: kit.Backend | None) -> dict[str, object]:
    """A backend as a client's mcp.json has it."""
    if backend is None:
        program = kit.backends.PROGRAMS / "stdio_server.py"
        dialect = kind.partition("-")[0]
        return {"command": str(provision.python(dialect)), "args": [str(program), dialect]}
    return {"url": backend.url}


def await_that(holds: Callable[[], bool], what: str, seconds_max: float = SECONDS_MAX) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds_max} s: {what}"
        time.sleep(0.05)


@contextlib.contextmanager
def running(
    redis: redis_server.RedisServer | None,
    kinds: Sequence[str],
    *,
    count: int = 3,
    flags: Sequence[str] = (),
    **backend: typing.Any,
) -> Iterator[Place]:
    """So many processes in front of one server of each kind, all of them known."""
    name = f"fleet-{next(_numbers)}"
    with contextlib.ExitStack() as stack:
        backends = {
            kind: stack.enter_context(kit.backend(kind, **backend))[0] for kind in kinds if not kind.endswith("-stdio")
        }
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        file = folder / "mcp.json"
        file.write_text(
            json.dumps({"mcpServers": {backend_id(kind): entry(kind, backends.get(kind)) for kind in kinds}})
        )
        own = ["--config", str(file), "--name", name, *DRAIN, *flags]
        store = "memory:" if redis is None else redis.url
        members = stack.enter_context(kit.proxies(count, store=store, flags=own, subcommand="vmcp"))
        place = Place(name, members, backends)
        for member in members:
            await_that(lambda member=member: all_live(member, len(kinds)), "every backend is known")
        yield place


def all_live(member: kit.Proxy, count: int) -> bool:
    return sum(row["state"] == "live" for row in member.backends()) == count
