"""Watched resources, and the streams of 2026-07-28 clients that hear of them and of the catalog.

Real: the relay at both ends. Scripted: backends. The client is a socket that reads events.
"""

import asyncio
import contextlib
import functools
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastproxy._ext import core
from fastproxy.vmcp import subscriptions, watches
from tests.kit import coroutines
from tests.vmcp import group, speaker

URI = "kit://greeting"
eventually = functools.partial(coroutines.eventually, seconds_max=20.0)
RESOURCES = {"tools": {}, "resources": {"subscribe": True}}


def server_with_resources(*eras: str) -> speaker.Speaker:
    server = speaker.Speaker(eras=eras)
    server.capabilities = RESOURCES

    async def resources(call: speaker.Call) -> None:
        await call.result({"resources": [{"uri": URI, "name": "greeting"}]})

    async def templates(call: speaker.Call) -> None:
        await call.result({"resourceTemplates": []})

    async def done(call: speaker.Call) -> None:
        await call.result({})

    async def listen(call: speaker.Call) -> None:
        await call.open_events()
        await call.event({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {}})
        server.streams.append(call)
        await call.until_gone()

    server.on("resources/list", resources)
    server.on("resources/templates/list", templates)
    server.on("resources/subscribe", done)
    server.on("resources/unsubscribe", done)
    server.on("subscriptions/listen", listen)
    return server


async def say_updated(server: speaker.Speaker, uri: str = URI) -> None:
    await server.say({"method": "notifications/resources/updated", "params": {"uri": uri}})


async def test_a_resource_at_a_session_backend_is_subscribed_to_until_nobody_wants_it() -> None:
    server = server_with_resources("legacy")
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        known = watches.Watches(running.backends, start_task=running.tasks.start)
        watch = known.of("one")
        assert watch is not None and known.of("nobody") is None
        first: list[str] = []
        second: list[str] = []
        watch.add(URI, first.append)
        watch.add(URI, second.append)
        await eventually(lambda: server.calls("resources/subscribe") and len(server.streams) == 2)
        assert server.calls("resources/subscribe")[0].session not in (None, "session-1"), "discovery's is left alone"
        await server.say({"id": "q", "method": "ping"})
        await eventually(lambda: len([call for call in server.heard if call.message.get("id") == "q"]) == 2)
        await say_updated(server)
        await eventually(lambda: first and second)
        watch.remove(URI, first.append)
        await say_updated(server)
        await eventually(lambda: len(second) == 2)
        assert len(first) == 1
        watch.remove(URI, second.append)
        await eventually(lambda: len(server.sessions) == 1)
        assert len(server.calls("resources/subscribe")) == 1


async def test_resources_of_a_modern_backend_share_one_stream_that_is_opened_anew_before_the_old_one_goes() -> None:
    server = server_with_resources("modern")
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        watch = watches.Watch(running.get("one"), start_task=running.tasks.start)
        heard: list[str] = []
        watch.add(URI, heard.append)
        await eventually(lambda: len(server.streams) == 1)
        watch.add("kit://other", heard.append)
        await eventually(lambda: len(server.calls("subscriptions/listen")) == 2 and len(server.streams) == 1)
        filters = [
            call.params["notifications"]["resourceSubscriptions"] for call in server.calls("subscriptions/listen")
        ]
        assert filters == [[URI], [URI, "kit://other"]]
        await say_updated(server, "kit://other")
        await eventually(lambda: heard == ["kit://other"])
        for uri in (URI, "kit://other"):
            watch.remove(uri, heard.append)
        await eventually(lambda: not server.streams)


async def test_what_may_have_changed_while_the_watch_was_broken_counts_as_updated() -> None:
    server = server_with_resources("legacy")
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        watch = watches.Watch(running.get("one"), start_task=running.tasks.start)
        heard: list[str] = []
        watch.add(URI, heard.append)
        await eventually(lambda: server.calls("resources/subscribe"))
        await server.stop()
        server.sessions.clear()
        async with server:
            await eventually(lambda: heard == [URI])
            await eventually(lambda: len(server.calls("resources/subscribe")) == 2)
            await eventually(lambda: len(server.streams) == 2)
            watch.remove(URI, heard.append)
            await eventually(lambda: len(server.sessions) == 1)


async def test_an_update_below_a_resource_is_an_update_for_who_watches_it() -> None:
    server = server_with_resources("modern")
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        watch = watches.Watch(running.get("one"), start_task=running.tasks.start)
        heard: list[str] = []
        watch.add("file:///project", heard.append)
        await eventually(lambda: server.streams)
        await say_updated(server, "file:///project/readme")
        await say_updated(server, "file:///projects")
        await eventually(lambda: heard == ["file:///project/readme"])
        watch.remove("file:///project", heard.append)
        await eventually(lambda: not server.streams)


# ---- the client's stream


