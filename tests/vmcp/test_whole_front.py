"""vMCP as its users have it, a process of its own: what a slow, a dead and a lying backend cost the others, circuits,
headers, certificates, readiness.

Real: the program with ToolHive's file, its admin address. Scripted: backends, on the test's own loop (speaker.py); the
client is plain HTTP.
"""

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import json
import pathlib
import ssl
import time
from collections.abc import AsyncIterator
from typing import Any

import trustme

from tests import kit
from tests.kit import coroutines
from tests.vmcp import raw, speaker

eventually = coroutines.eventually
THREADS = concurrent.futures.ThreadPoolExecutor(32)  # the loop's own are fewer than the calls that hang here


def group(backends: dict[str, str], **members: Any) -> dict[str, Any]:
    """A file of ToolHive's format: these backends, prefixed, and what else is said."""
    listed = [{"name": name, "url": url, "transport": "streamable-http"} for name, url in backends.items()]
    return {
        "name": "front",
        "groupRef": "front",
        "backends": listed,
        "incomingAuth": {"type": "anonymous"},
        "outgoingAuth": {"source": "inline"},
        "aggregation": {"conflictResolution": "prefix", "conflictResolutionConfig": {"prefixFormat": "{workload}_"}},
        **members,
    }


class Front:
    """One process, asked from a thread: the backends answer on the test's loop meanwhile."""

    def __init__(self, proxy: kit.Proxy) -> None:
        self.proxy = proxy
        self.session = ""
        self._numbers = itertools.count(1)

    async def open(self) -> None:
        self.session = await asyncio.to_thread(raw.initialize, self.proxy.origin)

    async def ask(self, method: str, headers: dict[str, str] | None = None, **params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params})
        post = functools.partial(raw.post, self.proxy.origin, body, session_id=self.session, headers=headers)
        _, _, answer = await asyncio.get_running_loop().run_in_executor(THREADS, post)
        return dict(json.loads(answer.strip().rpartition(b"data: ")[2]))  # the last event, where it is a stream of them

    async def call(self, tool: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        return await self.ask("tools/call", headers, name=tool, arguments={})

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.ask("tools/list"))["result"]["tools"]]

    async def knows(self, *tools: str) -> None:
        deadline = time.monotonic() + 20.0
        while not set(tools) <= set(await self.tools()):
            assert time.monotonic() < deadline, f"not known: {tools}"
            await asyncio.sleep(0.05)

    async def page(self, path: str) -> tuple[int, Any]:
        status, body = await asyncio.to_thread(self.proxy.ask, "GET", path)
        return status, json.loads(body)

    def resident_kib(self) -> int:
        status = pathlib.Path(f"/proc/{self.proxy.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])


@contextlib.asynccontextmanager
async def front(folder: pathlib.Path, file: dict[str, Any]) -> AsyncIterator[Front]:
    path = folder / "group.json"
    path.write_text(json.dumps(file))
    made = kit.proxies(1, subcommand="vmcp", flags=["--config", str(path)], await_readyz=False)
    (proxy,) = await asyncio.to_thread(made.__enter__)
    try:
        found = Front(proxy)
        await found.open()
        yield found
    finally:
        await asyncio.to_thread(made.__exit__, None, None, None)


async def test_a_slow_a_dead_and_a_lying_backend_cost_the_others_nothing(tmp_path: pathlib.Path) -> None:
    async def hang(call: speaker.Call) -> None:
        await call.until_gone()

    async def babble(call: speaker.Call) -> None:
        await call.open_events()
        for number in range(20_000):
            if call.writer.is_closing():
                return
            params = {"level": "info", "data": "x" * 2000, "number": number}
            await call.event({"jsonrpc": "2.0", "method": "notifications/message", "params": params})
            await call.event({"jsonrpc": "2.0", "id": number, "result": {"content": []}})
        await call.until_gone()

    collision = [speaker.tool("hello"), speaker.tool("hello"), {"name": "broken"}, speaker.tool("sound_hello")]
    async with speaker.Speaker() as sound, speaker.Speaker() as slow, speaker.Speaker(tools=collision) as lying:
        slow.on("tools/call", hang)
        lying.on("tools/call", babble)
        backends = {"sound": sound.url, "slow": slow.url, "lying": lying.url, "dead": "http://127.0.0.1:9/mcp"}
        timeouts = {"timeouts": {"default": "5s", "perWorkload": {"lying": "3s"}}}
        async with front(tmp_path, group(backends, operational=timeouts)) as served:
            await served.knows("sound_hello", "slow_hello", "lying_hello", "lying_sound_hello")
            assert "lying_broken" not in await served.tools()
            before_kib = served.resident_kib()
            ill = [asyncio.create_task(served.call(tool)) for tool in ("slow_hello", "lying_hello") * 5]
            await eventually(lambda: len(slow.calls("tools/call")) == 5 and len(lying.calls("tools/call")) == 5)
            took = []
            for _ in range(20):
                began = time.monotonic()
                assert (await served.call("sound_hello"))["result"]["content"][0]["text"] == "called hello"
                took.append(time.monotonic() - began)
            assert sorted(took)[10] < 1.0, "half of the calls, on a busy machine"
            grown_kib = served.resident_kib() - before_kib
            answers = await asyncio.gather(*ill)
            reasons = {answer["error"]["data"]["reason"] for answer in answers}
            assert reasons == {"backend_timeout"}
            assert {answer["error"]["data"]["backend"] for answer in answers} == {"slow", "lying"}
            assert grown_kib < 64 << 10, f"{grown_kib} KiB for what nobody asked"


async def test_a_circuit_opens_on_live_calls_refuses_at_once_and_closes_by_a_trial(tmp_path: pathlib.Path) -> None:
    hanging = True

    async def maybe(call: speaker.Call) -> None:
        await (call.until_gone() if hanging else server.serve(call))

    async with speaker.Speaker() as server:
        server.on("tools/call", maybe)
        operational = {
            "timeouts": {"default": "300ms"},
            "failureHandling": {"circuitBreaker": {"enabled": True, "failureThreshold": 2, "timeout": "2s"}},
        }
        async with front(tmp_path, group({"one": server.url}, operational=operational)) as served:
            await served.knows("one_hello")
            for _ in range(2):
                assert (await served.call("one_hello"))["error"]["data"]["reason"] == "backend_timeout"
            asked = len(server.calls("tools/call"))
            assert (await served.call("one_hello"))["error"]["data"]["reason"] == "backend_unavailable"
            assert len(server.calls("tools/call")) == asked, "it was not asked"
            _, report = await served.page("/api/backends/health")
            assert report["backends"]["one"]["CircuitState"] == "open"
            hanging = False
            deadline = time.monotonic() + 20.0
            while "error" in (answer := await served.call("one_hello")):
                assert answer["error"]["data"]["reason"] == "backend_unavailable" and time.monotonic() < deadline
                await asyncio.sleep(0.2)
            _, report = await served.page("/api/backends/health")
            assert report["backends"]["one"]["CircuitState"] == "closed"


async def test_injected_and_passed_headers_reach_the_backend_and_no_others(tmp_path: pathlib.Path) -> None:
    async with speaker.Speaker() as one, speaker.Speaker() as two:
        strategy = {"type": "header_injection", "headerName": "X-Api-Key", "headerValue": "s3cret"}
        members = {
            "outgoingAuth": {"source": "inline", "backends": {"one": strategy}},
            "passthroughHeaders": ["X-Tenant", "X-Api-Key"],
        }
        async with front(tmp_path, group({"one": one.url, "two": two.url}, **members)) as served:
            await served.knows("one_hello", "two_hello")
            sent = {
                "X-Tenant": "blue",
                "X-Api-Key": "client's",
                "Authorization": "Bearer x",
                "Cookie": "a=b",
                "X-No": "1",
            }
            for tool in ("one_hello", "two_hello"):
                assert "result" in await served.call(tool, sent)
            _, shown = await served.page("/config")
    seen = [server.calls("tools/call")[0].fields for server in (one, two)]
    assert [fields.get("x-tenant") for fields in seen] == ["blue", "blue"]
    assert [fields.get("x-api-key") for fields in seen] == ["s3cret", "client's"]
    for fields in seen:
        assert not {"authorization", "cookie", "x-no"} & fields.keys()
    assert {call.fields.get("x-api-key") for call in one.heard if call not in one.calls("tools/call")} == {"s3cret"}
    assert "s3cret" not in json.dumps(shown)


async def test_a_backends_own_authority_is_trusted_for_it_alone(tmp_path: pathlib.Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    pem = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(pem))
    async with speaker.Speaker(tls=context) as server:
        file = group({"trusted": server.url, "stranger": server.url})
        file["backends"][0] |= {"type": "entry", "caBundlePath": str(pem)}
        async with front(tmp_path, file) as served:
            await served.knows("trusted_hello")
            assert (await served.call("trusted_hello"))["result"]["content"][0]["text"] == "called hello"
            assert await served.tools() == ["trusted_hello"]
            _, report = await served.page("/api/backends/health")
            assert report["backends"]["stranger"]["LastErrorCategory"] == "connection_failed"
            assert report["backends"]["trusted"]["Status"] == "healthy"


async def test_a_missing_backend_is_a_reason_not_to_be_ready_only_if_the_owner_says_so(tmp_path: pathlib.Path) -> None:
    late = speaker.Speaker()
    async with late:
        pass  # a port that is free again
    async with speaker.Speaker() as server:
        strict = {"failureHandling": {"partialFailureMode": "fail"}}
        async with front(tmp_path, group({"one": server.url, "late": late.url}, operational=strict)) as served:
            await served.knows("one_hello")
            status, body = await served.page("/readyz")
            assert (status, body["ready"]) == (503, False)
            assert (body["reasons"], body["details"]) == (["backend_missing"], {"backend_missing": "late"})
            _, summary = await served.page("/status")
            assert {row["name"]: row["health"] for row in summary["backends"]} == {"one": "healthy", "late": "unknown"}
            assert summary["healthy"] is True
            async with late:
                await served.knows("late_hello")
                assert (await served.page("/readyz"))[0] == 200
        async with front(tmp_path, group({"one": server.url, "late": late.url})) as served:
            await served.knows("one_hello")
            assert (await served.page("/readyz"))[0] == 200
