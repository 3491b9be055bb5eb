"""The client's rule: repeat, next, gap."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.messages import Have
from protocol.sequence import Positions, Step

JOB = "01JD9Z6Q8M4T7V2XK3B5N0RCEW"
OTHER = "01JD9Z6Q8M4T7V2XK3B5N0RCEX"


@pytest.mark.parametrize(
    "seq,step", [(1, Step.REPEAT), (3, Step.REPEAT), (4, Step.NEXT), (5, Step.GAP), (99, Step.GAP)]
)
def test_step_compares_a_number_with_the_last_handled(seq: int, step: Step) -> None:
    """The rule of section 2.0, on both sides of each border."""
    positions = Positions([Have(job=JOB, seq=3)])
    assert positions.step(JOB, seq) is step
    assert positions.last(JOB) == 3


def test_first_number_of_an_unknown_job_is_one() -> None:
    """An unknown job stands at 0."""
    positions = Positions()
    assert positions.step(JOB, 1) is Step.NEXT
    assert positions.step(JOB, 2) is Step.GAP


def test_advance_refuses_what_is_not_next() -> None:
    """Only the next number can be handled."""
    with pytest.raises(AssertionError, match="5 does not follow 0"):
        Positions().advance(JOB, 5)


def test_set_goes_down_and_opens_an_ended_job() -> None:
    """A snapshot counts even downwards, and asking anew makes events next again."""
    positions = Positions([Have(job=JOB, seq=7)])
    positions.end(JOB)
    assert positions.is_ended(JOB)
    assert positions.step(JOB, 8) is Step.REPEAT
    positions.set(JOB, 2)
    assert not positions.is_ended(JOB)
    assert positions.step(JOB, 3) is Step.NEXT
    assert positions.have() == [Have(job=JOB, seq=2)]


def test_have_tells_newest_open_jobs_before_ended_ones() -> None:
    """The newest come first, jobs without an event not at all, ends only until they are settled."""
    positions = Positions([Have(job="A", seq=1), Have(job="B", seq=2), Have(job="C", seq=3), Have(job="D", seq=0)])
    positions.end("B")
    assert positions.open_jobs() == ["A", "C", "D"]
    told = positions.have()
    assert told == [Have(job="C", seq=3), Have(job="A", seq=1), Have(job="B", seq=2)]
    assert positions.have(limit=1) == [Have(job="C", seq=3)]
    positions.settle(told)
    assert positions.have() == [Have(job="C", seq=3), Have(job="A", seq=1)]


def test_oldest_ended_jobs_are_forgotten() -> None:
    """The memory of ended jobs is bounded."""
    positions = Positions(max_ended=1)
    positions.end(JOB)
    positions.end(OTHER)
    assert not positions.is_ended(JOB)
    assert positions.is_ended(OTHER)
    assert repr(positions) == "<Positions {} and 1 ended>"


@given(st.lists(st.tuples(st.sampled_from([JOB, OTHER]), st.integers(1, 6)), max_size=60))
def test_rule_handles_each_number_once_in_order(arrivals: Sequence[tuple[str, int]]) -> None:
    """Whatever comes in whatever order, what is handled of each job is 1, 2, 3 without holes."""
    positions = Positions()
    handled: dict[str, list[int]] = {JOB: [], OTHER: []}
    for job, seq in arrivals:
        if positions.step(job, seq) is Step.NEXT:
            positions.advance(job, seq)
            handled[job].append(seq)
    for numbers in handled.values():
        assert numbers == list(range(1, len(numbers) + 1))