class Door:
    """Gives every request to Subscriptions, as the front does."""

    def __init__(self, running: group.Running, served: subscriptions.Subscriptions) -> None:
        self.running = running
        self.served = served
        self.refused: list[str] = []
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.port = listening.getsockname()[1]
        running.reactor.handler = self  # type: ignore[assignment]
        running.reactor.listen(listening.detach(), "data", fast_lane=False)

    def begin(self, exchange: core.Exchange) -> None:
        self.running.tasks.start(self._serve(exchange), name="front")

    async def _serve(self, exchange: core.Exchange) -> None:
        body, _ = await exchange.peek(65536)
        message = json.loads(body)
        try:
            self.served.listen(exchange, json.dumps(message["id"]).encode(), json.dumps(message["params"]).encode())
        except subscriptions.WrongFilter as error:
            self.refused.append(str(error))
            exchange.answer(400, [], b"")

    resume = touch = access = None


class Client:
    """Reads events."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                line = await self.reader.readline()
                assert line, "the stream has ended"
                if line.startswith(b"data: "):
                    return dict(json.loads(line[6:]))

    def leave(self) -> None:
        self.writer.close()


@contextlib.asynccontextmanager
async def front(server: speaker.Speaker) -> AsyncIterator[tuple[Door, subscriptions.Subscriptions]]:
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        served = subscriptions.Subscriptions(
            watches.Watches(running.backends, start_task=running.tasks.start),
            locate=lambda uri: "one" if uri.startswith("kit:") else None,
            server_info=b'{"name":"group"}',
            start_task=running.tasks.start,
        )
        yield Door(running, served), served
        served.close()


async def listen(door: Door, request_id: object, **wanted: object) -> Client:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    message = {
        "jsonrpc": "2.0",
        "id": request_id,
        "method": "subscriptions/listen",
        "params": {"notifications": wanted},
    }
    body = json.dumps(message).encode()
    writer.write(b"POST /mcp HTTP/1.1\r\nHost: a\r\nMCP-Protocol-Version: 2026-07-28\r\n")
    writer.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return Client(reader, writer)


MARK = "io.modelcontextprotocol/subscriptionId"


async def test_a_client_hears_what_is_honoured_then_news_under_its_own_id_then_the_end() -> None:
    server = server_with_resources("legacy")
    async with front(server) as (door, served):
        client = await listen(
            door, "mine", toolsListChanged=True, promptsListChanged=False, resourceSubscriptions=[URI, "other://x", URI]
        )
        acknowledged = await client.next()
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {"toolsListChanged": True, "resourceSubscriptions": [URI]}
        assert acknowledged["params"]["_meta"] == {MARK: "mine"}
        served.announce(frozenset({"tools", "prompts", "resources"}))
        assert (await client.next())["method"] == "notifications/tools/list_changed"
        await eventually(lambda: len(server.streams) == 2)
        await say_updated(server)
        updated = await client.next()
        assert (updated["method"], updated["params"]["uri"]) == ("notifications/resources/updated", URI)
        assert updated["params"]["_meta"] == {MARK: "mine"}
        served.close()
        end = await client.next()
        assert (end["id"], end["result"]["resultType"]) == ("mine", "complete")
        assert end["result"]["_meta"] == {MARK: "mine", "io.modelcontextprotocol/serverInfo": {"name": "group"}}
        client.leave()


async def test_a_client_that_is_gone_leaves_nothing_behind() -> None:
    server = server_with_resources("legacy")
    async with front(server) as (door, served):
        clients = [await listen(door, number, resourceSubscriptions=[URI]) for number in range(5)]
        for client in clients:
            await client.next()
        await eventually(lambda: server.calls("resources/subscribe"))
        assert len(served) == 5
        assert len(server.calls("resources/subscribe")) == 1, "one watch for all"
        for client in clients:
            client.leave()
        await eventually(lambda: len(served) == 0)
        await eventually(lambda: len(server.sessions) == 1)


async def test_a_client_that_does_not_read_is_owed_each_news_once() -> None:
    server = server_with_resources("legacy")
    async with front(server) as (door, served):
        client = await listen(door, "x" * 50_000, toolsListChanged=True)
        await client.next()
        for _ in range(2000):
            served.announce(frozenset({"tools"}))
        (stream,) = served._streams
        assert len(stream.owed) <= 1
        client.leave()


@pytest.mark.parametrize(
    "wanted",
    [{"toolsListChanged": "yes"}, {"resourceSubscriptions": "kit://x"}, {"resourceSubscriptions": ["kit://x"] * 1001}],
    ids=["no truth", "no list", "too many"],
)
async def test_a_filter_that_is_none_is_refused(wanted: dict[str, object]) -> None:
    async with front(server_with_resources("legacy")) as (door, _):
        client = await listen(door, 1, **wanted)
        await eventually(lambda: door.refused)
        client.leave()
