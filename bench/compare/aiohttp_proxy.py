"""The aiohttp reverse proxy of the comparison: learns a session's replica, streams both ways, checks nothing.

Runs in the bench's own environment: `python -P aiohttp_proxy.py PORT BACKEND_PORT...`.
"""

import itertools
import sys

import aiohttp
from aiohttp import web

HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "host"}
SESSION = "mcp-session-id"


def build(backend_ports: list[int]) -> web.Application:
    replicas = itertools.cycle(backend_ports)
    sessions: dict[str, int] = {}

    async def forward(request: web.Request) -> web.StreamResponse:
        session = request.headers.get(SESSION)
        port = sessions.get(session) if session else None
        if port is None:
            port = next(replicas)
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP]
        async with request.app[CLIENT].request(
            request.method,
            f"http://127.0.0.1:{port}{request.path_qs}",
            headers=headers,
            data=request.content if request.can_read_body else None,
            allow_redirects=False,
        ) as answer:
            if session is None and SESSION in answer.headers:
                sessions[answer.headers[SESSION]] = port
            headers = [(name, value) for name, value in answer.headers.items() if name.lower() not in HOP_BY_HOP]
            response = web.StreamResponse(status=answer.status, headers=dict(headers))
            await response.prepare(request)
            async for piece in answer.content.iter_any():
                await response.write(piece)
            await response.write_eof()
            return response

    # aiohttp lives in the bench's own environment: mypy has no type for what an async generator of its yields
    async def hold_client(application: web.Application):  # type: ignore[no-untyped-def]
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4)  # below what the backend closes at
        timeout = aiohttp.ClientTimeout(total=None, connect=2)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as client:
            application[CLIENT] = client
            yield

    application = web.Application(client_max_size=8 << 20)
    application.cleanup_ctx.append(hold_client)
    application.router.add_route("*", "/{path:.*}", forward)
    return application


CLIENT = web.AppKey("client", aiohttp.ClientSession)

if __name__ == "__main__":
    listen, *backends = (int(argument) for argument in sys.argv[1:])
    web.run_app(build(backends), host="127.0.0.1", port=listen, access_log=None, print=None, keepalive_timeout=300)
