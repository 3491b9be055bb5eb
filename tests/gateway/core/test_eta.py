import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.eta import ratio_of, remaining_ms


@given(some.integers(0, 64), some.integers(0, 64), some.integers(0, 1000), some.integers(0, 1000))
def test_ratio_is_a_share(done: int, images: int, step: int, steps: int) -> None:
    """Between nothing and everything, whatever an upstream counts."""
    assert 0 <= ratio_of(done, images, step, steps) <= 1


@pytest.mark.parametrize(
    "counts,ratio",
    [((0, 1, 5, 20), 0.25), ((1, 2, 0, 20), 0.5), ((1, 4, 10, 20), 0.375), ((2, 2, 9, 9), 1.0), ((0, 0, 0, 0), 0.0)],
)
def test_ratio_counts_images_and_steps(counts: tuple[int, int, int, int], ratio: float) -> None:
    """A step is worth its part of one image."""
    assert ratio_of(*counts) == ratio


def test_nothing_is_promised_before_anything_is_done() -> None:
    """Without progress there is no pace."""
    assert remaining_ms(10, 0.5, 0.5) is None
    assert remaining_ms(10, 0.5, 0.4) is None


@pytest.mark.parametrize(
    "elapsed,begin,ratio,left", [(10, 0.0, 0.5, 10_000), (10, 0.5, 0.75, 10_000), (3, 0.0, 1.0, 0)]
)
def test_rest_is_told_at_the_pace_so_far(elapsed: float, begin: float, ratio: float, left: int) -> None:
    """What was done before this attempt began does not count as fast work."""
    assert remaining_ms(elapsed, begin, ratio) == left


@given(some.floats(0, 1e5), some.floats(0, 0.99), some.floats(0.001, 1))
def test_rest_is_never_negative(elapsed: float, begin: float, done: float) -> None:
    """A job is not over before its end."""
    left = remaining_ms(elapsed, begin, min(1.0, begin + done))
    assert left is not None
    assert left >= 0
