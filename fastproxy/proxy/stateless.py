"""The era without sessions (2026-07-28) in front of several replicas: each request for itself, with three exceptions.

    a request that brings a request state back   -> the replica that made it
    tasks/get, tasks/update, tasks/cancel        -> the replica that created the task
    subscriptions/listen                         -> all replicas, merged into one stream (listening.py)
    anything else                                -> the least loaded replica

Which replica that was is remembered before the client can read the answer that hands out the state or the task: the
relay searches answers as they pass and holds back the one message that matters. With a shared store every proxy knows;
here a copy is kept, for speed, and for the time in which the store is away. A replica that is gone takes its states
with it: then the least loaded one is asked, and its refusal is the truth. Bodies over 64 KiB are not searched, in
either direction. With a single replica nothing is searched.

A body up to that size is awaited before anybody is asked, so that a slow sender keeps no replica waiting. What is plain
takes the fast lane (ext/sessionless.pyx), which goes by the same rules: `search` is what it needs to know of them.
"""

import logging
import time
import zlib
from collections.abc import Callable, Coroutine
from typing import Any

from fastproxy import errors
from fastproxy._ext import core
from fastproxy.mcp import subscription
from fastproxy.proxy import dialer, listening
from fastproxy.routing import affinity, backends
from fastproxy.session import memos, store
from fastproxy.wire import request as requests

logger = logging.getLogger(__name__)

SEARCH_BYTES_MAX = 65536
COPIES_MAX = 10_000  # some 3 MiB

_CODINGS = (b"gzip", b"x-gzip", b"deflate")

Ask = Callable[[core.Exchange, backends.Replica, int], Coroutine[Any, Any, core.AnswerHead]]
AskAny = Callable[..., Coroutine[Any, Any, core.AnswerHead]]


class Stateless:
    """`several()`: is there more than one replica, or may there be? `ask` and `ask_any` are the story's."""

    def __init__(
        self,
        *,
        sessions: store.SessionStore,
        replicas: backends.Backends,
        listener: listening.Listening,
        several: Callable[[], bool],
        start_task: Callable[..., object],
    ) -> None:
        self._store = sessions
        self._replicas = replicas
        self._listening = listener
        self._several = several
        self._start_task = start_task
        self._copies = memos.Memos(memos_max=COPIES_MAX, clock=time.monotonic)

    async def serve(self, exchange: core.Exchange, request: requests.Request, ask: Ask, ask_any: AskAny) -> None:
        """A request of this era, to its end."""
        method = _method(request)
        affine = request.method == "POST" and self._several()
        if affine and method == subscription.METHOD and await self._listening.serve(exchange):
            return
        length = exchange.body_length
        if request.method == "POST" and length is not None and length <= SEARCH_BYTES_MAX:
            await exchange.peek(length)
        answer = None
        if affine:
            answer = await self._ask_keeper(exchange, await self._key(exchange, request, method), ask)
        if answer is None:
            answer = await ask_any(exchange, core.SESSION_STRIP, for_session=False)
        self._relay(exchange, method, answer, affine=affine)

    async def resume(
        self, exchange: core.Exchange, request: requests.Request, answer: core.AnswerHead | None, ask_any: AskAny
    ) -> None:
        """The fast lane gives a request up: at its answer's head, or since it surely did not run."""
        if answer is None:
            again = exchange.endpoint_index
            answer = await ask_any(exchange, core.SESSION_STRIP, for_session=False, first=again)
        affine = request.method == "POST" and self._several()
        self._relay(exchange, _method(request), answer, affine=affine)

    def search(self) -> core.Search:
        """What the fast lane goes by."""
        return core.Search(
            bound=(affinity.TASKS.encode(), subscription.METHOD.encode()),
            barren=tuple(method.encode() for method in sorted(affinity.KEYLESS)),
            words=affinity.WORDS,
            on_word=self._found,
            bytes_max=SEARCH_BYTES_MAX,
        )

    def _relay(self, exchange: core.Exchange, method: str, answer: core.AnswerHead, *, affine: bool) -> None:
        if affine and answer.status == 200 and affinity.hands_out(method):
            self._search(exchange, answer)
        # Servers put ids that are dead at birth on their error answers (mcp.md §0.6).
        exchange.relay(core.SESSION_STRIP if answer.status >= 400 else core.SESSION_KEEP)

    # ---- a key that comes back

    async def _key(self, exchange: core.Exchange, request: requests.Request, method: str) -> str | None:
        body = None
        length = exchange.body_length
        if exchange.has_body and affinity.hands_out(method) and (length is None or length <= SEARCH_BYTES_MAX):
            body, whole = await exchange.peek(SEARCH_BYTES_MAX + 1)
            if not whole or len(body) > SEARCH_BYTES_MAX:
                body = None
        return affinity.of_request(method, request.header(b"mcp-name"), body)

    async def _ask_keeper(self, exchange: core.Exchange, key: str | None, ask: Ask) -> core.AnswerHead | None:
        """The answer of the replica that the key leads to; None: there is none, or it is gone."""
        url = None if key is None else self._copies.get(key) or await self._store.recall(key)
        replica = self._find(url) if url else None
        if replica is None:
            return None
        try:
            return await ask(exchange, replica, core.SESSION_STRIP)
        except dialer.Unreachable as error:
            if not exchange.may_repeat:
                raise
            logger.info("the replica that a request belongs to is gone: backend=%s reason=%s", url, error)
            return None

    def _find(self, url: str) -> backends.Replica | None:
        try:
            return self._replicas.find(url, None)
        except ValueError:
            return None  # somebody else's idea of a URL

    # ---- a key that is handed out

    def _search(self, exchange: core.Exchange, answer: core.AnswerHead) -> None:
        """Have the relay look for keys. A compressed body shows no words and is looked into whole; streams are not
        compressed (`no-transform`), and one that is passes unsearched."""
        codings = [value.strip().lower() for name, value in answer.fields if name.lower() == b"content-encoding"]
        if not codings or codings == [b"identity"]:
            exchange.seek(affinity.WORDS, self._found, SEARCH_BYTES_MAX)
        elif codings[0] in _CODINGS and not exchange.event_stream:
            exchange.seek((b"",), lambda exchange, text: self._found(exchange, _inflate(text)), SEARCH_BYTES_MAX)

    def _found(self, exchange: core.Exchange, text: bytes) -> None:
        """The relay holds the answer back, and waits for us."""
        self._start_task(self._remember(exchange, text), name="remember a replica")

    async def _remember(self, exchange: core.Exchange, text: bytes) -> None:
        url = exchange.endpoint_url
        try:
            for kept in affinity.of_answer(text, event_stream=exchange.event_stream):
                await self._keep(kept, url)
        finally:
            if exchange.over is None:
                exchange.relay()

    async def _keep(self, kept: affinity.Kept, url: str) -> None:
        known, seconds_left = self._copies.look(kept.key)
        if known == url and seconds_left > kept.seconds / 2:
            return  # a task that is looked at again and again
        self._copies.put(kept.key, url, kept.seconds)
        try:
            await self._store.remember(kept.key, url, kept.seconds)
        except errors.StoreError as error:
            # The tool has run; its answer is worth more than what another proxy does not know now.
            logger.warning("other proxies will not know a replica: backend=%s reason=%s", url, error)


def _method(request: requests.Request) -> str:
    return request.header(b"mcp-method") or ""


def _inflate(text: bytes) -> bytes:
    """A body in gzip or zlib format, as far as it may be searched; nothing when it is neither."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(text, SEARCH_BYTES_MAX)
    except zlib.error:
        return b""
