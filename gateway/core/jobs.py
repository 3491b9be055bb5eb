"""The job's state machine: one literal table, and the questions that the ledger and the worker ask of it.

A job is a client's promise. It ends exactly once: no row of the table leaves an end state, so a second end is not a
case to handle but a transition that does not exist. The table knows nothing of calls and money; whether work may be
repeated is asked of `core.calls` first. A claim can be taken again from every live state, because a lease may be lost
at any moment; the claim number, not the state, keeps a stale worker from writing.
"""

from enum import StrEnum
from typing import Final

from protocol.messages import Canceled, Completed, Failed, Numbered, Started


class State(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"


class Event(StrEnum):
    """What happens to a job."""

    CLAIM = "claim"
    RELEASE = "release"
    BEGIN = "begin"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.QUEUED, Event.CLAIM): State.CLAIMED,
    (State.QUEUED, Event.FAIL): State.FAILED,
    (State.QUEUED, Event.CANCEL): State.CANCELED,
    (State.CLAIMED, Event.CLAIM): State.CLAIMED,
    (State.CLAIMED, Event.RELEASE): State.QUEUED,
    (State.CLAIMED, Event.BEGIN): State.RUNNING,
    (State.CLAIMED, Event.FAIL): State.FAILED,
    (State.CLAIMED, Event.CANCEL): State.CANCELED,
    (State.RUNNING, Event.BEGIN): State.RUNNING,
    (State.RUNNING, Event.CLAIM): State.CLAIMED,
    (State.RUNNING, Event.RELEASE): State.QUEUED,
    (State.RUNNING, Event.COMPLETE): State.COMPLETED,
    (State.RUNNING, Event.FAIL): State.FAILED,
    (State.RUNNING, Event.CANCEL): State.CANCELED,
}
"""Absent means illegal. A job completes only from RUNNING: a picture without `started` would confuse its client."""

LIVE: Final = frozenset({State.QUEUED, State.CLAIMED, State.RUNNING})
CLAIMED: Final = frozenset({State.CLAIMED, State.RUNNING})
ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELED})

_CAUSES: Final[dict[type, Event]] = {
    Started: Event.BEGIN,
    Completed: Event.COMPLETE,
    Failed: Event.FAIL,
    Canceled: Event.CANCEL,
}


class IllegalTransition(Exception):
    """The table has no such row: the gateway is at fault, and nothing was changed."""


def advance(state: State, event: Event) -> State:
    """Return the state after `event`; `IllegalTransition` if the table has no such row."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise IllegalTransition(f"a {state} job cannot {event}") from None


def cause(message: Numbered) -> Event | None:
    """What a numbered event does to the state of its job; `None` if nothing (`image`, `notice`)."""
    return _CAUSES.get(type(message))
