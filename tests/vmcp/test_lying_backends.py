"""One slow, one dead, one lying backend: the others are unaffected, and what is held for any of them is bounded.

Real: the relay, discovery, calls by Peer. Scripted: servers that lie, each in its own way, beside a sound one.
"""

import asyncio
import gc
import itertools
import resource

import pytest

from fastproxy.vmcp import discovery, offers, peer, survey
from tests.kit import coroutines
from tests.vmcp import group, speaker

LIES = {}


def lie(name: str):  # type: ignore[no-untyped-def]
    def remember(act):  # type: ignore[no-untyped-def]
        LIES[name] = act
        return act

    return remember


@lie("another request's id")
async def wrong_id(call: speaker.Call) -> None:
    await call.body({"jsonrpc": "2.0", "id": "not yours", "result": {"tools": [speaker.tool("stolen")]}})


@lie("no JSON-RPC")
async def no_rpc(call: speaker.Call) -> None:
    await call.body({"tools": []})


@lie("no JSON")
async def no_json(call: speaker.Call) -> None:
    await call.body(b"<html>tools</html>")


@lie("no HTTP")
async def no_http(call: speaker.Call) -> None:
    call.writer.write(b"220 mail.example SMTP\r\n\r\n")
    call.writer.close()


@lie("nothing but a hang-up")
async def hang_up(call: speaker.Call) -> None:
    call.writer.close()


@lie("accepted, for a request")
async def accepted(call: speaker.Call) -> None:
    await call.plain(202)


@lie("events that end without an answer")
async def empty_events(call: speaker.Call) -> None:
    await call.open_events()
    await call.end_events()


@lie("an answer in the middle of which it stops")
async def torn(call: speaker.Call) -> None:
    call.writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\nContent-Type: application/json\r\n\r\n{"jsonrpc"')
    call.writer.close()


@pytest.mark.parametrize("name", LIES)
async def test_a_backend_that_lies_about_its_list_harms_only_itself(name: str) -> None:
    async with speaker.Speaker() as sound, speaker.Speaker() as lying:
        lying.on("tools/list", LIES[name])
        async with group.running({"lying": lying.url, "sound": sound.url}) as running:
            await running.known("sound")
            await coroutines.eventually(lambda: running.get("lying").last_error is not None)
            assert running.tools("lying") is None
            assert running.tools("sound") == ["hello"]
            assert running.get("sound").health.status == "healthy"


async def test_a_stream_of_events_that_never_ends_costs_its_deadline_and_no_memory() -> None:
    said = 0

    async def babble(call: speaker.Call) -> None:
        nonlocal said
        await call.open_events()
        while not call.writer.is_closing():
            await call.event({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "x" * 10_000}})
            said += 1
            await asyncio.sleep(0)

    async with speaker.Speaker() as sound, speaker.Speaker() as lying:
        lying.on("tools/list", babble)
        where = {"lying": group.config("lying", lying.url, timeout_seconds=1.0), "sound": sound.url}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        async with group.running(where) as running:
            await running.known("sound")
            await coroutines.eventually(lambda: "no whole answer" in (running.get("lying").last_error or ""))
            assert running.get("lying").endpoint is not None
        grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert said > 100
        assert grown_kib < 32 << 10, f"{grown_kib} KiB for {said} events"


async def test_a_backend_whose_list_never_comes_is_not_given_ever_more_sessions(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def silent(call: speaker.Call) -> None:
        await call.until_gone()

    async with speaker.Speaker() as lying:
        lying.on("tools/list", silent)
        async with group.running({"lying": group.config("lying", lying.url, timeout_seconds=0.1)}) as running:
            await coroutines.eventually(lambda: len(lying.calls("initialize")) >= 4, seconds_max=20.0)
            assert len(lying.sessions) <= 2
            assert running.get("lying").last_error is not None
    warned = [record for record in caplog.records if "backend failed" in record.getMessage()]
    assert len(warned) == 1, "it is said once, not at every try"


async def test_one_endless_event_is_cut_at_its_bound() -> None:
    async def swell(call: speaker.Call) -> None:
        await call.open_events()
        piece = b"x" * 65536
        with_data = b"data: "
        while not call.writer.is_closing():
            call.writer.write(b"%x\r\n%s\r\n" % (len(piece) + len(with_data), with_data + piece))
            with_data = b""
            await call.writer.drain()

    async with speaker.Speaker() as sound, speaker.Speaker() as lying:
        lying.on("tools/list", swell)
        async with group.running({"lying": lying.url, "sound": sound.url}) as running:
            await coroutines.eventually(lambda: "too large" in (running.get("lying").last_error or ""))
            assert running.tools("sound") == ["hello"]


async def test_a_list_of_pages_without_end_is_read_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey, "PAGES_MAX", 20)
    numbers = itertools.count()

    async def endless(call: speaker.Call) -> None:
        number = next(numbers)
        await call.result({"tools": [speaker.tool(f"tool{number}")], "nextCursor": f"page{number}"})

    async with speaker.Speaker() as lying:
        lying.on("tools/list", endless)
        async with group.running({"lying": lying.url}) as running:
            await running.known("lying")
            shown = running.get("lying").shown
            assert shown is not None
            assert len(shown.tools) == 20
            assert "has no end" in shown.rejected[0]


