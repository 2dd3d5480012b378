"""Memos: bounded, the oldest out first, gone in time. The clock is the test's."""

from fastproxy.session import memos


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make(memos_max: int = 3) -> tuple[memos.Memos, Clock]:
    clock = Clock()
    return memos.Memos(memos_max=memos_max, clock=clock), clock


def test_a_memo_stays_for_its_time_and_no_longer() -> None:
    kept, clock = make()
    kept.put("a", "1", 10)
    assert kept.get("a") == "1"
    clock.now += 4
    assert kept.look("a") == ("1", 6.0)
    clock.now += 6
    assert kept.get("a") is None
    assert kept.look("a") == ("", 0.0)
    assert len(kept) == 0, "it is dropped where it is met"


def test_what_was_never_written_is_nothing() -> None:
    kept, _ = make()
    assert kept.get("a") is None


def test_writing_again_takes_the_place_of_value_and_time() -> None:
    kept, clock = make()
    kept.put("a", "1", 10)
    clock.now += 9
    kept.put("a", "2", 10)
    clock.now += 9
    assert kept.get("a") == "2"
    assert len(kept) == 1


def test_beyond_the_bound_the_oldest_goes_and_a_rewritten_one_is_new() -> None:
    kept, _ = make(memos_max=3)
    for key in "abc":
        kept.put(key, key, 10)
    kept.put("a", "a", 10)
    kept.put("d", "d", 10)
    assert [kept.get(key) for key in "abcd"] == ["a", None, "c", "d"]
    assert len(kept) == 3
