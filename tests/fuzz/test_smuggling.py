"""The corpus of smuggling attempts against the compiled scanner: each refused with its status, however it arrives.

Everything is real. Not covered here: what a running proxy does with its connection afterwards.
"""

import pytest

from fastproxy._ext import core
from tests.fuzz import smuggling

HEAD_BYTES_MAX = 32_768


def name_of(attempt: smuggling.Attempt) -> str:
    return attempt.name


def answer_to(wire: bytes) -> core.RequestHead | int | None:
    """The head, the status of a refusal, or None: there must be more."""
    try:
        return core.scan_request(wire, HEAD_BYTES_MAX)
    except core.HttpError as error:
        return error.status


def chunks_are_refused(body: bytes, piece_bytes: int) -> bool:
    scanner = core.ChunkScanner()
    try:
        for at in range(0, len(body), piece_bytes):
            scanner.feed(body[at : at + piece_bytes])
    except core.HttpError as error:
        assert error.status == 400
        return True
    return False


@pytest.mark.parametrize("attempt", smuggling.REFUSED, ids=name_of)
def test_head_that_two_parsers_read_differently_is_refused(attempt: smuggling.Attempt) -> None:
    assert answer_to(attempt.wire) in attempt.statuses


@pytest.mark.parametrize("attempt", smuggling.REFUSED, ids=name_of)
def test_head_is_refused_as_well_when_it_arrives_byte_by_byte(attempt: smuggling.Attempt) -> None:
    answers = [answer_to(attempt.wire[:size]) for size in range(1, len(attempt.wire) + 1)]
    first = next(position for position, answer in enumerate(answers) if answer is not None)
    assert all(isinstance(answer, int) for answer in answers[first:])


@pytest.mark.parametrize("piece_bytes", [1, 7, 1 << 20], ids=["byte by byte", "in pieces", "whole"])
@pytest.mark.parametrize("attempt", smuggling.BROKEN_CHUNKS, ids=name_of)
def test_chunks_that_two_parsers_read_differently_are_refused(attempt: smuggling.Attempt, piece_bytes: int) -> None:
    head = core.scan_request(attempt.wire, HEAD_BYTES_MAX)
    assert head is not None
    assert head.chunked
    assert chunks_are_refused(attempt.wire[head.size :], piece_bytes)


@pytest.mark.parametrize("attempt", smuggling.SOUND, ids=name_of)
def test_odd_request_with_one_meaning_is_accepted(attempt: smuggling.Attempt) -> None:
    head = core.scan_request(attempt.wire, HEAD_BYTES_MAX)
    assert head is not None
    assert head.size + (head.length or 0) + 5 * head.chunked == len(attempt.wire)


def test_head_that_never_ends_is_refused_by_its_size() -> None:
    assert answer_to(b"GET /" + b"a" * HEAD_BYTES_MAX) == 414
    assert answer_to(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * HEAD_BYTES_MAX) == 431
    assert answer_to(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * HEAD_BYTES_MAX + b"\r\n\r\n") == 431
    assert answer_to(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 1000 + b"\r\n") == 431


def test_names_of_the_corpus_are_unique_and_there_are_many() -> None:
    names = [attempt.name for attempt in smuggling.ALL]
    assert len(names) == len(set(names)) >= 120
