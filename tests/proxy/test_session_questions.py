"""What a server asks its client (sampling, elicitation, roots) may be answered through another proxy than asked it.

Real: two proxies on one Redis, with and without the fast lane, sockets; a scripted replica that asks on the stream of a
call or on the session's GET stream, and goes on when it has the client's answer. The same with the SDKs' servers and
clients, legacy HTTP+SSE too: tests/e2e/test_real_clients.py.
"""

import asyncio
import contextlib
import json
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import actors_message
from tests.proxy import fleet as fleets

Fleet = fleets.Fleet
Message = fleets.Message
QUESTIONS = ("sampling/createMessage", "elicitation/create", "roots/list")
STREAM = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}


class Asks:
    """The manner of a server that asks its client before it answers a call: on the call's own stream, or on the
    session's (`on_call`: which)."""

    def __init__(self, question: str, *, on_call: bool) -> None:
        self._question = question
        self._on_call = on_call
        self._answers: dict[str, asyncio.Future[object]] = {}
        self._streams: dict[str, kit.Connection] = {}

    async def __call__(self, replica: fleets.Replica, connection: kit.Connection, request: Message) -> bool:
        session = request.field("mcp-session-id") or ""
        if request.method == "GET":
            await connection.send(actors_message.format_response("200 OK", {**STREAM, "Mcp-Session-Id": session}))
            self._streams[session] = connection
            await connection.await_end()
            return True
        said = json.loads(request.body)
        if said.get("method") == "tools/call":
            await self._call(connection, session, said["id"])
            return True
        if "result" in said:
            await connection.send(actors_message.format_response("202 Accepted"))
            self._answers.pop(f"{session} {said['id']}").set_result(said["result"])
            return True
        return False

    async def _call(self, connection: kit.Connection, session: str, number: int) -> None:
        answer = self._answers[f"{session} q-{number}"] = asyncio.get_running_loop().create_future()
        question = {"jsonrpc": "2.0", "id": f"q-{number}", "method": self._question, "params": {"n": number}}
        await connection.send(actors_message.format_response("200 OK", {**STREAM, "Mcp-Session-Id": session}))
        await _event(connection if self._on_call else self._streams[session], question)
        await _event(connection, {"jsonrpc": "2.0", "id": number, "result": {"heard": await answer}})
        await connection.send(actors_message.LAST_CHUNK)


async def _event(connection: kit.Connection, said: object) -> None:
    await connection.send(actors_message.format_chunk(b"data: " + json.dumps(said).encode() + b"\n\n"))


@contextlib.contextmanager
def asking(fleet: Fleet, proxy: int, session: str, method: str, body: bytes | None) -> Iterator[kit.RawClient]:
    """A request whose answer is an event stream, its head read."""
    with fleet.client(proxy) as client:
        fields = {**fleets.ACCEPT, "Mcp-Session-Id": session}
        client.send(actors_message.format_request(method, "/mcp", client.authority, fields, body))
        assert client.head().status == 200
        yield client


def heard(client: kit.RawClient) -> dict[str, object]:
    """The next message of a stream."""
    event = client.until(b"\n\n").partition(b"data: ")[2]
    found: dict[str, object] = json.loads(event)
    return found


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_on_a_calls_stream_is_answered_through_the_other_proxy(fleet: Fleet, question: str) -> None:
    session = fleet.open()
    fleet.replica_of(session).act = Asks(question, on_call=True)
    for number, proxy in enumerate((0, 1)):
        body = fleets.message("tools/call", number, name="ask")
        with asking(fleet, proxy, session, "POST", body) as call:
            asked = heard(call)
            assert (asked["method"], asked["params"]) == (question, {"n": number})
            said = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"by": 1 - proxy}}).encode()
            assert fleet.post(1 - proxy, said, session).status == 202
            assert heard(call)["result"] == {"heard": {"by": 1 - proxy}}
            assert call.until(b"0\r\n\r\n").endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("question", QUESTIONS)
def test_stream_call_and_answer_may_each_take_another_way(fleet: Fleet, question: str) -> None:
    """The stream is at one proxy, the call that makes the server ask at either, the answer at either."""
    session = fleet.open()
    fleet.replica_of(session).act = Asks(question, on_call=False)
    with asking(fleet, 0, session, "GET", None) as stream:
        for number, (called, answered) in enumerate([(0, 1), (1, 0), (1, 1)]):
            with asking(fleet, called, session, "POST", fleets.message("tools/call", number, name="ask")) as call:
                asked = heard(stream)
                assert (asked["method"], asked["params"]) == (question, {"n": number})
                said = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": {"by": answered}}).encode()
                assert fleet.post(answered, said, session).status == 202
                assert heard(call)["result"] == {"heard": {"by": answered}}
