"""Which invalidations are echoes of our own writes, in virtual time. With a real server: tests/contracts."""

from fastproxy.session import redis_watch

MOMENT_SECONDS = redis_watch.Echoes.MOMENT_SECONDS


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[redis_watch.Echoes, Clock]:
    clock = Clock()
    return redis_watch.Echoes(clock), clock


def test_an_invalidation_that_nobody_expects_is_a_strangers() -> None:
    echoes, _ = made()
    assert not echoes.swallow("s-1")


def test_one_write_swallows_one_invalidation_before_or_after_its_reply() -> None:
    echoes, _ = made()
    echoes.expect("early")
    assert echoes.swallow("early")
    echoes.settle("early", written=True)
    assert not echoes.swallow("early")
    echoes.expect("late")
    echoes.settle("late", written=True)
    assert echoes.swallow("late")
    assert not echoes.swallow("late")


def test_a_write_that_wrote_nothing_expects_nothing() -> None:
    echoes, _ = made()
    echoes.expect("s-1")
    echoes.settle("s-1", written=False)
    assert not echoes.swallow("s-1")


def test_several_writes_of_one_key_are_counted_one_by_one() -> None:
    echoes, _ = made()
    for _ in range(3):
        echoes.expect("s-1")
    echoes.settle("s-1", written=True)
    echoes.settle("s-1", written=False)
    assert [echoes.swallow("s-1") for _ in range(3)] == [True, True, False]


def test_an_echo_is_expected_for_a_moment_only() -> None:
    echoes, clock = made()
    echoes.expect("s-1")
    clock.now += 10  # the server takes its time: the moment begins with its reply
    echoes.settle("s-1", written=True)
    clock.now += MOMENT_SECONDS / 2
    assert echoes.swallow("s-1")
    echoes.expect("s-1")
    echoes.settle("s-1", written=True)
    clock.now += MOMENT_SECONDS
    assert not echoes.swallow("s-1")


def test_expectations_that_nothing_answers_are_forgotten() -> None:
    echoes, clock = made()
    for number in range(10_000):
        clock.now += 0.001
        echoes.expect(f"s-{number}")
        echoes.settle(f"s-{number}", written=True)
    assert len(echoes._expected) <= MOMENT_SECONDS / 0.001 + 2
