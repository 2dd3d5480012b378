"""What one backend says, whatever it is spoken to through: the words that all transports share, and their faults.

    Peer.open      a session of ours at the backend                    Peer.request   one call and its answer
    Peer.send      a notification, or the answer to its request        Peer.listen    what it says without being asked
    Peer.end       the session is over

A Peer is for what happens outside of a client's exchange: discovery, health, composite steps, calls bridged between the
eras, the end of legs. streamable.py, event_stream.py and pipe.py are its three kinds. Bytes of JSON come in and go out:
nobody here looks into params or results. Ids of requests are ours, and nobody can guess them, so that no backend
answers for another's call.
"""

import asyncio
import itertools
import secrets
import types
from collections.abc import Callable
from typing import Annotated, Protocol

import msgspec

from fastproxy import errors
from fastproxy.vmcp import connections

ANSWER_BYTES_MAX = 16 << 20  # of one message: servers and clients take 4 MiB in, and some send more out
LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"

OnMessage = Callable[[bytes], None]


class BackendError(errors.FastproxyError):
    """The backend gave no answer. `may_have_run`: the call reached it, or may have."""

    reason = "backend_unreachable"

    def __init__(self, backend: str, message: str, *, reason: str | None = None, may_have_run: bool = False) -> None:
        super().__init__(f"{backend}: {message}", reason=reason)
        self.backend = backend
        self.may_have_run = may_have_run


class Refused(BackendError):
    """The backend answered with a JSON-RPC error. `error`: as it wrote it; `status`: of the answer that carried it."""

    reason = "backend_refused"

    def __init__(self, backend: str, error: bytes, *, status: int = 200) -> None:
        read = read_error(error)
        super().__init__(backend, f"error {read.code}: {read.message[:200]}")
        self.error = error
        self.code = read.code
        self.data = read.data
        self.status = status


class SessionLost(BackendError):
    """The backend does not know the session (any more): the call has not run."""

    reason = "backend_session_lost"


class Unauthorized(BackendError):
    """401 or 403: what we carry is not enough."""

    reason = "backend_unauthorized"

    def __init__(self, backend: str, status: int) -> None:
        super().__init__(backend, f"answered {status}")
        self.status = status


class WrongStatus(BackendError):
    """An answer with a status that says no, and without a JSON-RPC error."""

    reason = "backend_protocol_error"

    def __init__(self, backend: str, status: int, *, may_have_run: bool = False) -> None:
        super().__init__(backend, f"answered {status}", may_have_run=may_have_run)
        self.status = status


class NoStream(BackendError):
    """The backend offers no stream for what it says without being asked."""

    reason = "backend_without_stream"


class Opened(msgspec.Struct, frozen=True):
    """A session of ours. `session_id` None: the backend hands out none. `result`: of `initialize`, as it is."""

    session_id: str | None
    protocol_version: str
    result: bytes


class Peer(Protocol):
    """See the module. `headers`: fields of this call beside the backend's own; every call has a deadline. `on_message`
    hears what comes beside an answer: that of the call over streamable HTTP, that of `open` where all comes on one
    stream."""

    async def open(
        self, params: bytes, *, headers: connections.Fields, on_message: OnMessage, seconds_max: float
    ) -> Opened: ...

    async def request(
        self,
        method: str,
        params: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        on_message: OnMessage,
        seconds_max: float,
    ) -> bytes: ...

    async def send(
        self,
        message: bytes,
        *,
        leg_session_id: str | None,
        protocol_version: str,
        headers: connections.Fields,
        seconds_max: float,
    ) -> None: ...

    async def listen(
        self, *, leg_session_id: str | None, protocol_version: str, headers: connections.Fields, on_message: OnMessage
    ) -> None: ...

    async def end(
        self, leg_session_id: str, *, protocol_version: str, headers: connections.Fields, seconds_max: float
    ) -> None: ...

    async def close(self) -> None: ...


class Deadline:
    """Over all of a call: `async with Deadline(backend, seconds_max)`. Faults of the connection come out of it as what
    they mean for the call. It does what asyncio.timeout does, in less: each call passes here."""

    __slots__ = ("_backend", "_cancelling", "_handle", "_late", "_seconds_max", "_task")

    def __init__(self, backend: str, seconds_max: float | None) -> None:
        self._backend = backend
        self._seconds_max = seconds_max
        self._late = False
        self._handle: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        if self._seconds_max is None:
            return
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._handle = asyncio.get_running_loop().call_later(self._seconds_max, self._expire)

    def _expire(self) -> None:
        self._late = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
            # Whoever else has cancelled the task meanwhile is to be obeyed.
            if self._late and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
                detail = f"no whole answer within {self._seconds_max:g} s"
                raise BackendError(self._backend, detail, reason="backend_timeout", may_have_run=True) from error
        if isinstance(error, connections.NotConnected):
            raise BackendError(self._backend, str(error)) from error
        if isinstance(error, connections.Lost):
            raise BackendError(self._backend, str(error), reason=error.reason, may_have_run=error.ran) from error


