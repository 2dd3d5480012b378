"""Real MCP servers as actors: every kind in `KINDS`, one process per replica, on loopback.

`backend("mcp2-sse", replicas=2)` is a context manager that yields two running `Backend`s. Data flow: a row of `KINDS`
→ a command line of `programs/server.py` (or of server-everything) in its provisioned environment → a process that
announces its port.

A kind's name is `SDK-WIRE`: `sse` answers with event streams, `json` with JSON, both with sessions; `stateless`
without sessions; `httpsse` is the old transport of two endpoints. `everything` is the reference server of the
TypeScript SDK 1.x.
"""

import contextlib
import pathlib
from collections.abc import Iterator

import msgspec

from tests.kit import actors, provision

PROGRAMS = pathlib.Path(__file__).resolve().parent / "programs"
HOST = "127.0.0.1"


class Kind(msgspec.Struct, frozen=True, gc=False):
    """What a backend is made of, and what a test may expect of it."""

    environment: str  # the provisioned thing that it runs in
    path: str  # where its MCP endpoint is
    transport: str  # streamable-http, sse
    stateful: bool
    arguments: tuple[str, ...]


def _python(environment: str, dialect: str) -> dict[str, Kind]:
    def kind(path: str, transport: str, stateful: bool, *flags: str) -> Kind:
        return Kind(environment, path, transport, stateful, (dialect, transport, *flags))

    return {
        f"{dialect}-sse": kind("/mcp", "streamable-http", True),
        f"{dialect}-json": kind("/mcp", "streamable-http", True, "--json"),
        f"{dialect}-stateless": kind("/mcp", "streamable-http", False, "--stateless", "--json"),
        f"{dialect}-httpsse": kind("/sse", "sse", True),
    }


KINDS: dict[str, Kind] = {
    **_python("mcp2", "mcp2"),
    **_python("mcp1", "mcp1"),
    **_python("mcp2", "fastmcp"),
    "everything": Kind("everything", "/mcp", "streamable-http", True, ("streamableHttp",)),
    "everything-httpsse": Kind("everything", "/sse", "sse", True, ("sse",)),
}


class Backend(actors.Process):
    """One replica of a real MCP server."""

    def __init__(self, kind_name: str, *, host: str, flags: tuple[str, ...], environment: dict[str, str]) -> None:
        self.kind = KINDS[kind_name]
        self.host = host
        self.port = 0
        command, own = _command(self.kind, host, flags)
        super().__init__(kind_name, command, {**own, **environment})

    def announce(self, line: str) -> bool:
        if not super().announce(line):
            return False
        self.port = msgspec.json.decode(line)["port"]
        return True

    def restart_command(self) -> list[str]:
        if self.kind.environment == "everything":
            self.environment["PORT"] = str(self.port)
            return self.command
        return [*self.command, "--port", str(self.port)]

    @property
    def origin(self) -> str:
        """What a proxy is told: scheme, host and port."""
        return f"http://{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """What a client is told: the MCP endpoint."""
        return self.origin + self.kind.path


def _command(kind: Kind, host: str, flags: tuple[str, ...]) -> tuple[list[str], dict[str, str]]:
    if kind.environment == "everything":
        program = provision.module("everything", "@modelcontextprotocol/server-everything") / "dist" / "index.js"
        preload = ["--import", str(PROGRAMS / "loopback.mjs")]
        return [str(provision.node()), *preload, str(program), *kind.arguments], {"PORT": "0", "KIT_HOST": host}
    python = provision.python(kind.environment)
    return [str(python), str(PROGRAMS / "server.py"), *kind.arguments, "--host", host, *flags], {}


@contextlib.contextmanager
def backend(
    kind_name: str,
    *,
    replicas: int = 1,
    event_store: bool = False,
    call_log: pathlib.Path | None = None,
    hosts: tuple[str, ...] = (HOST,),
    flags: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> Iterator[list[Backend]]:
    """So many replicas of one real server, running and ready; killed afterwards.

    `hosts` are the loopback addresses that the replicas take in turn. `call_log` is where `execute` writes, one line
    per call.
    """
    own = dict(environment or {})
    if call_log is not None:
        own["KIT_CALL_LOG"] = str(call_log)
    if event_store:
        flags = (*flags, "--event-store")
    replica_list = [
        Backend(kind_name, host=hosts[number % len(hosts)], flags=flags, environment=own) for number in range(replicas)
    ]
    with actors.started(replica_list) as running:
        yield running


def logged_calls(call_log: pathlib.Path) -> list[str]:
    """The ids of the calls that `execute` has run, in order, over all replicas that share the log."""
    return [line.split()[0] for line in call_log.read_text().splitlines()] if call_log.exists() else []
