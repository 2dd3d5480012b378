"""Health alone: what is seen of a replica in, what is known of it out; who may get something new. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastproxy.routing import health

WELL = health.Health()


def probed_in_vain(known: health.Health, times: int) -> health.Health:
    for _ in range(times):
        known = health.probe_failed(known, threshold=3)
    return known


def lost(known: health.Health, *ended: int) -> health.Health:
    for count in ended:
        known = health.request_lost(known, ended=count)
    return known


def test_a_connect_that_fails_is_believed_at_once_and_one_that_succeeds_ends_it() -> None:
    gone = health.connect_failed(WELL)
    assert gone.cause == health.CONNECT
    assert health.connected(gone, 5.0) == health.Health(returned_at=5.0)


def test_probes_in_vain_count_only_in_a_row() -> None:
    assert probed_in_vain(WELL, 2).cause is None
    assert probed_in_vain(WELL, 3).cause == health.PROBE
    mended = health.probe_answered(probed_in_vain(WELL, 2), 1.0)
    assert mended.returned_at is None, "who was never away has not come back"
    assert probed_in_vain(mended, 2).cause is None


def test_one_answer_to_a_probe_brings_back_whoever_failed() -> None:
    for ill in (probed_in_vain(WELL, 7), health.connect_failed(WELL), lost(WELL, 1, 2, 3)):
        assert health.probe_answered(ill, 5.0) == health.Health(returned_at=5.0)


def test_a_connect_proves_nothing_about_one_that_does_not_answer() -> None:
    for ill in (probed_in_vain(WELL, 3), lost(WELL, 1, 2, 3)):
        assert health.connected(ill, 5.0) == ill


def test_a_connect_that_fails_outweighs_what_was_known_before() -> None:
    assert health.connect_failed(probed_in_vain(WELL, 3)).cause == health.CONNECT
    assert probed_in_vain(health.connect_failed(WELL), 3).cause == health.CONNECT


@pytest.mark.parametrize(
    ("ended", "cause"),
    [
        pytest.param((0, 1, 2), health.LOSS, id="each client was told"),
        pytest.param((5, 5, 5), health.LOSS, id="all at once"),
        pytest.param((0, 1), None, id="two"),
        pytest.param((0, 1, 3), None, id="an answer before the last"),
        pytest.param((0, 9, 18, 27), None, id="answers in between"),
        pytest.param((0, 9, 10, 11), health.LOSS, id="after an answer, three"),
    ],
)
def test_three_requests_lost_in_a_row_are_a_failure(ended: tuple[int, ...], cause: str | None) -> None:
    assert lost(WELL, *ended).cause == cause


def test_a_probe_that_is_answered_does_not_forgive_losses() -> None:
    known = health.probe_answered(lost(WELL, 1, 2), 1.0)
    assert lost(known, 3).cause == health.LOSS


def test_a_share_grows_from_a_little_to_all_in_the_time_after_a_return() -> None:
    back = health.Health(returned_at=100.0)
    assert health.share(WELL, 100.0) == 1.0
    assert health.share(back, 100.0) == health.SHARE_MIN
    assert health.share(back, 105.0) == 0.5
    assert health.share(back, 110.0) == health.share(back, 999.0) == 1.0


CAUSES = st.sampled_from([None, health.CONNECT, health.PROBE, health.LOSS])


@given(st.lists(CAUSES, max_size=6))
def test_nobody_who_is_gone_is_usable_and_somebody_always_is_unless_all_are_gone(causes: list[str | None]) -> None:
    usable = health.usable([health.Health(cause=cause) for cause in causes])
    assert len(usable) == len(causes)
    assert any(usable) == any(cause != health.CONNECT for cause in causes)
    assert not any(fit and cause == health.CONNECT for fit, cause in zip(usable, causes, strict=True))
    if None in causes:
        assert usable == [cause is None for cause in causes]
