"""A small server of 2026-07-28 for tests with several replicas: a scripted peer that does what the SDKs' servers do,
and what none of them does yet (tasks).

    server.released.clear()          # from now on a result waits, after its progress events, until it is set again
    server.say(change)               # tells every listen stream, whose ids are filled in
    server.finish()                  # ends them with their results

Its request states are good in this replica only, as if sealed with a key of the process; so are its tasks.
"""

import asyncio
import contextlib
import itertools
import json
import threading
import typing
from collections.abc import Iterator

from tests import kit
from tests.kit import actors_message, actors_wire, redis_server
from tests.proxy import fleet as fleets

Message = actors_message.Message

VERSION = "2026-07-28"
EVENTS = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
PROGRESS = b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1,"message":"requestState"}}'
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
CHANGED = "notifications/tools/list_changed"

_numbers = itertools.count(1)


def event(message: bytes) -> bytes:
    return b"event: message\r\ndata: " + message + b"\r\n\r\n"


class Server(fleets.Replica):
    """See the module."""

    def reset(self) -> None:
        super().reset()
        self.manner = "json"  # or events, or counted: how results are sent
        self.padding = ""  # in every result
        self.tasks: dict[str, dict[str, object]] = {}
        self.listens: dict[actors_wire.Connection, object] = {}
        self.honours: dict[str, object] | None = None  # instead of what was asked for
        self.refuses_listens: bytes | None = None
        self.flooded = 0
        self.acknowledges = threading.Event()
        self.acknowledges.set()
        self.released = threading.Event()
        self.released.set()

    # ---- verbs

    def say(self, method: str = CHANGED, **params: object) -> None:
        """A notification on every listen stream."""
        for connection, identity in list(self.listens.items()):
            members = {"jsonrpc": "2.0", "method": method, "params": {**params, "_meta": {SUBSCRIPTION: identity}}}
            self.send_raw(connection, event(json.dumps(members).encode()))

    def finish(self) -> None:
        """End every listen stream on purpose."""
        for connection, identity in list(self.listens.items()):
            result = {"resultType": "complete", "_meta": {SUBSCRIPTION: identity, "of": self.name}}
            message = json.dumps({"jsonrpc": "2.0", "id": identity, "result": result}).encode()
            self.send_raw(connection, event(message), last=True)
            del self.listens[connection]

    def send_raw(self, connection: actors_wire.Connection, data: bytes, *, last: bool = False) -> None:
        """A chunk on one of its connections, from the test's thread."""

        async def send() -> None:
            await connection.send(actors_message.format_chunk(data) + (actors_message.LAST_CHUNK if last else b""))

        assert self._backend is not None and self._backend._loop is not None
        asyncio.run_coroutine_threadsafe(send(), self._backend._loop).result(actors_wire.WAIT_SECONDS_MAX)

    def flood(self, padding: str, count: int) -> None:
        """So many notifications on its listen stream, as fast as they are taken; `flooded` counts."""
        [(connection, identity)] = self.listens.items()
        members = {"method": CHANGED, "params": {"padding": padding, "_meta": {SUBSCRIPTION: identity}}}
        chunk = actors_message.format_chunk(event(json.dumps(members).encode()))

        async def flood() -> None:
            for _ in range(count):
                await connection.send(chunk)
                self.flooded += 1

        assert self._backend is not None and self._backend._loop is not None
        asyncio.run_coroutine_threadsafe(flood(), self._backend._loop)

    @property
    def open_listens(self) -> int:
        """Listen streams whose client is still there."""
        return sum(connection.ended_by is None for connection in self.listens)

    # ---- what it answers

    async def answer(self, connection: actors_wire.Connection, request: Message) -> None:
        if request.method != "POST":  # a health probe, for one
            await connection.send(actors_message.format_response("405 Method Not Allowed", {"Allow": "POST"}))
            return
        asked = json.loads(request.body)
        method, params = asked.get("method", ""), asked.get("params", {})
        if method == "subscriptions/listen":
            await self._listen(connection, asked)
        elif method.startswith("tasks/"):
            await self._serve_task(connection, asked["id"], params["taskId"])
        elif "requestState" in params:
            await self._take_back(connection, asked["id"], params["requestState"])
        elif params.get("name") == "ask":
            state = f"{self.name}.{next(_numbers)}.sealed"
            result = {"resultType": "input_required", "requestState": state, "inputRequests": {}}
            await self._say_result(connection, asked["id"], result)
        elif params.get("name") == "start":
            task = {"taskId": f"task {self.name} №{next(_numbers)}", "status": "working", "ttlMs": 3_600_000}
            self.tasks[str(task["taskId"])] = task
            await self._say_result(connection, asked["id"], {"resultType": "task", **task})
        else:
            await self._say_result(connection, asked["id"], {"resultType": "complete", "who": self.name})

    async def _take_back(self, connection: actors_wire.Connection, number: object, state: str) -> None:
        if state.startswith(self.name + "."):
            await self._say_result(connection, number, {"resultType": "complete", "who": self.name, "state": state})
        else:
            await self._say_error(connection, number, "Invalid or expired requestState")

    async def _serve_task(self, connection: actors_wire.Connection, number: object, task_id: str) -> None:
        if task_id in self.tasks:
            result = {"resultType": "complete", **self.tasks[task_id], "who": self.name}
            await self._say_result(connection, number, result)
        else:
            await self._say_error(connection, number, "no such task")

    async def _say_error(self, connection: actors_wire.Connection, number: object, complaint: str) -> None:
        error = {"jsonrpc": "2.0", "id": number, "error": {"code": -32602, "message": f"{self.name}: {complaint}"}}
        await connection.send(
            actors_message.format_response("400 Bad Request", fleets.JSON, json.dumps(error).encode())
        )

    async def _say_result(self, connection: actors_wire.Connection, number: object, result: dict[str, object]) -> None:
        members = {"jsonrpc": "2.0", "id": number, "result": {**result, "padding": self.padding}}
        body = json.dumps(members).encode()
        if self.manner == "json":
            await connection.send(actors_message.format_response("200 OK", fleets.JSON, body))
            return
        if self.manner == "counted":  # an event stream whose length is known
            body = event(PROGRESS) + event(body)
            await connection.send(actors_message.format_response("200 OK", EVENTS, body))
            return
        head = actors_message.format_response("200 OK", {**EVENTS, "Transfer-Encoding": "chunked"})
        await connection.send(head + actors_message.format_chunk(event(PROGRESS)))
        await asyncio.to_thread(self.released.wait, actors_wire.WAIT_SECONDS_MAX)
        await connection.send(actors_message.format_chunk(event(body)) + actors_message.LAST_CHUNK)

    async def _listen(self, connection: actors_wire.Connection, asked: dict[str, typing.Any]) -> None:
        if self.refuses_listens is not None:
            await connection.send(self.refuses_listens)
            return
        head = {**EVENTS, "Transfer-Encoding": "chunked", "X-Server": self.name}
        await connection.send(actors_message.format_response("200 OK", head))
        await asyncio.to_thread(self.acknowledges.wait, actors_wire.WAIT_SECONDS_MAX)
        honoured = asked["params"]["notifications"] if self.honours is None else self.honours
        members = {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"notifications": honoured, "_meta": {SUBSCRIPTION: asked["id"]}},
        }
        self.listens[connection] = asked["id"]  # before the client can know, so that the test can speak at once
        await connection.send(actors_message.format_chunk(event(json.dumps(members).encode())))
        await connection.await_end()


