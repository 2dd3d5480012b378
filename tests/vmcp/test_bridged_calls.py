"""Calls between the eras, at real and at scripted backends: rounds of questions, parked calls and their retries.

Real: the relay, the official Python SDK's servers where a test names a kit. The client is the test itself: it answers
what it is asked, as either era's client would.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from fastproxy.vmcp import backends, bridge, inquiries, parking, peer, rounds
from tests import kit
from tests.kit import conformance, coroutines
from tests.vmcp import group, speaker

ABLE = {"elicitation": {}, "sampling": {}, "roots": {}}
SERVER = b'{"name":"group"}'


def text(value: Any) -> bytes:
    return json.dumps(value).encode()


def caller(capabilities: dict[str, Any] = ABLE, log_level: str | None = None) -> bridge.Caller:
    return bridge.Caller(msgspec.Raw(b'{"name":"test","version":"1"}'), msgspec.Raw(text(capabilities)), log_level)


ANSWERS = {
    inquiries.ELICIT: {"action": "accept", "content": {"name": "Ada", "ok": True}},
    inquiries.SAMPLE: {"role": "assistant", "content": {"type": "text", "text": "Paris"}, "model": "m"},
    inquiries.ROOTS: {"roots": [{"uri": "file:///home", "name": "home"}]},
}


# ---- a session's client, a backend of 2026-07-28


@contextlib.asynccontextmanager
async def everything() -> AsyncIterator[backends.Backend]:
    with conformance.replicas(1) as (server,):
        async with group.running({"one": server.url}) as running:
            await running.known("one", seconds_max=30.0)
            yield running.get("one")


async def call_modern(
    backend: backends.Backend,
    name: str,
    arguments: dict[str, Any] | None = None,
    *,
    asked: list[inquiries.Inquiry] | None = None,
    who: bridge.Caller | None = None,
    heard: list[bytes] | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    async def ask(inquiry: inquiries.Inquiry) -> bytes:
        if asked is not None:
            asked.append(inquiry)
        return text(ANSWERS[inquiry.method])

    params = {"name": name, "arguments": arguments or {}} | ({"_meta": {"progressToken": token}} if token else {})
    result = await rounds.run(
        backend,
        "tools/call",
        text(params),
        caller=who or caller(),
        headers=[],
        ask=ask,
        on_message=(heard if heard is not None else []).append,
    )
    return dict(json.loads(result))


async def test_a_sessions_client_is_asked_on_its_own_way_what_a_modern_server_needs() -> None:
    async with everything() as backend:
        asked: list[inquiries.Inquiry] = []
        result = await call_modern(backend, "test_input_required_result_elicitation", asked=asked)
        assert result == {"content": [{"type": "text", "text": "Hello, Ada!"}]} | {
            key: result[key] for key in result.keys() - {"content"}
        }
        assert not {"resultType", "ttlMs", "cacheScope"} & result.keys()
        assert [(each.method, json.loads(each.params)["message"]) for each in asked] == [
            (inquiries.ELICIT, "What is your name?")
        ]
        sampled = await call_modern(backend, "test_input_required_result_sampling")
        assert sampled["content"][0]["text"] == "Paris"
        many = await call_modern(backend, "test_input_required_result_multiple_inputs", asked=(asked := []))
        assert {each.method for each in asked} == inquiries.METHODS
        assert many.get("isError") is not True
        stated = await call_modern(backend, "test_input_required_result_request_state")
        assert stated["content"][0]["text"] == "state-ok"


async def test_progress_of_a_modern_call_is_heard_under_the_clients_token() -> None:
    async with everything() as backend:
        heard: list[bytes] = []
        await call_modern(backend, "test_tool_with_progress", heard=heard, token="mine")
        tokens = [json.loads(message)["params"]["progressToken"] for message in heard]
        assert tokens and set(tokens) == {"mine"}


async def test_a_client_is_not_asked_what_it_has_not_declared() -> None:
    """The server looks at what the client has declared, which is told with every call."""
    async with everything() as backend:
        asked: list[inquiries.Inquiry] = []
        with pytest.raises(peer.BackendError) as refused:
            await call_modern(backend, "test_input_required_result_elicitation", asked=asked, who=caller({}))
        assert asked == []
        assert not isinstance(refused.value, peer.Refused) or refused.value.code == -32603


@contextlib.asynccontextmanager
async def scripted(server: speaker.Speaker) -> AsyncIterator[backends.Backend]:
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        yield running.get("one")


def asks_for_ever(server: speaker.Speaker) -> None:
    async def again(call: speaker.Call) -> None:
        requests = {"k": {"method": "roots/list"}}
        await call.result({"resultType": "input_required", "inputRequests": requests, "requestState": "s"})

    server.on("tools/call", again)


async def test_a_backend_that_never_has_enough_is_given_up() -> None:
    server = speaker.Speaker(eras=("modern",))
    asks_for_ever(server)
    async with scripted(server) as backend:
        with pytest.raises(peer.BackendError, match="rounds of questions"):
            await call_modern(backend, "hello")
    assert len(server.calls("tools/call")) == rounds.ROUNDS_MAX
    states = [call.params.get("requestState") for call in server.calls("tools/call")]
    assert states == [None, *["s"] * (rounds.ROUNDS_MAX - 1)]


async def test_a_client_that_refuses_a_form_cancels_it_and_one_that_refuses_its_model_ends_the_call() -> None:
    server = speaker.Speaker(eras=("modern",))

    async def ask(call: speaker.Call) -> None:
        responses = call.params.get("inputResponses")
        if responses:
            await call.result({"resultType": "complete", "content": [], "structuredContent": responses})
            return
        method = call.params["name"]
        requests = {"k": {"method": method, "params": {"message": "?"}}}
        await call.result({"resultType": "input_required", "inputRequests": requests})

    server.on("tools/call", ask)

    async def refuse(_asked: inquiries.Inquiry) -> bytes:
        raise rounds.ClientRefused("no", b'{"code":-1}')

    async def run(backend: backends.Backend, method: str) -> bytes:
        params = text({"name": method})
        return await rounds.run(
            backend, "tools/call", params, caller=caller(), headers=[], ask=refuse, on_message=peer.ignore
        )

    async with scripted(server) as backend:
        result = json.loads(await run(backend, inquiries.ELICIT))
        assert result["structuredContent"] == {"k": {"action": "cancel"}}
        with pytest.raises(peer.BackendError, match="the client refused"):
            await run(backend, inquiries.SAMPLE)


async def test_arguments_go_into_headers_and_a_schema_that_was_outdated_is_read_again_once() -> None:
    def schema(header: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": header}}}

    server = speaker.Speaker(eras=("modern",), tools=[speaker.tool("hello", inputSchema=schema("Region"))])

    async def check(call: speaker.Call) -> None:
        if call.fields.get("mcp-param-zone") != "eu":
            await call.error(-32020, "header mismatch", status=400)
            return
        await call.result({"resultType": "complete", "content": []})

    server.on("tools/call", check)
    async with scripted(server) as backend:
        server.tools = [speaker.tool("hello", inputSchema=schema("Zone"))]
        assert await call_modern(backend, "hello", {"region": "eu"}) == {"content": []}
        sent = [
            (call.fields.get("mcp-param-region"), call.fields.get("mcp-param-zone"))
            for call in server.calls("tools/call")
        ]
        assert sent == [("eu", None), (None, "eu")]


# ---- a client of 2026-07-28, a backend with sessions


class Guest:
    """A modern client at a backend with sessions: its calls, their questions, its retries."""

    def __init__(self, running: group.Running, backend: backends.Backend) -> None:
        self.backend = backend
        self.parking = parking.Parking("here", server_info=SERVER, start_task=running.tasks.start)
        self.heard: list[dict[str, Any]] = []
        self.opened: peer.Opened

    async def open(self) -> None:
        params = {"protocolVersion": "2025-11-25", "capabilities": ABLE, "clientInfo": {"name": "t", "version": "1"}}
        self.opened = await self.backend.peer.open(text(params), headers=[], on_message=peer.ignore, seconds_max=10.0)

    def visit(self, params: dict[str, Any], who: bridge.Caller | None = None, principal: str = "me") -> parking.Visit:
        return parking.Visit("tools/call", text(params), principal, who or caller())

    def hear(self, message: bytes) -> None:
        self.heard.append(json.loads(message))

    async def begin(self, name: str, arguments: dict[str, Any], who: bridge.Caller | None = None, **meta: Any) -> Any:
        params = {"name": name, "arguments": arguments} | ({"_meta": meta} if meta else {})
        berth = parking.Berth(self.backend, self.opened.session_id, self.opened.protocol_version, [])
        return json.loads(await self.parking.begin(self.visit(params, who), berth, on_message=self.hear))

    async def retry(
        self, name: str, arguments: dict[str, Any], answers: dict[str, Any], state: str, principal: str = "me"
    ) -> Any:
        params = {"name": name, "arguments": arguments, "inputResponses": answers, "requestState": state}
        visit = self.visit(params, principal=principal)
        return json.loads(await self.parking.resume(visit, state, on_message=self.hear))


@contextlib.asynccontextmanager
async def guest(kind: str) -> AsyncIterator[Guest]:
    with kit.backend(kind) as (server,):
        async with group.running({"one": server.url}) as running:
            await running.known("one", seconds_max=30.0)
            found = Guest(running, running.get("one"))
            await found.open()
            yield found
            await found.parking.close()


def answers_to(asked: dict[str, Any]) -> dict[str, Any]:
    return {key: ANSWERS[each["method"]] for key, each in asked["inputRequests"].items()}


async def test_a_call_that_asks_nothing_is_complete_at_once() -> None:
    async with guest("mcp1-sse") as client:
        result = await client.begin("counter", {})
        assert result["content"][0]["text"] == "1"
        assert (result["resultType"], result["_meta"][bridge.META + "serverInfo"]) == ("complete", {"name": "group"})
        assert (await client.begin("counter", {}))["content"][0]["text"] == "2", "the session keeps its state"


@pytest.mark.parametrize("kind", ["mcp1-sse", "mcp2-sse"])
async def test_what_an_older_server_asks_in_the_middle_is_input_that_the_call_requires(kind: str) -> None:
    async with guest(kind) as client:
        asked = await client.begin("elicit", {"message": "Who?"})
        assert asked["resultType"] == "input_required"
        (question,) = asked["inputRequests"].values()
        assert (question["method"], question["params"]["message"]) == (inquiries.ELICIT, "Who?")
        done = await client.retry("elicit", {"message": "Who?"}, answers_to(asked), asked["requestState"])
        assert (done["resultType"], done["content"][0]["text"]) == ("complete", "Ada")
        asked = await client.begin("sample", {"prompt": "capital?"})
        done = await client.retry("sample", {"prompt": "capital?"}, answers_to(asked), asked["requestState"])
        assert done["content"][0]["text"] == "Paris"
        assert len(client.parking) == 0


async def test_progress_is_heard_and_log_messages_only_if_they_were_asked_for() -> None:
    async with guest("mcp1-sse") as client:
        await client.begin("progress", {"steps": 3}, progressToken="p")
        assert [each["params"]["progress"] for each in client.heard] == [1, 2, 3]
        client.heard.clear()
        await client.begin("log", {"text": "quiet"})
        assert client.heard == []
        await client.begin("log", {"text": "loud"}, caller(log_level="debug"))
        assert [each["params"]["data"] for each in client.heard] == ["loud"]


async def test_a_state_is_good_once_for_its_caller_and_for_what_was_asked() -> None:
    async with guest("mcp1-sse") as client:
        asked = await client.begin("elicit", {"message": "Who?"})
        state = asked["requestState"]
        for wrong in (
            client.retry("elicit", {"message": "Who?"}, {}, state + "x"),
            client.retry("elicit", {"message": "Somebody else?"}, {}, state),
            client.retry("elicit", {"message": "Who?"}, {}, state, principal="thief"),
        ):
            with pytest.raises(parking.UnknownState):
                await wrong
        await client.retry("elicit", {"message": "Who?"}, answers_to(asked), state)
        with pytest.raises(parking.UnknownState):
            await client.retry("elicit", {"message": "Who?"}, answers_to(asked), state)


async def test_a_retry_without_the_answer_is_asked_again_and_answers_to_nothing_are_ignored() -> None:
    async with guest("mcp1-sse") as client:
        first = await client.begin("elicit", {"message": "Who?"})
        again = await client.retry("elicit", {"message": "Who?"}, {"stranger": {}}, first["requestState"])
        assert again["inputRequests"] == first["inputRequests"]
        assert again["requestState"] != first["requestState"]
        done = await client.retry("elicit", {"message": "Who?"}, answers_to(again), again["requestState"])
        assert done["content"][0]["text"] == "Ada"


async def test_a_client_that_can_not_be_asked_is_told_what_it_would_need() -> None:
    async with guest("mcp1-sse") as client:
        with pytest.raises(parking.NotDeclared) as refused:
            await client.begin("elicit", {"message": "Who?"}, caller({}))
        assert refused.value.required == {"elicitation": {"form": {}}}
        assert (await client.begin("counter", {}))["content"][0]["text"] == "1", "the session goes on"


async def test_a_call_whose_client_does_not_come_back_ends_at_the_backend_too() -> None:
    server = speaker.Speaker()
    asked_back = asyncio.Event()

    async def ask(call: speaker.Call) -> None:
        await call.open_events()
        await call.event({"jsonrpc": "2.0", "id": 1, "method": "roots/list"})
        await call.until_gone()
        asked_back.set()

    server.on("tools/call", ask)
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        client = Guest(running, running.get("one"))
        await client.open()
        await client.begin("hello", {})
        assert len(client.parking) == 1
        await client.parking.close()
        await asked_back.wait()
        assert len(client.parking) == 0
        await coroutines.eventually(lambda: server.calls("notifications/cancelled"))


async def test_a_call_waits_for_its_client_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "WAIT_SECONDS_MAX", 0.2)
    async with guest("mcp1-sse") as client:
        asked = await client.begin("elicit", {"message": "Who?"})
        await coroutines.eventually(lambda: len(client.parking) == 0)
        with pytest.raises(parking.UnknownState):
            await client.retry("elicit", {"message": "Who?"}, answers_to(asked), asked["requestState"])
        assert (await client.begin("counter", {}))["content"][0]["text"] == "1", "the session goes on"


async def test_no_more_calls_wait_than_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parking, "PARKED_MAX", 2)
    async with guest("mcp1-sse") as client:
        for number in range(2):
            await client.begin("elicit", {"message": f"{number}?"})
        with pytest.raises(peer.BackendError) as refused:
            await client.begin("elicit", {"message": "and one more?"})
        assert (refused.value.reason, refused.value.may_have_run) == ("too_many_calls", False)


async def test_a_client_that_leaves_in_the_middle_ends_the_call_at_the_backend() -> None:
    server = speaker.Speaker()

    async def dawdle(call: speaker.Call) -> None:
        await call.open_events()
        await call.until_gone()

    server.on("tools/call", dawdle)
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        client = Guest(running, running.get("one"))
        await client.open()
        call = asyncio.create_task(client.begin("hello", {}))
        await coroutines.eventually(lambda: server.calls("tools/call"))
        call.cancel()
        await asyncio.wait({call})
        await coroutines.eventually(lambda: server.calls("notifications/cancelled"))


async def test_addresses_that_an_older_server_wants_visited_are_asked_for_and_nothing_waits() -> None:
    server = speaker.Speaker()

    async def want(call: speaker.Call) -> None:
        visits = [{"mode": "url", "message": "log in", "url": "https://example.com/in", "elicitationId": "e1"}]
        await call.error(-32042, "URL elicitation required", data={"elicitations": visits})

    server.on("tools/call", want)
    async with server, group.running({"one": server.url}) as running:
        await running.known("one")
        client = Guest(running, running.get("one"))
        await client.open()
        able = caller({"elicitation": {"url": {}}})
        asked = await client.begin("hello", {}, able)
        assert asked["inputRequests"]["e1"]["params"]["url"] == "https://example.com/in"
        assert "requestState" not in asked and len(client.parking) == 0
        with pytest.raises(parking.NotDeclared):
            await client.begin("hello", {}, caller({}))
