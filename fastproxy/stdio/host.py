"""A process that is spoken to, and kept alive: who asked what, who is told, and what happens when it dies.

    call, send, answer -> ledger (ids of the wire) -> process
    process -> line -> ledger -> the call it belongs to, or `asked`/`heard` of the kind of host

When the process ends without our doing, every call under way is told that it may have run, another process is started
after a back-off, and what the clients have agreed with the old one is replayed to it. Calls wait for that, though not
for ever.

Kinds: PrivateHost here, for one client; SharedHost (shared.py), for many that know nothing of each other.
"""

import asyncio
import contextlib
import logging
from typing import Protocol

from fastproxy import errors
from fastproxy.stdio import ledger, message, process, spawner, supply

logger = logging.getLogger(__name__)

RESTART_SECONDS_MAX = 15.0  # for which a call waits for another process
REPLAY_SECONDS_MAX = 60.0  # for a new process to take up where the old one ended
QUESTIONS_MAX = 1000  # of a server, unanswered
SAMPLE_CHARACTERS = 120  # of a line that is no message, in the log

Message = message.Message


class Down(errors.FastproxyError):
    """There is no process that could be asked, and there was none lately: what was asked has not run."""

    reason = "backend_unreachable"


class NotCarried(errors.FastproxyError):
    """This kind of host can't carry the request: the client is told so."""

    reason = "not_carried"


class Settled(ledger.Call):
    """A call of our own, whose answer is awaited."""

    def __init__(self, owner: object, asked: Message) -> None:
        super().__init__(owner, asked)
        self.done: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def settle(self, answer: Message, text: bytes) -> None:
        if not self.done.done():
            self.done.set_result(answer)

    def lost(self, detail: str, *, ran: bool) -> None:
        if not self.done.done():
            self.done.set_exception(process.Ended(detail))


