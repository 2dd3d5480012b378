"""How well a replica is, from what was seen of it. Pure: what is known and what happens in, what is known then out.

    connect refused ------------------------> failed "connect"  --a connect succeeds---------------> well
    probes in vain, threshold in a row -----> failed "probe"    --a probe is answered--------------> well
    requests lost, LOSSES_MAX in a row -----> failed "loss"     --a probe is answered--------------> well

A kernel takes connections for a process that hangs, so a connect heals nothing but a failed connect. Who comes back has
cold caches and the fewest sessions of all: for a while it gets but a share of the new ones (`share`). A replica that
only seems ill, to probes or by its losses, is better than none (`usable`): should the probe be wrong, it is wrong about
every replica at once.
"""

from collections.abc import Sequence

import msgspec

LOSSES_MAX = 3  # requests in a row; one or two may be the request's own fault
RETURN_SECONDS = 10.0  # until a replica that has come back gets its whole share of new sessions
SHARE_MIN = 0.2  # at once, so that a quiet fleet finds out at all whether it works

CONNECT, PROBE, LOSS = "connect", "probe", "loss"


class Health(msgspec.Struct, frozen=True, gc=False):
    """What is known of one replica. `cause`: why it gets nothing new; None when it does."""

    cause: str | None = None
    failures: int = 0  # probes in vain, in a row
    losses: int = 0  # requests lost, in a row
    ended: int = 0  # exchanges with it at the last loss
    returned_at: float | None = None


def connect_failed(known: Health) -> Health:
    """Nobody is there."""
    return msgspec.structs.replace(known, cause=CONNECT)


def connected(known: Health, now: float) -> Health:
    """Somebody is there; whether they answer is another question."""
    return Health(returned_at=now) if known.cause == CONNECT else known


def probe_failed(known: Health, *, threshold: int) -> Health:
    """It took the connection, and did not answer in time, or with a fault."""
    failures = known.failures + 1
    cause = known.cause or (PROBE if failures >= threshold else None)
    return msgspec.structs.replace(known, failures=failures, cause=cause)


def probe_answered(known: Health, now: float) -> Health:
    """It works. Losses count on: a server may answer a probe and die of every call."""
    if known.cause is not None:
        return Health(returned_at=now)
    return msgspec.structs.replace(known, failures=0) if known.failures else known


def request_lost(known: Health, *, ended: int) -> Health:
    """A request was sent and no answer came. `ended`: exchanges with it that are over. One since the last loss is what
    its own client was told; with one more somebody has had an answer, and the row is broken."""
    losses = known.losses + 1 if ended - known.ended <= 1 else 1
    cause = known.cause or (LOSS if losses >= LOSSES_MAX else None)
    return msgspec.structs.replace(known, losses=losses, ended=ended, cause=cause)


def share(known: Health, now: float) -> float:
    """Of the new sessions that would be its own: grows to 1 after a return."""
    if known.returned_at is None:
        return 1.0
    return min(1.0, max(SHARE_MIN, (now - known.returned_at) / RETURN_SECONDS))


def usable(all_known: Sequence[Health]) -> list[bool]:
    """Who may get something new: who is well, and when nobody is, who only seems ill."""
    if any(known.cause is None for known in all_known):
        return [known.cause is None for known in all_known]
    return [known.cause != CONNECT for known in all_known]
