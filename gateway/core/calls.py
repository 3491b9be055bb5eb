"""Calls and the money rule, as one literal table and one decision.

A call is one request to an upstream. Its row is committed as `sending` before its first byte goes out, so a claim that
finds `sending` without an outcome cannot know what became of it. Whether such work may be done again is decided here
and nowhere else: the table has no row that leads from `unknown` back to `sending`, and `plan` looks the call up where
the vendor can be asked, and else gives up if it was billed. Refused calls are repeated as new calls; a call itself is
never sent twice.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class CallState(StrEnum):
    """What is known of a call."""

    SENDING = "sending"
    NOT_SENT = "not_sent"
    REFUSED = "refused"
    DONE = "done"
    UNKNOWN = "unknown"
    GONE = "gone"
    """The vendor was asked, and knows nothing of it."""


class CallEvent(StrEnum):
    """What is learnt of a call."""

    ANSWER = "answer"
    REFUSE = "refuse"
    PROVE_NOT_SENT = "prove_not_sent"
    LOSE = "lose"
    FIND = "find"
    MISS = "miss"


CALL_TRANSITIONS: Final[dict[tuple[CallState, CallEvent], CallState]] = {
    (CallState.SENDING, CallEvent.ANSWER): CallState.DONE,
    (CallState.SENDING, CallEvent.REFUSE): CallState.REFUSED,
    (CallState.SENDING, CallEvent.PROVE_NOT_SENT): CallState.NOT_SENT,
    (CallState.SENDING, CallEvent.LOSE): CallState.UNKNOWN,
    (CallState.SENDING, CallEvent.MISS): CallState.GONE,
    (CallState.UNKNOWN, CallEvent.FIND): CallState.DONE,
    (CallState.UNKNOWN, CallEvent.MISS): CallState.GONE,
}
"""Absent means illegal; above all, nothing leads out of `unknown` but finding out."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call's row, as far as the decision needs it; `first` and `count` are the image indices it was made for."""

    id: str
    state: CallState
    billed: bool
    first: int
    count: int
    upstream: str = ""
    credential: str = ""
    handle: str | None = None
    """The vendor's own id of the work, if it told one."""
    price_micros: int = 0
    cost_micros: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """Calls still to be made, as (first image index, count)."""

    batches: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class LookUp:
    """The upstream must be asked what became of this call, before anything else is asked of it."""

    call: Call


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The outcome of this billed call cannot be known; the job must fail with `outcome_unknown`."""

    call_id: str


def advance_call(state: CallState, event: CallEvent) -> CallState:
    """Return the state after `event`; `ValueError` if the table has no such row."""
    try:
        return CALL_TRANSITIONS[state, event]
    except KeyError:
        raise ValueError(f"a call that is {state} cannot {event}") from None


def plan(
    total: int,
    delivered: Collection[int],
    calls: Sequence[Call],
    per_call: int,
    can_find: Callable[[Call], bool] = lambda _: False,
) -> Plan | LookUp | GiveUp:
    """Return which images are still to be asked for, at most `per_call` in one call, or what must come before that.

    `delivered` are the indices that the log has already; `calls` are all earlier calls of the run; `can_find` is
    whether the upstream can be asked about one. Work that costs nothing and cannot be asked for is simply repeated.
    """
    for call in calls:
        if call.state not in (CallState.SENDING, CallState.UNKNOWN):
            continue
        if can_find(call):
            return LookUp(call)
        if call.billed:
            return GiveUp(call.id)
    missing = [index for index in range(total) if index not in delivered]
    batches: list[tuple[int, int]] = []
    for index in missing:
        first, count = batches[-1] if batches else (index, 0)
        if batches and index == first + count and count < per_call:
            batches[-1] = (first, count + 1)
        else:
            batches.append((index, 1))
    return Plan(tuple(batches))
