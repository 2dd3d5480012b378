"""The compiled scanner of heads against h11: what we accept, h11 accepts with the same meaning, whole or cut anywhere.

Both are real. Sound heads carry their meaning from their making, so that a scanner which refused everything would not
pass; damaged ones are compared with h11, and where we refuse what h11 accepts, the reason must be on STRICTER. Not
covered: limits of size (test_smuggling.py), and keeping a connection of HTTP/1.0, of which h11 knows nothing.
"""

import re
from collections.abc import Callable

import hypothesis
import pytest
from hypothesis import strategies as st

from fastproxy._ext import core
from tests.fuzz import heads, oracle, smuggling

# Where we refuse what h11 accepts: why, and how to see it in the bytes of the head.
STRICTER: dict[str, re.Pattern[bytes]] = {
    "bare line feed": re.compile(rb"(?<!\r)\n"),
    "folded line": re.compile(rb"\r\n[ \t]"),
    "control byte in a value": re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]"),
    "Content-Length as a list": re.compile(rb"(?i)\ncontent-length:[^\r\n]*,"),
    "Content-Length or Transfer-Encoding twice": re.compile(rb"(?is)\n(content-length|transfer-encoding):.*\n\1:"),
    "Transfer-Encoding with Content-Length": re.compile(rb"(?is)(?=.*\ntransfer-encoding:).*\ncontent-length:"),
    "Transfer-Encoding on HTTP/1.0": re.compile(rb"(?is)http/1\.0.*\ntransfer-encoding:"),
    "Content-Length of 10**18 or more, or in more than 18 digits": re.compile(rb"(?i)\ncontent-length:[ \t]*\d{19}"),
    "a field that must be single, twice": re.compile(
        rb"(?is)\n(mcp-session-id|mcp-protocol-version|mcp-method|mcp-name|authorization|expect):.*\n\1:"
    ),
    "HTTP/1.2 and above": re.compile(rb"HTTP/1\.[2-9]"),
    "method of more than 32 bytes": re.compile(rb"^[^ ]{33}"),
    "status from 600 on": re.compile(rb"^HTTP/1\.[01] [6-9]"),
}

STATUSES = {400, 414, 431, 501, 505}


def scan_request(wire: bytes) -> core.RequestHead | None:
    return core.scan_request(wire, 1 << 20)


def scan_answer(wire: bytes) -> core.ResponseHead | None:
    return core.scan_response(wire, 1 << 20, b"GET")


def meaning_of(head: core.RequestHead | core.ResponseHead) -> heads.Meaning:
    start = (head.method, head.target) if isinstance(head, core.RequestHead) else (head.status, head.reason)
    fields = tuple((name.lower(), value) for name, value in head.fields)
    return heads.Meaning(start, head.minor, fields, head.length, head.chunked, head.size)


@pytest.mark.parametrize(
    ("scan", "read", "sound"),
    [
        pytest.param(scan_request, oracle.read_request, heads.requests(), id="request"),
        pytest.param(scan_answer, oracle.read_answer, heads.answers(), id="answer"),
    ],
)
class TestBothKindsOfHeads:
    @heads.settings
    @hypothesis.given(data=st.data(), tail=st.sampled_from([b"", b"x", b"GET / HTTP/1.1\r\n\r\n", b"\r\n", b"\0"]))
    def test_sound_head_means_what_it_was_made_to_mean(
        self, scan: Callable, read: Callable, sound: st.SearchStrategy[heads.Head], data: st.DataObject, tail: bytes
    ) -> None:
        head = data.draw(sound)
        scanned = scan(head.wire + tail)
        assert scanned is not None
        assert meaning_of(scanned) == head.meaning
        assert without_size(read(head.wire)) == without_size(head.meaning)
        closed = any(name == b"connection" and b"close" in tokens(value) for name, value in head.meaning.fields)
        if head.meaning.minor == 1:
            assert scanned.keep_alive != closed

    @heads.settings
    @hypothesis.given(data=st.data())
    def test_damaged_head_is_refused_or_means_what_it_means_to_h11(
        self, scan: Callable, read: Callable, sound: st.SearchStrategy[heads.Head], data: st.DataObject
    ) -> None:
        compare_with_oracle(scan, read, data.draw(sound.flatmap(lambda head: heads.damaged(head.wire))))

    @heads.settings
    @hypothesis.given(data=st.data())
    def test_head_cut_anywhere_is_the_same_head_or_refused_for_good(
        self, scan: Callable, read: Callable, sound: st.SearchStrategy[heads.Head], data: st.DataObject
    ) -> None:
        head = data.draw(sound)
        wire = data.draw(st.just(head.wire) | heads.damaged(head.wire)) + b"rest"
        check_cuts(scan, wire)


def tokens(value: bytes) -> list[bytes]:
    return [token.strip(b" \t").lower() for token in value.split(b",")]


def without_size(meaning: heads.Meaning | None) -> object:
    """h11 may have begun to read a body, or the next request, so its size is no witness when there is more."""
    assert meaning is not None
    coding = (b"transfer-encoding", b"chunked")  # h11 writes it in lower case, whatever came
    fields = [coding if name == coding[0] else (name, value) for name, value in meaning.fields]
    return (meaning.start, meaning.minor, fields, meaning.length, meaning.chunked)


def is_stricter(wire: bytes) -> bool:
    return any(seen.search(wire) for seen in STRICTER.values())


def compare_with_oracle(scan: Callable, read: Callable, wire: bytes) -> None:
    # RFC 9112 §2.2 asks a server to suffer an empty line before a request; h11 does not.
    theirs = read(wire.removeprefix(b"\r\n").removeprefix(b"\r\n") if scan is scan_request else wire)
    try:
        scanned = scan(wire)
    except core.HttpError as error:
        assert error.status in (STATUSES if scan is scan_request else {502})
        assert theirs is None or is_stricter(wire), f"{error} but h11 accepts"
        return
    if scanned is None:
        assert theirs is None or is_stricter(wire), "we wait for more, h11 does not"
        return
    assert theirs is not None, "we accept what h11 refuses"
    assert without_size(meaning_of(scanned)) == without_size(theirs)


def check_cuts(scan: Callable, wire: bytes) -> None:
    """None up to some byte; from there on the same head, or refusals only."""
    outcomes: list[object] = []
    for size in range(len(wire) + 1):
        try:
            scanned = scan(wire[:size])
        except core.HttpError:
            outcomes.append("refused")
        else:
            outcomes.append(scanned and (meaning_of(scanned), scanned.keep_alive))
    settled = [outcome for outcome in outcomes if outcome is not None]
    assert outcomes[len(outcomes) - len(settled) :] == settled, "settled, then open again"
    assert all(outcome == settled[0] for outcome in settled)
    if settled and settled[0] != "refused":
        assert len(wire) - len(settled) + 1 == settled[0][0].size


@pytest.mark.parametrize("attempt", smuggling.ALL, ids=lambda attempt: attempt.name)
def test_attempt_from_the_corpus_is_refused_or_means_what_it_means_to_h11(attempt: smuggling.Attempt) -> None:
    compare_with_oracle(scan_request, oracle.read_request, attempt.wire)


@pytest.mark.parametrize("attempt", smuggling.ALL, ids=lambda attempt: attempt.name)
def test_attempt_from_the_corpus_cut_anywhere_is_the_same(attempt: smuggling.Attempt) -> None:
    check_cuts(scan_request, attempt.wire[:400])
