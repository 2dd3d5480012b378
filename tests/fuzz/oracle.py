"""h11's reading of the same bytes, in the words of `heads.Meaning`."""

import h11

from tests.fuzz import heads

BYTES_MAX = 1 << 20  # far above every head here: sizes are ours to judge, not h11's


def read_request(wire: bytes) -> heads.Meaning | None:
    """None: h11 refuses it, or waits for more."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=BYTES_MAX)
    event = first_event(connection, wire)
    if not isinstance(event, h11.Request):
        return None
    return meaning_of((event.method, event.target), event, connection, wire)


def read_answer(wire: bytes) -> heads.Meaning | None:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=BYTES_MAX)
    connection.send(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"a")]))
    connection.send(h11.EndOfMessage())
    event = first_event(connection, wire)
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        return None
    return meaning_of((event.status_code, event.reason), event, connection, wire)


def read_chunks(wire: bytes) -> tuple[bytes, bytes] | None:
    """(payload, what follows the body) of a whole chunked body; None: refused or not whole."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=BYTES_MAX)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + wire)
    payload = b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return None
        if isinstance(event, h11.Data):
            payload += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return payload, bytes(connection.trailing_data[0])
        elif not isinstance(event, h11.Request):
            return None


def first_event(connection: h11.Connection, wire: bytes) -> object:
    connection.receive_data(wire)
    try:
        return connection.next_event()
    except h11.RemoteProtocolError:
        return None


def meaning_of(
    start: tuple[bytes, bytes] | tuple[int, bytes],
    event: h11.Request | h11.Response | h11.InformationalResponse,
    connection: h11.Connection,
    wire: bytes,
) -> heads.Meaning:
    fields = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    named = dict(fields)
    length = named.get(b"content-length")
    return heads.Meaning(
        start=start,
        minor=int(event.http_version.split(b".")[1]),
        fields=fields,
        length=None if length is None else int(length),
        chunked=b"transfer-encoding" in named,
        size=len(wire) - len(connection.trailing_data[0]),
    )
