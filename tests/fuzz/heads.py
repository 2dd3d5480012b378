"""Heads to scan: sound ones whose meaning is known by construction, and the same with a few bytes wrong."""

import os

import hypothesis
import msgspec
from hypothesis import strategies as st

# Seconds by default; FASTPROXY_FUZZ_EXAMPLES=100000 for a night.
EXAMPLES = int(os.environ.get("FASTPROXY_FUZZ_EXAMPLES", "300"))
settings = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.filter_too_much],
)

TOKEN = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
VISIBLE = bytes(range(0x21, 0x7F))
# What parsers stumble over: line ends, white space of all kinds, separators, controls, bytes over 127.
TROUBLE = (
    [bytes([byte]) for byte in b'\r\n\t \x0b\x0c\0\x1b\x7f:;,"/\\()5-+_\x80\xa0\xff']
    + [b"\r\n", b"\r\n ", b"\n ", b"\r\n\r\n", b"\n\n", b" :", b" \r\n", b"\t\r\n", b"\r\r\n"]
    + [
        b"HTTP/1.0",
        b"HTTP/1.2",
        b"chunked",
        b"\r\nTransfer-Encoding: chunked",
        b"\r\nContent-Length: 7",
        b"\r\nHost: b",
    ]
)


def bytes_of(alphabet: bytes, *, min_size: int = 0, max_size: int) -> st.SearchStrategy[bytes]:
    return st.lists(st.sampled_from(alphabet), min_size=min_size, max_size=max_size).map(bytes)


class Meaning(msgspec.Struct, frozen=True):
    """What a head says. `start` is (method, target) of a request, (status, reason) of an answer."""

    start: tuple[bytes, bytes] | tuple[int, bytes]
    minor: int
    fields: tuple[tuple[bytes, bytes], ...]  # names in lower case
    length: int | None
    chunked: bool
    size: int


class Head(msgspec.Struct, frozen=True):
    """A head on the wire, and what it must mean."""

    wire: bytes
    meaning: Meaning


white_space = bytes_of(b" \t", max_size=3)
inner_value = bytes_of(VISIBLE + b"\xa0\xff \t", max_size=20).map(lambda value: value.strip(b" \t"))
other_names = (
    bytes_of(TOKEN, min_size=1, max_size=12)
    | st.sampled_from([b"Accept", b"X-Forwarded-For", b"TE", b"Cookie", b"Mcp-Param-City", b"Connection", b"Upgrade"])
).filter(lambda name: name.lower() not in SINGLE)
SINGLE = {
    *(b"host", b"content-length", b"transfer-encoding", b"mcp-session-id", b"mcp-protocol-version", b"mcp-method"),
    *(b"mcp-name", b"authorization", b"expect"),
}
single_fields = st.sampled_from(
    [(b"Mcp-Session-Id", b"0" * 32), (b"MCP-Protocol-Version", b"2025-11-25"), (b"Authorization", b"Bearer x")]
)
lengths = st.integers(0, 10**18 - 1) | st.integers(0, 9)


@st.composite
def letters_changed(draw: st.DrawFn, name: bytes) -> bytes:
    return draw(st.sampled_from([name, name.lower(), name.upper(), name.swapcase()]))


@st.composite
def field_lines(
    draw: st.DrawFn, *, minor: int, with_host: bool
) -> tuple[bytes, list[tuple[bytes, bytes]], int | None, bool]:
    """The lines, and what they say: fields, Content-Length, chunked."""
    fields = draw(st.lists(st.tuples(other_names, inner_value), max_size=5))
    fields += draw(st.lists(single_fields, max_size=2, unique_by=lambda field: field[0]))
    framing = draw(st.sampled_from(["none", "length", "chunked"] if minor else ["none", "length"]))
    length = draw(lengths) if framing == "length" else None
    if framing == "length":
        fields.append((b"Content-Length", b"%d" % length))
    if framing == "chunked":
        fields.append((b"Transfer-Encoding", draw(letters_changed(b"chunked"))))
    if with_host:
        fields.append((b"Host", draw(st.sampled_from([b"a.example", b"a.example:8080", b"[::1]:80", b""]))))
    fields = [(draw(letters_changed(name)), value) for name, value in draw(st.permutations(fields))]
    lines = [name + b":" + draw(white_space) + value + draw(white_space) + b"\r\n" for name, value in fields]
    return b"".join(lines) + b"\r\n", fields, length, framing == "chunked"


def meaning_of(
    start: tuple[bytes, bytes] | tuple[int, bytes],
    minor: int,
    lines: tuple[bytes, list[tuple[bytes, bytes]], int | None, bool],
    first: bytes,
) -> Head:
    wire, fields, length, chunked = lines
    lowered = tuple((name.lower(), value) for name, value in fields)
    size = len(first) + len(wire)
    return Head(first + wire, Meaning(start, minor, lowered, length, chunked, size))


@st.composite
def requests(draw: st.DrawFn) -> Head:
    method = draw(st.sampled_from([b"GET", b"POST", b"DELETE", b"M-SEARCH"]) | bytes_of(TOKEN, min_size=1, max_size=32))
    target = draw(st.sampled_from([b"/mcp", b"*", b"/mcp?a=b"]) | bytes_of(VISIBLE, min_size=1, max_size=20))
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    first = b"%s %s HTTP/1.%d\r\n" % (method, target, minor)
    lines = draw(field_lines(minor=minor, with_host=minor == 1 or draw(st.booleans())))
    return meaning_of((method, target), minor, lines, first)


@st.composite
def answers(draw: st.DrawFn) -> Head:
    status = draw(st.sampled_from([200, 202, 404, 500]) | st.integers(200, 599))
    reason = draw(st.sampled_from([b"OK", b"", b"Not Found"]) | inner_value)
    minor = draw(st.sampled_from([1, 1, 1, 0]))
    first = b"HTTP/1.%d %d %s\r\n" % (minor, status, reason)
    return meaning_of((status, reason), minor, draw(field_lines(minor=minor, with_host=False)), first)


@st.composite
def damaged(draw: st.DrawFn, wire: bytes) -> bytes:
    """A few bytes put in, taken out or written over."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(wire)))
        piece = draw(st.sampled_from(TROUBLE) | st.binary(min_size=1, max_size=2))
        gone = draw(st.sampled_from([0, 0, 1, len(piece)]))
        piece = draw(st.sampled_from([piece, piece, b""])) if gone else piece
        wire = wire[:at] + piece + wire[at + gone :]
    return wire
