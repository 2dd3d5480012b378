"""`subscriptions/listen` in front of several replicas: asked of every live one, and answered as one stream.

    the client's request --as it is--> a leg per replica --events--> one stream, each event whole and once
    all legs acknowledged, or the slow ones waited for long enough --> one acknowledgement: what all of them honour
    a replica comes, or comes back --> a leg more; its acknowledgement is swallowed
    a replica goes, or a leg breaks --> a leg less; asked again, ever more rarely, as long as the replica is live
    the last leg has ended --> with its result if it ended on purpose, else the stream is cut as the last one was
    the client goes --> every leg is closed at once

A leg that has more to say than the client takes is not read on, so that each holds an event and a read at the most. A
refusal is passed on only when no replica accepts. Comments end here: the stream has its own when it is silent.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Awaitable, Callable

from fastproxy._ext import core
from fastproxy.mcp import envelope, reply, subscription
from fastproxy.proxy import dialogue
from fastproxy.routing import backends

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 65536
ACKNOWLEDGE_SECONDS = 1.0  # for which an acknowledgement waits for replicas slower than the first
SILENCE_SECONDS_MAX = 15.0  # as often as the SDKs' servers say something
REFUSAL_SECONDS_MAX = 10.0  # for the body of an answer that is no stream
LOOK_SECONDS = 1.0  # between two looks at who came and went, and who is silent
AGAIN_SECONDS = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)

_KEEP_ALIVE = b": keep-alive\n\n"
_ACCEPT_ENCODING = re.compile(rb"\r\naccept-encoding:[^\r\n]*", re.IGNORECASE)
_OWN_FIELDS = frozenset(
    b"connection keep-alive transfer-encoding content-length trailer upgrade te mcp-session-id".split()
)

# The stream of a replica's answer. NotConnected: the replica can't be reached; DialogueFailed: no answer came.
Open = Callable[[backends.Replica, bytes], Awaitable[dialogue.EventStream]]
StartTask = Callable[..., asyncio.Task[None]]


class Listening:
    """All merged streams of a process. One look a second serves them all, so that an idle stream costs nothing."""

    def __init__(
        self,
        *,
        replicas: backends.Backends,
        endpoint_of: Callable[[int], core.Endpoint],
        open_events: Open,
        start_task: StartTask,
    ) -> None:
        self.replicas = replicas
        self.endpoint_of = endpoint_of
        self.open_events = open_events
        self.start_task = start_task
        self._streams: set[_Merged] = set()
        self._looking = False

    async def serve(self, exchange: core.Exchange) -> bool:
        """A merged stream, to its end. False: this is no request that can be asked of many; nothing was done."""
        length = exchange.body_length
        if not exchange.has_body or (length is not None and length > BODY_BYTES_MAX):
            return False
        body, whole = await exchange.peek(BODY_BYTES_MAX + 1)
        asked = envelope.read(body) if whole and len(body) <= BODY_BYTES_MAX else None
        if asked is None or asked.method != subscription.METHOD or not asked.is_request:
            return False
        merged = _Merged(exchange, self)
        self._streams.add(merged)
        exchange.on_end = lambda _: merged.end()
        if not self._looking:
            self._looking = True
            self.start_task(self._look(), name="look after merged streams")
        try:
            await merged.live()
        finally:
            merged.end()
            self._streams.discard(merged)
        return True

    async def _look(self) -> None:
        try:
            while self._streams:
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                staying = {replica.url for replica in self.replicas.all() if replica.state != "leaving"}
                live = self.replicas.live()
                for merged in list(self._streams):
                    merged.look(live, staying, now)
        finally:
            self._looking = False


class _Leg:
    """One replica's part. `acknowledged` holds its first event, `refusal` its answer if that is no stream."""

    def __init__(self, replica: backends.Replica, tries: int) -> None:
        self.replica = replica
        self.tries = tries  # in vain, before this one
        self.task: asyncio.Task[None] | None = None
        self.fields: list[tuple[bytes, bytes]] = []
        self.acknowledged = b""
        self.refusal: tuple[int, bytes] | None = None
        self.result = b""
        self.failure: reply.Refusal | None = None
        self.over_at = 0.0


