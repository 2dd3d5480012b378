"""The GET stream of a session: one at a time at the backend, and a client that comes back before its end is noticed.

Real: two proxies on one Redis, with and without the fast lane; scripted replicas that allow one stream per session, as
the SDKs' servers do.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message


class OneStream:
    """The manner of a server that answers 409 while a stream of the session is open."""

    def __init__(self, *, notices_after_seconds: float = 0.0) -> None:
        self.open: set[str] = set()
        self.notices_after_seconds = notices_after_seconds

    async def __call__(self, replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        if request.method != "GET":
            return False
        session = request.field("mcp-session-id") or ""
        if session in self.open:
            body = b'{"jsonrpc":"2.0","id":"server-error","error":{"code":-32600,"message":"Conflict"}}'
            await connection.send(actors_message.format_response("409 Conflict", fleets.JSON, body))
            return True
        self.open.add(session)
        try:
            await replica.answer(connection, request)
        finally:
            await asyncio.sleep(self.notices_after_seconds)
            self.open.discard(session)
        return True


@contextlib.contextmanager
def stream(fleet: Fleet, proxy: int, session: str) -> Iterator[tuple[kit.RawClient, Message]]:
    with fleet.client(proxy) as client:
        fields = {"Accept": "text/event-stream", "Mcp-Session-Id": session}
        client.send(actors_message.format_request("GET", "/mcp", client.authority, fields))
        yield client, client.head()


def test_a_second_stream_is_refused_as_the_backend_refuses_it(fleet: Fleet) -> None:
    session = fleet.open()
    manner = OneStream()
    for replica in fleet.replicas:
        replica.act = manner
    with stream(fleet, 0, session) as (_, first):
        assert first.status == 200
        for proxy in (0, 1):
            with stream(fleet, proxy, session) as (client, second):
                assert second.status == 409
                assert second.field("content-type") == "application/json"
                client.close()
        assert len(fleet.got("GET")) == 3, "nothing was tried again while the first is open"


def test_a_client_that_comes_back_at_once_finds_its_stream_free(fleet: Fleet) -> None:
    """mcp.md §6.10: the backend may not have noticed yet that the old stream is closed."""
    session = fleet.open()
    manner = OneStream(notices_after_seconds=0.2)
    for replica in fleet.replicas:
        replica.act = manner
    for _ in range(3):
        with stream(fleet, 0, session) as (client, head):
            assert head.status == 200
            client.close()
        fleets.await_that(
            lambda: fleet.proxies[0].metrics().value("fastproxy_streams_open") == 0, "the proxy knows of the end"
        )
    assert len(fleet.got("GET")) > 3, "it was asked again"


def test_a_stream_that_its_client_leaves_is_closed_at_the_backend_at_once(fleet: Fleet) -> None:
    session = fleet.open()
    manner = OneStream()
    for replica in fleet.replicas:
        replica.act = manner
    with stream(fleet, 1, session) as (client, head):
        assert head.status == 200
        client.close()
    left = time.monotonic()
    fleets.await_that(lambda: not manner.open, "closed")
    assert time.monotonic() - left < 0.5
    assert fleet.count(0, session) == 1, "the session goes on"


@pytest.mark.parametrize("proxy", [0, 1])
def test_events_of_a_stream_leave_as_they_come(fleet: Fleet, proxy: int) -> None:
    async def speak(replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        if request.method != "GET":
            return False
        head = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        await connection.send(actors_message.format_response("200 OK", head))
        for number in range(3):
            await connection.send(actors_message.format_chunk(b"data: %d\n\n" % number))
            await asyncio.sleep(0.3)
        return True

    session = fleet.open()
    for replica in fleet.replicas:
        replica.act = speak
    with stream(fleet, proxy, session) as (client, _):
        came = []
        for number in range(3):
            client.until(b"data: %d\n\n" % number)
            came.append(time.monotonic())
        assert came[1] - came[0] > 0.2
        assert came[2] - came[1] > 0.2
