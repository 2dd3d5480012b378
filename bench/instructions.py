"""Instructions per request, counted by callgrind: what the clock of a shared machine can't tell, this can.

    python -m bench.instructions            measure, compare with bench/results/instructions.json; 1 above the bound
    python -m bench.instructions --write    measure and make this the new baseline of this toolchain

A client asks one request at a time over one connection, so that every request costs the same wake-ups. Counting begins
when the proxy is warm and ends with the last answer. Only user-space instructions are counted (our code, the event
loop's, libc's), not the kernel's.
Baselines are kept per toolchain (CPython, compiler, libc, machine): another compiler makes other code.
"""

import argparse
import http.server
import json
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

REQUESTS = 1000
WARM_UP = 50
CASES = {
    "fast lane": ("--fast-lane", "2025-11-25"),
    "story": ("--no-fast-lane", "2025-11-25"),
    "era without sessions": ("--fast-lane", "2026-07-28"),
}
GROWTH_MAX = 1.10
BASELINES = pathlib.Path(__file__).parent / "results" / "instructions.json"
SESSION = "0123456789abcdef0123456789abcdef"
ANSWER = json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x" * 200}]}}).encode()
INITIALIZE = b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}'
CALL = json.dumps(
    {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "t", "arguments": {"text": "y" * 300}}}
).encode()


class _Backend(http.server.BaseHTTPRequestHandler):
    """Answers like an MCP server, in two writes at the most; it is not what is measured."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        if b'"initialize"' in body:
            self.send_header("Mcp-Session-Id", SESSION)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_: object) -> None:
        pass


def toolchain() -> str:
    """What the machine code depends on."""
    compiler = subprocess.run(["cc", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    python = f"CPython {platform.python_version()}"
    return f"{python}, {compiler}, {' '.join(platform.libc_ver())}, {platform.machine()}"


def _request(body: bytes, session: str | None, version: str = "2025-11-25") -> bytes:
    head = b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json, text/event-stream\r\n"
    head += b"Accept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\nUser-Agent: python-httpx/0.28.1\r\n"
    head += b"Authorization: Bearer " + b"t" * 160 + b"\r\nContent-Type: application/json\r\n"
    if session is not None:
        head += b"MCP-Protocol-Version: " + version.encode() + b"\r\n"
        head += b"Mcp-Session-Id: " + session.encode() + b"\r\nMcp-Method: tools/call\r\nMcp-Name: t\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _ask(peer: socket.socket, request: bytes) -> bytes:
    peer.sendall(request)
    answer = b""
    while not answer.endswith(ANSWER):
        piece = peer.recv(65536)
        if not piece:
            raise RuntimeError(f"the proxy closed the connection after {answer[:200]!r}")
        answer += piece
    return answer


def _count(lane: str, version: str, requests: int, backend_port: int) -> int:
    """User-space instructions of a warm proxy for `requests` calls."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/callgrind.out"
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}"]
        command += [sys.executable, "-m", "fastproxy", "serve", "--listen", "127.0.0.1:0", "--admin", "off", lane]
        command += ["--backend", f"http://127.0.0.1:{backend_port}"]
        environment = {"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin", "HOME": folder}
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        )
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            found = re.search(r":(\d+)$", line.strip())
            if found is None:
                raise RuntimeError(f"the proxy did not start: {line!r}")
            with socket.create_connection(("127.0.0.1", int(found[1])), timeout=60) as peer:
                _ask(peer, _request(INITIALIZE, None))
                for _ in range(WARM_UP):
                    _ask(peer, _request(CALL, SESSION, version))
                _switch(process.pid, "on")
                for _ in range(requests):
                    _ask(peer, _request(CALL, SESSION, version))
                _switch(process.pid, "off")
            process.send_signal(signal.SIGINT)
            process.wait(60)
        finally:
            process.kill()
        totals = re.search(r"^totals: (\d+)", pathlib.Path(out).read_text(), re.M)
        if totals is None:
            raise RuntimeError("callgrind wrote no totals")
        return int(totals[1])


def _switch(pid: int, how: str) -> None:
    subprocess.run(["callgrind_control", "-i", how, str(pid)], check=True, capture_output=True)


def measure() -> dict[str, int]:
    """Instructions per request in each lane."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Backend)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        port = server.server_address[1]
        found = {}
        for name, (lane, version) in CASES.items():
            found[name] = _count(lane, version, REQUESTS, port) // REQUESTS
        return found
    finally:
        server.shutdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="make what is measured the baseline of this toolchain")
    arguments = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("skipped: valgrind is not installed")
        return 0
    key = toolchain()
    baselines = json.loads(BASELINES.read_text()) if BASELINES.exists() else {}
    baseline = baselines.get(key, {})
    found = measure()
    grown = False
    for name, instructions in found.items():
        before = baseline.get(name)
        ratio = (
            f"{instructions / before:.3f} of the baseline's {before}" if before else "no baseline for this toolchain"
        )
        print(f"{name}: {instructions} instructions per request, {ratio}")
        grown |= bool(before) and instructions > before * GROWTH_MAX
    if arguments.write:
        BASELINES.write_text(json.dumps({**baselines, key: found}, indent=2, sort_keys=True) + "\n")
    elif grown:
        print(f"the hot path has grown by more than {GROWTH_MAX - 1:.0%}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
