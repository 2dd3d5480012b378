"""`python -m everything --port N`: one replica on 127.0.0.1, address on the first line of standard output.

`python -m everything --stdio`: on standard input and output instead."""

import argparse
import asyncio
import socket
import warnings

import uvicorn
from everything import server
from mcp.server import stdio
from mcp.shared.exceptions import MCPDeprecationWarning


def main() -> None:
    parser = argparse.ArgumentParser(prog="everything", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 = any free port")
    parser.add_argument("--era", choices=("both", "legacy", "modern"), default="both")
    parser.add_argument("--stdio", action="store_true")
    # Sampling and logging are deprecated from 2026-07-28 on; the older revisions are tested all the same.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    asked = parser.parse_args()
    if asked.stdio:
        return asyncio.run(serve_pipe())
    with socket.create_server(("127.0.0.1", asked.port), backlog=1024) as listener:
        print(f"everything: serving on http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
        config = uvicorn.Config(server.create_app(asked.era), log_level="warning", timeout_graceful_shutdown=1)
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))


async def serve_pipe() -> None:
    program = server.create_server()
    async with stdio.stdio_server() as (read, write):
        await program.run(read, write, program.create_initialization_options())


if __name__ == "__main__":
    main()
