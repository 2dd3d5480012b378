"""What backends offer, found out in the background: eras, lists, their changes, and backends that come and go.

Real: the relay, the discovery tasks, and on the other side a server that says what the test tells it. Official servers
are in test_backends_real.py, hostile ones in test_lying_backends.py.
"""

import asyncio

from tests.kit import coroutines
from tests.vmcp import group, speaker


async def test_a_legacy_backend_is_known_by_its_lists_and_its_session_is_ended_at_the_end() -> None:
    async with speaker.Speaker(tools=[speaker.tool("b"), speaker.tool("a")]) as server:
        async with group.running({"one": server.url}) as running:
            await running.known("one")
            backend = running.get("one")
            assert running.tools("one") == ["b", "a"]
            assert (backend.era, backend.health.status, backend.last_error) == ("legacy", "healthy", None)
            assert backend.speaks_legacy and not backend.speaks_modern
            assert len(server.calls("initialize")) == 1
            assert server.sessions
        assert not server.sessions, "the session of ours was left behind"


async def test_a_dual_backend_is_remembered_as_both_and_is_listed_in_its_session() -> None:
    async with speaker.Speaker(eras=("legacy", "modern")) as server, group.running({"one": server.url}) as running:
        await running.known("one")
        assert running.get("one").era == "dual"
        assert [call.session for call in server.calls("tools/list")] == ["session-1"]


async def test_a_modern_backend_is_asked_without_a_session_and_with_its_headers() -> None:
    async with speaker.Speaker(eras=("modern",)) as server, group.running({"one": server.url}) as running:
        await running.known("one")
        backend = running.get("one")
        assert backend.era == "modern" and not backend.speaks_legacy
        listing = server.calls("tools/list")[0]
        assert listing.fields["mcp-method"] == "tools/list"
        assert listing.fields["mcp-protocol-version"] == speaker.MODERN
        assert "mcp-session-id" not in listing.fields
        meta = listing.params["_meta"]
        assert meta["io.modelcontextprotocol/protocolVersion"] == speaker.MODERN
        assert meta["io.modelcontextprotocol/clientInfo"]["name"] == "fastproxy"


async def test_a_modern_backend_that_says_its_list_has_changed_is_read_again() -> None:
    async with speaker.Speaker(eras=("modern",)) as server:

        async def listen(call: speaker.Call) -> None:
            assert call.params["notifications"] == {"toolsListChanged": True}
            await call.open_events()
            server.streams.append(call)
            await call.until_gone()

        server.on("subscriptions/listen", listen)
        async with group.running({"one": server.url}) as running:
            await running.known("one")
            await coroutines.eventually(lambda: server.streams)
            server.tools = [speaker.tool("other")]
            await server.say({"method": "notifications/tools/list_changed"})
            await coroutines.eventually(lambda: running.tools("one") == ["other"])


