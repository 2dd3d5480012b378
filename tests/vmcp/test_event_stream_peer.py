"""Backends of legacy HTTP+SSE that say odd things: where messages go, what is a session, what ends it.

Real: the relay. Scripted: the server, an endpoint for its stream and one for messages. Official servers of this
transport are in test_real_backends.py.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastproxy.vmcp import backends, peer
from tests.kit import coroutines
from tests.vmcp import group, speaker


class OldSpeaker(speaker.Speaker):
    """Tells `endpoint` (a format of the session's number), and answers on the stream of the session."""

    def __init__(self, endpoint: str = "/messages?session_id={}", *, before: str = "") -> None:
        super().__init__()
        self.endpoint = endpoint
        self.before = before
        self.opened: dict[str, speaker.Call] = {}
        self.on("GET", self._open)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/sse"

    async def _open(self, call: speaker.Call) -> None:
        number = str(len(self.opened) + 1)
        await call.open_events()
        if self.before:
            await call.event("hello", kind=self.before)
        await call.event(self.endpoint.format(number), kind="endpoint")
        self.opened[number] = call
        await call.until_gone()

    async def serve(self, call: speaker.Call) -> None:
        number = call.target.rpartition("=")[2]
        if number not in self.opened:
            await call.plain(404, b"Could not find session")
            return
        await call.plain(202, b"Accepted")
        if call.method == "initialize":
            info = {"name": "old", "version": "1"}
            result: dict[str, Any] = {
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {}},
                "serverInfo": info,
            }
        elif call.method == "tools/list":
            result = {"tools": self.tools}
        elif call.method == "tools/call":
            result = {"content": [{"type": "text", "text": f"called in {number}"}]}
        elif "id" in call.message and call.method:
            result = {}
        else:
            return
        await self.opened[number].event(call.envelope(result=result))


@contextlib.asynccontextmanager
async def spoken_to(server: OldSpeaker) -> AsyncIterator[backends.Backend]:
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        yield running.get("one")


async def open_session(backend: backends.Backend, heard: list[bytes] | None = None) -> peer.Opened:
    params = b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"}}'
    on_message = (heard if heard is not None else []).append
    return await backend.peer.open(params, headers=[], on_message=on_message, seconds_max=5.0)


async def call(backend: backends.Backend, opened: peer.Opened, seconds_max: float = 5.0) -> str:
    result = await backend.peer.request(
        "tools/call",
        b'{"name":"hello"}',
        leg_session_id=opened.session_id,
        protocol_version=opened.protocol_version,
        headers=[],
        on_message=peer.ignore,
        seconds_max=seconds_max,
    )
    return str(json.loads(result)["content"][0]["text"])


async def test_each_session_is_a_stream_and_answers_find_their_callers() -> None:
    async with spoken_to(OldSpeaker(before="welcome")) as backend:
        first, second = await open_session(backend), await open_session(backend)
        assert (first.session_id, second.session_id) == ("2", "3"), "the first is discovery's"
        said = await asyncio.gather(*(call(backend, opened) for opened in (first, second, first)))
        assert said == ["called in 2", "called in 3", "called in 2"]


@pytest.mark.parametrize(
    "endpoint",
    [
        pytest.param("http://127.0.0.1:1/messages?session_id={}", id="another port"),
        pytest.param("//evil.example/messages?session_id={}", id="another host"),
        pytest.param("/messages?session_id={} HTTP/1.1", id="a space"),
        pytest.param("/messages?session_id=\x00{}", id="a control byte"),
        pytest.param("/" + "x" * 5000, id="too long"),
        pytest.param("file:///etc/passwd", id="another scheme"),
    ],
)
async def test_messages_go_nowhere_but_to_the_backends_own_origin(endpoint: str) -> None:
    server = OldSpeaker(endpoint)
    async with server, group.running({"one": server.url}) as running:
        await coroutines.eventually(lambda: running.get("one").last_error is not None)
        assert "no address on its own origin" in str(running.get("one").last_error)
        assert not server.calls("initialize")


async def test_an_endpoint_may_be_relative_or_whole() -> None:
    server = OldSpeaker("messages?session_id={}")
    async with spoken_to(server) as backend:
        opened = await open_session(backend)
        assert await call(backend, opened) == "called in 2"
        server.endpoint = f"http://127.0.0.1:{server.port}/messages?session_id={{}}"
        assert await call(backend, await open_session(backend)) == "called in 3"


async def test_what_comes_beside_answers_is_heard_by_who_opened_the_session() -> None:
    server = OldSpeaker()
    async with spoken_to(server) as backend:
        heard: list[bytes] = []
        opened = await open_session(backend, heard)
        stream = server.opened[str(opened.session_id)]
        await stream.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        await stream.event({"jsonrpc": "2.0", "id": 1, "method": "roots/list"})
        await stream.event({"jsonrpc": "2.0", "id": "nobody's", "result": {}})
        await stream.event("no JSON")
        await coroutines.eventually(lambda: len(heard) == 2)


async def test_a_session_ends_with_its_stream_and_its_calls_may_have_run() -> None:
    server = OldSpeaker()
    async with spoken_to(server) as backend:
        opened = await open_session(backend)

        async def swallow(asked: speaker.Call) -> None:
            await asked.plain(202)
            server.opened[str(opened.session_id)].writer.close()

        server.on("tools/call", swallow)
        with pytest.raises(peer.BackendError) as lost:
            await call(backend, opened)
        assert (lost.value.reason, lost.value.may_have_run) == ("backend_lost", True)
        with pytest.raises(peer.SessionLost):
            await call(backend, opened)


async def test_a_call_that_is_late_is_cancelled_and_its_late_answer_is_nobodys() -> None:
    server = OldSpeaker()
    async with spoken_to(server) as backend:
        opened = await open_session(backend)
        late: list[speaker.Call] = []

        async def dawdle(asked: speaker.Call) -> None:
            late.append(asked)
            await asked.plain(202)

        server.on("tools/call", dawdle)
        with pytest.raises(peer.BackendError) as slow:
            await call(backend, opened, seconds_max=0.2)
        assert slow.value.reason == "backend_timeout"
        await coroutines.eventually(lambda: server.calls("notifications/cancelled"))
        assert server.calls("notifications/cancelled")[0].params["requestId"] == late[0].message["id"]
        await server.opened[str(opened.session_id)].event(late[0].envelope(result={"content": []}))
        server.on("tools/call", server.serve)
        assert await call(backend, opened) == f"called in {opened.session_id}"


async def test_an_ended_session_closes_its_stream() -> None:
    server = OldSpeaker()
    async with spoken_to(server) as backend:
        opened = await open_session(backend)
        assert opened.session_id is not None
        await backend.peer.end(opened.session_id, protocol_version="2024-11-05", headers=[], seconds_max=5.0)
        await coroutines.eventually(lambda: server.opened[str(opened.session_id)].writer.is_closing())
        with pytest.raises(peer.SessionLost):
            await call(backend, opened)


async def test_a_stream_that_says_nothing_costs_its_deadline() -> None:
    server = OldSpeaker()

    async def silent(asked: speaker.Call) -> None:
        await asked.open_events()
        await asked.until_gone()

    server.on("GET", silent)
    async with server, group.running({"one": group.config("one", server.url, timeout_seconds=0.3)}) as running:
        await coroutines.eventually(lambda: "no whole answer" in str(running.get("one").last_error))
