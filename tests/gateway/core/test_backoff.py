import random
from statistics import mean

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.backoff import wait_seconds


@given(some.integers(1, 10_000), some.floats(0, 1e6), some.floats(0, 1e6), some.integers())
def test_backoff_stays_within_its_cap(attempt: int, base: float, cap: float, seed: int) -> None:
    """No attempt, however late, waits longer than the cap, nor less than nothing."""
    assert 0 <= wait_seconds(attempt, base, cap, random.Random(seed)) <= cap


@pytest.mark.parametrize("attempt,widest", [(1, 1), (2, 2), (3, 4), (7, 60), (5000, 60)])
def test_backoff_draws_from_the_whole_width(attempt: int, widest: float) -> None:
    """The width doubles with each attempt up to the cap, and all of it is used."""
    chance = random.Random(1)
    drawn = [wait_seconds(attempt, 1, 60, chance) for _ in range(2000)]
    assert min(drawn) < widest * 0.02
    assert max(drawn) > widest * 0.98
    assert mean(drawn) == pytest.approx(widest / 2, rel=0.05)


@given(some.floats(0, 1e6), some.integers(1, 100), some.integers())
def test_backoff_never_undercuts_retry_after(retry_after: float, attempt: int, seed: int) -> None:
    """What the vendor says counts, whatever the attempt and the cap; a little comes on top."""
    waited = wait_seconds(attempt, 0.5, 60, random.Random(seed), retry_after)
    assert retry_after <= waited <= retry_after + 0.5


def test_backoff_takes_a_retry_after_in_the_past_for_now() -> None:
    """A negative time is none."""
    assert 0 <= wait_seconds(1, 0.5, 60, random.Random(1), -30) <= 0.5
