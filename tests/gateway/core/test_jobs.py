from itertools import product
from typing import Any, get_args

import pytest
from msgspec import structs

from gateway.core.jobs import CLAIMED, ENDED, LIVE, TRANSITIONS, Event, IllegalTransition, State, advance, cause
from protocol.messages import (
    Accepted,
    Canceled,
    Completed,
    ErrorBody,
    Failed,
    ImageReady,
    Notice,
    Numbered,
    Started,
    Timings,
)

JOB = "0" * 26
AT: dict[str, Any] = {"job": JOB, "seq": 1, "time_ms": 0}
ASSET = "sha256:" + "0" * 64
EXAMPLES: list[tuple[Numbered, Event | None]] = [
    (Accepted(**AT, task="txt2img", model="m", duplicate=False), None),
    (Started(**AT, attempt=1, model="m", steps=20), Event.BEGIN),
    (ImageReady(**AT, index=0, count=1, format="png", w=8, h=8, bytes=9, asset=ASSET), None),
    (Notice(**AT, code="image_filtered", message="held back"), None),
    (Completed(**AT, images=[], timings=Timings(0, 0, 0, 0)), Event.COMPLETE),
    (Failed(**AT, error=ErrorBody("internal", "", retryable=True), images=[]), Event.FAIL),
    (Canceled(**AT, by="client", step=0, images=[]), Event.CANCEL),
]


@pytest.mark.parametrize("state,event", list(product(State, Event)))
def test_job_does_what_the_table_says_and_nothing_else(state: State, event: Event) -> None:
    """Each pair of state and event is a row, or refused by a sentence that names both."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(IllegalTransition, match=f"a {state} job cannot {event}"):
            advance(state, event)


def test_job_ends_once() -> None:
    """No row leaves an end state, and each live state can end."""
    assert not [row for row in TRANSITIONS if row[0] in ENDED]
    for state in LIVE:
        assert {after for (before, _), after in TRANSITIONS.items() if before is state} & ENDED


def test_states_are_live_or_ended() -> None:
    """Every state is one of both, and only a live job can be claimed."""
    assert set(State) == LIVE | ENDED
    assert not LIVE & ENDED
    assert CLAIMED < LIVE


def test_every_state_can_be_reached_and_left_for_an_end() -> None:
    """From QUEUED the table leads everywhere."""
    reached = {State.QUEUED}
    while more := {after for (before, _), after in TRANSITIONS.items() if before in reached} - reached:
        reached |= more
    assert reached == set(State)


def test_job_completes_only_while_it_runs() -> None:
    """A picture without `started` would break the client's view."""
    assert [state for state, event in TRANSITIONS if event is Event.COMPLETE] == [State.RUNNING]


def test_claim_is_possible_from_every_live_state() -> None:
    """A lease may be lost at any moment; the job is claimed again, and never by ending it."""
    assert {state for state, event in TRANSITIONS if event is Event.CLAIM} == LIVE
    assert {after for (_, event), after in TRANSITIONS.items() if event is Event.CLAIM} == {State.CLAIMED}


def test_release_is_possible_only_for_who_has_the_job() -> None:
    """It leads from a claim to the queue."""
    rows = {before: after for (before, event), after in TRANSITIONS.items() if event is Event.RELEASE}
    assert rows == dict.fromkeys(CLAIMED, State.QUEUED)


def test_every_event_that_ends_leads_to_its_own_end() -> None:
    """COMPLETE, FAIL and CANCEL each have one end, which nothing else leads to."""
    ends = {event: after for (_, event), after in TRANSITIONS.items() if after in ENDED}
    assert ends == {Event.COMPLETE: State.COMPLETED, Event.FAIL: State.FAILED, Event.CANCEL: State.CANCELED}
    assert all(after in ENDED for (_, event), after in TRANSITIONS.items() if event in ends)


@pytest.mark.parametrize("message,event", EXAMPLES, ids=[type(message).__name__ for message, _ in EXAMPLES])
def test_numbered_event_causes_what_it_tells(message: Numbered, event: Event | None) -> None:
    """The wire's event and the table's are one."""
    assert cause(message) is event


def test_every_numbered_event_has_an_example() -> None:
    """A new kind of event must be thought of here."""
    kinds = {type(message) for message, _ in EXAMPLES}
    assert kinds == set(get_args(Numbered))
    assert all(structs.replace(message, seq=2).seq == 2 for message, _ in EXAMPLES)
