"""What the supervisor and a worker say to each other: questions with answers, and notices, over a Unix socketpair.

    ask --Question--> peer's `serve` --Answer or Failure--> ask        tell --Notice--> peer's `hear`

A message is four bytes of length and msgpack. What stands in it belongs to who asks: structs with a tag, encoded here
and decoded by the one decoder that an end was given. Order holds: what was sent first is heard first, which is what
makes "changed" after "loaded" mean something.

Nothing waits for ever and nothing grows for ever: a question has a deadline, so many may be open, and a peer that does
not take what it is sent is given up (`lost`), for it would act on what is no longer true. Errors of ours cross the
channel as what they are. Both ends are this program, and nobody else holds the socket.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, cast

import msgspec

from fastproxy import errors

QUESTIONS_MAX = 16_384  # open at one time; each is a request that waits, so no more than a worker has connections
UNSENT_BYTES_MAX = 16 << 20  # of a peer that reads this is a few milliseconds; it is dead or stopped if it gets so far
MESSAGE_BYTES_MAX = 64 << 20  # a page of a thousand records of the largest kind
_LENGTH_BYTES = 4

Answered = TypeVar("Answered")


class ChannelLost(errors.FastproxyError):
    """The other process is gone, or does not answer in time."""

    reason = "channel_lost"


class _Question(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=0):
    number: int
    body: msgspec.Raw


class _Answer(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=1):
    number: int
    body: msgspec.Raw


class _Failure(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=2):
    number: int
    kind: str
    message: str


class _Notice(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=3):
    body: msgspec.Raw


# What `serve` may raise, and the asker is raised.
_RAISED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        errors.RecordTooNew,
        errors.StoreError,
        errors.StoreFull,
        errors.StoreRefused,
        errors.StoreUnavailable,
        ChannelLost,
        ValueError,
    )
}
_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(_Question | _Answer | _Failure | _Notice)


class Decoder(Protocol):
    """Of msgspec: what the peer may ask and tell."""

    def decode(self, body: msgspec.Raw, /) -> Any: ...


Serve = Callable[[Any], Awaitable[object]]
StartTask = Callable[..., object]


class Channel(asyncio.Protocol):
    """One end. `serve(question)` answers, `hear(notice)` is quick; `lost()` is called once, when it is over."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        serve: Serve,
        hear: Callable[[Any], None],
        lost: Callable[[], None],
        start_task: StartTask,
    ) -> None:
        self._decoder = decoder
        self._serve = serve
        self._hear = hear
        self._lost = lost
        self._start_task = start_task
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._asked: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._number = 0

    async def open(self, end: socket.socket) -> None:
        """Speak over this end of a socketpair, which is ours from now on."""
        await asyncio.get_running_loop().create_unix_connection(lambda: self, sock=end)

    def close(self) -> None:
        """Send what is unsent, then end."""
        if self._transport is not None:
            self._transport.close()

    async def ask(self, question: msgspec.Struct, expected: type[Answered], *, seconds_max: float) -> Answered:
        """The peer's answer. ChannelLost: it is gone, too slow, or has too many questions already."""
        if self._transport is None or len(self._asked) >= QUESTIONS_MAX:
            raise ChannelLost("the other process is gone" if self._transport is None else "too many questions")
        self._number += 1
        number = self._number
        future: asyncio.Future[msgspec.Raw] = asyncio.get_running_loop().create_future()
        self._asked[number] = future
        self._send(_Question(number, msgspec.Raw(_encoder.encode(question))))
        try:
            async with asyncio.timeout(seconds_max):
                body = await future
        except TimeoutError as error:
            raise ChannelLost(f"no answer within {seconds_max:g} s") from error
        finally:
            self._asked.pop(number, None)
        return msgspec.msgpack.decode(body, type=expected)

    def tell(self, notice: msgspec.Struct) -> None:
        """Say something; a peer that is gone does not hear it."""
        self._send(_Notice(msgspec.Raw(_encoder.encode(notice))))

    def _send(self, frame: _Question | _Answer | _Failure | _Notice) -> None:
        transport = self._transport
        if transport is None:
            return
        message = _encoder.encode(frame)
        transport.write(len(message).to_bytes(_LENGTH_BYTES) + message)
        if transport.get_write_buffer_size() > UNSENT_BYTES_MAX:
            transport.abort()

    # ---- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own is no subclass

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        start = 0
        while len(received) - start >= _LENGTH_BYTES:
            body = start + _LENGTH_BYTES
            end = body + int.from_bytes(received[start:body])
            if end - body > MESSAGE_BYTES_MAX:
                assert self._transport is not None
                self._transport.abort()
                return
            if end > len(received):
                break
            self._take(bytes(received[body:end]))
            start = end
        del received[:start]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChannelLost("the other process is gone"))
        self._lost()

    def _take(self, message: bytes) -> None:
        frame = _frame_decoder.decode(message)
        match frame:
            case _Notice():
                self._hear(self._decoder.decode(frame.body))
            case _Question():
                self._start_task(self._answer(frame), name="answer on the channel")
            case _Answer():
                future = self._asked.get(frame.number)
                if future is not None and not future.done():
                    future.set_result(frame.body)
            case _Failure():
                future = self._asked.get(frame.number)
                if future is not None and not future.done():
                    future.set_exception(_RAISED.get(frame.kind, ChannelLost)(frame.message))

    async def _answer(self, question: _Question) -> None:
        try:
            body = msgspec.Raw(_encoder.encode(await self._serve(self._decoder.decode(question.body))))
        except (errors.FastproxyError, ValueError) as error:
            self._send(_Failure(question.number, type(error).__name__, str(error)))
        else:
            self._send(_Answer(question.number, body))
