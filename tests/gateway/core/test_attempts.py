import pytest

from gateway.core.attempts import Attempts


def test_wrong_keys_are_bounded_and_time_brings_more() -> None:
    """A burst at once, then so many a second."""
    attempts = Attempts(per_second=0.5, burst=3)
    assert [attempts.begin("10.0.0.1", 0.0) for _ in range(4)] == [0, 0, 0, 2.0]
    assert attempts.begin("10.0.0.2", 0.0) == 0
    assert attempts.begin("10.0.0.1", 2.0) == 0
    assert attempts.begin("10.0.0.1", 2.0) > 0


def test_right_key_costs_nothing() -> None:
    """However often; an address that was forgotten meanwhile is no fault."""
    attempts = Attempts(per_second=0.5, burst=1)
    for _ in range(5):
        assert attempts.begin("10.0.0.1", 0.0) == 0
        attempts.right("10.0.0.1")
    attempts.right("10.0.0.9")
    assert len(attempts) == 1


def test_addresses_are_bounded_and_the_oldest_is_forgotten() -> None:
    """Who tries again and again is not the oldest."""
    attempts = Attempts(per_second=0.001, burst=1, max_addresses=2)
    for address in ("a", "b", "a", "c", "a"):
        attempts.begin(address, 0.0)
    assert len(attempts) == 2
    assert attempts.begin("a", 0.0) > 0
    assert attempts.begin("b", 0.0) == 0


@pytest.mark.parametrize(
    "one,other,is_same",
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.2", False),
        ("", "unix", False),
        ("x" * 64, "x" * 99, True),
    ],
)
def test_addresses_of_one_household_count_together(one: str, other: str, is_same: bool) -> None:
    """IPv6 by its /64; whatever else is named counts by its name."""
    attempts = Attempts(per_second=0.001, burst=1)
    attempts.begin(one, 0.0)
    assert (attempts.begin(other, 0.0) > 0) is is_same
