"""Which key a message of the era without sessions carries. Pure: bytes in, keys out; nothing is fake."""

import base64
import json

import pytest

from fastproxy.routing import affinity


def answer(**result: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def asking_again(state: str, **more: object) -> bytes:
    params = {"name": "ask", "requestState": state, **more}
    return json.dumps({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}).encode()


def keys(text: bytes, *, event_stream: bool = False) -> list[str]:
    return [kept.key for kept in affinity.of_answer(text, event_stream=event_stream)]


STATE = answer(resultType="input_required", requestState="sealed", inputRequests={})
TASK = answer(resultType="task", taskId="t-1", status="working", ttlMs=1000)


def test_a_state_that_comes_back_has_the_key_that_it_was_handed_out_with() -> None:
    [key] = keys(STATE)
    assert affinity.of_request("tools/call", "ask", asking_again("sealed")) == key
    assert affinity.of_request("prompts/get", None, asking_again("sealed")) == key
    assert affinity.of_request("tools/call", "ask", asking_again("another")) != key


def test_a_task_is_found_by_the_name_in_the_head_alone() -> None:
    [key] = keys(TASK)
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        assert affinity.of_request(method, "t-1", None) == key
    assert affinity.of_request("tools/call", "t-1", b"{}") is None, "a tool may be called like a task"


def test_a_name_in_base64_is_the_text_that_it_stands_for() -> None:
    [key] = keys(answer(resultType="task", taskId="tâche n° 1"))
    name = f"=?base64?{base64.b64encode('tâche n° 1'.encode()).decode()}?="
    assert affinity.of_request("tasks/get", name, None) == key


@pytest.mark.parametrize("name", ["=?base64?", "=?base64?!!?=", "=?base64?gICA?=", "?=", "=?base64?="])
def test_a_name_that_only_looks_like_base64_is_taken_as_it_is(name: str) -> None:
    [key] = keys(answer(resultType="task", taskId=name))
    assert affinity.of_request("tasks/get", name, None) == key


def test_a_state_and_a_task_of_the_same_text_are_two_keys() -> None:
    assert keys(answer(requestState="x")) != keys(answer(taskId="x"))


def test_a_key_tells_nothing_of_the_state() -> None:
    [key] = keys(STATE)
    assert len(key) == 64
    assert int(key, 16) >= 0
    assert "sealed" not in key


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
def test_keys_are_found_in_events(line_end: bytes) -> None:
    progress = (
        b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"message":"\\"requestState\\": none yet"}}'
    )
    lines = [b": requestState", b"", b"data: " + progress, b"", b"event: message", b"data: " + STATE, b"", b""]
    assert keys(line_end.join(lines), event_stream=True) == keys(STATE)


def test_the_last_event_counts_although_its_blank_line_is_missing() -> None:
    assert keys(b"data: " + STATE, event_stream=True) == keys(STATE)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b'{"result":"requestState"}',
        b'{"result":{"requestState":5}}',
        b'{"result":{"requestState":null}}',
        b'{"result":{"content":[{"text":"requestState"}],"structuredContent":{"requestState":"inner","taskId":"inner"}}}',
        b'{"error":{"code":1,"message":"requestState","data":{"requestState":"x"}}}',
        b'{"method":"notifications/tasks","params":{"taskId":"t"}}',
        b'{"result":{"requestState":"\xff"}}',
        b'{"result":{"requestState":"cut',
        b'{"result":' * 5000,
    ],
)
def test_what_only_looks_like_it_hands_out_nothing(text: bytes) -> None:
    assert keys(text) == []


@pytest.mark.parametrize(
    "body",
    [
        None,
        b"",
        b"requestState",
        b'["requestState"]',
        b'{"requestState":"outside"}',
        b'{"params":{"arguments":{"requestState":"inside"}}}',
        b'{"params":["requestState"]}',
        b'{"params":{"requestState":7}}',
        b'{"params":{"requestState":"\xff"}}',
        b'{"params":' * 5000 + b'"requestState"',
    ],
)
def test_what_only_looks_like_it_brings_nothing_back(body: bytes | None) -> None:
    assert affinity.of_request("tools/call", "ask", body) is None


def test_escapes_do_not_make_another_state() -> None:
    [key] = keys(b'{"result":{"requestState":"caf\\u00e9\\/"}}')
    assert affinity.of_request("tools/call", None, '{"params":{"requestState":"café/"}}'.encode()) == key
    [lone] = keys(b'{"result":{"requestState":"caf\\u00e9"}}')
    assert lone != key


@pytest.mark.parametrize(
    ("result", "seconds"),
    [
        ({"requestState": "s"}, 600.0),
        ({"taskId": "t"}, 600.0),
        ({"taskId": "t", "ttlMs": 1000}, 600.0),
        ({"taskId": "t", "ttlMs": 3_600_000}, 3600.0),
        ({"taskId": "t", "ttlMs": None}, 86400.0),
        ({"taskId": "t", "ttlMs": 10**15}, 86400.0),
    ],
)
def test_a_key_is_worth_remembering_as_long_as_what_it_stands_for(result: dict[str, object], seconds: float) -> None:
    [kept] = affinity.of_answer(answer(**result), event_stream=False)
    assert kept.seconds == seconds


def test_lists_hand_out_nothing_and_what_nobody_knows_may() -> None:
    assert not affinity.hands_out("tools/list")
    assert not affinity.hands_out("server/discover")
    for method in ("tools/call", "prompts/get", "resources/read", "tasks/get", "com.example/own", ""):
        assert affinity.hands_out(method)
