"""How long a session lives, and what that costs the store: renewal at most once per tenth of the TTL, nothing else for
a request whose session is cached (interface §4, §3.1).

Real: two proxies on one Redis, whose MONITOR says every command; scripted replicas; with and without the fast lane.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message, redis_server
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


class Monitor:
    """Every command that a Redis gets, from its MONITOR. `of(prefix)`: those about our sessions, pings left out."""

    def __init__(self, redis: redis_server.RedisServer) -> None:
        self._socket = socket.create_connection((redis_server.HOST, redis.port))
        self._socket.sendall(b"MONITOR\r\n")
        self._text = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        fleets.await_that(lambda: b"+OK" in self._text, "MONITOR is on")

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        while data := self._socket.recv(65_536):
            self._text += data

    def of(self, prefix: str) -> list[str]:
        """Names of the commands on keys under the prefix, in order; a script by its own name."""
        lines = [line for line in self._text.decode("latin-1").splitlines() if f'"{prefix}' in line]
        own = (" lua]", "!probe", "!news")  # what scripts do, and what proxies ask for without a request
        return [line.split('"')[1].upper() for line in lines if not any(word in line for word in own)]


@pytest.fixture(params=[True, False], ids=["fast", "story"])
def fast(request: pytest.FixtureRequest) -> Iterator[bool]:
    yield request.param


def test_a_cached_session_asks_nothing_of_the_store(fleet: Fleet, redis: redis_server.RedisServer) -> None:
    session = fleet.open()
    for proxy in (0, 1):
        fleet.count(proxy, session)
    with Monitor(redis) as monitor:
        for number in range(40):
            fleet.count(number % 2, session)
        time.sleep(0.2)
        assert monitor.of(fleets.PREFIX) == []
        other = fleet.open()
        time.sleep(0.2)  # the news that it was written has passed: who caches the session before has it looked at again
        fleet.count(0, other)
        fleet.count(1, other)
        fleet.count(1, other)
        time.sleep(0.2)
        assert monitor.of(fleets.PREFIX) == ["SET", "GET", "PTTL"]


def test_a_session_that_is_used_is_renewed_once_per_tenth_and_one_that_is_not_expires(
    redis: redis_server.RedisServer, fast: bool
) -> None:
    prefix = f"ttl-{fast}:"
    with fleets.fleet("--session-ttl", "3s", "--key-prefix", prefix, redis=redis, fast=fast) as fleet:
        used, idle = fleet.open(), fleet.open()
        with Monitor(redis) as monitor:
            end = time.monotonic() + 4.5
            number = 0
            while time.monotonic() < end:
                number += 1
                assert fleet.count(0, used) == number
                time.sleep(0.05)
            said = monitor.of(prefix)
        assert set(said) == {"EXPIRE"}
        assert 3 <= len(said) <= 6, "once a second, and no oftener than once per 0.3 s"
        for proxy in (0, 1):
            answer = fleet.call(proxy, idle, 2)
            assert answer.status == 404
            assert answer.json()["error"] == {"code": -32001, "message": "Session not found"}
        assert fleet.count(1, used) == number + 1
        fleets.await_that(lambda: fleet.metric("fastproxy_sessions_active") <= 2, "what expired is not counted")
        fleets.assert_sound(fleet)


def test_a_session_that_is_never_long_in_a_cache_is_renewed_all_the_same(
    redis: redis_server.RedisServer, fast: bool
) -> None:
    """Each load would begin a new tenth, if it did not say how long ago the last renewal was."""
    prefix = f"thrash-{fast}:"
    flags = ("--session-ttl", "3s", "--key-prefix", prefix, "--cache-sessions", "1")
    with fleets.fleet(*flags, redis=redis, fast=fast, proxies=1) as fleet:
        sessions = [fleet.open(), fleet.open()]
        with Monitor(redis) as monitor:
            end = time.monotonic() + 4.5
            number = 0
            while time.monotonic() < end:
                number += 1
                assert [fleet.count(0, session) for session in sessions] == [number, number]
                time.sleep(0.05)
            renewals = monitor.of(prefix).count("EXPIRE")
        assert 2 * 2 <= renewals <= 2 * 15


def test_a_session_used_through_many_proxies_in_turn_lives(redis: redis_server.RedisServer) -> None:
    with fleets.fleet("--session-ttl", "2s", "--key-prefix", "turn:", redis=redis, proxies=3) as fleet:
        session = fleet.open()
        for number in range(1, 14):
            assert fleet.count(number % 3, session) == number
            time.sleep(0.3)


async def take_long(replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
    """A call that is silent for 3.5 s, or one whose stream says something from time to time, as it is named."""
    if fleets.rpc_method(request) == "silent":
        await asyncio.sleep(3.5)
        return False
    if fleets.rpc_method(request) != "talking":
        return False
    head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    await connection.send(actors_message.format_response("200 OK", head))
    for _ in range(7):
        await connection.send(actors_message.format_chunk(b": working\n\n"))
        await asyncio.sleep(0.5)
    await connection.send(actors_message.LAST_CHUNK)
    return True


def test_what_is_open_longer_than_the_ttl_keeps_its_session(redis: redis_server.RedisServer, fast: bool) -> None:
    prefix = f"open-{fast}:"
    with (
        fleets.fleet("--session-ttl", "2s", "--key-prefix", prefix, redis=redis, fast=fast) as fleet,
        fleet.client(0) as silent,
        fleet.client(1) as talking,
        fleet.client(0) as stream,
    ):
        sessions = [_open(fleet) for _ in range(3)]
        for replica in fleet.replicas:
            replica.act = take_long
        for client, session, method in ((silent, sessions[0], "silent"), (talking, sessions[1], "talking")):
            fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
            body = fleets.message(method, 1)
            client.send(actors_message.format_request("POST", "/mcp", client.authority, fields, body))
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": sessions[2]}
        stream.send(actors_message.format_request("GET", "/mcp", stream.authority, fields))
        assert stream.head().status == 200
        assert [silent.response().status, talking.response().status] == [200, 200]
        for session in sessions:
            for proxy in (0, 1):
                assert fleet.post(proxy, fleets.message("notifications/x", None), session).status == 202
        stream.close()
        time.sleep(3.2)
        for session in sessions:
            assert fleet.call(0, session).status == 404, "and no longer than that"
        fleets.assert_sound(fleet)


def _open(fleet: Fleet) -> str:
    session = fleet.post(0, fleets.message("initialize", 0, **fleets.INITIALIZE)).field("mcp-session-id")
    assert session is not None
    return session


def test_the_embedded_store_forgets_after_the_ttl_too(fast: bool) -> None:
    with fleets.fleet("--session-ttl", "2s", fast=fast, proxies=1) as fleet:
        used, idle = fleet.open(), fleet.open()
        for number in range(1, 17):
            assert fleet.count(0, used) == number
            time.sleep(0.2)
        assert fleet.call(0, idle).status == 404
        time.sleep(2.2)
        assert fleet.call(0, used).status == 404
        fleets.await_that(lambda: fleet.proxies[0].sessions() == [], "nothing is listed")
