"""A real MCP server on one of the Python SDKs: `python server.py DIALECT WIRE [options]`.

DIALECT is a `dialect_*` file here (which SDK), WIRE is `streamable-http` or `sse` (the old HTTP+SSE). The socket is
bound here, so that port 0 cannot race; once uvicorn serves, one JSON line on standard output says `{"ready": true,
"port": …, "pid": …}`. Tools are those of `tools.py`.
"""

import argparse
import importlib
import json
import os
import socket
import sys
import threading
import time
import typing

import tools
import uvicorn

PARENT_POLL_SECONDS = 2.0


class Announcing(uvicorn.Server):
    """uvicorn that says on standard output when it serves, lifespan included."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            print(json.dumps({"ready": True, "port": sockets[0].getsockname()[1], "pid": os.getpid()}), flush=True)


def listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    return listener


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("dialect", choices=("mcp1", "mcp2", "fastmcp"))
    parser.add_argument("wire", choices=("streamable-http", "sse"))
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--name", default="kit")
    parser.add_argument("--json", action="store_true", help="answer POST with JSON instead of an event stream")
    parser.add_argument("--stateless", action="store_true")
    parser.add_argument(
        "--event-store", action="store_true", help="keep events, so that Last-Event-ID resumes a stream"
    )
    parser.add_argument(
        "--retry-milliseconds", type=int, default=100, help="what the priming event of a resumable stream tells clients"
    )
    return parser.parse_args(arguments)


def end_with(parent: int) -> None:
    """End when the test's process is gone, even by kill -9, so that nothing is left behind."""
    while os.getppid() == parent:
        time.sleep(PARENT_POLL_SECONDS)
    os._exit(1)


def main(arguments: list[str]) -> None:
    asked = read_arguments(arguments)
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    dialect: typing.Any = importlib.import_module(f"dialect_{asked.dialect}")
    listener = listen(asked.host, asked.port)
    application = dialect.build(asked, lambda server: tools.add(server, dialect))
    # A short grace: open GET streams would otherwise hold a SIGTERM for ever.
    config = uvicorn.Config(application, log_level="info", access_log=True, timeout_graceful_shutdown=1)
    Announcing(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1:])
