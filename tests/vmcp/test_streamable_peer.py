"""Calls of our own over streamable HTTP: what is sent, which answers count, what becomes of a call that goes wrong.

Real: the relay and its connections. Scripted: the server. Official servers are in test_real_backends.py.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastproxy.vmcp import backends, peer
from tests.kit import coroutines
from tests.vmcp import group, speaker

LEGACY = "2025-11-25"


@contextlib.asynccontextmanager
async def spoken_to(server: speaker.Speaker, **members: Any) -> AsyncIterator[backends.Backend]:
    """The backend, of which discovery has had its look."""
    async with server, group.running({"one": group.config("one", server.url, **members)}) as running:
        await running.known("one")
        yield running.get("one")


async def ask(
    backend: backends.Backend,
    method: str = "tools/call",
    params: bytes = b'{"name":"hello"}',
    *,
    session: str | None = "session-1",
    version: str = LEGACY,
    on_message: peer.OnMessage = peer.ignore,
    seconds_max: float = 5.0,
) -> bytes:
    return await backend.peer.request(
        method,
        params,
        leg_session_id=session,
        protocol_version=version,
        headers=[(b"X-Passed", b"on")],
        on_message=on_message,
        seconds_max=seconds_max,
    )


async def test_a_call_carries_its_session_its_revision_and_its_fields_and_brings_the_result_as_written() -> None:
    server = speaker.Speaker()

    async def call_it(call: speaker.Call) -> None:
        await call.body(
            b'{"jsonrpc":"2.0","id":"%s","result":{ "b":1e2, "a":"\\u00e9" }}' % call.message["id"].encode()
        )

    server.on("tools/call", call_it)
    async with spoken_to(server) as backend:
        assert await ask(backend) == b'{ "b":1e2, "a":"\\u00e9" }'
    call = server.calls("tools/call")[0]
    assert call.fields["mcp-session-id"] == "session-1"
    assert call.fields["mcp-protocol-version"] == LEGACY
    assert call.fields["x-passed"] == "on"
    assert call.fields["host"] == f"127.0.0.1:{server.port}"
    assert "mcp-method" not in call.fields


async def test_a_modern_call_names_its_method_and_its_target_and_no_session() -> None:
    server = speaker.Speaker(eras=("legacy", "modern"))
    async with spoken_to(server) as backend:
        await ask(backend, params='{"name":"grüß"}'.encode(), version=speaker.MODERN)
    call = server.calls("tools/call")[0]
    assert call.fields["mcp-method"] == "tools/call"
    assert call.fields["mcp-name"] == "=?base64?Z3LDvMOf?="
    assert "mcp-session-id" not in call.fields


async def test_what_comes_before_the_answer_is_heard_and_the_connection_serves_again() -> None:
    server = speaker.Speaker()

    async def with_progress(call: speaker.Call) -> None:
        await call.open_events()
        await call.event({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}})
        await call.event({"jsonrpc": "2.0", "id": 1, "method": "sampling/createMessage", "params": {}})
        await call.event({"jsonrpc": "2.0", "id": "other", "result": {"not": "ours"}})
        await call.event(call.envelope(result={"ok": True}))
        await call.end_events()

    server.on("tools/call", with_progress)
    heard: list[bytes] = []
    async with spoken_to(server) as backend:
        for _ in range(3):
            assert await ask(backend, on_message=heard.append) == b'{"ok": true}'
        assert b"notifications/progress" in heard[0] and b"sampling" in heard[1]
        assert len(heard) == 6
        assert server.connections <= 3, "connections are kept"


async def test_a_stream_that_ends_early_is_resumed_where_it_ended() -> None:
    server = speaker.Speaker()

    async def break_off(call: speaker.Call) -> None:
        await call.open_events()
        await call.event("", event_id="e1", retry=20)
        await call.end_events()
        server.asked = call  # type: ignore[attr-defined]

    async def resume(call: speaker.Call) -> None:
        if "last-event-id" not in call.fields:
            await server.serve(call)
            return
        assert (call.fields["last-event-id"], call.session) == ("e1", "session-1")
        asked = server.asked  # type: ignore[attr-defined]
        await call.open_events()
        await call.event(asked.envelope(result={"resumed": True}))
        await call.end_events()

    server.on("tools/call", break_off)
    server.on("GET", resume)
    async with spoken_to(server) as backend:
        assert await ask(backend) == b'{"resumed": true}'
    assert len(server.calls("tools/call")) == 1


async def test_a_stream_of_numbered_events_goes_on_after_the_last_one_when_the_server_ends_it() -> None:
    server = speaker.Speaker()
    asked: list[str | None] = []

    async def listen(call: speaker.Call) -> None:
        if call.session == "session-1":
            await server.serve(call)  # discovery's
            return
        asked.append(call.fields.get("last-event-id"))
        await call.open_events()
        number = len(asked)
        if number > 3:
            await call.until_gone()
            return
        message = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": number}}
        await call.event(message, event_id=f"e{number}", retry=20)
        await (call.end_events() if number != 2 else call.writer.drain())
        if number == 2:
            call.writer.close()  # in the middle: as good as an end

    server.on("GET", listen)
    async with spoken_to(server) as backend:
        server.sessions.add("mine")
        heard: list[bytes] = []
        listening = asyncio.create_task(
            backend.peer.listen(leg_session_id="mine", protocol_version=LEGACY, headers=[], on_message=heard.append)
        )
        await coroutines.eventually(lambda: len(asked) == 4, seconds_max=15.0)
        assert asked == [None, "e1", "e2", "e3"]
        assert len(heard) == 3
        listening.cancel()
        await asyncio.wait({listening})


async def test_an_error_is_the_backends_own_with_all_of_it() -> None:
    server = speaker.Speaker()

    async def refuse(call: speaker.Call) -> None:
        await call.error(-32042, "visit this", data={"url": "https://example.com"})

    server.on("tools/call", refuse)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.Refused, match="error -32042: visit this") as refused:
            await ask(backend)
        assert refused.value.code == -32042
        assert b"example.com" in refused.value.error
        assert not refused.value.may_have_run


@pytest.mark.parametrize(
    ("status", "code", "text"),
    [
        pytest.param(404, -32001, "Session not found", id="as the specification has it"),
        pytest.param(404, None, "", id="bare"),
        pytest.param(400, -32000, "Bad Request: No valid session ID provided", id="as the TypeScript SDK has it"),
        pytest.param(400, -32600, "session-1 is unknown", id="by its name"),
    ],
)
async def test_a_session_that_the_backend_does_not_know_is_lost_and_the_call_has_not_run(
    status: int, code: int | None, text: str
) -> None:
    server = speaker.Speaker()

    async def forget(call: speaker.Call) -> None:
        await (call.plain(status) if code is None else call.error(code, text, status=status))

    server.on("tools/call", forget)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.SessionLost) as lost:
            await ask(backend)
        assert not lost.value.may_have_run


async def test_a_400_that_says_something_else_is_no_loss_of_the_session() -> None:
    server = speaker.Speaker()

    async def refuse(call: speaker.Call) -> None:
        await call.error(-32602, "wrong arguments", status=400)

    server.on("tools/call", refuse)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.Refused):
            await ask(backend)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_denial_is_told_apart(status: int) -> None:
    server = speaker.Speaker()

    async def deny(call: speaker.Call) -> None:
        await call.plain(status, b'{"error":"invalid_token"}')

    server.on("tools/call", deny)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.Unauthorized) as denied:
            await ask(backend)
        assert denied.value.status == status


@pytest.mark.parametrize(("status", "ran"), [(500, True), (502, True), (418, False)])
async def test_a_status_that_says_no_is_an_error_and_a_fault_of_the_server_may_have_run(status: int, ran: bool) -> None:
    server = speaker.Speaker()

    async def fail(call: speaker.Call) -> None:
        await call.plain(status, b"oh")

    server.on("tools/call", fail)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.WrongStatus, match=str(status)) as wrong:
            await ask(backend)
        assert wrong.value.may_have_run is ran


async def test_a_call_that_takes_too_long_may_have_run_and_is_cancelled_by_its_own_id() -> None:
    server = speaker.Speaker()

    async def dawdle(call: speaker.Call) -> None:
        await call.until_gone()

    server.on("tools/call", dawdle)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.BackendError) as slow:
            await ask(backend, seconds_max=0.1)
        assert (slow.value.reason, slow.value.may_have_run) == ("backend_timeout", True)
        await coroutines.eventually(lambda: server.calls("notifications/cancelled"))
        cancelled = server.calls("notifications/cancelled")[0]
        assert cancelled.params["requestId"] == server.calls("tools/call")[0].message["id"]
        assert cancelled.session == "session-1"


async def test_a_modern_call_is_cancelled_by_the_end_of_its_stream_and_by_no_message() -> None:
    server = speaker.Speaker(eras=("modern",))
    gone = asyncio.Event()

    async def dawdle(call: speaker.Call) -> None:
        await call.open_events()
        await call.until_gone()
        gone.set()

    server.on("tools/call", dawdle)
    async with spoken_to(server) as backend:
        task = asyncio.create_task(ask(backend, session=None, version=speaker.MODERN))
        await coroutines.eventually(lambda: server.calls("tools/call"))
        task.cancel()
        await asyncio.wait({task})
        await gone.wait()
        assert not server.calls("notifications/cancelled")


async def test_a_call_is_never_sent_twice_but_a_question_is_when_its_connection_was_closed_meanwhile() -> None:
    server = speaker.Speaker()

    async def close_after(call: speaker.Call) -> None:
        await call.result({"tools": []})
        call.writer.close()  # without a word of it: the next request meets the end

    async with spoken_to(server) as backend:
        server.on("ping", close_after)
        before = len(server.calls("tools/call"))
        await ask(backend, "ping", b"")
        await ask(backend, "tools/list", b"")

        async def swallow(call: speaker.Call) -> None:
            call.writer.close()

        server.on("tools/call", swallow)
        with pytest.raises(peer.BackendError) as lost:
            await ask(backend)
        assert (lost.value.reason, lost.value.may_have_run) == ("backend_lost", True)
        assert len(server.calls("tools/call")) == before + 1


@pytest.mark.parametrize(
    ("location", "followed"),
    [
        pytest.param("/mcp/", True, id="a slash"),
        pytest.param("http://127.0.0.1:{port}/other?x=1", True, id="whole, its own origin"),
        pytest.param("http://127.0.0.1:1/mcp/", False, id="another port"),
        pytest.param("//evil.example/mcp/", False, id="another host"),
        pytest.param("/a b", False, id="no target"),
    ],
)
async def test_a_backend_may_send_us_on_but_only_within_its_own_origin(location: str, followed: bool) -> None:
    async with speaker.Speaker() as server:
        place = location.format(port=server.port)
        target = place.partition(str(server.port))[2] or place

        async def moved(call: speaker.Call) -> None:
            if call.target == target:
                await server.serve(call)
            else:
                await call.plain(307, fields={"Location": place})

        for method in ("server/discover", "initialize", "tools/list", "tools/call", "notifications/initialized", "GET"):
            server.on(method, moved)
        async with group.running({"one": server.url}) as running:
            if not followed:
                await coroutines.eventually(lambda: running.get("one").last_error is not None)
                assert "answered 307" in str(running.get("one").last_error)
                assert {call.target for call in server.heard} == {"/mcp"}
                return
            await running.known("one")
            await ask(running.get("one"))
            asked = [call.target for call in server.heard]
            assert asked[:2] == ["/mcp", target] and asked.count("/mcp") == 1, "it is remembered"


async def test_nobody_there_means_that_nothing_has_run() -> None:
    server = speaker.Speaker()
    async with spoken_to(server) as backend:
        await server.stop()
        with pytest.raises(peer.BackendError) as gone:
            await ask(backend, session=None)
        assert (gone.value.reason, gone.value.may_have_run) == ("backend_unreachable", False)


async def test_injected_headers_are_on_every_request_probes_included() -> None:
    server = speaker.Speaker()
    secret = (group.vmcp_schema.Header("Authorization", "Bearer s3cret"), group.vmcp_schema.Header("X-Team", "a"))
    async with spoken_to(server, headers=secret) as backend:
        await ask(backend)
    assert server.heard
    assert {call.fields.get("authorization") for call in server.heard} == {"Bearer s3cret"}
    assert {call.fields.get("x-team") for call in server.heard} == {"a"}


async def test_a_stream_that_the_backend_does_not_have_is_told_apart_from_one_that_is_lost() -> None:
    server = speaker.Speaker()

    async def no_stream(call: speaker.Call) -> None:
        await call.plain(405)

    server.on("GET", no_stream)
    async with spoken_to(server) as backend:
        with pytest.raises(peer.NoStream):
            await backend.peer.listen(
                leg_session_id="session-1", protocol_version=LEGACY, headers=[], on_message=peer.ignore
            )
        server.sessions.clear()
        server.on("GET", server.serve)
        with pytest.raises(peer.SessionLost):
            await backend.peer.listen(
                leg_session_id="session-1", protocol_version=LEGACY, headers=[], on_message=peer.ignore
            )


async def test_an_end_is_heard_and_a_backend_that_knows_of_no_end_is_no_fault() -> None:
    server = speaker.Speaker()
    async with spoken_to(server) as backend:
        await backend.peer.end("session-1", protocol_version=LEGACY, headers=[], seconds_max=5.0)
        assert "session-1" not in server.sessions

        async def not_allowed(call: speaker.Call) -> None:
            await call.plain(405)

        server.on("DELETE", not_allowed)
        await backend.peer.end("session-1", protocol_version=LEGACY, headers=[], seconds_max=5.0)
