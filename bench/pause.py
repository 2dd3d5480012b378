"""What a call to a real Python MCP server takes, directly and through fastproxy: `python -m bench.pause`.

uvicorn writes an answer's head and body apart and leaves Nagle's algorithm on, so the body waits for the kernel's
delayed acknowledgement of the head, 40 ms, whoever the client is. The relay finds that out and acknowledges at once
(ext/nagle.pyx). One call at a time on one connection: this is a wait, not a cost, and load would hide it.
"""

import json
import socket
import statistics
import time
from collections.abc import Callable

from tests import kit

CALLS = 50
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "pause", "version": "1"}}


def _asker(port: int) -> Callable[[dict[str, object]], bytes]:
    """A function that sends a message over one connection, in one session, and answers with the raw answer."""
    peer = socket.create_connection(("127.0.0.1", port))
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session = ""

    def ask(message: dict[str, object]) -> bytes:
        nonlocal session
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        head = f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n{session}"
        head += f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        answer = b""
        while not answer.endswith(b"0\r\n\r\n") and not (b" 202 " in answer[:20] and b"\r\n\r\n" in answer):
            answer += peer.recv(65536)
        for line in answer.decode().split("\r\n"):
            if line.lower().startswith("mcp-session-id:"):
                session = line + "\r\n"
        return answer

    return ask


def measure(port: int) -> list[float]:
    """Milliseconds of each call after the first, which warms up."""
    ask = _asker(port)
    ask({"id": 0, "method": "initialize", "params": INITIALIZE})
    ask({"method": "notifications/initialized"})
    took = []
    for number in range(CALLS + 1):
        began = time.perf_counter()
        ask({"id": number + 1, "method": "tools/call", "params": {"name": "counter", "arguments": {}}})
        took.append((time.perf_counter() - began) * 1000)
    return took[1:]


def main() -> None:
    with kit.backend("mcp2-sse") as replicas, kit.proxies(1, backends=replicas) as proxies:
        for name, origin in (("directly", replicas[0].origin), ("through fastproxy", proxies[0].origin)):
            took = measure(int(origin.rpartition(":")[2]))
            print(f"{name:18} p50 {statistics.median(took):5.1f} ms   p99 {sorted(took)[-1]:5.1f} ms of {CALLS} calls")


if __name__ == "__main__":
    main()
