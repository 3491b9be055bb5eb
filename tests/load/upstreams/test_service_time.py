"""Distributions of service times."""

from __future__ import annotations

import random
import statistics

import pytest

from load.upstreams.service_time import ServiceTime


@pytest.mark.parametrize("given", ["0.03", 0.03, "fixed:0.03"])
def test_plain_number_is_a_fixed_time(given: str | float) -> None:
    """A number alone stands for always the same seconds."""
    assert ServiceTime.parse(given).draw(random.Random(1)) == 0.03


@pytest.mark.parametrize(
    "text,low,high", [("uniform:1,3", 1.9, 2.1), ("exponential:2", 1.2, 1.6), ("lognormal:2,0.5", 1.9, 2.1)]
)
def test_drawn_times_have_the_median_they_should(text: str, low: float, high: float) -> None:
    """The median over many draws lies where the parameters put it."""
    chance = random.Random(1)
    drawn = [ServiceTime.parse(text).draw(chance) for _ in range(5000)]
    assert low <= statistics.median(drawn) <= high
    assert min(drawn) >= 0


def test_drawn_times_repeat_with_the_seed() -> None:
    """The same seed gives the same times."""
    time = ServiceTime.parse("exponential:1")
    first, second = ([time.draw(chance) for _ in range(9)] for chance in (random.Random(3), random.Random(3)))
    assert first == second


@pytest.mark.parametrize("text", ["", "soon", "uniform:1", "poisson:1", "-1", "fixed:1,2", "nan"])
def test_service_time_refuses_what_it_can_not_read(text: str) -> None:
    """An unknown kind, a missing parameter or a negative time is an error."""
    with pytest.raises(ValueError, match=r"service time|could not convert"):
        ServiceTime.parse(text)
