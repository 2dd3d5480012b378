"""A real MCP client on one of the Python SDKs, driven by lines of JSON: `python driver.py DIALECT OPTIONS`.

In: one step per line, `{"step": 3, "do": "call", "name": "counter", "arguments": {}}`; steps run side by side. Out:
first `{"ready": true, …}` or `{"ready": false, "error": …}`; then one report per step, in the order in which they
end; at last, when the SDK's own tasks fail and take the whole client along, `{"died": …}`. End of input closes the
client the way its SDK does it.

DIALECT is `client_mcp1` or `client_mcp2` beside this file; `switching.py` sends requests to several addresses by lot.
"""

import asyncio
import collections
import importlib
import json
import sys
import time
import typing

import anyio
import httpx_of_sdk

Report = dict[str, typing.Any]


class Journal:
    """What happened to this client, as a test will ask for it."""

    def __init__(self) -> None:
        self.notifications: list[Report] = []  # other than progress: those that no call of ours waits for
        self.asked: list[Report] = []  # what the server asked us, and so was answered
        self.exchanges: list[Report] = []  # HTTP requests and the heads of their answers
        self._changed = asyncio.Event()

    def notice(self, method: str, params: typing.Any) -> None:
        if method != "notifications/progress":
            self.notifications.append({"method": method, "params": params})
            self._changed.set()

    async def await_notifications(self, count: int, seconds_max: float) -> list[Report]:
        """All notifications so far, as soon as there are so many, or when time is up."""
        deadline = time.monotonic() + seconds_max
        while len(self.notifications) < count and time.monotonic() < deadline:
            self._changed.clear()
            with anyio.move_on_after(deadline - time.monotonic()):
                await self._changed.wait()
        return self.notifications


def say(report: Report) -> None:
    print(json.dumps(report), flush=True)


def describe(error: BaseException) -> Report:
    """An error as a test can compare it; a group is told by its first leaf, which is the cause."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    inner = getattr(error, "error", None)  # both SDK lines keep code, message and data there
    response = getattr(error, "response", None)  # an HTTP status that the SDK did not translate
    return {
        "type": type(error).__name__,
        "message": str(getattr(inner, "message", error)),
        "code": getattr(inner, "code", None),
        "data": getattr(inner, "data", None),
        "status": getattr(response, "status_code", None),
    }


async def act(connection: typing.Any, journal: Journal, step: Report) -> Report:
    """Do one step; what it returns becomes part of the report."""
    match step["do"]:
        case "call":
            progress: list[Report] = []

            async def on_progress(done: float, total: float | None, message: str | None) -> None:
                progress.append({"progress": done, "total": total, "message": message})

            result = await connection.call(step["name"], step.get("arguments") or {}, on_progress)
            return {"result": result, "progress": progress}
        case "notifications":
            return {"result": await journal.await_notifications(step.get("count", 0), step.get("seconds_max", 5.0))}
        case "asked":
            return {"result": journal.asked}
        case "exchanges":
            return {"result": journal.exchanges}
        case method:
            arguments = step.get("arguments") or {}
            return {"result": await connection.ask(method, **arguments)}


async def perform(
    connection: typing.Any, journal: Journal, step: Report, running: dict[int, anyio.CancelScope]
) -> None:
    with anyio.CancelScope() as scope:
        running[step["step"]] = scope
        try:
            say({"step": step["step"], "ok": True, **await act(connection, journal, step)})
        except Exception as error:  # the outermost loop of this program: any failure of an SDK is a report
            say({"step": step["step"], "ok": False, "error": describe(error)})
        finally:
            del running[step["step"]]
    if scope.cancelled_caught:
        say({"step": step["step"], "ok": False, "error": {"type": "Abandoned", "message": "given up by the test"}})


async def follow(connection: typing.Any, journal: Journal) -> None:
    """Read steps until the end of input, then give up what still runs."""
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: dict[int, anyio.CancelScope] = {}
    async with anyio.create_task_group() as tasks:
        while line := await reader.readline():
            step = json.loads(line)
            if step["do"] == "abandon":
                running[step["of"]].cancel()
                say({"step": step["step"], "ok": True, "result": {}})
            else:
                tasks.start_soon(perform, connection, journal, step, running)
        tasks.cancel_scope.cancel()


async def main(dialect_name: str, options: Report) -> int:
    dialect: typing.Any = importlib.import_module(dialect_name)
    journal = Journal()
    ready = False
    try:
        async with dialect.connect(collections.defaultdict(lambda: None, options), journal) as connection:
            ready = True
            say({"ready": True, "protocol": connection.protocol, "library": httpx_of_sdk.module.__name__})
            await follow(connection, journal)
    except BaseException as error:  # the outermost loop of this program
        say({"died": describe(error)} if ready else {"ready": False, "error": describe(error)})
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(anyio.run(main, sys.argv[1], json.loads(sys.argv[2])))
