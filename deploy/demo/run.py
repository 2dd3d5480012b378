"""What `make run` starts: two replicas of server.py, `fastproxy serve` in front of them, and a page of what to try.

The children live in sessions of their own, so that Ctrl-C reaches this program alone: it ends the proxy first, which
drains, then the replicas. The kernel ends them when this program dies without having had the chance (Linux).
"""

import argparse
import asyncio
import ctypes
import json
import pathlib
import signal
import socket
import sys

REPLICAS = ("A", "B")
SERVER = pathlib.Path(__file__).with_name("server.py")
START_SECONDS_MAX = 30
STOP_SECONDS_MAX = 8  # above the proxy's --drain-timeout below
SET_PARENT_DEATH_SIGNAL = 1  # prctl(2), PR_SET_PDEATHSIG
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class StartError(Exception):
    """A part of the demonstration did not come up; the text is all that the user needs."""


def is_free(address: str) -> bool:
    """Whether the proxy could listen there now."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_server((host, int(port))).close()
    except OSError:
        return False
    return True


def die_with_parent() -> None:
    """In the child, before exec: no orphan outlives a runner that was killed."""
    if LIBC is not None:
        LIBC.prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


async def start(*command: str) -> asyncio.subprocess.Process:
    """One child whose standard output we read; what it logs goes to our terminal."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


async def read_line(process: asyncio.subprocess.Process, name: str) -> str:
    """The next line of a child's standard output; a child that says nothing has failed."""
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS_MAX)
    except TimeoutError:
        raise StartError(f"{name} did not start within {START_SECONDS_MAX} s") from None
    if not line:
        raise StartError(f"{name} ended with exit code {await process.wait()} before it was ready")
    return line.decode().strip()


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, patience, SIGKILL."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            process.kill()
    await process.wait()


def describe(url: str, admin: str, backends: list[str]) -> str:
    """The page that the user reads: where it is, how to point a client at it, what to try."""
    client = json.dumps({"mcpServers": {"demo": {"type": "http", "url": f"{url}/mcp"}}}, indent=2)
    initialize = json.dumps(
        {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "curl", "version": "1"},
            },
        },
        separators=(",", ":"),
    )
    headers = "-H 'Content-Type: application/json' -H 'Accept: application/json, text/event-stream'"
    listen = url.removeprefix("http://")
    attempt = "make try" if listen == "127.0.0.1:8080" else f"make try LISTEN={listen}"
    return f"""
fastproxy is in front of two replicas of one MCP server ({", ".join(backends)}).

  MCP endpoint   {url}/mcp
  admin          {admin}/metrics, {admin}/backends, {admin}/sessions

Point a client at it (mcp.json):

{client}

Open a session by hand (the answer's Mcp-Session-Id belongs to one of the replicas from then on):

  curl -si {url}/mcp {headers} -d '{initialize}'

Two sessions of the official SDK, three calls each, from another terminal:

  {attempt}

Ctrl-C ends all of it.
"""


async def serve(listen: str, admin: str, children: list[asyncio.subprocess.Process]) -> None:
    """Start the replicas, then the proxy; `children` grows in the order of starting."""
    replicas = []
    for name in REPLICAS:
        process = await start(str(SERVER), "--replica", name)
        children.append(process)
        replicas.append(process)
    ports = [await read_line(process, f"replica {name}") for process, name in zip(replicas, REPLICAS, strict=True)]
    backends = [f"http://127.0.0.1:{port}" for port in ports]
    flags = [flag for backend in backends for flag in ("--backend", backend)]
    flags += ["--name", "demo", "--store", "memory:", "--drain-delay", "0s", "--drain-timeout", "3s"]
    flags += ["--listen", listen, "--admin", admin if is_free(admin) else "127.0.0.1:0"]
    proxy = await start("-m", "fastproxy", "serve", *flags)
    children.append(proxy)
    url, admin_url = [(await read_line(proxy, "fastproxy serve")).rpartition(" ")[2] for _ in range(2)]
    print(describe(url, admin_url, backends), flush=True)


async def run(listen: str, admin: str) -> int:
    """Until a signal or the first child's end; the exit code."""
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_stop.set)
    children: list[asyncio.subprocess.Process] = []
    signalled = asyncio.create_task(asked_to_stop.wait(), name="signalled")
    started = asyncio.create_task(serve(listen, admin, children), name="started")
    try:
        await asyncio.wait({signalled, started}, return_when=asyncio.FIRST_COMPLETED)
        if not asked_to_stop.is_set():
            await started
            ends = {asyncio.create_task(child.wait(), name=f"end of {child.pid}") for child in children}
            await asyncio.wait({signalled, *ends}, return_when=asyncio.FIRST_COMPLETED)
        if asked_to_stop.is_set():
            return 0
        raise StartError("a replica or the proxy has ended; its last words are above")
    finally:
        started.cancel()
        for child in reversed(children):
            await stop(child)


def main() -> None:
    parser = argparse.ArgumentParser(description="two real MCP servers and fastproxy in front of them")
    parser.add_argument("--listen", default="127.0.0.1:8080", help="HOST:PORT of the proxy (default %(default)s)")
    parser.add_argument("--admin", default="127.0.0.1:9901", help="HOST:PORT of its admin (default %(default)s)")
    parser.add_argument("--check", action="store_true", help="only look whether --listen is free")
    options = parser.parse_args()
    if not is_free(options.listen):
        sys.exit(f"make run: {options.listen} is in use; stop what listens there, or: make run LISTEN=127.0.0.1:8081")
    if options.check:
        return
    try:
        sys.exit(asyncio.run(run(options.listen, options.admin)))
    except StartError as error:
        sys.exit(f"make run: {error}")


if __name__ == "__main__":
    main()