class Place:
    """Two replicas of the server, and proxies in front of them."""

    def __init__(self, fleet: fleets.Fleet, servers: list[Server]) -> None:
        self.fleet = fleet
        self.servers = servers

    def post(self, proxy: int, body: bytes, method: str, name: str | None = None, **fields: str) -> Message:
        """A message of this era, on a connection of its own."""
        own = {"MCP_Protocol_Version": VERSION, "Mcp_Method": method}
        own |= {"Mcp_Name": name} if name is not None else {}
        return self.fleet.post(proxy, body, **own, **fields)

    def call(self, proxy: int, name: str, number: object = 1, **params: object) -> Message:
        """tools/call."""
        body = fleets.message("tools/call", number, name=name, **params)
        return self.post(proxy, body, "tools/call", name)

    def ask(self, proxy: int) -> tuple[str, str]:
        """A call that needs input: the state, and who made it."""
        answer = self.call(proxy, "ask")
        assert answer.status == 200, answer
        state = str(result_of(answer)["requestState"])
        return state, state.partition(".")[0]

    def server(self, name: str) -> Server:
        return next(server for server in self.servers if server.name == name)

    def other(self, name: str) -> Server:
        return next(server for server in self.servers if server.name != name)

    def affinity_keys(self) -> list[str]:
        """What Redis holds of keys that lead to replicas."""
        assert self.fleet.redis is not None
        return sorted(name.decode() for name in self.fleet.redis.execute("KEYS", fleets.PREFIX + "!affinity:*"))


def result_of(answer: Message) -> dict[str, typing.Any]:
    """The result, from JSON or from the last event."""
    body = answer.body
    if (answer.field("content-type") or "").startswith("text/event-stream"):
        body = [line[6:] for line in body.splitlines() if line.startswith(b"data: ")][-1]
    return typing.cast("dict[str, typing.Any]", json.loads(body)["result"])


@contextlib.contextmanager
def place(
    *flags: str, redis: redis_server.RedisServer | None = None, proxies: int = 2, servers: int = 2
) -> Iterator[Place]:
    """Running servers and proxies. Without Redis each proxy has the embedded store."""
    behind = [Server(f"server-{number}") for number in range(servers)]
    try:
        for server in behind:
            server.start()
        with fleets.fleet(*flags, proxies=proxies, redis=redis, behind=behind) as fleet:
            yield Place(fleet, behind)
    finally:
        for server in behind:
            server.kill()


def listen_request(proxy: kit.Proxy, number: object = 7, **notifications: object) -> bytes:
    """The bytes of a subscriptions/listen."""
    wanted = notifications or {"toolsListChanged": True}
    body = fleets.message("subscriptions/listen", number, notifications=wanted)
    fields = {**fleets.ACCEPT, "MCP-Protocol-Version": VERSION, "Mcp-Method": "subscriptions/listen"}
    return actors_message.format_request("POST", "/mcp", proxy.origin.partition("//")[2], fields, body)