def ignore(_message: bytes) -> None:
    """For who does not care what comes beside the answer."""


# ---- messages


class Message(msgspec.Struct, gc=False):
    """A JSON-RPC message, each member as it was written; empty: it is not there."""

    method: msgspec.Raw = msgspec.Raw(b"")
    id: msgspec.Raw = msgspec.Raw(b"")
    params: msgspec.Raw = msgspec.Raw(b"")
    result: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")

    @property
    def is_answer(self) -> bool:
        """Is it a result, or an error?"""
        return not bytes(self.method) and bool(bytes(self.result) or bytes(self.error))

    @property
    def id_text(self) -> str | None:
        """The id, if it is a text as ours are."""
        return _read_text(self.id)

    @property
    def method_name(self) -> str:
        """The method; empty without one."""
        return _read_text(self.method) or ""


class Error(msgspec.Struct, gc=False):
    """What is in a JSON-RPC error, if it is one."""

    code: int = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"")


_message_decoder = msgspec.json.Decoder(Message)
_error_decoder = msgspec.json.Decoder(Error)
_FAULTS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_message(data: bytes) -> Message | None:
    """None: it is no JSON object."""
    try:
        return _message_decoder.decode(data)
    except _FAULTS:
        return None


def read_error(data: bytes) -> Error:
    """An error as far as it can be read."""
    try:
        return _error_decoder.decode(data)
    except _FAULTS:
        return Error(message="malformed error")


def _read_text(raw: msgspec.Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str) if bytes(raw)[:1] == b'"' else None
    except _FAULTS:
        return None


class Ids:
    """Of requests: a text that no other process and no backend can guess, and a number."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(8)
        self._numbers = itertools.count(1)

    def next(self) -> str:
        """One that was never used."""
        return f"{self._prefix}-{next(self._numbers)}"


def write_request(request_id: str, method: str, params: bytes) -> bytes:
    """A request with params as they are (none when empty)."""
    member = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","id":"%s","method":%s%s}' % (request_id.encode(), msgspec.json.encode(method), member)


def write_notification(method: str, params: bytes = b"") -> bytes:
    """A notification with params as they are (none when empty)."""
    member = b',"params":' + params if params else b""
    return b'{"jsonrpc":"2.0","method":%s%s}' % (msgspec.json.encode(method), member)


def write_result(request_id: bytes, result: bytes) -> bytes:
    """The answer to a request of the backend's; its id as it wrote it."""
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (request_id, result)


def write_error(request_id: bytes, code: int, message: str) -> bytes:
    """An error in answer to a request of the backend's."""
    error = msgspec.json.encode({"code": code, "message": message})
    return b'{"jsonrpc":"2.0","id":%s,"error":%s}' % (request_id, error)


def answer_for_nobody(message: Message) -> bytes | None:
    """What a session that no client is behind says to a request: that it is there, that it has no roots, and no to all
    else. None: nothing is asked."""
    request_id = bytes(message.id)
    if not request_id or not message.method_name:
        return None
    if message.method_name == "ping":
        return write_result(request_id, b"{}")
    if message.method_name == "roots/list":
        return write_result(request_id, b'{"roots":[]}')
    return write_error(request_id, -32601, "nobody is behind this session")


def result_of(backend: str, message: Message, *, status: int = 200) -> bytes:
    """The result in an answer. Refused: it is an error."""
    if bytes(message.result):
        return bytes(message.result)
    raise Refused(backend, bytes(message.error), status=status)


class _Negotiated(msgspec.Struct):
    protocolVersion: Annotated[str, msgspec.Meta(pattern="^[!-~]{1,64}$")] = LEGACY_VERSION


def negotiated_version(backend: str, result: bytes) -> str:
    """The revision that an `initialize` result names, fit for a header. BackendError: it is no such result."""
    try:
        return msgspec.json.decode(result, type=_Negotiated).protocolVersion
    except _FAULTS as error:
        detail = f"its initialize result is malformed: {error}"
        raise BackendError(backend, detail, reason="backend_protocol_error") from error
