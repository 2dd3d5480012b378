"""A small real MCP server with state, on the official SDK: what a replica looks like to the proxy.

`counter` counts the calls of one session and lives in this process alone: only a client whose every request reaches
the replica that opened its session sees 1, 2, 3. A client of the revision without sessions is told so.

Prints the port it has bound as its only line on standard output, then serves until SIGTERM.
"""

import argparse
import collections
import socket

import uvicorn
from mcp.server import mcpserver

SESSION_HEADER = "mcp-session-id"


def build(replica: str) -> mcpserver.MCPServer:
    """The server and its two tools."""
    server = mcpserver.MCPServer("demo-counter", version="1.0", log_level="WARNING")
    calls: collections.Counter[str] = collections.Counter()

    @server.tool()
    def counter(context: mcpserver.Context) -> str:
        """Count the calls of this session, and say which replica keeps the count."""
        session_id = (context.headers or {}).get(SESSION_HEADER)
        if session_id is None:
            return f"no session, so nothing to count; answered by replica {replica}"
        calls[session_id] += 1
        return f"call {calls[session_id]} of this session, counted by replica {replica}"

    @server.tool()
    def whoami() -> str:
        """Name the replica that answers."""
        return f"replica {replica}"

    return server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replica", default=socket.gethostname(), help="the name this replica answers with")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 is any")
    options = parser.parse_args()

    listener = socket.create_server((options.host, options.port))
    print(listener.getsockname()[1], flush=True)
    application = build(options.replica).streamable_http_app(host=options.host)
    # An open GET stream would hold up a graceful stop for ever; a second is enough for a demonstration.
    config = uvicorn.Config(application, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
