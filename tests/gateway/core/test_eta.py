import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from gateway.core.eta import PastRuns, estimated_share, ratio_of, remaining_ms


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


# ----------------------------------------------------------------------------------------------------------- estimates

SECONDS = some.floats(0, 1e9)
EXPECTED = some.floats(0.001, 1e6)


@given(SECONDS, SECONDS, EXPECTED)
@example(1_000.0, 1_000.0000000000001, 0.001)
def test_estimate_never_falls_and_never_says_done(one: float, other: float, expected: float) -> None:
    """A bar that goes back, or stands at its end while the work goes on, tells nothing."""
    sooner, later = sorted((one, other))
    assert 0 <= estimated_share(sooner, expected) <= estimated_share(later, expected) < 1


@given(EXPECTED, some.integers(1, 50))
def test_estimate_never_falls_from_one_instant_to_the_next(expected: float, instants: int) -> None:
    """Rounding is no reason to go back either."""
    elapsed = expected
    for _ in range(instants):
        following = math.nextafter(elapsed, math.inf)
        assert estimated_share(elapsed, expected) <= estimated_share(following, expected)
        elapsed = following


@pytest.mark.parametrize("elapsed,share", [(0, 0.0), (5, 0.45), (10, 0.9), (20, 0.9495), (1_000_000, 0.999)])
def test_estimate_goes_evenly_to_the_expected_end_and_slower_beyond(elapsed: float, share: float) -> None:
    """Nine tenths when most runs would be done; what is late gets ever less."""
    assert estimated_share(elapsed, 10) == pytest.approx(share, abs=1e-5)


def test_nothing_is_expected_before_the_first_run() -> None:
    """Of a kind: what others took says nothing."""
    past = PastRuns()
    past.note("other", 3)
    assert past.expected("kind") is None


@given(some.lists(some.floats(0.001, 1e6), min_size=1, max_size=32))
def test_most_runs_were_done_within_what_is_expected(seconds: list[float]) -> None:
    """Three quarters at least; and it is a time that a run took."""
    past = PastRuns()
    for one in seconds:
        past.note("kind", one)
    expected = past.expected("kind")
    assert expected in seconds
    assert sum(one <= expected for one in seconds) >= 0.75 * len(seconds)


def test_expectation_does_not_depend_on_the_order_of_runs() -> None:
    """A quarter of the runs may be slow without a promise for all."""
    seconds = [1.0] * 24 + [2.0] * 7 + [60.0]
    random.Random(1).shuffle(seconds)
    past = PastRuns()
    for one in seconds:
        past.note("kind", one)
    assert past.expected("kind") == 2.0


def test_old_runs_are_forgotten() -> None:
    """Thirty-two newer ones say more."""
    past = PastRuns()
    for seconds in [100.0] * 50 + [1.0] * 32:
        past.note("kind", seconds)
    assert past.expected("kind") == 1.0


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_run_that_took_no_time_took_a_little(seconds: float) -> None:
    """So that shares of it can be told."""
    past = PastRuns()
    past.note("kind", seconds)
    assert past.expected("kind") == 0.001


def test_kinds_used_longest_ago_are_forgotten_first() -> None:
    """What clients ask for is theirs to choose, so the kinds have a bound."""
    past = PastRuns()
    for kind in range(256):
        past.note(kind, 1)
    past.note(0, 2)
    past.note("one more", 3)
    assert past.expected(1) is None
    assert [past.expected(kind) for kind in (0, 2, 255, "one more")] == [2, 1, 1, 3]
