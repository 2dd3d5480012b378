"""The compiled scanner of chunked bodies against h11: the same payload and the same end, whole or in any pieces.

Both are real. Where we refuse what h11 accepts, the reason must be on STRICTER; the one thing that h11 reads and we
pass on unread is FRAMING_TRAILER.
"""

import re

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from fastproxy._ext import core
from tests.fuzz import heads, oracle, smuggling

STRICTER: dict[str, re.Pattern[bytes]] = {
    "bare line feed": re.compile(rb"(?<!\r)\n"),
    "control byte in an extension or a trailer": re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]"),
    "white space around the size": re.compile(rb"(?i)(^|\r\n)[0-9a-f]+[ \t]+(\r\n|;)"),
    "folded trailer": re.compile(rb"\r\n[ \t]"),
    "size of 16 digits or more": re.compile(rb"(?i)(^|\r\n)[0-9a-f]{16}"),
}

# h11 reads trailers as it reads headers, and refuses a coding or a length there that it could not obey. To us they are
# lines that frame nothing (RFC 9110 §6.5.1: they must not be merged into the head).
FRAMING_TRAILER = re.compile(rb"(?i)\r\n(transfer-encoding|content-length):")


class Body(msgspec.Struct, frozen=True):
    """A chunked body on the wire, and what it carries."""

    wire: bytes
    payload: bytes
    trailers: bytes


class Outcome(msgspec.Struct, frozen=True):
    """What the scanner has made of all that it was fed."""

    payload: bytes
    consumed: int
    done: bool
    trailers: bytes


extensions = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"', b"; a = b", b";" + b"x" * 200]) | heads.bytes_of(
    heads.VISIBLE, max_size=8
).map(lambda text: b";" + text)
trailer_lines = st.tuples(heads.bytes_of(heads.TOKEN, min_size=1, max_size=8), heads.inner_value).map(
    lambda field: b"%s: %s\r\n" % field
)


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    datas = draw(st.lists(st.binary(min_size=1, max_size=20) | st.just(b"\r\n0\r\n\r\n" * 3), max_size=5))
    wire = b""
    for data in datas:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x", b"%015x"])) % len(data)
        wire += size + draw(extensions) + b"\r\n" + data + b"\r\n"
    trailers = b"".join(draw(st.lists(trailer_lines, max_size=3)))
    wire += draw(st.sampled_from([b"0", b"000"])) + draw(extensions) + b"\r\n" + trailers + b"\r\n"
    return Body(wire, b"".join(datas), trailers)


def scan(pieces: list[bytes]) -> Outcome | None:
    """None: refused."""
    scanner, payload, consumed, done = core.ChunkScanner(), b"", 0, False
    for piece in pieces:
        if done:
            break
        try:
            data, used, done = scanner.feed(piece)
        except core.HttpError as error:
            assert error.status == 400
            return None
        assert done or used == len(piece)
        payload += data
        consumed += used
    return Outcome(payload, consumed, done, scanner.trailers)


def cut(wire: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({min(place, len(wire)) for place in places} | {len(wire)})
    return [wire[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@heads.settings
@hypothesis.given(body=bodies(), tail=st.sampled_from([b"", b"x", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"]))
def test_sound_body_carries_what_was_put_into_it_and_ends_where_it_should(body: Body, tail: bytes) -> None:
    expected = Outcome(body.payload, len(body.wire), True, body.trailers)
    assert scan([body.wire + tail]) == expected
    assert oracle.read_chunks(body.wire + tail) == (body.payload, tail)


@heads.settings
@hypothesis.given(body=bodies(), data=st.data())
def test_damaged_body_is_refused_or_means_what_it_means_to_h11(body: Body, data: st.DataObject) -> None:
    compare_with_oracle(data.draw(heads.damaged(body.wire)))


@heads.settings
@hypothesis.given(body=bodies(), places=st.lists(st.integers(0, 300), max_size=6), data=st.data())
def test_body_in_pieces_means_what_the_whole_means(body: Body, places: list[int], data: st.DataObject) -> None:
    check_pieces(data.draw(st.just(body.wire) | heads.damaged(body.wire)), places)


def compare_with_oracle(wire: bytes) -> None:
    outcome, theirs = scan([wire]), oracle.read_chunks(wire)
    if outcome is None:
        if theirs is not None:
            assert [reason for reason, seen in STRICTER.items() if seen.search(wire)], "h11 accepts"
    elif not outcome.done:
        assert theirs is None, "we wait for more, h11 does not"
    elif theirs is not None or not FRAMING_TRAILER.search(b"\r\n" + outcome.trailers):
        assert theirs == (outcome.payload, wire[outcome.consumed :])


def check_pieces(wire: bytes, places: list[int]) -> None:
    whole = scan([wire])
    assert scan(cut(wire, places)) == whole
    assert scan(cut(wire, list(range(len(wire))))) == whole
    for place in range(min(len(wire), 200)):
        assert scan([wire[:place], wire[place:]]) == whole


@pytest.mark.parametrize("attempt", smuggling.BROKEN_CHUNKS, ids=lambda attempt: attempt.name)
def test_attempt_from_the_corpus_is_refused_or_means_what_it_means_to_h11(attempt: smuggling.Attempt) -> None:
    body = attempt.wire.partition(b"\r\n\r\n")[2][:1000]
    compare_with_oracle(body)
    check_pieces(body, [])
