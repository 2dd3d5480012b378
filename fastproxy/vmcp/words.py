"""What the processes of a fleet tell each other, over the store's bus: small, idempotent, lost without harm.

A word may come twice, or never. `bus.py` carries them; who is meant is in the word, or is the channel.
"""

import msgspec


class Word(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """By its name; the members follow in their order."""


class StreamOpened(Word, frozen=True, gc=False):
    """The newest stream of this session is at that replica: those opened before (seconds since the epoch) are to be
    closed. A word may be slow, and meet a stream that is newer than its own."""

    session_id: str
    replica: str
    opened_at: float


class Said(Word, frozen=True, gc=False):
    """What a backend has said on a leg that only the teller can reach, for the client's stream, wherever that is."""

    session_id: str
    message: bytes


class Cancelled(Word, frozen=True, gc=False):
    """A client no longer wants a call, which is under way at one of us."""

    session_id: str
    request_id: bytes


class Answered(Word, frozen=True, gc=False):
    """A client's answer to what the replica spoken to has asked of it. `members`: its result or error."""

    number: str
    members: bytes


class Passed(Word, frozen=True, gc=False):
    """A client's message for a leg that only the replica spoken to can reach."""

    session_id: str
    backend_id: str
    message: bytes


class Forwarded(Word, frozen=True, gc=False):
    """A call of a leg that only the replica spoken to can reach; it says Beside and Done to `asker`."""

    asker: str
    number: str
    session_id: str
    backend_id: str
    method: str
    params: bytes
    request_id: bytes
    token: bytes


class Beside(Word, frozen=True, gc=False):
    """What a backend has said during such a call."""

    number: str
    message: bytes


class Done(Word, frozen=True, gc=False):
    """The end of such a call: a result, an error that the backend gave, or why there is none."""

    number: str
    result: bytes
    error: bytes
    reason: str
    detail: str
    may_have_run: bool


class Resumed(Word, frozen=True, gc=False):
    """A parked call (parking.py) is sent again, and waits at the replica spoken to; it says ResumedBeside and
    ResumedDone to `asker`."""

    asker: str
    number: str
    state: str
    method: str
    params: bytes
    principal: str
    client_info: bytes
    capabilities: bytes
    log_level: str | None


class Abandoned(Word, frozen=True, gc=False):
    """Whom this resumed call was for has left; with `over` false it only asks whether anybody is there."""

    number: str
    over: bool


class ResumedBeside(Word, frozen=True, gc=False):
    """What a backend has said during a resumed call."""

    number: str
    message: bytes


class ResumedDone(Word, frozen=True, gc=False):
    """The end of a resumed call, or the next question. `kind`: result, error, missing (a capability, as JSON in
    `body`), unknown (no such call waits), failed (for `reason`)."""

    number: str
    kind: str
    body: bytes
    status: int
    backend: str
    reason: str
    may_have_run: bool


Any = (
    StreamOpened
    | Said
    | Cancelled
    | Answered
    | Passed
    | Forwarded
    | Beside
    | Done
    | Resumed
    | Abandoned
    | ResumedBeside
    | ResumedDone
)
DECODER = msgspec.msgpack.Decoder(Any)
ENCODER = msgspec.msgpack.Encoder()
