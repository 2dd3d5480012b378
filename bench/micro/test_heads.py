"""Heads and records, alone: what scanning, a head in pieces, and a record's two ways cost. `pytest bench/micro`.

The doors that Python calls build objects which the relay never builds, so a scan here is dearer than in the fast lane;
`python -m bench.instructions` counts that one whole.
"""

import msgspec
import pytest

from fastproxy._ext import core
from fastproxy.mcp import envelope
from fastproxy.session import record

REQUEST = (
    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nAccept: application/json, text/event-stream\r\n"
    b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\n"
    b"Authorization: Bearer " + b"t" * 160 + b"\r\nContent-Type: application/json\r\n"
    b"MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: 0123456789abcdef0123456789abcdef\r\n"
    b"Content-Length: 400\r\n\r\n"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 300\r\n\r\n"
ARGUMENTS = b'{"text":"' + b"y" * 300 + b'"}'
CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":' + ARGUMENTS + b"}}"
RECORD = record.SessionRecord(
    session_id="0123456789abcdef0123456789abcdef",
    backend_pod="myserver-0",
    backend_url="http://myserver-0.mcp-myserver-headless.default.svc.cluster.local:8080",
    protocol_version="2025-11-25",
    initialize={"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}},
    created_at="2026-11-20T09:00:00.000Z",
    updated_at="2026-11-20T09:00:00.000Z",
)


def test_scan_a_request_head(benchmark):
    assert benchmark(core.scan_request, REQUEST).size == len(REQUEST)


def test_scan_an_answer_head(benchmark):
    assert benchmark(core.scan_response, ANSWER).status == 200


@pytest.mark.parametrize("piece", [1, 16, 128], ids=lambda piece: f"pieces of {piece}")
def test_recover_a_head_cut_in_pieces(benchmark, piece):
    ends = [*range(piece, len(REQUEST), piece), len(REQUEST)]

    def arrive():
        for end in ends:
            head = core.scan_request(REQUEST[:end])
        return head

    assert benchmark(arrive).size == len(REQUEST)


def test_tell_that_a_body_is_no_initialize(benchmark):
    assert benchmark(core.may_be_initialize, CALL) is False


def test_read_an_envelope(benchmark):
    assert benchmark(envelope.read, CALL).method == "tools/call"


def test_encode_a_record(benchmark):
    assert msgspec.json.decode(benchmark(record.encode, RECORD))["v"] == 1


def test_decode_a_record(benchmark):
    stored = record.encode(RECORD)
    assert benchmark(record.decode, stored, key=RECORD.session_id) == RECORD