class _Merged:
    """One client's stream."""

    def __init__(self, exchange: core.Exchange, house: Listening) -> None:
        self._exchange = exchange
        self._house = house
        self._legs: dict[str, _Leg] = {}
        self._news = asyncio.Event()  # a leg has acknowledged, or is over
        self._speaking = asyncio.Event()  # our acknowledgement has left
        self._turn = asyncio.Lock()  # whose event is being sent
        self._ended = False
        self._result = b""
        self._failure = "all replicas have left"
        self._spoke_at = 0.0

    # ---- the client's side

    async def live(self) -> None:
        """From the first question to the end of the stream."""
        for replica in self._house.replicas.live():
            self._add_leg(replica, 0)
        if not self._legs:
            raise reply.backend_unavailable()
        opened = await self._await_acknowledgements()
        if not opened:
            self._refuse()
            return
        fields = [(n, v) for n, v in opened[0].fields if n.lower() not in _OWN_FIELDS]
        self._exchange.open_stream(200, fields)
        await self._send(subscription.acknowledge([leg.acknowledged for leg in opened]))
        self._speaking.set()
        while any(leg.over_at == 0.0 for leg in self._legs.values()):
            self._news.clear()
            await self._news.wait()
            if self._exchange.over is not None:
                return
        if self._result:
            await self._send(self._result)
            self._exchange.close_stream()
        else:
            logger.info("a merged stream is cut: reason=%s", self._failure)
            self._exchange.abort("backend_cut")

    async def _await_acknowledgements(self) -> list[_Leg]:
        """The legs that have acknowledged: all of them, or those that did so soon after the first."""
        deadline = float("inf")
        while True:
            legs = list(self._legs.values())
            opened = [leg for leg in legs if leg.acknowledged]
            now = time.monotonic()
            if opened and deadline == float("inf"):
                deadline = now + ACKNOWLEDGE_SECONDS
            if all(leg.acknowledged or leg.over_at for leg in legs) or now >= deadline:
                return opened
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if deadline == float("inf") else deadline - now):
                    await self._news.wait()
            if self._exchange.over is not None:
                raise core.ExchangeOver(self._exchange.over)

    def _refuse(self) -> None:
        """No replica has accepted: what the first of them said, if one said anything."""
        for leg in self._legs.values():
            if leg.refusal is not None:
                status, body = leg.refusal
                fields = [(n, v) for n, v in leg.fields if n.lower() not in _OWN_FIELDS]
                return self._exchange.answer(status, fields, body)
        failures = [leg.failure for leg in self._legs.values() if leg.failure is not None]
        raise max(failures, key=lambda failure: "may_have_run" in failure.data, default=reply.backend_unavailable())

    async def _send(self, event: bytes) -> None:
        async with self._turn:
            self._spoke_at = time.monotonic()
            if not self._exchange.send(event):
                await self._exchange.taken()
                self._spoke_at = time.monotonic()

    def look(self, live: list[backends.Replica], staying: set[str], now: float) -> None:
        """Once a second: who came, who went, and has anything been said lately?"""
        if not self._speaking.is_set() or self._ended:
            return
        for replica in live:
            leg = self._legs.get(replica.url)
            if leg is None or _is_due(leg, now):
                self._add_leg(replica, 0 if leg is None else leg.tries)
        open_legs = [leg for leg in self._legs.values() if leg.over_at == 0.0]
        for leg in open_legs:
            if leg.replica.url not in staying and len(open_legs) > 1 and leg.task is not None:
                leg.task.cancel()
        if now - self._spoke_at >= SILENCE_SECONDS_MAX and not self._turn.locked():
            self._spoke_at = now
            with contextlib.suppress(core.ExchangeOver):
                self._exchange.send(_KEEP_ALIVE)

    def end(self) -> None:
        """It is over: every leg is closed."""
        self._ended = True
        self._news.set()
        for leg in self._legs.values():
            if leg.task is not None:
                leg.task.cancel()

    # ---- the replicas' side

    def _add_leg(self, replica: backends.Replica, tries: int) -> None:
        request = self._exchange.request_for(self._house.endpoint_of(replica.index))
        head, _, body = request.partition(b"\r\n\r\n")
        plain = _ACCEPT_ENCODING.sub(b"", head)  # compressed events could not be told apart
        leg = self._legs[replica.url] = _Leg(replica, tries)
        leg.task = self._house.start_task(self._follow(leg, plain + b"\r\n\r\n" + body), name="listen to a replica")

    async def _follow(self, leg: _Leg, request: bytes) -> None:
        """One leg, to its end."""
        try:
            stream = await self._house.open_events(leg.replica, request)
            try:
                await self._hear(leg, stream)
            finally:
                stream.close()
        except dialogue.DialogueFailed as error:
            leg.failure = _explain(error)
            self._failure = f"{leg.replica.url}: {error}"
        except core.ExchangeOver:
            return
        finally:
            leg.over_at = time.monotonic()
            leg.tries = leg.tries + 1 if not leg.acknowledged else 0
            self._result = leg.result if leg.acknowledged else self._result
            self._news.set()

    async def _hear(self, leg: _Leg, stream: dialogue.EventStream) -> None:
        leg.fields = stream.fields
        if stream.status != 200 or not stream.events:
            try:
                async with asyncio.timeout(REFUSAL_SECONDS_MAX):
                    leg.refusal = (stream.status, await stream.rest())
            except TimeoutError as error:
                raise dialogue.DialogueFailed("half a refusal came") from error
            return
        while event := await stream.next_event():
            kind = subscription.kind_of(event)
            if kind is subscription.Kind.NOTHING:
                continue
            if kind is subscription.Kind.ANSWER:
                leg.result = event
                leg.refusal = (200, event)
                return
            if kind is subscription.Kind.NEWS:
                if not leg.acknowledged:
                    raise dialogue.DialogueFailed("news came before the acknowledgement")
                await self._speaking.wait()
                await self._send(event)
            elif not leg.acknowledged:
                leg.acknowledged = event
                self._news.set()
        raise dialogue.DialogueFailed("the stream ended without a result")


def _explain(error: dialogue.DialogueFailed) -> reply.Refusal:
    """What the client is told when no replica has anything better to say."""
    if isinstance(error, dialogue.NotConnected):
        return reply.backend_unreachable(str(error))
    return reply.backend_timeout(error.seconds) if isinstance(error, dialogue.TooSlow) else reply.backend_lost()


def _is_due(leg: _Leg, now: float) -> bool:
    """Has it ended, and long enough ago to be tried again?"""
    wait = AGAIN_SECONDS[min(leg.tries, len(AGAIN_SECONDS) - 1)]
    return leg.over_at > 0.0 and now - leg.over_at >= wait
