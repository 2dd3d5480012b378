"""An HTTP client that sends each request to one of several addresses, by lot from a seed, and writes down what it did.

So an SDK's client meets several replicas of a proxy the way it would behind a balancer that knows nothing of sessions.
"""

import json
import random
import typing

import httpx_of_sdk

httpx = httpx_of_sdk.module


class Switching(httpx.AsyncBaseTransport):  # type: ignore[misc]
    """Each request to one of `targets`; path and query stay as the SDK made them."""

    def __init__(self, targets: list[str], seed: int, exchanges: list[dict[str, typing.Any]]) -> None:
        self.targets = [httpx.URL(target) for target in targets]
        self.random = random.Random(seed)
        self.exchanges = exchanges
        self.inner = httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: typing.Any) -> typing.Any:
        index = self.random.randrange(len(self.targets))
        target = self.targets[index]
        request.url = request.url.copy_with(host=target.host, port=target.port)
        request.headers["host"] = f"{target.host}:{target.port}"
        exchange = {
            "method": request.method,
            "rpc": rpc_method(request.content if request.method == "POST" else b""),
            "target": index,
            "session": request.headers.get("mcp-session-id"),
            "protocol": request.headers.get("mcp-protocol-version"),
            "last_event_id": request.headers.get("last-event-id"),
        }
        self.exchanges.append(exchange)
        response = await self.inner.handle_async_request(request)
        exchange["status"] = response.status_code
        exchange["content_type"] = response.headers.get("content-type")
        exchange["answered_session"] = response.headers.get("mcp-session-id")
        return response

    async def aclose(self) -> None:
        await self.inner.aclose()


def rpc_method(body: bytes) -> str | None:
    """The JSON-RPC method of a request's body; None for an answer of ours and for no body."""
    message = json.loads(body) if body else None
    return message.get("method") if isinstance(message, dict) else None


def client(options: dict[str, typing.Any], exchanges: list[dict[str, typing.Any]], **given: typing.Any) -> typing.Any:
    """The library's client as the SDKs make it (30 s, 300 s between bytes), on a `Switching` transport."""
    given["headers"] = {**(options["headers"] or {}), **(given.get("headers") or {})}
    given["timeout"] = httpx.Timeout(options["timeout_seconds"] or 30.0, read=options["read_seconds_max"] or 300.0)
    return httpx.AsyncClient(transport=Switching(options["urls"], options["seed"] or 0, exchanges), **given)