async def test_a_dual_backend_is_heard_in_both_eras() -> None:
    async with speaker.Speaker(eras=("legacy", "modern")) as server:

        async def listen(call: speaker.Call) -> None:
            await call.open_events()
            server.streams.append(call)
            await call.until_gone()

        server.on("subscriptions/listen", listen)
        async with group.running({"one": server.url}) as running:
            await running.known("one")
            await coroutines.eventually(lambda: {call.verb for call in server.streams} == {"GET", "POST"})
            for verb in ("GET", "POST"):
                server.tools = [speaker.tool(f"changed in {verb}")]
                (stream,) = [call for call in server.streams if call.verb == verb]
                await stream.event({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
                await coroutines.eventually(lambda: running.tools("one") == [server.tools[0]["name"]])


async def test_what_a_backend_says_of_its_lists_is_told_though_they_look_as_before() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        await coroutines.eventually(lambda: server.streams)
        running.changes.clear()
        await server.say({"method": "notifications/tools/list_changed"})
        await coroutines.eventually(lambda: running.changes == ["one"])
        assert running.get("one").take_said() == {"tools"}
        assert running.get("one").take_said() == frozenset()


async def test_a_passing_refusal_says_nothing_about_the_era_which_is_asked_again() -> None:
    async with speaker.Speaker(eras=("legacy", "modern")) as server:

        async def busy(call: speaker.Call) -> None:
            await call.plain(503)

        server.on("server/discover", busy)
        async with group.running({"one": server.url}, health_interval_seconds=0.1) as running:
            await running.known("one")
            assert running.get("one").era == "legacy"
            server.on("server/discover", server.serve)
            await coroutines.eventually(lambda: running.get("one").era == "dual")


async def test_a_change_of_the_list_is_heard_on_the_stream_and_told_once() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        await coroutines.eventually(lambda: server.streams)
        running.changes.clear()
        server.tools = [speaker.tool("new")]
        for _ in range(5):  # servers that start add their tools one by one
            await server.say({"method": "notifications/tools/list_changed"})
        await coroutines.eventually(lambda: running.tools("one") == ["new"])
        assert running.changes == ["one"]
        assert len(server.calls("tools/list")) <= 3


async def test_lists_that_are_as_they_were_are_no_change() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        running.changes.clear()
        await running.get("one").reread(seconds_max=5.0)
        assert len(server.calls("tools/list")) == 2
        assert running.changes == []


async def test_pages_are_followed_to_the_end() -> None:
    async with speaker.Speaker() as server:

        async def paged(call: speaker.Call) -> None:
            at = int(call.params.get("cursor", "0"))
            more = {"nextCursor": str(at + 1)} if at < 4 else {}
            await call.result({"tools": [speaker.tool(f"tool{at}")], **more})

        server.on("tools/list", paged)
        async with group.running({"one": server.url}) as running:
            await running.known("one")
            assert running.tools("one") == [f"tool{number}" for number in range(5)]


async def test_only_what_is_advertised_is_asked_for() -> None:
    async with speaker.Speaker() as server:
        server.capabilities = {"tools": {}, "prompts": {}}

        async def prompts(call: speaker.Call) -> None:
            await call.result({"prompts": [{"name": "greet"}]})

        server.on("prompts/list", prompts)
        async with group.running({"one": server.url}) as running:
            await running.known("one")
            shown = running.get("one").shown
            assert shown is not None and [offer.name for offer in shown.prompts] == ["greet"]
            assert {call.method for call in server.heard if call.method.endswith("/list")} == {
                "tools/list",
                "prompts/list",
            }


async def test_what_the_backend_asks_in_our_session_is_answered_for_nobody_is_behind_it() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        await coroutines.eventually(lambda: server.streams)
        await server.say({"id": "p1", "method": "ping"})
        await server.say({"id": 7, "method": "sampling/createMessage", "params": {}})

        def answers() -> dict[object, dict[str, object]]:
            return {
                call.message["id"]: call.message
                for call in server.heard
                if "method" not in call.message and call.message
            }

        await coroutines.eventually(lambda: len(answers()) == 2)
        assert answers()["p1"]["result"] == {}
        assert answers()[7]["error"]["code"] == -32601  # type: ignore[index]


async def test_a_dead_backend_delays_nobody_and_joins_when_it_is_there() -> None:
    async with speaker.Speaker() as alive:
        late = speaker.Speaker(tools=[speaker.tool("late")])
        async with late:
            pass  # a port that is free again
        async with group.running({"alive": alive.url, "late": late.url}) as running:
            await running.known("alive")
            await coroutines.eventually(lambda: running.get("late").last_error is not None)
            assert running.tools("late") is None
            async with late:
                await running.known("late")
                assert running.tools("late") == ["late"]
                assert running.get("late").last_error is None


async def test_a_backend_that_has_begun_anew_is_met_again_at_once() -> None:
    async with speaker.Speaker() as server, group.running({"one": server.url}) as running:
        await running.known("one")
        await coroutines.eventually(lambda: server.streams)
        await server.stop()
        server.sessions.clear()
        server.tools = [speaker.tool("second life")]
        async with server:
            await coroutines.eventually(lambda: running.tools("one") == ["second life"])
        assert len(server.calls("initialize")) == 2


async def test_one_failed_probe_hides_nothing_and_three_in_a_row_do_until_one_is_answered() -> None:
    async with speaker.Speaker() as server:
        failing = False
        answered = asyncio.Event()

        async def ping(call: speaker.Call) -> None:
            if failing:
                await asyncio.sleep(30)
            await call.result({})
            answered.set()

        server.on("ping", ping)
        rules = {"health_interval_seconds": 0.1, "health_timeout_seconds": 0.1, "unhealthy_threshold": 3}
        async with group.running({"one": server.url}, **rules) as running:
            await running.known("one")
            await answered.wait()
            failing = True
            await coroutines.eventually(lambda: running.get("one").health.failures == 1)
            assert running.get("one").health.status == "degraded"
            assert running.tools("one") == ["hello"]
            await coroutines.eventually(lambda: running.get("one").health.status == "unhealthy")
            assert running.tools("one") is None
            assert running.changes[-1] == "one"
            failing = False
            await coroutines.eventually(lambda: running.tools("one") == ["hello"])
        assert len(server.calls("initialize")) == 1, "a probe opens no session"


async def test_a_backend_that_denies_us_is_told_apart_from_one_that_is_ill() -> None:
    async with speaker.Speaker() as server:

        async def deny(call: speaker.Call) -> None:
            await call.plain(401)

        server.on("server/discover", deny)
        async with group.running({"one": server.url}) as running:
            await coroutines.eventually(lambda: running.get("one").health.status == "unauthenticated")
            assert running.get("one").health.category == "authentication_failed"
