import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.core.breaker import TRANSITIONS, Breaker, Event, State


def fail(breaker: Breaker, times: int, now: float = 0) -> None:
    """Let calls out that fail at once."""
    for _ in range(times):
        breaker.failed(now, breaker.admit(now))


def test_breaker_opens_at_the_threshold_and_not_before() -> None:
    """So many failures in a row open it, for the cool-down."""
    breaker = Breaker(3, 30)
    fail(breaker, 2, 100)
    assert (breaker.allows(100), breaker.deadline()) == (True, None)
    fail(breaker, 1, 100)
    assert (breaker.state, breaker.allows(129.9), breaker.deadline()) == (State.OPEN, False, 130)
    assert repr(breaker) == "<Breaker open, 3 failures in a row>"


def test_breaker_forgets_failures_after_a_success() -> None:
    """Only failures in a row count."""
    breaker = Breaker(3)
    fail(breaker, 2)
    breaker.succeeded(0, breaker.admit(0))
    fail(breaker, 2)
    assert breaker.state is State.CLOSED


def test_breaker_lets_exactly_one_probe_through() -> None:
    """After the cool-down one call goes out, and no other until it has ended; then all or none."""
    breaker = Breaker(1, 30)
    fail(breaker, 1)
    assert breaker.allows(30)
    era = breaker.admit(30)
    assert (breaker.state, breaker.allows(1000), breaker.deadline()) == (State.HALF_OPEN, False, None)
    breaker.succeeded(31, era)
    assert (breaker.state, breaker.allows(31)) == (State.CLOSED, True)


def test_breaker_opens_again_when_the_probe_fails() -> None:
    """A failed probe costs a whole cool-down from its end."""
    breaker = Breaker(2, 30)
    fail(breaker, 2)
    breaker.failed(35, breaker.admit(30))
    assert (breaker.state, breaker.deadline()) == (State.OPEN, 65)


def test_breaker_allows_another_probe_when_one_is_abandoned() -> None:
    """A probe that tells nothing leaves the cool-down over."""
    breaker = Breaker(1, 30)
    fail(breaker, 1)
    breaker.abandoned(31, breaker.admit(30))
    assert (breaker.state, breaker.allows(31)) == (State.OPEN, True)


def test_breaker_is_not_moved_by_an_abandoned_call() -> None:
    """While it is closed, a call that tells nothing changes nothing, not even the failures in a row."""
    breaker = Breaker(2)
    fail(breaker, 1)
    breaker.abandoned(0, breaker.admit(0))
    fail(breaker, 1)
    assert breaker.state is State.OPEN


@pytest.mark.parametrize("end", ["succeeded", "failed", "abandoned"])
def test_breaker_ignores_the_end_of_a_call_from_before(end: str) -> None:
    """A call that went out before it opened neither closes it nor counts as the probe."""
    breaker = Breaker(1, 30)
    late = breaker.admit(0)
    fail(breaker, 1)
    getattr(breaker, end)(10, late)
    assert (breaker.state, breaker.deadline()) == (State.OPEN, 30)
    probe = breaker.admit(30)
    getattr(breaker, end)(31, late)
    assert breaker.state is State.HALF_OPEN
    breaker.succeeded(32, probe)


def test_breaker_admits_nobody_who_was_not_allowed() -> None:
    """Calling `admit` while nothing is allowed is a bug, and changes nothing."""
    breaker = Breaker(1)
    fail(breaker, 1)
    with pytest.raises(AssertionError):
        breaker.admit(1)
    assert breaker.state is State.OPEN


def test_breaker_has_no_end_of_a_call_while_open() -> None:
    """The table leads out of OPEN by cooling alone."""
    assert [event for state, event in TRANSITIONS if state is State.OPEN] == [Event.COOLED]


class AnyConversation(RuleBasedStateMachine):
    """Calls begin and end in any order at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(2, 5)
        self.now = 0.0
        self.out: list[int] = []
        self.probes = 0

    @rule(seconds=some.floats(0, 10))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def call_begins(self) -> None:
        if self.breaker.allows(self.now):
            self.out.append(self.breaker.admit(self.now))

    @rule(end=some.sampled_from(["succeeded", "failed", "abandoned"]), which=some.integers(0, 100))
    def call_ends(self, end: str, which: int) -> None:
        if self.out:
            getattr(self.breaker, end)(self.now, self.out.pop(which % len(self.out)))

    @invariant()
    def is_never_shut_for_ever(self) -> None:
        breaker = self.breaker
        assert breaker.allows(self.now) or breaker.deadline() is not None or self.out
        if breaker.state is State.HALF_OPEN:
            assert self.out.count(breaker._era) == 1


TestAnyConversation = AnyConversation.TestCase
