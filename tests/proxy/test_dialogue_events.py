"""Answers that the proxy itself reads event by event: dialogue.open_events, however they are framed and cut.

Real: sockets, a scripted peer on each. Not here: what is done with the events (test_stateless_listen.py).
"""

import asyncio
import pathlib
import socket
from collections.abc import Callable

import pytest
import uvloop

from fastproxy.proxy import dialogue
from tests.kit import actors_message, actors_wire

REQUEST = b"POST /mcp HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}"
EVENTS = {"Content-Type": "text/event-stream"}
CHUNKED = {**EVENTS, "Transfer-Encoding": "chunked"}
STREAM = b": hello\r\n\r\ndata: 1\r\n\r\nevent: message\ndata: 2\n\ndata: 3\r\r"
WHOLE = [b": hello\r\n\r\n", b"data: 1\r\n\r\n", b"event: message\ndata: 2\n\n", b"data: 3\r\r"]


async def open_stream(backend: actors_wire.ScriptedBackend, **seconds: float) -> dialogue.EventStream:
    limits = {"connect_seconds_max": 2.0, "head_seconds_max": 2.0, **seconds}
    return await dialogue.open_events("127.0.0.1", backend.port, request=REQUEST, **limits)


async def read_all(backend: actors_wire.ScriptedBackend) -> list[bytes]:
    stream = await open_stream(backend)
    try:
        events = []
        while event := await stream.next_event():
            events.append(event)
        return events
    finally:
        stream.close()


def run(work: Callable[[actors_wire.ScriptedBackend], object], *pieces: bytes, close: bool = False) -> object:
    """What `work` returns, against a peer that says these pieces with a pause between them."""

    async def script(connection: actors_wire.Connection) -> None:
        assert (await connection.read_request()) is not None
        for piece in pieces:
            await connection.send(piece)
            await asyncio.sleep(0.002)
        if not close:
            await connection.await_end()

    with (
        actors_wire.ScriptedBackend(script) as backend,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(work(backend))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_events_come_whole_however_they_are_cut_and_framed(size: int) -> None:
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    chunks = [actors_message.format_chunk(part) for part in parts] + [actors_message.LAST_CHUNK]
    assert run(read_all, actors_message.format_response("200 OK", CHUNKED), *chunks) == WHOLE
    counted = {**EVENTS, "Content-Length": str(len(STREAM))}
    assert run(read_all, actors_message.format_response("200 OK", counted), *parts) == WHOLE
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    assert run(read_all, head, *parts, close=True) == WHOLE


def test_an_interim_answer_is_passed_over() -> None:
    early = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    head = actors_message.format_response("200 OK", {**EVENTS, "Content-Length": str(len(STREAM))})
    assert run(read_all, early + head[:20], head[20:] + STREAM) == WHOLE


def test_a_stream_that_breaks_off_is_no_end() -> None:
    head = actors_message.format_response("200 OK", CHUNKED)
    with pytest.raises(dialogue.DialogueFailed, match="in the middle"):
        run(read_all, head + actors_message.format_chunk(b"data: 1\n\n"), close=True)
    with pytest.raises(dialogue.DialogueFailed):
        run(read_all, head + b"no chunk\r\n")


def test_an_event_without_end_is_given_up() -> None:
    head = actors_message.format_response("200 OK", CHUNKED)
    with pytest.raises(dialogue.DialogueFailed, match="over"):
        run(read_all, head, *[actors_message.format_chunk(b"x" * 100_000)] * 30)


def test_what_goes_wrong_before_the_head_is_told_apart() -> None:
    with pytest.raises(dialogue.TooSlow, match=r"0\.1 s"):
        run(lambda backend: open_stream(backend, head_seconds_max=0.1))
    with pytest.raises(dialogue.DialogueFailed, match="before an answer"):
        run(open_stream, close=True)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        with pytest.raises(dialogue.NotConnected):
            asyncio.run(
                dialogue.open_events("127.0.0.1", port, request=REQUEST, connect_seconds_max=1.0, head_seconds_max=1.0)
            )


def test_a_refusal_is_read_whole() -> None:
    async def refused(backend: actors_wire.ScriptedBackend) -> tuple[int, bool, bytes]:
        stream = await open_stream(backend)
        try:
            return stream.status, stream.events, await stream.rest()
        finally:
            stream.close()

    answer = actors_message.format_response("400 Bad Request", {"Content-Type": "application/json"}, b'{"error":1}')
    assert run(refused, answer[:-3], answer[-3:]) == (400, False, b'{"error":1}')


def test_the_kernel_is_told_to_ask_whether_the_peer_is_there() -> None:
    async def timers(backend: actors_wire.ScriptedBackend) -> list[str]:
        stream = await open_stream(backend)
        try:
            return timers_towards(backend.port)
        finally:
            stream.close()

    assert run(timers, actors_message.format_response("200 OK", CHUNKED)) == ["02"], "keep-alive"


def timers_towards(port: int) -> list[str]:
    """Which timer runs on each established connection to that port, as the kernel numbers them."""
    rows = [row.split() for row in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [row[5].partition(":")[0] for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"]
