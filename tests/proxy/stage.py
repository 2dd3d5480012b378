"""A real data plane on a uvloop of its own thread, with both addresses, for tests that look at its parts from inside.

    with stage.Stage({"backend": [backend.origin]}) as proxy:
        proxy.ask("GET", "/readyz").status            # the admin address, by http.client
        proxy.send("POST", "/mcp", body=b"{}")        # the data address
        proxy.run(lambda: proxy.plane.book.create(session))  # on its loop

It is what `fastproxy serve` is without the process around it: no signals, no drain of its own (`drains` counts).
An exception that reaches the loop fails the test at the end.
"""

import asyncio
import http.client
import threading
import typing
from collections.abc import Callable, Coroutine

import msgspec
import uvloop

from fastproxy import telemetry
from fastproxy._ext import core
from fastproxy.config import load
from fastproxy.proxy import access, admin, plane, serving

WAIT_SECONDS_MAX = 10.0
Result = typing.TypeVar("Result")


class Answer(msgspec.Struct, frozen=True):
    """What http.client has read."""

    status: int
    fields: http.client.HTTPMessage
    body: bytes

    def json(self) -> typing.Any:
        return msgspec.json.decode(self.body)


class Stage:
    """See the module. Settings are those of `fastproxy serve`, as a flag would give them."""

    def __init__(self, settings: dict[str, object], environment: dict[str, str] | None = None) -> None:
        given = {"listen": "127.0.0.1:0", "admin": "127.0.0.1:0", **settings}
        self.config = load.load(given, environment or {}).config
        self.drains = 0
        self.admin_port = 0
        self.data_port = 0
        self.metrics = telemetry.Telemetry(self.config.name)
        self.complaints: list[dict[str, typing.Any]] = []
        self._began = threading.Event()
        self._thread = threading.Thread(target=self._live, name="stage")
        self._failure: BaseException | None = None

    def __enter__(self) -> typing.Self:
        self._thread.start()
        assert self._began.wait(WAIT_SECONDS_MAX)
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(WAIT_SECONDS_MAX)
        assert error is not None or not self.complaints, f"exceptions reached the loop: {self.complaints}"
        assert error is not None or not self._thread.is_alive()

    # ---- what a test does

    def run(self, work: Callable[[], Coroutine[typing.Any, typing.Any, Result]]) -> Result:
        """A coroutine, on the plane's loop."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(WAIT_SECONDS_MAX)

    def call(self, work: Callable[[], Result]) -> Result:
        """A function, on the plane's loop."""

        async def called() -> Result:
            return work()

        return self.run(called)

    def ask(self, method: str, target: str, **headers: str) -> Answer:
        """The admin address."""
        return converse(self.admin_port, method, target, None, headers)

    def send(self, method: str, target: str, *, body: bytes | None = None, **headers: str) -> Answer:
        """The data address."""
        return converse(self.data_port, method, target, body, headers)

    # ---- the relay's handler

    def begin(self, exchange: core.Exchange) -> None:
        if exchange.listener.tag == "admin":
            self.plane.tasks.start(self.pages.serve(exchange), name="admin")
        else:
            self.plane.story.begin(exchange)

    def resume(self, exchange: core.Exchange, answer: core.AnswerHead | None) -> None:
        self.plane.story.resume(exchange, answer)

    def touch(self, key: bytes) -> None:
        self.plane.story.touch(key)

    def access(self, exchange: core.Exchange) -> None:
        if exchange.listener.tag != "admin":
            self._access.write(exchange)

    def drain(self) -> None:
        self.drains += 1
        self.plane.lifecycle = "draining"

    # ---- the thread

    def _live(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self._end = asyncio.Event()
        try:
            self.plane = plane.Plane(self.config, self.metrics.observe_store)
            self.plane.reactor.handler = self
            self.plane.drain = self.drain
            self.metrics.attach(self.plane)
            self.pages = admin.Admin(self.plane, self.metrics)
            self._access = access.AccessLog()
            assert self.config.admin is not None
            data, pages = serving.listen(self.config.listen, ""), serving.listen(self.config.admin, "")
            self.data_port, self.admin_port = data.getsockname()[1], pages.getsockname()[1]
            await self.plane.open()
            self.plane.reactor.listen(data.detach(), "data")
            self.plane.reactor.listen(pages.detach(), "admin", fast_lane=False)
            self.plane.lifecycle = "serving"
        except BaseException as error:
            self._failure = error
            raise
        finally:
            self._began.set()
        await self._end.wait()
        await self.plane.close()


def converse(port: int, method: str, target: str, body: bytes | None, headers: dict[str, str]) -> Answer:
    """One request on a connection of its own. `_` in a header's name stands for `-`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS_MAX)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()