class Host:
    """What all kinds share. `open` before anything else; `close` for good."""

    def __init__(self, source: supply.Supply) -> None:
        self.source = source
        self.ledger = ledger.Ledger()
        self.process: process.Process | None = None
        self.restarts = 0
        self._up = asyncio.Event()
        self._closed = ""
        self._questions = 0
        self._restarting: asyncio.Task[None] | None = None
        self._back_off = supply.BackOff()
        self._began = 0.0

    @property
    def closed(self) -> bool:
        """For good."""
        return bool(self._closed)

    async def open(self) -> None:
        """Have a process that is ready for calls. supply.NoRoom, spawner.NotStarted, Down, process.Ended."""
        await self.begin()
        self.ready()

    async def begin(self) -> None:
        """Have a process; calls wait until it is `ready`."""
        began = await self.source.take()
        self._began = asyncio.get_running_loop().time()
        self.process = began
        began.on_line = self._hear
        began.on_end = lambda: self._ended(began)
        if not began.running:
            raise Down(began.explain())

    async def close(self, reason: str, *, at_once: bool = False) -> None:
        """Calls under way are lost, the process ends."""
        self._closed = self._closed or reason
        self._up.set()
        if self._restarting is not None:
            self._restarting.cancel()
        for call in self.ledger.drop_all():
            call.lost(reason, ran=True)
        if self.process is not None:
            await self.process.end(reason, at_once=at_once)

    # ---- towards the process

    async def submit(self, call: ledger.Call, asked: Message) -> None:
        """Send a request; the call hears the rest. Down, process.NotReading, NotCarried: it has not been sent."""
        admitted = self.admit(call, asked)
        if admitted is None:
            return
        await self._await_up()
        try:
            await self._send_call(admitted, asked)
        except Down:
            if self._closed or self.process is None:
                raise
            # It was on its way out, and nothing has been sent: the next one may have it.
            await asyncio.wait({self.process.ended}, timeout=RESTART_SECONDS_MAX)
            await self._await_up()
            await self._send_call(admitted, asked)

    def submit_at_once(self, call: ledger.Call, asked: Message) -> bool:
        """The same without a wait. False: that can't be, and nothing has happened."""
        if self.process is None or not self._up.is_set() or self._closed or not self.process.takes:
            return False
        admitted = self.admit(call, asked)
        if admitted is not None:
            self.process.put(message.as_line(self.ledger.begin(admitted, asked)))
        return True

    def admit(self, call: ledger.Call, asked: Message) -> ledger.Call | None:
        """What the host must remember of a request before it is sent; the call that is. None: it is answered already.
        NotCarried."""
        return call

    async def notify(self, owner: object, news: Message) -> None:
        """A client tells something."""
        raise NotImplementedError

    async def _send_call(self, call: ledger.Call, asked: Message) -> None:
        text = self.ledger.begin(call, asked)
        try:
            await self._write(text)
        except BaseException:
            self.ledger.drop(call)
            raise

    async def send(self, text: bytes) -> None:
        """Send what has no answer."""
        await self._await_up()
        await self._write(text)

    async def cancel(self, owner: object, news: Message) -> None:
        """A client no longer wants the answer to a request of its own."""
        found = self.ledger.cancel(owner, news)
        if found is not None:
            await self.send(found[1])

    async def abandon(self, call: ledger.Call) -> None:
        """Its client has gone: the work may stop."""
        if self.ledger.drop(call):
            why = b'{"requestId":%d,"reason":"the client has left"}' % call.number
            await self._reply(message.notification("notifications/cancelled", why))

    async def answer(self, owner: object, answer: Message) -> None:
        """A client answers what the server has asked it; what it was not asked goes nowhere."""
        text = self.ledger.answer(owner, answer)
        if text is not None:
            await self.send(text)

    async def detach(self, member: "Member") -> None:
        """A client has gone."""
        raise NotImplementedError

    async def leave(self, owner: object) -> None:
        """A client is gone: the server need not go on for it."""
        for number in self.ledger.questions_of(owner):
            await self._reply(message.error(number, -32603, "the client has left"))
        for call in self.ledger.drop_all(owner):
            text = b'{"requestId":%d,"reason":"the client has left"}' % call.number
            if call.method != "initialize":
                await self._reply(message.notification("notifications/cancelled", text))

    async def _write(self, text: bytes) -> None:
        if self.process is None:
            raise Down("no process")
        try:
            await self.process.write(message.as_line(text))
        except process.Ended as error:
            raise Down(str(error)) from error

    async def _reply(self, text: bytes) -> None:
        with contextlib.suppress(Down, process.NotReading):
            await self._write(text)

    async def _await_up(self) -> None:
        if not self._up.is_set():
            try:
                await asyncio.wait_for(self._up.wait(), RESTART_SECONDS_MAX)
            except TimeoutError:
                detail = self.process.explain() if self.process is not None else "not started"
                raise Down(f"it is being restarted: {detail}") from None
        if self._closed:
            raise Down(self._closed)

    # ---- from the process

    def _hear(self, line: bytes) -> None:
        said = message.read(line)
        if said is None:
            sample = line[:SAMPLE_CHARACTERS].decode("utf-8", "replace")
            logger.warning("%s said what is no message: %r", self.source.program.name, sample)
        elif not said.method:
            self._settle(said)
        elif said.id:
            self.asked(said)
        elif said.method == "notifications/progress":
            found = self.ledger.progress(said)
            if found is not None:
                found[0].tell(found[1])
        elif said.method == "notifications/cancelled":
            taken_back = self.ledger.take_back(said)
            if taken_back is not None:
                self.heard(Message(said.method, b"", message.members_of(taken_back[1])), taken_back[0])
        else:
            self.heard(said, None)

    def _settle(self, answer: Message) -> None:
        found = self.ledger.settle(answer)
        if found is not None:
            self.settled(found[0], answer)
            found[0].settle(answer, found[1])

    def settled(self, call: ledger.Call, answer: Message) -> None:
        """A call has been answered: what must be remembered of it?"""

    def asked(self, asked: Message) -> None:
        """The server asks something."""
        raise NotImplementedError

    def heard(self, news: Message, owner: object) -> None:
        """The server tells something that belongs to no call; `owner`: for whom, if that is known."""
        raise NotImplementedError

    def respond(self, text: bytes) -> None:
        """Answer the server by ourselves; what it does not read is its own loss."""
        if self._questions < QUESTIONS_MAX:
            self._questions += 1
            self.source.start_task(self._respond(text), name="answer a stdio server")

    async def _respond(self, text: bytes) -> None:
        try:
            await self._reply(text)
        finally:
            self._questions -= 1

    # ---- its end, and the next beginning

    def ready(self) -> None:
        """Calls may come."""
        self._up.set()

    def _ended(self, gone: process.Process) -> None:
        detail = gone.explain()
        was_up = self._up.is_set()
        if not self._closed:
            self._up.clear()
            logger.warning("a stdio server has ended: pid=%d calls=%d reason=%s", gone.pid, len(self.ledger), detail)
        for call in self.ledger.drop_all():
            call.lost(detail, ran=True)
        if was_up and not self._closed:
            self._restarting = self.source.start_task(self._restart(), name="restart a stdio server")

    async def _restart(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._closed:
            await asyncio.sleep(self._back_off.seconds(loop.time() - self._began))
            try:
                await self.begin()
                async with asyncio.timeout(REPLAY_SECONDS_MAX):
                    await self.replay()
            except (Down, process.Ended, process.NotReading, supply.NoRoom, spawner.NotStarted, TimeoutError) as error:
                logger.warning("a stdio server was not restarted: reason=%s", error)
                if self.process is not None:
                    await self.process.end("it did not take up where the last one ended")
                continue
            self.restarts += 1
            logger.info("a stdio server was restarted: pid=%d seconds=%.2f", self._pid(), loop.time() - self._began)
            return self.ready()

    def _pid(self) -> int:
        return 0 if self.process is None else self.process.pid

    async def replay(self) -> None:
        """Bring a new process to where the old one was."""
        raise NotImplementedError

    async def ask(self, asked: Message) -> Message:
        """A request of our own, while calls still wait. Down, process.Ended, process.NotReading."""
        call = Settled(self, asked)
        await self._send_call(call, asked)
        return await call.done


class Member(Protocol):
    """A client of a host, as the host sees it."""

    def deliver(self, text: bytes, said: Message) -> bool:
        """Take what belongs to none of its calls. False: it can't be told."""


class PrivateHost(Host):
    """A process for one client: all that MCP has passes, in both directions.

    The client's own `initialize` is the handshake. It, the logging level and the subscriptions are what a process that
    takes over is told anew."""

    def __init__(self, source: supply.Supply, member: Member) -> None:
        super().__init__(source)
        self.member = member
        self._opening: Message | None = None
        self._initialized = False
        self._level: Message | None = None
        self._subscriptions: dict[bytes, Message] = {}

    def admit(self, call: ledger.Call, asked: Message) -> ledger.Call:
        if asked.method == "initialize" and self._opening is None:
            self._opening = asked
        elif asked.method == "logging/setLevel":
            self._level = asked
        elif asked.method == "resources/subscribe":
            self._subscriptions[bytes(asked.params().get("uri", b""))] = asked
        elif asked.method == "resources/unsubscribe":
            self._subscriptions.pop(bytes(asked.params().get("uri", b"")), None)
        return call

    async def detach(self, member: Member) -> None:
        """The client is gone, and its process with it."""
        await self.close("its session has ended")

    async def notify(self, owner: object, news: Message) -> None:
        if news.method == "notifications/cancelled":
            return await self.cancel(self.member, news)
        if news.method == "notifications/initialized":
            self._initialized = True
        await self.send(news.text())

    def asked(self, asked: Message) -> None:
        if asked.method == "ping":
            return self.respond(message.result(asked.id, b"{}"))
        if not self.member.deliver(self.ledger.ask(self.member, asked), asked):
            self.respond(message.error(asked.id, -32603, "the client has no stream open"))

    def heard(self, news: Message, owner: object) -> None:
        self.member.deliver(news.text(), news)

    async def replay(self) -> None:
        if self._opening is None:
            return
        answer = await self.ask(self._opening)
        if "error" in answer.members:
            raise Down("its handshake was refused this time")
        if self._initialized:
            await self._write(message.notification("notifications/initialized"))
        for standing in ([self._level] if self._level is not None else []) + list(self._subscriptions.values()):
            await self.ask(standing)
