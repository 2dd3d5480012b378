"""`fastproxy stdio --url`: a real client on the pipe, real servers behind the URL; and a pipe that the test holds.

Real: the program, the client of the official SDK over stdio, servers of the kit over streamable HTTP and HTTP+SSE, a
bridged stdio server behind a proxy (so that both directions meet).
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
import typing
from collections.abc import Iterator

import pytest

from tests import kit
from tests.kit import command, provision
from tests.proxy import stdio_stage as stage

SECONDS_MAX = 30.0


class Program:
    """`fastproxy stdio`, with its pipes in the test's hands."""

    def __init__(self, url: str, *flags: str, **variables: str) -> None:
        self.popen = subprocess.Popen(
            [sys.executable, "-m", "fastproxy", "stdio", "--url", url, *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=command.clean_environment(**variables),
        )
        self._lines: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self._lines.put(line)

    def say(self, method: str | None, number: object = None, **members: typing.Any) -> None:
        message: stage.Entry = {"jsonrpc": "2.0"}
        message |= {} if method is None else {"method": method}
        message |= {} if number is None else {"id": number}
        self.write(json.dumps({**message, **members}).encode())

    def write(self, line: bytes) -> None:
        assert self.popen.stdin is not None
        self.popen.stdin.write(line + b"\n")
        self.popen.stdin.flush()

    def next(self) -> stage.Entry:
        return typing.cast("stage.Entry", json.loads(self._lines.get(timeout=SECONDS_MAX)))

    def open(self) -> stage.Entry:
        client = {"name": "tests", "version": "1"}
        params = {"protocolVersion": stage.VERSION, "capabilities": {"elicitation": {}}, "clientInfo": client}
        self.say("initialize", 0, params=params)
        greeting = self.next()
        self.say("notifications/initialized")
        return greeting

    def call(self, number: object, verb: str, **arguments: typing.Any) -> None:
        self.say("tools/call", number, params={"name": verb, "arguments": arguments})

    def end(self) -> int:
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        return self.popen.wait(SECONDS_MAX)


@contextlib.contextmanager
def program(url: str, *flags: str, **variables: str) -> Iterator[Program]:
    running = Program(url, *flags, **variables)
    try:
        yield running
        assert running.end() == 0
    finally:
        running.popen.kill()
        running.popen.wait()


@pytest.fixture(scope="module")
def proxy() -> Iterator[kit.Proxy]:
    with stage.stage() as running:
        yield running


def text_of(answer: stage.Entry) -> str:
    return typing.cast("str", answer["result"]["content"][0]["text"])


def test_a_session_passes_in_both_directions(proxy: kit.Proxy) -> None:
    with program(proxy.url()) as pipe:
        greeting = pipe.open()
        assert (greeting["id"], greeting["result"]["serverInfo"]["name"]) == (0, "script")
        pipe.call("a", "echo", value=12345678901234567890)
        assert text_of(pipe.next()) == "12345678901234567890"
        pipe.say(
            "tools/call", 1, params={"name": "progress", "arguments": {"steps": 2}, "_meta": {"progressToken": "t"}}
        )
        assert [pipe.next()["params"]["progressToken"] for _ in range(2)] == ["t", "t"]
        assert pipe.next()["id"] == 1
        pipe.call(2, "elicit", message="who?")
        question = pipe.next()
        assert (question["method"], question["params"]["message"]) == ("elicitation/create", "who?")
        pipe.say(None, question["id"], result={"action": "decline"})
        assert json.loads(text_of(pipe.next())) == {"action": "decline"}
        pipe.call(3, "later", seconds=0.2)
        assert {pipe.next().get("id"), pipe.next().get("method")} == {3, "notifications/tools/list_changed"}
        assert len(proxy.sessions()) == 1
        assert pipe.end() == 0
        stage.await_that(lambda: proxy.sessions() == [], "the session was ended")


def test_calls_at_the_same_time_overtake_each_other_and_one_may_be_cancelled(proxy: kit.Proxy) -> None:
    with program(proxy.url()) as pipe:
        pipe.open()
        pipe.call("slow", "sleep", seconds=0.5, value="slow")
        pipe.call("never", "sleep", seconds=60)
        pipe.call("quick", "echo", value="quick")
        assert pipe.next()["id"] == "quick"
        pipe.say("notifications/cancelled", params={"requestId": "never"})
        assert pipe.next()["id"] == "slow"
        pipe.call("seen", "seen")
        assert "notifications/cancelled" in json.loads(text_of(pipe.next()))


def test_a_forgotten_session_is_opened_anew_and_the_call_sent_again(proxy: kit.Proxy) -> None:
    with program(proxy.url()) as pipe:
        pipe.open()
        [session] = proxy.sessions()
        assert proxy.end_session(session["session_id"]) == 204
        pipe.call(1, "count")
        assert text_of(pipe.next()) == "1"
        assert [each["session_id"] for each in proxy.sessions()] != [session["session_id"]]


def test_a_request_of_the_newer_era_passes_without_a_session(proxy: kit.Proxy) -> None:
    meta = {stage.ENVELOPE + "protocolVersion": stage.MODERN, stage.ENVELOPE + "clientCapabilities": {}}
    with program(proxy.url()) as pipe:
        pipe.say("tools/call", 7, params={"name": "echo", "arguments": {"value": "é"}, "_meta": meta})
        answer = pipe.next()
        assert (answer["result"]["resultType"], json.loads(text_of(answer))) == ("complete", "é")
        pipe.say("initialize", 8, params={"_meta": meta})
        assert pipe.next()["error"]["code"] == -32601
        assert proxy.sessions() == []


@pytest.mark.parametrize("kind", ["mcp1-sse", "mcp1-httpsse"])
def test_a_remote_server_of_either_transport_is_spoken_to(kind: str) -> None:
    with kit.backend(kind) as [server], program(server.url) as pipe:
        assert pipe.open()["result"]["serverInfo"]["name"] == "kit"
        for number in (1, 2, 3):
            pipe.call(number, "counter")
            assert text_of(pipe.next()) == str(number)
        assert pipe.end() == 0


def test_headers_are_sent_and_credentials_come_by_the_environment() -> None:
    with kit.backend("mcp2-sse") as [server]:
        given = {"FASTPROXY_HEADER": "Authorization: Bearer secret\nX-Other: b"}
        with program(server.url, "--header", "X-One: a", **given) as pipe:
            pipe.open()
            pipe.call(1, "whoami")
            headers = json.loads(text_of(pipe.next()))["headers"]
            assert (headers["x-one"], headers["x-other"], headers["authorization"]) == ("a", "b", "Bearer secret")


def test_an_errors_words_are_the_servers_own_and_a_dead_server_is_named(proxy: kit.Proxy) -> None:
    with program(proxy.url()) as pipe:
        pipe.open()
        pipe.say("no/such", 1)
        assert pipe.next()["error"] == {"code": -32601, "message": "unknown: no/such"}
        pipe.write(b"no message")
        pipe.call(2, "echo", value=1)
        assert text_of(pipe.next()) == "1"
    with program("http://127.0.0.1:1/mcp") as pipe:
        pipe.say("initialize", "i", params={"protocolVersion": stage.VERSION, "capabilities": {}, "clientInfo": {}})
        answer = pipe.next()
        assert (answer["id"], answer["error"]["data"]["reason"]) == ("i", "backend_unreachable")
        assert pipe.end() == 0


def test_input_that_ends_with_a_call_under_way_waits_for_its_answer(proxy: kit.Proxy) -> None:
    with program(proxy.url()) as pipe:
        pipe.open()
        pipe.call(1, "sleep", seconds=0.5, value=1)
        assert pipe.end() == 0
        assert pipe.next()["id"] == 1


CLIENT = """
import asyncio, sys
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

async def main():
    server = StdioServerParameters(command=sys.argv[1], args=sys.argv[2:])
    async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        steps = []
        async def progress(done, total, message):
            steps.append(done)
        for number in range(1, 4):
            print((await session.call_tool("counter", {})).content[0].text)
        print((await session.call_tool("progress", {"steps": 2}, progress_callback=progress)).content[0].text, steps)

asyncio.run(main())
"""


def test_the_official_client_uses_a_remote_server_as_if_it_were_a_program(tmp_path: typing.Any) -> None:
    script = tmp_path / "client.py"
    script.write_text(CLIENT)
    words = [sys.executable, "-m", "fastproxy", "stdio", "--url"]
    with kit.backend("mcp2-sse") as [server]:
        done = subprocess.run(
            [str(provision.python("mcp1")), str(script), *words, server.url],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.stdout.splitlines() == ["1", "2", "3", "2 steps [1.0, 2.0]"], done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "missing option '--url'"),
        (["--url", "ftp://a"], "--url: expected http://… or https://…, got 'ftp://a'"),
        (["--url", "http://user:secret@a/"], "--url: expected a URL without user, password and fragment"),
        (["--url", "http://a", "--header", "x"], "--header: expected NAME: VALUE"),
        (["--url", "http://a", "--header", "Authorization: Bearer x"], "--header: expected no Authorization in a flag"),
        (["--url", "http://a", "--header", "Host: x"], "--header: Host is the protocol's own"),
        (["--url", "http://a", "--response-timeout", "soon"], "--response-timeout: expected a duration"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(words: list[str], line: str) -> None:
    (said,) = command.fail(2, "stdio", *words)
    assert said.startswith(line)
    assert "secret" not in said
