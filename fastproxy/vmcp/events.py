"""One Server-Sent Event, read (WHATWG HTML §9.2.6). Whole ones come in: where one ends, the relay knows. Sans-io."""

import msgspec


class Event(msgspec.Struct, frozen=True, gc=False):
    """`data` may be empty: a comment, or an event that primes a stream with an id. `retry_seconds` as told in it."""

    kind: str = "message"
    data: bytes = b""
    id: str | None = None
    retry_seconds: float | None = None


def read(event: bytes) -> Event:
    """What the lines of an event say; lines that nobody knows say nothing."""
    kind, event_id, retry = "message", None, None
    data = []
    for line in event.splitlines():
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            data.append(value)
        elif name == b"event":
            kind = value.decode("utf-8", "replace")
        elif name == b"id" and b"\0" not in value:
            event_id = value.decode("utf-8", "replace")
        elif name == b"retry" and value.isdigit() and len(value) < 10:
            retry = int(value) / 1000
    return Event(kind, b"\n".join(data), event_id, retry)
