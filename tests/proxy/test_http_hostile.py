"""Ten thousand hostile connections leave memory and descriptors where they were; no descriptors left is no end either.

Real: the proxy's process on loopback, some fifty connections at a time, each doing one of the bad things that the other
test_http files look at one by one. What is random has a seed, which a failing test shows.
"""

import asyncio
import contextlib
import os
import pathlib
import random
import resource
import socket
import struct
import time
import urllib.parse
from collections.abc import Awaitable, Callable

import pytest

from tests import kit
from tests.kit import actors, actors_message, actors_wire
from tests.proxy import lanes as told
from tests.proxy import test_http_refusals as refusals
from tests.proxy.lanes import Lane

CONNECTIONS = 10_000
AT_ONCE = 50
GROWTH_BYTES_MAX = 4 << 20
RESET = struct.pack("ii", 1, 0)

Visit = Callable[[Lane, random.Random, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def read_to_the_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(8):
        return await reader.read(-1)


async def say_nonsense(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    data = choice.choice([*refusals.MALFORMED.values(), *(data for _, data in refusals.OTHERS.values())])
    writer.write(data)
    await read_to_the_end(reader)


async def say_random_bytes(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(choice.randbytes(choice.randrange(2000)) + b"\r\n\r\n")
    if choice.random() < 0.5:
        writer.write_eof()
        await read_to_the_end(reader)


async def say_a_damaged_request(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    request = bytearray(lane.post(b"x" * choice.choice([2, 20, 5000, 70_000])))
    for _ in range(choice.randrange(1, 4)):
        request[choice.randrange(min(len(request), 300))] = choice.randrange(256)
    writer.write(bytes(request))
    writer.write_eof()
    await read_to_the_end(reader)


async def leave_within_the_request(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    request = lane.post(b"x" * choice.choice([2, 5000, 100_000, 400_000]))
    writer.write(request[: choice.randrange(len(request))])


async def leave_with_a_reset(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    request = lane.post(b"much", {"MCP-Protocol-Version": choice.choice(["2025-06-18", "2026-07-28"])})
    writer.write(request * choice.randrange(1, 4))
    await asyncio.sleep(choice.random() * 0.01)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    writer.transport.abort()


async def leave_within_the_answer(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    fields = {"Accept": "text/event-stream", "Mcp-Session-Id": lane.session}
    writer.write(lane.plain("GET", "/mcp", fields) if choice.random() < 0.5 else lane.post(b"much"))
    async with asyncio.timeout(8):
        await reader.read(choice.choice([1, 100, 60_000]))


async def pipeline_and_leave(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(lane.post() * choice.randrange(1, 40))
    if choice.random() < 0.5:
        async with asyncio.timeout(8):
            await reader.read(100)


async def break_a_chunk(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    fields = {"Mcp-Session-Id": lane.session, "Transfer-Encoding": "chunked"}
    writer.write(lane.plain("POST", "/mcp", fields))
    for _ in range(choice.randrange(4)):
        writer.write(actors_message.format_chunk(b"x" * choice.choice([1, 100, 70_000])))
    writer.write(
        choice.choice([b"zz\r\n", b"5\r\nabc", b"ffffffffffffffffff\r\n", b"0\r\nX: \0\r\n\r\n", b"3\r\nabcd\r\n"])
    )
    if choice.random() < 0.7:
        writer.write_eof()
        await read_to_the_end(reader)


async def meet_a_bad_backend(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    writer.write(lane.post(choice.choice([b"garbage", b"hang up", b"cut", b"extra"]), {"Connection": "close"}))
    await read_to_the_end(reader)


async def say_nothing(
    lane: Lane, choice: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    await asyncio.sleep(choice.random() * 0.01)


VISITS: list[Visit] = [
    say_nonsense,
    say_random_bytes,
    say_a_damaged_request,
    leave_within_the_request,
    leave_with_a_reset,
    leave_within_the_answer,
    pipeline_and_leave,
    break_a_chunk,
    meet_a_bad_backend,
    say_nothing,
]


async def behave_badly(connection: actors_wire.Connection) -> None:
    """The backend's part: what it does depends on the body that it is sent."""
    request = await connection.read_request()
    if request is None:
        return
    if request.body == b"garbage":
        await connection.send(b"\x00\x01 no answer\r\n\r\n")
    elif request.body == b"hang up":
        await connection.close()
    elif request.body == b"cut":
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await connection.close()
    elif request.body == b"extra":
        await connection.send(told.OK + told.OK)
    elif request.body == b"much" or request.method == "GET":
        await connection.send(b"".join(told.chunked(*[b"data: " + b"x" * 3000 + b"\n\n"] * 20)))
    else:
        await connection.send(told.OK)


async def visit_all(lane: Lane, count: int, seed: int) -> None:
    """So many visits, AT_ONCE at a time."""
    parts = urllib.parse.urlsplit(lane.proxy.origin)
    turns = iter(range(count))

    async def visitor() -> None:
        for turn in turns:
            choice = random.Random(f"{seed} {turn}")
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                with contextlib.suppress(ConnectionError):
                    await VISITS[turn % len(VISITS)](lane, choice, reader, writer)
            except TimeoutError:
                raise AssertionError(f"seed {seed}, turn {turn}: no end for {VISITS[turn % len(VISITS)]}") from None
            finally:
                writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(visitor())


@pytest.mark.parametrize("flags", [[], ["--no-fast-lane"]], ids=["fast", "story"])
def test_ten_thousand_hostile_connections_leave_nothing_behind(flags: list[str]) -> None:
    count = CONNECTIONS if not flags else CONNECTIONS // 10
    seed = int(os.environ.get("FASTPROXY_TEST_SEED", "20261120"))
    given = [*told.QUIET, "--header-timeout", "2s", "--body-timeout", "2s", "--log-level", "error", *flags]
    with told.Stage(behave_badly) as stage, kit.proxies(backends=[stage], flags=given) as [proxy]:
        lane = Lane(proxy, stage)
        lane.open_session(told.SESSION)
        asyncio.run(visit_all(lane, 1000, seed - 1))  # what is allocated once
        settle(lane)
        told.await_that(lambda: proxy.descriptors < 30, "those who linger have gone")
        before_bytes, before_descriptors = proxy.resident_bytes, proxy.descriptors
        asyncio.run(visit_all(lane, count, seed))
        settle(lane)
        assert proxy.alive
        told.await_that(lambda: proxy.descriptors <= before_descriptors, "descriptors are where they were")
        assert proxy.resident_bytes - before_bytes < GROWTH_BYTES_MAX
        assert lane.metric("fastproxy_relay_faults_total") == 0, proxy.log_tail()
        assert "Traceback" not in proxy.stderr
        stage.act = told.saying(told.OK)
        with lane.client() as client:
            client.send(lane.post())
            assert client.response().raw == told.OK


def settle(lane: Lane) -> None:
    """Nothing is under way, and the backend has hung up."""
    told.await_that(lambda: lane.metric("fastproxy_requests_in_flight") == 0, "nothing is in flight", seconds_max=15)
    lane.stage.hang_up()
    told.await_that(lambda: lane.metric("fastproxy_upstream_connections") == 0, "no connections", seconds_max=15)


# ---- no descriptors left


class Narrow(kit.Proxy):
    """A proxy that may have few files open."""

    def start(self) -> None:
        super().start()
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (40, 40))


def cpu_seconds(process: actors.Process) -> float:
    fields = pathlib.Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_without_a_descriptor_left_it_neither_spins_nor_dies() -> None:
    with told.Stage() as stage:
        proxy = Narrow([*told.QUIET, "--backend", stage.origin], environment={})
        with actors.started([proxy]):
            lane = Lane(proxy, stage)
            lane.open_session(told.SESSION)
            parts = urllib.parse.urlsplit(proxy.origin)
            with contextlib.ExitStack() as stack:
                crowd = [
                    stack.enter_context(socket.create_connection((parts.hostname, parts.port or 0))) for _ in range(200)
                ]
                time.sleep(0.3)
                before = cpu_seconds(proxy)
                time.sleep(1.0)
                assert cpu_seconds(proxy) - before < 0.2
                closed = sum(is_closed(each) for each in crowd)
                assert 150 < closed < 200  # turned away at once, rather than left to wait
            told.await_that(lambda: proxy.descriptors < 30, "they have gone")
            with lane.client() as client:
                client.send(lane.post())
                assert client.response().raw == told.OK
            assert lane.metric("fastproxy_relay_faults_total") == 0


def test_without_a_descriptor_left_no_replica_is_called_failed_and_no_session_moved() -> None:
    """That a connection can't be made is the proxy's own trouble; the session's replica was not even asked."""
    with told.Stage() as stage:
        proxy = Narrow([*told.QUIET, "--backend", stage.origin], environment={})
        with actors.started([proxy]):
            lane = Lane(proxy, stage)
            lane.open_session(told.SESSION)
            parts = urllib.parse.urlsplit(proxy.origin)
            with lane.client() as client:
                client.send(lane.post())
                assert client.response().raw == told.OK
                stage.hang_up()
                with contextlib.ExitStack() as stack:
                    for _ in range(60):
                        stack.enter_context(socket.create_connection((parts.hostname, parts.port or 0)))
                    told.await_that(lambda: proxy.descriptors >= 39, "all descriptors are taken")
                    client.send(lane.post())
                    error = client.response().json()["error"]
                assert error["data"] == {"reason": "backend_unreachable"}
                told.await_that(lambda: proxy.descriptors < 30, "the crowd has gone")
                assert proxy.backends()[0]["state"] == "live"
                client.send(lane.post())
                assert client.response().raw == told.OK
            assert lane.metric("fastproxy_session_recoveries_total") == 0
            assert lane.metric("fastproxy_relay_faults_total") == 0


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
