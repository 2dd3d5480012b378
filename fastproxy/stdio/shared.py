"""One process for many clients that know nothing of each other (`--stdio-mode shared` and `pool`).

We are its client: one handshake, whose result every client is shown. Towards it requests, tokens and subscriptions
have ids of ours. What comes back goes to whom it belongs; what cannot be told apart goes to nobody, and what needs a
process to oneself (sampling, elicitation, roots, logging, tasks) is neither promised nor taken.
"""

import asyncio
import logging

import msgspec

import fastproxy
from fastproxy.stdio import host, ledger, message, supply

logger = logging.getLogger(__name__)

NEWEST = "2025-11-25"  # of the revisions with a handshake, in their order
REVISIONS = ("2024-11-05", "2025-03-26", "2025-06-18", NEWEST)
HANDSHAKE_SECONDS_MAX = 240.0  # it may be fetched before it starts; below the time that a client is given
_WITHHELD = ("logging", "tasks")  # capabilities that are one client's own
_TAKES_ONE = ("logging/setLevel",)
_OURS = ("notifications/initialized", "notifications/roots/list_changed")  # we are the client, and have no roots

Message = message.Message


class SharedHost(host.Host):
    """A shared process. Its members are attached by their `initialize`."""

    def __init__(self, source: supply.Supply) -> None:
        super().__init__(source)
        self.members: set[host.Member] = set()
        self.greeting: message.Members = {}
        self._subscribers: dict[str, set[object]] = {}

    async def open(self) -> None:
        await self.begin()
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS_MAX):
                await self.replay()
        except TimeoutError as error:
            raise host.Down(f"its handshake took longer than {HANDSHAKE_SECONDS_MAX:g} s") from error
        self.ready()

    async def replay(self) -> None:
        client = {"name": "fastproxy", "version": fastproxy.__version__}
        params = msgspec.json.encode({"protocolVersion": NEWEST, "capabilities": {}, "clientInfo": client})
        opening = message.read(message.request(b"0", "initialize", params))
        assert opening is not None
        answer = await self.ask(opening)
        if "result" not in answer.members:
            raise host.Down(f"its handshake was refused: {answer.text()[:200].decode('utf-8', 'replace')}")
        self.greeting = message.members_of(answer.members["result"])
        await self._write(message.notification("notifications/initialized"))
        for uri in list(self._subscribers):
            await self.ask(_subscription("resources/subscribe", uri))

    def attach(self, member: host.Member) -> None:
        """A client comes."""
        self.members.add(member)

    def greet(self, asked: Message) -> bytes:
        """The answer to a client's `initialize`: the server's own, without what is not carried.

        A client of an older revision gets that: newer members mean nothing to it, and the wire is the same."""
        wanted = message.text_in(asked.params().get("protocolVersion"))
        agreed = message.text_in(self.greeting.get("protocolVersion")) or NEWEST
        if wanted in REVISIONS and agreed in REVISIONS and REVISIONS.index(wanted) < REVISIONS.index(agreed):
            agreed = wanted
        offered = message.members_of(self.greeting.get("capabilities"))
        carried = {name: value for name, value in offered.items() if name not in _WITHHELD}
        return message.result(
            asked.id,
            message.text_of(
                self.greeting,
                {"protocolVersion": msgspec.json.encode(agreed), "capabilities": message.text_of(carried, {})},
            ),
        )

    def admit(self, call: ledger.Call, asked: Message) -> ledger.Call | None:
        if asked.method == "initialize":
            _answer(call, self.greet(asked))
            return None
        if asked.method in _TAKES_ONE or asked.method.startswith("tasks/"):
            raise _not_carried(asked.method)
        if asked.method == "tools/call" and "task" in asked.params():
            raise _not_carried("a task")
        if asked.method == "resources/unsubscribe":
            if not self._unsubscribe(call.owner, message.text_in(asked.params().get("uri"))):
                _answer(call, message.result(asked.id, b"{}"))
                return None
        elif asked.method == "resources/subscribe":
            return _Subscribing(call, asked)
        return call

    async def notify(self, owner: object, news: Message) -> None:
        if news.method == "notifications/cancelled":
            await self.cancel(owner, news)
        elif news.method not in _OURS:
            await self.send(news.text())

    def settled(self, call: ledger.Call, answer: Message) -> None:
        if isinstance(call, _Subscribing) and "result" in answer.members and call.owner in self.members:
            self._subscribers.setdefault(call.uri, set()).add(call.owner)

    def _unsubscribe(self, owner: object, uri: str) -> bool:
        """Must the server hear of it? Others may go on listening."""
        listening = self._subscribers.get(uri, set())
        listening.discard(owner)
        if not listening:
            self._subscribers.pop(uri, None)
        return not listening

    async def detach(self, member: host.Member) -> None:
        """A member leaves, and all that was done for it ends."""
        self.members.discard(member)
        for uri in [uri for uri, listening in self._subscribers.items() if member in listening]:
            if self._unsubscribe(member, uri) and not self.closed:
                await self._end_subscription(uri)
        await self.leave(member)

    async def _end_subscription(self, uri: str) -> None:
        asked = _subscription("resources/unsubscribe", uri)
        call = ledger.Call(self, asked)  # nobody waits for the answer
        text = self.ledger.begin(call, asked)
        await self._reply(text)

    def asked(self, asked: Message) -> None:
        if asked.method == "ping":
            return self.respond(message.result(asked.id, b"{}"))
        logger.info("a shared stdio server's request was refused: method=%s", asked.method)
        self.respond(message.error(asked.id, -32601, f"{asked.method}: this process is shared by clients that differ"))

    def heard(self, news: Message, owner: object) -> None:
        told: set[host.Member]
        if news.method.endswith("/list_changed"):
            told = self.members
        elif news.method == "notifications/resources/updated":
            told = self._listeners(message.text_in(news.params().get("uri")))
        else:
            logger.debug("a shared stdio server told nobody in particular: method=%s", news.method)
            return
        text = news.text()
        for member in list(told):
            member.deliver(text, news)

    def _listeners(self, changed: str) -> set[host.Member]:
        """Who has subscribed to a resource, or to one that it is a part of."""
        owners = [listening for uri, listening in self._subscribers.items() if changed.startswith(uri)]
        return {member for member in self.members if any(member in listening for listening in owners)}


class _Subscribing(ledger.Call):
    """A member's subscription on its way; all else is the call's."""

    def __init__(self, call: ledger.Call, asked: Message) -> None:
        super().__init__(call.owner, asked)
        self.uri = message.text_in(asked.params().get("uri"))
        self._call = call

    def tell(self, text: bytes) -> None:
        self._call.tell(text)

    def settle(self, answer: Message, text: bytes) -> None:
        self._call.settle(answer, text)

    def lost(self, detail: str, *, ran: bool) -> None:
        self._call.lost(detail, ran=ran)


def _answer(call: ledger.Call, text: bytes) -> None:
    """By ourselves."""
    answer = message.read(text)
    assert answer is not None
    call.settle(answer, text)


def _not_carried(what: str) -> host.NotCarried:
    return host.NotCarried(f"{what} needs a server process of one's own; this one is shared (--stdio-mode per-session)")


def _subscription(method: str, uri: str) -> Message:
    asked = message.read(message.request(b"0", method, b'{"uri":%s}' % msgspec.json.encode(uri)))
    assert asked is not None
    return asked
