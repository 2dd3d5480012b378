"""A backend with thousands of tools, of which more come while the catalog is being made: the list is right in the end,
whole over its pages, and calls at other backends go on.

Real: the vMCP process. Scripted: backends, on the test's own loop (speaker.py); the client is plain HTTP.
"""

import asyncio
import itertools
import json
import pathlib
import time
from typing import Any

from tests import kit
from tests.kit import coroutines
from tests.vmcp import fleet, raw, speaker

COUNT = 3000  # three pages, and more than a catalog of the loop's own turn


class Client:
    """Asks from a thread: the backends answer on the test's loop meanwhile."""

    def __init__(self, origin: str, session_id: str) -> None:
        self._origin = origin
        self._session_id = session_id
        self._numbers = itertools.count(1)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": next(self._numbers), "method": method, "params": params})
        _, _, answer = await asyncio.to_thread(raw.post, self._origin, body, session_id=self._session_id)
        return dict(json.loads(answer)["result"])

    async def tools(self) -> list[str]:
        names: list[str] = []
        params: dict[str, Any] = {}
        while True:
            page = await self.ask("tools/list", **params)
            names += [tool["name"] for tool in page["tools"]]
            if "nextCursor" not in page:
                return names
            params = {"cursor": page["nextCursor"]}

    async def await_tools(self, expected: list[str]) -> None:
        deadline = time.monotonic() + 60.0
        while await self.tools() != expected:
            assert time.monotonic() < deadline, f"not told: {len(expected)} tools"
            await asyncio.sleep(0.1)


def named(prefix: str, count: int) -> list[str]:
    return sorted(f"{prefix}_t{number}" for number in range(count))


async def test_a_list_that_grows_while_it_is_put_together_is_right_in_the_end(tmp_path: pathlib.Path) -> None:
    tools = [speaker.tool(f"t{number}", description="d" * 200) for number in range(COUNT)]
    async with speaker.Speaker() as sound, speaker.Speaker(tools=tools) as long:
        file = tmp_path / "mcp.json"
        file.write_text(json.dumps({"mcpServers": {"sound": {"url": sound.url}, "long": {"url": long.url}}}))
        made = kit.proxies(1, subcommand="vmcp", flags=["--config", str(file), *fleet.DRAIN])
        (proxy,) = await asyncio.to_thread(made.__enter__)
        try:
            session_id = await asyncio.to_thread(raw.initialize, proxy.origin)
            client = Client(proxy.origin, session_id)
            await client.await_tools([*named("long", COUNT), "sound_hello"])
            await coroutines.eventually(lambda: bool(long.streams))
            for extra in range(1, 4):
                long.tools.append(speaker.tool(f"t{COUNT - 1 + extra}"))
                await long.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
                called = await client.ask("tools/call", name="sound_hello", arguments={})
                assert called["content"][0]["text"] == "called hello"
            await client.await_tools([*named("long", COUNT + 3), "sound_hello"])
            del long.tools[1:]
            await long.say({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
            await client.await_tools(["long_t0", "sound_hello"])
        finally:
            await asyncio.to_thread(made.__exit__, None, None, None)
