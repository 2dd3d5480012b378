"""What a call to a stdio server costs through bridges: `python -m bench.stdio`: fastproxy, mcp-proxy, supergateway.

Behind each is the same scripted server (tests/kit/programs/stdio_script.py); its processes are known by their command
line, and their time is taken off that of the bridge's tree. Load: some sessions with a kept connection each, calls one
after the other in each. A bridge that is not installed (bench/compare/install.sh) is skipped by name.
"""

import argparse
import json
import pathlib
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from bench import machine
from bench.compare.rival import CACHE
from tests.kit import provision
from tests.kit.backends import PROGRAMS

RESULTS = pathlib.Path(__file__).parent / "results" / "stdio.json"
SCRIPT = [sys.executable, "-S", str(PROGRAMS / "stdio_script.py")]
MARK = b"stdio_script.py"
START_SECONDS_MAX = 30.0
INITIALIZE = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "bench", "version": "1"}}


class Bridge(msgspec.Struct, frozen=True):
    """One way to put a stdio server behind HTTP. `command(port)`: None when it is not installed."""

    name: str
    command: Callable[[int], list[str] | None]


class Figures(msgspec.Struct, frozen=True):
    """Of one bridge in one round."""

    bridge_microseconds: float  # of processor time a call, the server's own taken off
    server_microseconds: float
    calls_per_second: float
    p50_milliseconds: float
    p99_milliseconds: float
    rss_bytes: int  # of the bridge
    errors: int


def _fastproxy(*flags: str) -> Callable[[int], list[str] | None]:
    words = [sys.executable, "-m", "fastproxy", "serve", "--admin", "off", "--listen"]
    return lambda port: [*words, f"127.0.0.1:{port}", *flags, "--", *SCRIPT]


def _mcp_proxy(port: int) -> list[str] | None:
    program = CACHE / "mcp-proxy" / "bin" / "mcp-proxy"
    return [str(program), "--port", str(port), "--host", "127.0.0.1", "--", *SCRIPT] if program.exists() else None


def _supergateway(port: int) -> list[str] | None:
    program = CACHE / "supergateway" / "node_modules" / "supergateway" / "dist" / "index.js"
    if not program.exists():
        return None
    options = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none", "--port", str(port)]
    return [str(provision.node()), str(program), "--stdio", shlex.join(SCRIPT), *options]


BRIDGES = (
    Bridge("fastproxy", _fastproxy()),
    Bridge("fastproxy-shared", _fastproxy("--stdio-mode", "shared")),
    Bridge("mcp-proxy", _mcp_proxy),
    Bridge("supergateway", _supergateway),
)


class Session:
    """A client with a connection that is kept."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._session = ""
        self.milliseconds: list[float] = []
        self.errors = 0
        self._ask({"id": 0, "method": "initialize", "params": INITIALIZE})
        self._ask({"method": "notifications/initialized"})

    def call(self, number: int) -> None:
        began = time.perf_counter()
        params = {"name": "echo", "arguments": {"value": f"a value of some length, number {number}"}}
        answer = self._ask({"id": number, "method": "tools/call", "params": params})
        self.milliseconds.append((time.perf_counter() - began) * 1000)
        self.errors += f"number {number}".encode() not in answer

    def close(self) -> None:
        self._socket.close()

    def _ask(self, message: dict[str, object]) -> bytes:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        head = (
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\nContent-Type: application/json\r\n{self._session}"
        )
        head += f"Accept: application/json, text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
        self._socket.sendall(head.encode() + body)
        data = b""
        while not (ended := _whole(data)):
            piece = self._socket.recv(65536)
            if not piece:
                raise ConnectionError("the bridge has closed the connection")
            data += piece
        assert ended
        for line in data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n"):
            if line.lower().startswith("mcp-session-id:"):
                self._session = line + "\r\n"
        return data


def _whole(data: bytes) -> bool:
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        return False
    fields = head.lower()
    if b"transfer-encoding: chunked" in fields:
        return body.endswith(b"0\r\n\r\n")
    for line in fields.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line.partition(b":")[2])
    return True


def run(bridge: Bridge, *, sessions: int, calls: int) -> Figures | None:
    """One round; None when it is not installed."""
    port = _free_port()
    command = bridge.command(port)
    if command is None:
        return None
    running = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _await_port(port, running)
        opened = [Session(port) for _ in range(sessions)]
        for session in opened:  # what is made once
            session.call(1)
            session.milliseconds.clear()
        before = _cpu(running.pid)
        began = time.perf_counter()
        threads = [threading.Thread(target=_call_on, args=(session, calls)) for session in opened]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - began
        after = _cpu(running.pid)
        rss = machine.rss_bytes([pid for pid in machine.process_tree(running.pid) if not _is_server(pid)])
        for session in opened:
            session.close()
    finally:
        running.terminate()
        try:
            running.wait(15)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
    count = sessions * calls
    took = sorted(one for session in opened for one in session.milliseconds)
    return Figures(
        bridge_microseconds=(after[0] - before[0]) / count * 1e6,
        server_microseconds=(after[1] - before[1]) / count * 1e6,
        calls_per_second=count / seconds,
        p50_milliseconds=statistics.median(took),
        p99_milliseconds=took[int(len(took) * 0.99)],
        rss_bytes=rss,
        errors=sum(session.errors for session in opened),
    )


def _call_on(session: Session, calls: int) -> None:
    for number in range(2, calls + 2):
        session.call(number)


def _cpu(root: int) -> tuple[float, float]:
    """Processor seconds of the bridge, and of the servers behind it."""
    tree = machine.process_tree(root)
    servers = [pid for pid in tree if _is_server(pid)]
    return machine.cpu_seconds([pid for pid in tree if pid not in servers]), machine.cpu_seconds(servers)


def _is_server(pid: int) -> bool:
    try:
        words = (machine.PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.endswith(MARK) for word in words[:3])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        return int(bound.getsockname()[1])


def _await_port(port: int, running: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS_MAX
    while time.monotonic() < deadline and running.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError("the bridge does not listen")


def table(rounds: dict[str, list[Figures]]) -> Iterator[str]:
    """Medians, and how often fastproxy's cost fits into another's."""
    heads = ("µs a call", "(server)", "calls/s", "p50 ms", "p99 ms", "MiB", "errors")
    yield "{:18} {:>10} {:>9} {:>9} {:>8} {:>8} {:>6} {:>6}".format("bridge", *heads)
    for name, figures in rounds.items():
        middle = {
            field: statistics.median(getattr(one, field) for one in figures) for field in Figures.__struct_fields__
        }
        yield (
            f"{name:18} {middle['bridge_microseconds']:10.0f} {middle['server_microseconds']:9.0f} "
            f"{middle['calls_per_second']:9.0f} {middle['p50_milliseconds']:8.2f} {middle['p99_milliseconds']:8.2f} "
            f"{middle['rss_bytes'] / 2**20:6.0f} {middle['errors']:6.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.stdio", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sessions", type=int, default=4)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    rounds: dict[str, list[Figures]] = {}
    for _ in range(options.rounds):
        for bridge in BRIDGES:
            figures = run(bridge, sessions=options.sessions, calls=options.calls)
            if figures is None:
                print(f"skipped {bridge.name}: not installed (bench/compare/install.sh)")
                continue
            rounds.setdefault(bridge.name, []).append(figures)
    print("\n".join(table(rounds)))
    described = {"machine": machine.describe(), "options": vars(options), "rounds": rounds}
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(described), indent=1) + b"\n")


if __name__ == "__main__":
    main()
