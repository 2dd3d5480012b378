"""The era without sessions (2026-07-28) at the front of vMCP: every request says who asks, and is judged by itself."""

from fastproxy._ext import core
from fastproxy.mcp import reply
from fastproxy.wire import request as requests


class Modern:
    """Serves requests of that era."""

    async def serve(self, exchange: core.Exchange, request: requests.Request, body: bytes) -> None:
        """One request."""
        raise reply.Refusal(400, -32022, "this revision is not served yet")
