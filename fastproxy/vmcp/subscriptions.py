"""`subscriptions/listen` at the front: what a 2026-07-28 client wants to hear of, over one stream per request.

    acknowledged (what of it is honoured) -> list_changed of the catalog, updates of resources (watches.py) -> result

Every message carries the id of the client's request. The lists are the catalog's: what a backend says of its own is no
news to a client until it has changed what the client sees. A stream ends with a result when we end it; a client that
goes is simply gone. What a slow client has not taken is owed to it once, not as often as it happened.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import msgspec

from fastproxy._ext import core
from fastproxy.vmcp import bridge, voices, watches

URIS_MAX = 1000  # of one stream
LOOK_SECONDS = 1.0
SILENCE_SECONDS_MAX = 15.0
_LISTS = {"toolsListChanged": "tools", "promptsListChanged": "prompts", "resourcesListChanged": "resources"}
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class WrongFilter(ValueError):
    """The params are none of a listen request."""


class _Stream:
    """One client's."""

    def __init__(self, exchange: core.Exchange, request_id: bytes) -> None:
        self.exchange = exchange
        self.request_id = request_id
        self.kinds: set[str] = set()
        self.watched: list[tuple[watches.Watch, str]] = []
        self.owed: dict[bytes, None] = {}
        self.spoke_at = time.monotonic()

    @property
    def meta(self) -> bytes:
        return b'{"%ssubscriptionId":%s}' % (bridge.META.encode(), self.request_id)

    def tell(self, method: str, members: bytes = b"") -> None:
        """A notification with the stream's own mark; `members` as they stand in params, with a comma behind them."""
        text = b'{"jsonrpc":"2.0","method":"%s","params":{%s"_meta":%s}}' % (method.encode(), members, self.meta)
        self.owed[text] = None
        self.pay()

    def updated(self, uri: str) -> None:
        """A resource has been."""
        self.tell(watches.UPDATED, b'"uri":%s,' % msgspec.json.encode(uri))

    def pay(self) -> None:
        """Say what is owed, as far as the client takes it."""
        while self.owed and self.exchange.over is None and not self.exchange.lags:
            text = next(iter(self.owed))
            del self.owed[text]
            self._send(voices.event(text))

    def keep_alive(self) -> None:
        """A word that means nothing."""
        if self.exchange.over is None and not self.exchange.lags:
            self._send(voices.KEEP_ALIVE)

    def end(self, server_info: bytes) -> None:
        """On purpose."""
        if self.exchange.over is not None:
            return
        meta = self.meta[:-1] + b',"%sserverInfo":%s}' % (bridge.META.encode(), server_info)
        result = b'{"resultType":"complete","_meta":%s}' % meta
        try:
            self.pay()
            self._send(voices.event(b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (self.request_id, result)))
            self.exchange.close_stream()
        except core.ExchangeOver:
            return

    def _send(self, data: bytes) -> None:
        try:
            self.exchange.send(data)
        except core.ExchangeOver:
            return
        self.spoke_at = time.monotonic()


class Subscriptions:
    """All such streams of one process. `locate(uri)`: the backend of a resource; `server_info` as JSON."""

    def __init__(
        self,
        watched: watches.Watches,
        *,
        locate: Callable[[str], str | None],
        server_info: bytes,
        start_task: Callable[..., asyncio.Task[Any]],
    ) -> None:
        self._watches = watched
        self._locate = locate
        self._server_info = server_info
        self._start_task = start_task
        self._streams: set[_Stream] = set()
        self._looking = False
        self._closed = False

    def __len__(self) -> int:
        return len(self._streams)

    def listen(self, exchange: core.Exchange, request_id: bytes, params: bytes) -> None:
        """Open a stream; it lives as long as its exchange. WrongFilter."""
        members = bridge.read_members(bridge.read_members(params).get("notifications", b""))
        try:
            kinds = [name for name in _LISTS if msgspec.json.decode(members.get(name, b"false"), type=bool)]
            uris = msgspec.json.decode(members.get("resourceSubscriptions", b"[]"), type=list[str])
        except _FAULTS as error:
            raise WrongFilter(f"expected notifications to be a subscription filter: {error}") from error
        if "notifications" not in bridge.read_members(params) or len(uris) > URIS_MAX:
            raise WrongFilter(f"expected notifications with at most {URIS_MAX} resourceSubscriptions")
        stream = _Stream(exchange, request_id)
        stream.kinds = {_LISTS[name] for name in kinds}
        honoured: dict[str, object] = dict.fromkeys(kinds, True)
        held = self._find(uris)
        if held:
            honoured["resourceSubscriptions"] = [uri for _, uri in held]
        exchange.open_stream(200, voices.EVENTS)
        exchange.on_end = lambda _: self._gone(stream)
        stream.tell(watches.ACKNOWLEDGED, b'"notifications":%s,' % msgspec.json.encode(honoured))
        if self._closed:
            stream.end(self._server_info)
            return
        self._streams.add(stream)
        stream.watched = held
        for watch, uri in held:
            watch.add(uri, stream.updated)
        if exchange.over is not None:
            self._gone(stream)
        if not self._looking:
            self._looking = True
            self._start_task(self._look_after(), name="look after subscriptions")

    def announce(self, kinds: frozenset[str]) -> None:
        """The catalog has changed: of "tools", "resources", "prompts"."""
        for stream in list(self._streams):
            for kind in sorted(kinds & stream.kinds):
                stream.tell(f"notifications/{kind}/list_changed")

    def close(self) -> None:
        """End each with its result, and those that come from now on."""
        self._closed = True
        for stream in list(self._streams):
            stream.end(self._server_info)
            self._gone(stream)

    def _find(self, uris: list[str]) -> list[tuple[watches.Watch, str]]:
        """Where each is watched; what nobody has is not honoured."""
        found = []
        for uri in dict.fromkeys(uris):
            backend_id = self._locate(uri)
            watch = None if backend_id is None else self._watches.of(backend_id)
            if watch is not None and watch.backend.tells_updates:
                found.append((watch, uri))
        return found

    def _gone(self, stream: _Stream) -> None:
        self._streams.discard(stream)
        watched, stream.watched = stream.watched, []
        for watch, uri in watched:
            watch.remove(uri, stream.updated)

    async def _look_after(self) -> None:
        """One look a second serves them all, so that a silent stream costs nothing."""
        try:
            while self._streams:
                await asyncio.sleep(LOOK_SECONDS)
                now = time.monotonic()
                for stream in list(self._streams):
                    stream.pay()
                    if now - stream.spoke_at >= SILENCE_SECONDS_MAX:
                        stream.keep_alive()
        finally:
            self._looking = False
