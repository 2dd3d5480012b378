"""One client of a stdio server, in the eras of sessions: its calls, its stream, and what waits for one.

    POST    -> Post -> host                            GET -> the session's stream; the newest one wins
    host    -> deliver -> a call's stream, if one is open or can be; else the session's; else the backlog

What a server says between a call and its answer carries no hint which call it belongs to (stdio has one wire), and
belongs to the newest with most likelihood; so the client reads it before the answer. News of lists and resources belong
to none. The backlog is bounded: the oldest news give way; a question finds no room and is refused to the server.
"""

import collections
import time
from collections.abc import Callable

from fastproxy._ext import core
from fastproxy.proxy.bridge import calls
from fastproxy.stdio import host, ledger, message, process

BACKLOG_MAX = 200
BACKLOG_BYTES_MAX = 1 << 20
CANCEL_SECONDS = 2.0  # for a server to answer a request that was cancelled; it need not

_NEWS = ("/list_changed", "/updated")

Message = message.Message


class _ProcessBrake(calls.Brake):
    """Holds up the one process that feeds the streams of one client."""

    lag_bytes_max = 64 << 20  # never reached: the process is held

    def __init__(self) -> None:
        self.host: host.Host | None = None
        self._holds = 0
        self._held: process.Process | None = None

    def hold(self) -> None:
        self._holds += 1
        if self._holds == 1 and self.host is not None and self.host.process is not None:
            self._held = self.host.process
            self._held.hold()

    def release(self) -> None:
        self._holds -= 1
        if self._holds == 0 and self._held is not None:
            self._held.release()
            self._held = None


class Session:
    """`brake`: what holds up the process, if it is the session's own."""

    def __init__(self, session_id: str, *, own_process: bool, start_task: Callable[..., object]) -> None:
        self.id = session_id
        self.host: host.Host | None = None
        self.used_at = time.monotonic()
        self.ended = ""
        self.start_task = start_task
        self._own = _ProcessBrake() if own_process else None
        self.brake: calls.Brake = self._own or calls.Brake()
        self._posts: dict[int, calls.Post] = {}
        self._stream: calls.Stream | None = None
        self._backlog: collections.deque[tuple[bytes, bool]] = collections.deque()
        self._backlog_bytes = 0

    def join(self, found: host.Host) -> None:
        """Its host is there."""
        self.host = found
        if self._own is not None:
            self._own.host = found

    @property
    def busy(self) -> bool:
        """Does anything keep it from expiring?"""
        return any(not call.over for call in self._posts.values()) or (
            self._stream is not None and not self._stream.over
        )

    # ---- what the client does

    async def submit(self, call: calls.Post, asked: Message) -> None:
        """A request. What the host raises: it has not been sent."""
        assert self.host is not None
        self.used_at = time.monotonic()
        self._posts[id(call)] = call
        call.on_settled = self._settled
        try:
            await self.host.submit(call, asked)
        except BaseException:
            self._posts.pop(id(call), None)
            raise

    def submit_at_once(self, call: calls.Post, asked: Message) -> bool:
        """The same without a wait. False: that can't be, and nothing has happened."""
        if self.host is None:
            return False
        self.used_at = time.monotonic()
        self._posts[id(call)] = call
        call.on_settled = self._settled
        try:
            sent = self.host.submit_at_once(call, asked)
        except host.NotCarried:
            sent = False
        if not sent:
            del self._posts[id(call)]
        return sent

    def _settled(self, call: calls.Post, _answer: Message | None) -> None:
        self._posts.pop(id(call), None)
        self.used_at = time.monotonic()

    async def tell(self, said: Message) -> None:
        """A notification, or an answer to what the server has asked."""
        assert self.host is not None
        self.used_at = time.monotonic()
        if said.method == "notifications/cancelled":
            wanted = bytes(said.params().get("requestId", b""))
            for call in self._posts.values():
                if call.id == wanted:
                    call.cancelled_at = self.used_at
        if said.method:
            await self.host.notify(self, said)
        else:
            await self.host.answer(self, said)

    def listen(self, exchange: core.Exchange) -> calls.Stream:
        """The stream on which the server speaks unasked."""
        self.used_at = time.monotonic()
        older, self._stream = self._stream, calls.Stream(exchange, self.brake, self.start_task)
        if older is not None:
            older.close()
        while self._backlog and not self._stream.over:
            self._stream.send(calls.event(self._backlog.popleft()[0]))
        self._backlog_bytes = 0
        return self._stream

    # ---- what the server does

    def deliver(self, text: bytes, said: Message) -> bool:
        """See stdio.host.Member."""
        listening = self._stream if self._stream is not None and not self._stream.over else None
        if listening is None or not said.method.endswith(_NEWS):
            for call in reversed(self._posts.values()):
                if not call.over and call.accepts_events and call.method != "initialize":
                    call.tell(text)
                    return True
        if listening is not None:
            listening.send(calls.event(text))
            return True
        return self._keep(text, question=said.is_request)

    def _keep(self, text: bytes, *, question: bool) -> bool:
        while self._backlog and (
            len(self._backlog) >= BACKLOG_MAX or self._backlog_bytes + len(text) > BACKLOG_BYTES_MAX
        ):
            if question or self._backlog[0][1]:
                return False
            self._backlog_bytes -= len(self._backlog.popleft()[0])
        self._backlog.append((text, question))
        self._backlog_bytes += len(text)
        return True

    # ---- time

    def look(self, now: float, loop_now: float, ttl_seconds: float) -> bool:
        """Once a second. Has it expired?"""
        if self.busy:
            self.used_at = now
            for call in list(self._posts.values()):
                if call.cancelled_at is not None and now - call.cancelled_at > CANCEL_SECONDS:
                    self._give_up(call)
                else:
                    call.keep_alive(loop_now)
            if self._stream is not None:
                self._stream.keep_alive(loop_now)
        return now - self.used_at > ttl_seconds

    def _give_up(self, call: calls.Post) -> None:
        if self.host is not None:
            self.host.ledger.drop(call)
        call.give_up()

    async def end(self, reason: str) -> None:
        """Nothing of it is left."""
        self.ended = self.ended or reason
        found, self.host = self.host, None
        if found is not None:
            await found.detach(self)
        for call in list(self._posts.values()):
            call.lost(reason, ran=True)
        if self._stream is not None:
            self._stream.close()


class EventSession(Session):
    """A client of the older HTTP+SSE (2024-11-05): its stream is the session, and gets all that the server says."""

    def deliver(self, text: bytes, said: Message) -> bool:
        self.say(text)
        return True

    def say(self, text: bytes) -> None:
        """On the stream; without one there is no session either."""
        if self._stream is not None:
            self._stream.send(calls.event(text))


class Letter(ledger.Call):
    """A request that came by POST and is answered on the session's stream."""

    def __init__(self, owner: EventSession, asked: Message) -> None:
        super().__init__(owner, asked)
        self._session = owner

    def tell(self, text: bytes) -> None:
        self._session.say(text)

    def settle(self, answer: Message, text: bytes) -> None:
        self._session.say(text)

    def lost(self, detail: str, *, ran: bool) -> None:
        self._session.say(calls.loss(self.id, detail, ran=ran))
