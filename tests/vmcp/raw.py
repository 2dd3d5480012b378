"""Single requests, as they stand on the wire: for what no SDK's client would say.

raw.post(origin, '{"jsonrpc":…}', session_id=…) -> status, headers, body
with raw.stream(origin, session_id) as stream: stream.next_message(), stream.read_to_end()
"""

import contextlib
import http.client
import json
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

SECONDS_MAX = 30.0
ACCEPT = "application/json, text/event-stream"


def post(
    origin: str,
    body: str | None,
    *,
    session_id: str | None = None,
    version: str = "2025-11-25",
    method: str = "POST",
    headers: dict[str, str] | None = None,
) -> tuple[int, dict[str, str], bytes]:
    """One request to the endpoint, and its whole answer."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(origin).netloc, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        fields = {"Accept": ACCEPT, "Content-Type": "application/json", **(headers or {})}
        if session_id is not None:
            fields |= {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": version}
        connection.request(method, "/mcp", body, fields)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()


def initialize(origin: str, **capabilities: Any) -> str:
    """A session, with a client that can do so much; its id."""
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": {"name": "raw", "version": "1"},
    }
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
    status, headers, _ = post(origin, body)
    assert status == 200
    return headers["mcp-session-id"]


class Stream:
    """An event stream that is being read."""

    def __init__(self, response: http.client.HTTPResponse, wire: socket.socket) -> None:
        self._response = response
        self._wire = wire

    def next_message(self) -> dict[str, Any]:
        """The next event that says something. TimeoutError, EOFError."""
        while line := self._response.readline():
            if line.startswith(b"data:") and line[5:].strip():
                return dict(json.loads(line[5:]))
        raise EOFError

    def read_to_end(self, *, seconds_max: float) -> bytes:
        """What is left; TimeoutError when it does not end."""
        self._wire.settimeout(seconds_max)
        return self._response.read()

    def is_open(self) -> bool:
        """Nothing has ended it, and nothing is said."""
        self._wire.settimeout(0.3)
        try:
            return self._response.read(1) != b""
        except TimeoutError:
            return True


@contextlib.contextmanager
def stream(origin: str, session_id: str, *, body: str | None = None, version: str = "2025-11-25") -> Iterator[Stream]:
    """The client's GET stream; with a body, the answer to a POST."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(origin).netloc, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        fields = {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": version}
        fields |= {"Accept": ACCEPT, "Content-Type": "application/json"} if body else {"Accept": "text/event-stream"}
        connection.request("POST" if body else "GET", "/mcp", body, fields)
        wire = connection.sock
        response = connection.getresponse()
        assert response.status == 200, response.read()
        yield Stream(response, wire)


@contextlib.contextmanager
def listen(origin: str, message: dict[str, Any], headers: dict[str, str]) -> Iterator[Stream]:
    """A stream of the era without sessions."""
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(origin).netloc, timeout=SECONDS_MAX)
    with contextlib.closing(connection):
        fields = {"Accept": ACCEPT, "Content-Type": "application/json", **headers}
        connection.request("POST", "/mcp", json.dumps(message), fields)
        wire = connection.sock
        response = connection.getresponse()
        assert response.status == 200, response.read()
        yield Stream(response, wire)
