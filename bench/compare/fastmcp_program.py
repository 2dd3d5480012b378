"""The FastMCP proxy of the comparison: one server that mounts each backend under a prefix of its own.

Runs in an environment that has fastmcp: `python -P fastmcp_program.py PORT BACKEND_PORT...`.
"""

import sys

import uvicorn
from fastmcp import FastMCP
from fastmcp.server import create_proxy


def build(backend_ports: list[int]) -> FastMCP:
    front: FastMCP = FastMCP("bench")
    for number, port in enumerate(backend_ports):
        front.mount(create_proxy(f"http://127.0.0.1:{port}/mcp"), namespace=f"b{number}")
    return front


if __name__ == "__main__":
    listen, *backends = (int(argument) for argument in sys.argv[1:])
    application = build(backends).http_app(path="/mcp", json_response=True)
    uvicorn.run(application, host="127.0.0.1", port=listen, log_level="error", access_log=False)