async def test_a_cursor_that_leads_back_ends_the_list() -> None:
    async def circle(call: speaker.Call) -> None:
        at = call.params.get("cursor", "a")
        await call.result({"tools": [speaker.tool(f"tool-{at}")], "nextCursor": "b" if at == "a" else "a"})

    async with speaker.Speaker() as lying:
        lying.on("tools/list", circle)
        async with group.running({"lying": lying.url}) as running:
            await running.known("lying")
            assert running.tools("lying") == ["tool-a", "tool-b"]


async def test_a_huge_list_is_cut_and_the_rest_is_used() -> None:
    many = [speaker.tool(f"tool{number}") for number in range(12_000)]
    async with speaker.Speaker(tools=many) as lying, group.running({"lying": lying.url}) as running:
        await running.known("lying")
        tools = running.tools("lying")
        assert tools is not None and len(tools) == offers.COUNT_MAX["tools"]
        assert "longer than" in running.get("lying").offers.rejected[0]  # type: ignore[union-attr]


async def test_an_answer_beyond_all_bounds_is_not_read() -> None:
    async def flood(call: speaker.Call) -> None:
        call.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")
        while not call.writer.is_closing():
            call.writer.write(b" " * 65536)
            await call.writer.drain()

    async with speaker.Speaker() as lying:
        lying.on("tools/list", flood)
        async with group.running({"lying": lying.url}) as running:
            await coroutines.eventually(lambda: "an answer over" in (running.get("lying").last_error or ""))


async def test_invalid_tools_are_left_out_by_name_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    tools = [
        speaker.tool("good"),
        {"name": "no schema"},
        speaker.tool("wrong schema", inputSchema={"type": "string"}),
        speaker.tool("good"),
        "not even an object",
    ]
    async with speaker.Speaker(tools=tools) as lying, group.running({"lying": lying.url}) as running:
        await running.known("lying")
        assert running.tools("lying") == ["good"]
        rejected = running.get("lying").offers.rejected  # type: ignore[union-attr]
        assert [line.split(":")[0] for line in rejected] == [
            "tool no schema",
            "tool wrong schema",
            "tool good",
            "tool [4]",
        ]
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warned if "tool no schema" in line and "backend=lying" in line]


async def test_a_list_that_breaks_later_leaves_what_was_known() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")

        async def broken(call: speaker.Call) -> None:
            await call.error(-32603, "database is down")

        server.on("tools/list", broken)
        await running.get("one").reread(seconds_max=5.0)
        assert running.tools("one") == ["hello"]
        assert "database is down" in running.get("one").offers.rejected[0]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "version", ["1\r\nX-Evil: yes", "", "ä" * 3, 7], ids=["line break", "empty", "letters", "number"]
)
async def test_a_revision_that_no_header_could_say_is_refused(version: object) -> None:
    async def initialize(call: speaker.Call) -> None:
        await call.result({"protocolVersion": version, "capabilities": {}, "serverInfo": {}})

    async with speaker.Speaker() as lying:
        lying.on("initialize", initialize)
        async with group.running({"lying": lying.url}) as running:
            await coroutines.eventually(lambda: running.get("lying").last_error is not None)
            assert "initialize result is malformed" in str(running.get("lying").last_error)


async def test_a_slow_backend_is_waited_for_by_nobody() -> None:
    async with speaker.Speaker() as sound, speaker.Speaker(tools=[speaker.tool("slow")]) as slow:

        async def dawdle(call: speaker.Call) -> None:
            await asyncio.sleep(1.0)
            await slow.serve(call)

        slow.on("initialize", dawdle)
        async with group.running({"slow": slow.url, "sound": sound.url}) as running:
            await running.known("sound")
            assert running.tools("slow") is None
            await running.known("slow")
            assert running.tools("slow") == ["slow"]


async def test_a_backend_that_floods_with_changes_is_read_no_faster_than_it_answers() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        await coroutines.eventually(lambda: server.streams)
        for _ in range(500):
            await server.say({"method": "notifications/tools/list_changed"})
        await asyncio.sleep(4 * discovery.COALESCE_SECONDS)
        assert len(server.calls("tools/list")) < 20


async def test_nothing_is_left_of_a_hundred_calls_that_got_no_answer() -> None:
    async def silent(call: speaker.Call) -> None:
        await call.until_gone()

    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        backend = running.get("one")
        server.on("tools/call", silent)

        async def ask() -> str:
            try:
                await backend.peer.request(
                    "tools/call",
                    b'{"name":"hello"}',
                    leg_session_id="session-1",
                    protocol_version="2025-11-25",
                    headers=[],
                    on_message=peer.ignore,
                    seconds_max=0.3,
                )
            except peer.BackendError as error:
                return f"{error.reason} {error.may_have_run}"
            return "answered"

        assert set(await asyncio.gather(*(ask() for _ in range(100)))) == {"backend_timeout True"}
        assert backend.endpoint is not None
        await coroutines.eventually(lambda: len(server.calls("notifications/cancelled")) == 100)
        await coroutines.eventually(lambda: backend.endpoint.in_flight <= 1)  # type: ignore[union-attr]
        gc.collect()
        assert running.tools("one") == ["hello"]
