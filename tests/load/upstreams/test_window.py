"""The limit of so many arrivals per period with a lock-out, in virtual time."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load.upstreams.window import Kind, Verdict, Window

KINDS = get_args(Kind)


@pytest.mark.parametrize("kind", KINDS)
def test_window_admits_the_limit_and_refuses_the_next(kind: Kind) -> None:
    """As many arrivals as the limit are admitted at once, the one after is refused for the lock-out."""
    window = Window(3, 10.0, 60.0, kind)
    assert [window.arrive(1.0).admitted for _ in range(3)] == [True, True, True]
    assert window.arrive(1.0) == Verdict(False, locked=False, wait_seconds=60.0)


@pytest.mark.parametrize("kind", KINDS)
def test_window_refuses_all_until_the_lockout_ends(kind: Kind) -> None:
    """During a lock-out every arrival is refused, and none of them prolongs it."""
    window = Window(1, 10.0, 60.0, kind)
    window.arrive(0.0)
    window.arrive(5.0)
    assert window.arrive(64.0) == Verdict(False, locked=True, wait_seconds=1.0)
    assert window.arrive(65.0).admitted


def test_sliding_window_frees_a_place_exactly_one_period_after_an_arrival() -> None:
    """A place opens when the oldest arrival is one period old, not before."""
    window = Window(2, 10.0, 0.0)
    window.arrive(0.0)
    window.arrive(4.0)
    assert not window.arrive(9.999).admitted
    assert window.arrive(10.0).admitted
    assert window.arrive(13.0) == Verdict(False, wait_seconds=1.0)


def test_fixed_window_forgets_everything_at_a_multiple_of_the_period() -> None:
    """A fixed window admits twice the limit around a boundary."""
    window = Window(2, 10.0, 0.0, "fixed")
    admitted = [window.arrive(now).admitted for now in (9.0, 9.5, 9.9, 10.0, 10.1, 10.2)]
    assert admitted == [True, True, False, True, True, False]


def test_fixed_window_says_when_the_next_one_begins() -> None:
    """Without a lock-out the wait lasts until the boundary."""
    window = Window(1, 10.0, 0.0, "fixed")
    window.arrive(12.0)
    assert window.arrive(13.0).wait_seconds == 7.0


def test_window_refuses_a_clock_that_runs_backwards() -> None:
    """An arrival before the one before is a mistake of the caller."""
    window = Window()
    window.arrive(2.0)
    with pytest.raises(ValueError, match="backwards"):
        window.arrive(1.0)


@pytest.mark.parametrize("bad", [{"limit": 0}, {"period": 0.0}, {"lockout": -1.0}, {"kind": "leaky"}])
def test_window_refuses_impossible_numbers(bad: dict[str, object]) -> None:
    """A window that could never work is not made."""
    with pytest.raises(ValueError, match="no such window"):
        Window(**bad)  # type: ignore[arg-type]


def test_window_shows_what_it_holds() -> None:
    """The representation names limit, period, kind and the arrivals held."""
    window = Window(5, 10.0)
    window.arrive(0.0)
    assert repr(window) == "<Window 5/10.0s sliding holds 1>"


@given(st.lists(st.integers(0, 30), max_size=60), st.integers(1, 5))
def test_sliding_window_never_admits_more_than_the_limit_in_any_period(steps: list[int], limit: int) -> None:
    """However arrivals fall, no stretch of one period holds more admitted ones than the limit."""
    window, now, admitted = Window(limit, 10.0, 15.0), 0.0, []
    for step in steps:
        now += step / 4
        if window.arrive(now).admitted:
            admitted.append(now)
    for begin in admitted:
        assert sum(begin <= arrival < begin + 10.0 for arrival in admitted) <= limit


@given(st.lists(st.integers(0, 30), max_size=60), st.sampled_from(KINDS), st.integers(0, 20))
def test_window_admits_an_arrival_that_waited_as_told(steps: list[int], kind: Kind, lockout: int) -> None:
    """A refused caller that waits for the time it was told is admitted if nobody came in between."""
    window, now = Window(2, 10.0, float(lockout), kind), 0.0
    for step in steps:
        now += step / 4
        verdict = window.arrive(now)
        if not verdict.admitted:
            now += verdict.wait_seconds
            assert window.arrive(now).admitted
