"""Which session records somebody else has changed, as a Redis tells it: RESP3 client tracking.

One dedicated connection per node says `CLIENT TRACKING ON BCAST PREFIX {prefix}`; from then on the server pushes the
name of every key under the prefix that is written, removed, evicted or expired, whoever did it. (A Pub/Sub channel of
our own would tell only what other proxies have done.)

redis-py's asyncio has no public door for push messages, and its push handlers swallow exceptions, so this file speaks
the five commands it needs itself, over asyncio streams and hiredis' own RESP3 reader.

What it must never do is be silent about a gap. Whatever ends a connection (end of file, a reset, a peer that does not
answer a ping) is reported at once through `broken`, and again when tracking is on anew. Where tracking can't be had at
all (a server before Redis 6, an ACL without `+client|tracking`) each attempt in vain is reported too, at most a second
apart, so that the cache in front can be revalidated every second instead.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable

import hiredis

from fastproxy import errors
from fastproxy.session import circuit, redis_client

logger = logging.getLogger(__name__)

Locate = Callable[[], Awaitable[tuple[str, int]]]
Reply = object

_SILENCE_SECONDS_MAX = 0.5  # then a ping: two short commands a second on an idle store, and none on a busy one
_ANSWER_SECONDS_MAX = 1.0
_GREETING_SECONDS_MAX = 0.6  # then the next attempt, so that a peer that dropped our packets is found soon
_REFUSED_PAUSE_SECONDS = 1.0
_READ_BYTES = 65_536
_NOT_ENOUGH = object()


class _Refused(Exception):
    """The server answered a command of ours with an error."""


class Tracker:
    """Follows one node for ever. `changed` is called with a key's name; `broken` when tracking has ended, when it has
    begun, and when all has changed; `in_vain` after an attempt that did not even begin; `heard` with what is told
    on one of `channels`."""

    def __init__(
        self,
        address: redis_client.Address,
        *,
        locate: Locate,
        prefix: str,
        changed: Callable[[bytes], None],
        broken: Callable[[], None],
        in_vain: Callable[[], None],
        channels: tuple[str, ...] = (),
        heard: Callable[[bytes], None] | None = None,
    ) -> None:
        self.tracking = False
        self._address = address
        self._locate = locate
        self._prefix = prefix
        self._changed = changed
        self._broken = broken
        self._in_vain = in_vain
        self._channels = channels
        self._heard = heard
        self._complaint = ""
        self._task = asyncio.create_task(self._follow_for_ever(), name="session-store-tracking")

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _follow_for_ever(self) -> None:
        pause_seconds = circuit.BACKOFF_SECONDS_MIN
        while True:
            try:
                with redis_client.closed_means_lost():
                    await self._follow()
            except (_Refused, errors.StoreRefused, hiredis.HiredisError) as error:
                self._complain(f"{error} (changes made elsewhere are looked for once a second)", refused=True)
                least_seconds = _REFUSED_PAUSE_SECONDS
            except redis_client.FAULTS as error:
                self._complain(f"{type(error).__name__}")
                least_seconds = 0.0
            if self.tracking:
                self.tracking = False
                pause_seconds = circuit.BACKOFF_SECONDS_MIN
                self._broken()
            else:
                self._in_vain()
            await asyncio.sleep(max(least_seconds, circuit.jittered(pause_seconds)))
            pause_seconds = min(2 * pause_seconds, circuit.BACKOFF_SECONDS_MAX)

    async def _follow(self) -> None:
        connection = _Connection()
        try:
            async with asyncio.timeout(_GREETING_SECONDS_MAX):
                host, port = await self._locate()
                await connection.open(host, port, self._address.ssl_context())
                await self._greet(connection)
            self.tracking = True
            self._complaint = ""
            self._broken()  # until now nobody told us
            while True:
                self._hear(await connection.receive_or_ping())
        finally:
            connection.abort()

    async def _greet(self, connection: "_Connection") -> None:
        hello: tuple[str, ...] = ("HELLO", "3")
        if self._address.password is not None:
            hello += ("AUTH", self._address.username or "default", self._address.password)
        await connection.ask(*hello)
        # Keys of every database are reported alike: a like-named key elsewhere costs a revalidation, no more.
        await connection.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
        if self._channels:
            try:
                await connection.ask("SUBSCRIBE", *self._channels)
            except _Refused as error:  # an ACL without these channels; changes of records are heard all the same
                self._complain(f"{error} (what other proxies tell is not heard)", refused=True)

    def _hear(self, messages: list[Reply]) -> None:
        for message in messages:
            if not isinstance(message, hiredis.PushNotification):
                continue  # the answer to a ping
            if message[0] == b"message" and self._heard is not None:
                self._heard(message[2])
            if message[0] != b"invalidate":
                continue
            keys = message[1]
            if keys is None:
                self._broken()  # FLUSHALL, FLUSHDB: everything has changed
                continue
            for key in keys:
                self._changed(key)

    def _complain(self, complaint: str, *, refused: bool = False) -> None:
        """Once per gap; and once more when the server, reached again, will not let us track."""
        if not self._complaint or (refused and complaint != self._complaint):
            logger.warning("store_tracking=lost error=%s", complaint)
            self._complaint = complaint


class _Connection:
    """A RESP3 connection: ask and be answered, then receive."""

    def __init__(self) -> None:
        self._parser = hiredis.Reader(replyError=_Refused, notEnoughData=_NOT_ENOUGH)
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        self._reader, self._writer = await asyncio.open_connection(host, port, ssl=context)

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()

    async def ask(self, *words: str) -> None:
        """Send a command and await its answer. _Refused: it is an error."""
        self._send(*words)
        for reply in await self._receive():
            if isinstance(reply, _Refused):
                raise reply

    async def receive_or_ping(self) -> list[Reply]:
        """What the server says next; a silent one is asked for a sign of life. TimeoutError: none came."""
        try:
            async with asyncio.timeout(_SILENCE_SECONDS_MAX):
                return await self._receive()
        except TimeoutError:
            self._send("PING")
        async with asyncio.timeout(_ANSWER_SECONDS_MAX):
            return await self._receive()

    def _send(self, *words: str) -> None:
        assert self._writer is not None
        self._writer.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub says a tuple of one

    async def _receive(self) -> list[Reply]:
        while True:
            chunk = await self._reader.read(_READ_BYTES)
            if not chunk:
                raise ConnectionResetError("closed by the store")
            self._parser.feed(chunk)
            replies: list[Reply] = []
            while (reply := self._parser.gets()) is not _NOT_ENOUGH:
                replies.append(reply)
            if replies:
                return replies
