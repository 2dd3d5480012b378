"""Official servers of every kind as backends: both Python SDKs, fastmcp, the reference server; HTTP, HTTP+SSE, stdio.

Real: everything. Each server is discovered, called in a session of its own, and its counter goes on from call to call.
"""

import asyncio
import contextlib
import json
import pathlib
import sys
from collections.abc import AsyncIterator

import pytest

from fastproxy.config import vmcp_schema
from fastproxy.vmcp import backends, peer
from tests import kit
from tests.kit import coroutines, provision
from tests.vmcp import group

STDIO_PROGRAM = pathlib.Path(kit.__file__).parent / "programs" / "stdio_server.py"
INITIALIZE = json.dumps(
    {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
).encode()
ERAS = {"mcp2-sse": "dual", "mcp1-json": "legacy", "mcp1-httpsse": "legacy", "everything-httpsse": "legacy"}


def stdio(environment: str) -> vmcp_schema.BackendConfig:
    command = (str(provision.python(environment)), str(STDIO_PROGRAM), environment)
    return vmcp_schema.BackendConfig(id="one", transport=vmcp_schema.STDIO, command=command, timeout_seconds=20.0)


@contextlib.asynccontextmanager
async def backend_of(kind: str) -> AsyncIterator[backends.Backend]:
    with contextlib.ExitStack() as stack:
        if kind.startswith("stdio-"):
            where = stdio(kind.removeprefix("stdio-"))
        else:
            where = group.config("one", stack.enter_context(kit.backend(kind))[0].url, timeout_seconds=20.0)
        async with group.running({"one": where}) as running:
            await running.known("one", seconds_max=30.0)
            yield running.get("one")


async def call(backend: backends.Backend, opened: peer.Opened, name: str, **arguments: object) -> str:
    result = await backend.peer.request(
        "tools/call",
        json.dumps({"name": name, "arguments": arguments}).encode(),
        leg_session_id=opened.session_id,
        protocol_version=opened.protocol_version,
        headers=[],
        on_message=peer.ignore,
        seconds_max=20.0,
    )
    return str(json.loads(result)["content"][0]["text"])


@pytest.mark.parametrize("kind", ["mcp2-sse", "mcp1-json", "mcp1-httpsse", "stdio-mcp2"])
async def test_a_session_at_an_official_server_keeps_its_state_from_call_to_call(kind: str) -> None:
    async with backend_of(kind) as backend:
        assert backend.era == ERAS.get(kind, "legacy")
        assert backend.shown is not None
        assert {"echo", "counter"} <= {offer.name for offer in backend.shown.tools}
        first, second = [
            await backend.peer.open(INITIALIZE, headers=[], on_message=peer.ignore, seconds_max=20.0) for _ in range(2)
        ]
        assert first.session_id != second.session_id
        assert [await call(backend, first, "counter") for _ in range(3)] == ["1", "2", "3"]
        assert await call(backend, second, "counter") == "1"
        for opened in (first, second):
            assert opened.session_id is not None
            await backend.peer.end(
                opened.session_id, protocol_version=opened.protocol_version, headers=[], seconds_max=10.0
            )
        with pytest.raises(peer.SessionLost):
            await call(backend, first, "counter")


async def test_everything_of_the_reference_server_is_found_over_the_old_transport() -> None:
    async with backend_of("everything-httpsse") as backend:
        shown = backend.shown
        assert shown is not None and shown.rejected == ()
        assert (len(shown.tools), len(shown.resources), len(shown.templates), len(shown.prompts)) == (17, 7, 2, 4), (
            "with what it offers only to who can be asked"
        )


async def test_an_old_session_dies_with_its_stream_and_calls_under_way_may_have_run() -> None:
    with kit.backend("mcp1-httpsse") as (server,):
        async with group.running({"one": server.url}) as running:
            await running.known("one", seconds_max=30.0)
            backend = running.get("one")
            opened = await backend.peer.open(INITIALIZE, headers=[], on_message=peer.ignore, seconds_max=10.0)
            under_way = asyncio.create_task(call(backend, opened, "slow", seconds=30))
            await asyncio.sleep(0.3)
            server.kill()
            with pytest.raises(peer.BackendError) as lost:
                await under_way
            assert (lost.value.reason, lost.value.may_have_run) == ("backend_lost", True)
            with pytest.raises(peer.SessionLost):
                await call(backend, opened, "counter")
            await coroutines.eventually(lambda: backend.last_error is not None)


async def test_progress_of_an_old_session_is_heard_by_who_opened_it() -> None:
    with kit.backend("mcp2-httpsse") as (server,):
        async with group.running({"one": server.url}) as running:
            await running.known("one", seconds_max=30.0)
            backend = running.get("one")
            heard: list[bytes] = []
            opened = await backend.peer.open(INITIALIZE, headers=[], on_message=heard.append, seconds_max=10.0)
            params = json.dumps({"name": "progress", "arguments": {"steps": 3}, "_meta": {"progressToken": "t"}})
            await backend.peer.request(
                "tools/call",
                params.encode(),
                leg_session_id=opened.session_id,
                protocol_version=opened.protocol_version,
                headers=[],
                on_message=peer.ignore,
                seconds_max=10.0,
            )
            assert [json.loads(message)["params"]["progress"] for message in heard] == [1, 2, 3]


async def test_a_program_that_can_not_be_started_is_a_dead_backend_and_no_reason_not_to_begin() -> None:
    missing = vmcp_schema.BackendConfig(id="one", transport=vmcp_schema.STDIO, command=("no-such-program-at-all",))
    async with group.running({"one": missing}) as running:
        await coroutines.eventually(lambda: running.get("one").last_error is not None)
        assert "no such program" in str(running.get("one").last_error)


async def test_a_program_that_ends_at_once_is_a_dead_backend() -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    ended = vmcp_schema.BackendConfig(id="one", transport=vmcp_schema.STDIO, command=command, timeout_seconds=3.0)
    async with group.running({"one": ended}) as running:
        await coroutines.eventually(lambda: running.get("one").last_error is not None, seconds_max=20.0)
