"""The kit's peers that speak bytes, and its provisioning: what other tests build on without looking.

Real: sockets, a thread with its own event loop, `python -m tests.kit.provision` as a process. Nothing is fake. Not
covered: an installation from nothing, which every fresh checkout does.
"""

import concurrent.futures
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from tests import kit
from tests.kit import actors_message, provision

HELLO = actors_message.format_response("200 OK", {"Content-Type": "text/plain"}, b"hello")


def test_a_scripted_backend_keeps_the_exact_bytes_and_answers_with_the_exact_bytes() -> None:
    request = b"POST /x?y=1 HTTP/1.1\r\nhOst: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n"
    answer = b"HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\n\r\n"
    with kit.ScriptedBackend(kit.answering(answer)) as backend, kit.RawClient(backend.origin) as client:
        client.send(request)
        response = client.response()
        [received] = backend.await_requests(1)
    assert (response.raw, response.body, response.status) == (answer, b"hello", 200)
    assert (received.raw, received.body, received.trailers) == (request, b"abc", [("x-t", "1")])
    assert (received.method, received.target, received.field("host")) == ("POST", "/x?y=1", "a")


def test_answers_come_in_turn_and_a_head_has_no_body() -> None:
    with kit.ScriptedBackend(kit.answering(HELLO.replace(b"hello", b""), HELLO)) as backend:
        with kit.RawClient(backend.origin) as client:
            assert client.request("HEAD", "/").body == b""
            assert [client.request("GET", "/").body for _ in range(2)] == [b"hello", b"hello"]
        assert len(backend.await_connections(1)) == 1


def test_an_answer_without_a_length_ends_with_its_connection() -> None:
    async def script(connection: kit.Connection) -> None:
        await connection.read_request()
        await connection.drip(b"HTTP/1.1 200 OK\r\n\r\nall of it", piece_bytes=3, seconds=0.001)

    with kit.ScriptedBackend(script) as backend, kit.RawClient(backend.origin) as client:
        assert client.request("GET", "/").body == b"all of it"


def test_a_scripted_backend_resets_is_silent_or_refuses() -> None:
    async def script(connection: kit.Connection) -> None:
        request = await connection.read_request()
        if request is not None and request.target == "/reset":
            await connection.reset()
        await connection.await_end()

    with kit.ScriptedBackend(script) as backend:
        with kit.RawClient(backend.origin) as client:
            client.send(actors_message.format_request("GET", "/reset", "a"))
            with pytest.raises(ConnectionResetError):
                client.response()
        with kit.RawClient(backend.origin) as client:
            client.send(actors_message.format_request("GET", "/", "a"))
            assert client.is_silent(0.1)
            client.half_close()
            assert client.rest() == b""
        backend.stop()
        with pytest.raises(ConnectionRefusedError):
            kit.RawClient(backend.origin)


def test_a_scripted_backend_sees_how_a_client_goes() -> None:
    async def script(connection: kit.Connection) -> None:
        await connection.read_head()
        await connection.await_end()

    with kit.ScriptedBackend(script) as backend:
        for go in (kit.RawClient.close, kit.RawClient.reset):
            client = kit.RawClient(backend.origin)
            client.send(b"GET / HTTP/1.1\r\n\r\n")
            await_true(lambda: any(bytes(each.received).endswith(b"\r\n\r\n") for each in backend.connections))
            go(client)
        await_true(lambda: sorted(str(each.ended_by) for each in backend.connections) == ["client", "reset"])


def test_a_script_that_fails_fails_the_test() -> None:
    async def script(connection: kit.Connection) -> None:
        raise ValueError("the script says no")

    with pytest.raises(kit.KitError, match="the script says no"), kit.ScriptedBackend(script) as backend:
        with kit.RawClient(backend.origin) as client:
            assert client.rest() == b""
        await_true(lambda: bool(backend.failures))


# Provisioning.


def run_provision(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.kit.provision", *words],
        cwd=provision.CHECKOUT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_is_unknown_or_impossible_is_told_in_one_line(tmp_path: pathlib.Path) -> None:
    unknown = run_provision("nonsense")
    assert (unknown.returncode, unknown.stderr.count("\n")) == (1, 1)
    assert unknown.stderr.startswith("kit: unknown: nonsense")
    without_npm = run_provision("ts1", PATH="/nonexistent", KIT_CACHE=str(tmp_path))
    assert (without_npm.returncode, without_npm.stderr) == (1, "kit: ts1: npm is not on PATH (install Node.js)\n")


def test_two_processes_may_provision_at_once_and_what_is_ready_is_quick(tmp_path: pathlib.Path) -> None:
    provision.require("node")
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        runs = list(pool.map(lambda _: run_provision("node"), range(2)))
    assert [(run.returncode, run.stdout) for run in runs] == [(0, "kit: node ready\n")] * 2
    assert time.monotonic() - begun < 10


def await_true(holds: Callable[[], bool], seconds_max: float = 10.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.01)
