"""Lines out of a byte stream: however it is cut, the same lines; and never more in memory than a line may hold."""

import json

import hypothesis
import pytest
from hypothesis import strategies

from fastproxy.stdio import lines

BYTES_MAX = 1000


@hypothesis.given(
    strategies.lists(strategies.binary(max_size=30).filter(lambda text: b"\n" not in text), max_size=10),
    strategies.lists(strategies.integers(min_value=1, max_value=40), max_size=60),
)
def test_however_the_stream_is_cut_the_lines_are_the_same(texts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(text + b"\n" for text in texts)
    reader = lines.Lines(BYTES_MAX)
    found: list[bytes] = []
    for size in [*cuts, len(stream) + 1]:
        found += reader.feed(stream[:size])
        stream = stream[size:]
    assert found == [text.rstrip() for text in texts if text.rstrip()]
    assert reader.kept_bytes == 0


def test_the_end_of_a_line_may_be_cr_lf_and_blank_lines_are_none() -> None:
    assert lines.Lines(10).feed(b"a\r\n\r\n\n b \n") == [b"a", b" b"]


@pytest.mark.parametrize("whole", [True, False])
def test_a_line_over_the_limit_is_an_error_as_soon_as_it_is_known(whole: bool) -> None:
    reader = lines.Lines(10)
    assert reader.feed(b"0123456789\n") == [b"0123456789"]
    with pytest.raises(lines.LineTooLong, match="a line of more than 10 bytes"):
        reader.feed(b"0123456789a" + b"\n" * whole)
    assert reader.kept_bytes == 0


def test_a_line_that_comes_byte_by_byte_is_searched_once() -> None:
    reader = lines.Lines(1 << 20)
    for _ in range(1000):
        assert reader.feed(b"x" * 1000) == []
    assert reader.feed(b"\n") == [b"x" * 1_000_000]


@hypothesis.given(strategies.recursive(strategies.text() | strategies.integers() | strategies.none(), strategies.lists))
def test_any_json_text_is_one_line_and_means_the_same(value: object) -> None:
    line = lines.as_line(json.dumps(value, indent=2).replace("\n", "\r\n").encode())
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert json.loads(line) == value
