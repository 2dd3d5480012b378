"""A process in the era without sessions (2026-07-28): no handshake, every request for itself, whoever sends it.

It is shared by all who speak that era, in every mode: their requests say all there is to know of them. A server asks
nothing in this era. What it tells carries its call's progress token, or the id of the listen request; a log message
carries neither, and goes to the one call under way that wants any: where several do, nobody can tell whose it is.

A process that can speak both eras serves the one that it was first spoken to in, for good; so `open_modern` asks a new
one, and who turns out to be older is ended again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec

import fastproxy
from fastproxy.stdio import host, ledger, message, process, supply

logger = logging.getLogger(__name__)

REVISION = "2026-07-28"
PAGES_MAX = 100
PROBE_SECONDS_MAX = 60.0  # a program may be fetched before it starts
_UNSUPPORTED_VERSION = range(-32022, -32019)  # errors that only a server of this era knows

Message = message.Message


class ModernHost(host.Host):
    """All who speak this era share it."""

    def admit(self, call: ledger.Call, asked: Message) -> ledger.Call:
        call.wants_log = message.LOG_LEVEL in asked.meta()
        return call

    async def notify(self, owner: object, news: Message) -> None:
        """Nothing is told in this era but the end of a call, and that by leaving."""

    def asked(self, asked: Message) -> None:
        if asked.method == "ping":
            return self.respond(message.result(asked.id, b"{}"))
        self.respond(message.error(asked.id, -32601, f"{asked.method}: clients of {REVISION} are not asked"))

    def heard(self, news: Message, owner: object) -> None:
        listening = news.meta().get(message.SUBSCRIPTION_ID)
        if listening is not None:
            call = self.ledger.find(bytes(listening))
            if call is not None:
                text = news.text(params=message.with_meta(news, {message.SUBSCRIPTION_ID: call.id}))
                call.tell(text)
        elif news.method == "notifications/message":
            wanting = [call for call in self.ledger.calls() if call.wants_log]
            if len(wanting) == 1:
                wanting[0].tell(news.text())
        else:
            logger.debug("a stdio server told nobody in particular: method=%s", news.method)

    async def list_tools(self) -> AsyncIterator[dict[str, Any]]:
        """What the server offers, page by page, as far as it goes."""
        cursor: object = None
        for _ in range(PAGES_MAX):
            params = {"_meta": _envelope()} | ({} if cursor is None else {"cursor": cursor})
            asked = message.read(message.request(b"0", "tools/list", msgspec.json.encode(params)))
            assert asked is not None
            answer = await self.ask(asked)
            try:
                result = msgspec.json.decode(answer.members.get("result", b"{}"), type=dict[str, Any])
            except msgspec.DecodeError:
                return
            for tool in result.get("tools", []):
                if isinstance(tool, dict):
                    yield tool
            cursor = result.get("nextCursor")
            if cursor is None:
                return

    async def replay(self) -> None:
        """There is nothing to take up."""


async def open_modern(source: supply.Supply) -> ModernHost | None:
    """A process that speaks this era; None: the program does not. supply.NoRoom, spawner.NotStarted."""
    found = ModernHost(source)
    opened = False
    try:
        await found.begin()
        asked = message.read(message.request(b"0", "server/discover", msgspec.json.encode({"_meta": _envelope()})))
        assert asked is not None
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            opened = _is_modern(await found.ask(asked))
    except (host.Down, process.Ended, process.NotReading, TimeoutError) as error:
        logger.info("a stdio server does not know server/discover: reason=%s", error)
    finally:
        if not opened:
            source.start_task(found.close("it speaks the older era"), name="end a stdio server")
    if not opened:
        return None
    found.ready()
    return found


def _is_modern(answer: Message) -> bool:
    if "error" in answer.members:
        code = message.members_of(answer.members["error"]).get("code")
        return code is not None and bytes(code).lstrip(b"-").isdigit() and int(bytes(code)) in _UNSUPPORTED_VERSION
    versions = message.members_of(answer.members.get("result")).get("supportedVersions", b"")
    return REVISION.encode() in bytes(versions)


def _envelope() -> dict[str, object]:
    return {
        message.PROTOCOL_VERSION: REVISION,
        message.CLIENT_CAPABILITIES: {},
        message.CLIENT_INFO: {"name": "fastproxy", "version": fastproxy.__version__},
    }
