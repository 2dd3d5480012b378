"""A call of a 2026-07-28 client that waits in one vMCP process, and is sent again to another.

Real: two vMCP processes on one Redis, an older official server behind them whose tools ask the client; the client is
plain HTTP, one request at a time to a process of its choice. Not here: one process alone (test_bridged_calls).
"""

import itertools
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests import kit
from tests.kit import redis_server
from tests.vmcp import fleet, raw

KIND = "mcp1-sse"
META = "io.modelcontextprotocol/"
ABLE = {"elicitation": {}, "sampling": {}}
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def redis() -> Iterator[redis_server.RedisServer]:
    with redis_server.RedisServer() as server:
        yield server


@pytest.fixture(scope="module")
def place(redis: redis_server.RedisServer) -> Iterator[fleet.Place]:
    with fleet.running(redis, [KIND], count=2) as running:
        yield running


def call(
    member: kit.Proxy, tool: str, arguments: dict[str, Any], *, able: dict[str, Any] = ABLE, **more: Any
) -> tuple[int, list[dict[str, Any]]]:
    """One modern tools/call: the status, and every message of the answer."""
    meta = {
        META + "protocolVersion": "2026-07-28",
        META + "clientInfo": {"name": "raw", "version": "1"},
        META + "clientCapabilities": able,
        **more.pop("meta", {}),
    }
    name = f"{fleet.backend_id(KIND)}_{tool}"
    params = {"name": name, "arguments": arguments, "_meta": meta, **more}
    headers = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/call", "Mcp-Name": name}
    body = json.dumps({"jsonrpc": "2.0", "id": next(numbers), "method": "tools/call", "params": params})
    status, fields, answer = raw.post(member.origin, body, headers=headers)
    if fields["content-type"].startswith("text/event-stream"):
        return status, [json.loads(line[6:]) for line in answer.splitlines() if line.startswith(b"data: ")]
    return status, [json.loads(answer)]


def result(answer: tuple[int, list[dict[str, Any]]]) -> dict[str, Any]:
    status, messages = answer
    assert status == 200 and "result" in messages[-1], answer
    return dict(messages[-1]["result"])


def accepted(asked: dict[str, Any]) -> dict[str, Any]:
    answer = {"action": "accept", "content": {"name": "Ada"}}
    return {"inputResponses": {key: answer for key in asked["inputRequests"]}, "requestState": asked["requestState"]}


def test_a_retry_finds_its_call_through_another_process(place: fleet.Place) -> None:
    here, there = place.members
    asked = result(call(here, "elicit", {"message": "Who?"}))
    assert asked["resultType"] == "input_required"
    done = result(call(there, "elicit", {"message": "Who?"}, **accepted(asked)))
    assert (done["resultType"], done["content"][0]["text"]) == ("complete", "Ada")


def test_a_state_is_good_once_and_for_the_same_call_wherever_it_is_shown(place: fleet.Place) -> None:
    here, there = place.members
    asked = result(call(here, "elicit", {"message": "Who?"}))
    for member in (here, there):
        status, messages = call(member, "elicit", {"message": "Somebody else?"}, **accepted(asked))
        assert (status, messages[-1]["error"]["code"]) == (400, -32602)
    forged = accepted(asked) | {"requestState": asked["requestState"][:-1] + "!"}
    assert call(there, "elicit", {"message": "Who?"}, **forged)[0] == 400
    assert result(call(there, "elicit", {"message": "Who?"}, **accepted(asked)))["content"][0]["text"] == "Ada"
    assert call(here, "elicit", {"message": "Who?"}, **accepted(asked))[0] == 400


def test_a_question_that_was_not_answered_is_asked_again_through_the_other_process(place: fleet.Place) -> None:
    here, there = place.members
    asked = result(call(here, "elicit", {"message": "Who?"}))
    again = result(call(there, "elicit", {"message": "Who?"}, inputResponses={}, requestState=asked["requestState"]))
    assert again["inputRequests"] == asked["inputRequests"]
    assert result(call(there, "elicit", {"message": "Who?"}, **accepted(again)))["content"][0]["text"] == "Ada"


def test_a_client_that_can_not_be_asked_is_told_what_it_lacks(place: fleet.Place) -> None:
    status, messages = call(place.members[0], "sample", {"prompt": "?"}, able={})
    assert status == 400
    error = messages[-1]["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"sampling": {}}})


def test_progress_comes_before_the_answer_on_the_calls_own_stream(place: fleet.Place) -> None:
    _, messages = call(place.members[0], "progress", {"steps": 3}, meta={"progressToken": "p"})
    assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2, 3]
    assert messages[-1]["result"]["content"][0]["text"] == "3 steps"


def test_many_calls_wait_at_once_and_each_answer_finds_its_own(place: fleet.Place) -> None:
    here, there = place.members
    asked = {number: result(call(here, "elicit", {"message": f"Who is {number}?"})) for number in range(8)}
    said: dict[int, str] = {}

    def answer(number: int) -> None:
        content = {"action": "accept", "content": {"name": f"guest {number}"}}
        responses = {key: content for key in asked[number]["inputRequests"]}
        state = asked[number]["requestState"]
        done = call(there, "elicit", {"message": f"Who is {number}?"}, inputResponses=responses, requestState=state)
        said[number] = result(done)["content"][0]["text"]

    threads = [threading.Thread(target=answer, args=(number,)) for number in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {number: f"guest {number}" for number in asked}


def test_a_call_dies_with_the_process_in_which_it_waits_and_its_client_learns_that_it_may_have_run(
    redis: redis_server.RedisServer,
) -> None:
    with fleet.running(redis, [KIND], count=2) as place:
        here, there = place.members
        asked = result(call(here, "elicit", {"message": "Who?"}))
        here.kill()
        deadline = time.monotonic() + 20.0
        while True:
            status, messages = call(there, "elicit", {"message": "Who?"}, **accepted(asked))
            assert status == 200
            error = messages[-1]["error"]
            if error["data"]["reason"] == "backend_lost":
                break
            assert time.monotonic() < deadline, error
        assert error["data"]["may_have_run"] is True
        assert result(call(there, "counter", {}))["content"][0]["text"] == "1"
