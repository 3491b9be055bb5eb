from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as some

from gateway.core.calls import CALL_TRANSITIONS, Call, CallEvent, CallState, GiveUp, LookUp, Plan, advance_call, plan

CALLS = some.builds(
    Call,
    id=some.sampled_from(["c1", "c2", "c3"]),
    state=some.sampled_from(CallState),
    billed=some.booleans(),
    first=some.integers(0, 9),
    count=some.integers(1, 4),
)


@pytest.mark.parametrize("state,event", list(product(CallState, CallEvent)))
def test_call_does_what_the_table_says_and_nothing_else(state: CallState, event: CallEvent) -> None:
    """Each pair of state and event is a row, or refused by a sentence that names both."""
    if (state, event) in CALL_TRANSITIONS:
        assert advance_call(state, event) is CALL_TRANSITIONS[state, event]
    else:
        with pytest.raises(ValueError, match=f"a call that is {state} cannot {event}"):
            advance_call(state, event)


def test_call_is_never_sent_twice() -> None:
    """Nothing leads to SENDING: not from UNKNOWN, not from a refusal."""
    assert CallState.SENDING not in CALL_TRANSITIONS.values()


def test_table_has_these_rows_and_no_other() -> None:
    """The money rule is what is absent, so the whole table is held."""
    rows = {(state.value, event.value): after.value for (state, event), after in CALL_TRANSITIONS.items()}
    assert rows == {
        ("sending", "answer"): "done",
        ("sending", "refuse"): "refused",
        ("sending", "prove_not_sent"): "not_sent",
        ("sending", "lose"): "unknown",
        ("sending", "miss"): "gone",
        ("unknown", "find"): "done",
        ("unknown", "miss"): "gone",
    }


def test_unknown_call_can_only_be_found_out() -> None:
    """The rows that leave UNKNOWN need knowledge: the vendor has it, or has nothing of it."""
    rows = {event: after for (state, event), after in CALL_TRANSITIONS.items() if state is CallState.UNKNOWN}
    assert rows == {CallEvent.FIND: CallState.DONE, CallEvent.MISS: CallState.GONE}


@pytest.mark.parametrize("state", [CallState.DONE, CallState.REFUSED, CallState.NOT_SENT, CallState.GONE])
def test_settled_call_stays_settled(state: CallState) -> None:
    """No row leaves what is known."""
    assert not [row for row in CALL_TRANSITIONS if row[0] is state]


def test_every_call_state_is_reached_from_sending() -> None:
    """Each outcome can be learnt of a call that went out."""
    reached = {CallState.SENDING}
    while more := {after for (state, _), after in CALL_TRANSITIONS.items() if state in reached} - reached:
        reached |= more
    assert reached == set(CallState)


@given(some.integers(0, 40), some.sets(some.integers(0, 39)), some.integers(1, 12))
def test_plan_covers_each_missing_image_once(total: int, delivered: set[int], per_call: int) -> None:
    """In order, in batches of neighbours that are no larger than a call and no smaller than need be."""
    made = plan(total, delivered, [], per_call)
    assert isinstance(made, Plan)
    covered = [index for first, count in made.batches for index in range(first, first + count)]
    assert covered == [index for index in range(total) if index not in delivered]
    assert all(1 <= count <= per_call for _, count in made.batches)
    for (first, count), (following, _) in zip(made.batches, made.batches[1:], strict=False):
        assert count == per_call or following > first + count


@given(some.lists(CALLS, max_size=6), some.sets(some.integers(0, 9)))
def test_plan_gives_up_where_a_billed_call_may_have_run(calls: list[Call], delivered: set[int]) -> None:
    """The first such call is named; no other history makes it give up."""
    open_states = (CallState.SENDING, CallState.UNKNOWN)
    suspects = [call.id for call in calls if call.billed and call.state in open_states]
    made = plan(10, delivered, calls, 4)
    assert made == GiveUp(suspects[0]) if suspects else isinstance(made, Plan)


def test_plan_repeats_unbilled_work_of_unknown_outcome() -> None:
    """Where a call costs nothing, it is simply made again."""
    assert plan(2, (), [Call("c", CallState.UNKNOWN, billed=False, first=0, count=2)], 2) == Plan(((0, 2),))


def test_plan_is_empty_when_everything_was_delivered() -> None:
    """Then only the end is missing."""
    assert plan(3, {0, 1, 2}, [Call("c", CallState.DONE, billed=True, first=0, count=3)], 1) == Plan(())


def test_plan_gives_up_even_when_everything_was_delivered() -> None:
    """Money may be gone for a call that nobody needed any more."""
    assert plan(1, {0}, [Call("c", CallState.UNKNOWN, billed=True, first=0, count=1)], 1) == GiveUp("c")


# ------------------------------------------------------------------------------------------------------------- look-ups


@given(some.lists(CALLS, max_size=6), some.sets(some.integers(0, 9)))
def test_plan_looks_up_the_first_open_call_where_the_upstream_can_be_asked(
    calls: list[Call], delivered: set[int]
) -> None:
    """Billed or not, needed or not, before anything else; and it never gives up unasked."""
    suspects = [call for call in calls if call.state in (CallState.SENDING, CallState.UNKNOWN)]
    made = plan(10, delivered, calls, 4, can_find=lambda _: True)
    if suspects:
        assert made == LookUp(suspects[0])
    else:
        assert made == plan(10, delivered, calls, 4)


@pytest.mark.parametrize("looks_up", [False, True])
@pytest.mark.parametrize("billed", [False, True])
def test_plan_repeats_work_that_the_vendor_has_lost(billed: bool, looks_up: bool) -> None:
    """It was asked and knows nothing of it, so nothing is paid twice."""
    gone = Call("c", CallState.GONE, billed, first=0, count=2)
    assert plan(3, {2}, [gone], 2, can_find=lambda _: looks_up) == Plan(((0, 2),))


@pytest.mark.parametrize("state", [CallState.REFUSED, CallState.NOT_SENT])
def test_plan_repeats_what_was_never_worked(state: CallState) -> None:
    """As new calls, for what is still missing."""
    assert plan(2, {0}, [Call("c", state, billed=True, first=0, count=2)], 2) == Plan(((1, 1),))


def test_plan_asks_about_one_call_at_a_time() -> None:
    """When the first is settled, the next is asked about, and then the work goes on."""
    first, second = (Call(name, CallState.UNKNOWN, billed=True, first=at, count=1) for at, name in enumerate("ab"))
    assert plan(2, (), [first, second], 1, can_find=lambda _: True) == LookUp(first)
    first = replace(first, state=advance_call(first.state, CallEvent.FIND))
    assert plan(2, {0}, [first, second], 1, can_find=lambda _: True) == LookUp(second)
    second = replace(second, state=advance_call(second.state, CallEvent.MISS))
    assert plan(2, {0}, [first, second], 1, can_find=lambda _: True) == Plan(((1, 1),))
