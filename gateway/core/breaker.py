"""A circuit breaker: leaves an upstream alone that fails again and again, and lets one call find out when it is back.

Theory of operation. Who wants to call asks `allows`, and if so says `admit`, which returns the era the call belongs to.
Each call that was admitted ends with exactly one of `succeeded`, `failed` and `abandoned` (it was never sent, or its
end tells nothing about the upstream's health), given its era. A new era begins whenever the state changes, so that the
late end of a call from before tells nothing: an answer that was two minutes under way does not close a breaker that
opened a minute ago, and is not taken for the probe's. Time comes in with each call; nothing here waits. Whoever waits
asks `deadline`, and asks `allows` again then and after each end of a call.
"""

from enum import Enum
from typing import Final


class State(Enum):
    """What the breaker lets through."""

    CLOSED = "closed"
    """Everything."""
    OPEN = "open"
    """Nothing, until the cool-down is over."""
    HALF_OPEN = "half_open"
    """Nothing more: one call, the probe, is under way."""


class Event(Enum):
    """What happened."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TRIPPED = "tripped"
    """A call failed and was the last one that we put up with."""
    ABANDONED = "abandoned"
    COOLED = "cooled"
    """The cool-down is over and a call goes out."""


# Absent is illegal. While OPEN no call of the present era is under way, so no end of one can come.
TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.CLOSED, Event.SUCCEEDED): State.CLOSED,
    (State.CLOSED, Event.FAILED): State.CLOSED,
    (State.CLOSED, Event.ABANDONED): State.CLOSED,
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.HALF_OPEN, Event.SUCCEEDED): State.CLOSED,
    (State.HALF_OPEN, Event.FAILED): State.OPEN,
    (State.HALF_OPEN, Event.ABANDONED): State.OPEN,
}


class Breaker:
    """Opens after `failure_threshold` failures in a row, for `cooldown_seconds` each time."""

    __slots__ = ("_cooldown_seconds", "_era", "_failure_threshold", "_failures", "_reopens_at", "state")

    def __init__(self, failure_threshold: int = 5, cooldown_seconds: float = 30.0) -> None:
        self.state = State.CLOSED
        self._failure_threshold = failure_threshold
        self._cooldown_seconds = cooldown_seconds
        self._failures = 0
        self._reopens_at = 0.0
        self._era = 0

    def __repr__(self) -> str:
        return f"<Breaker {self.state.value}, {self._failures} failures in a row>"

    def allows(self, now: float) -> bool:
        """Whether a call may go out at `now`; nothing changes."""
        return self.state is State.CLOSED or (self.state is State.OPEN and now >= self._reopens_at)

    def deadline(self) -> float | None:
        """When `allows` turns true by time alone; None = it is true, or waits for the probe's end."""
        return self._reopens_at if self.state is State.OPEN else None

    def admit(self, now: float) -> int:
        """Let one call out and return its era; `allows` must be true."""
        assert self.allows(now), "who calls has asked `allows`"
        if self.state is State.OPEN:
            self._take(Event.COOLED)
        return self._era

    def succeeded(self, now: float, era: int) -> None:
        """A call ended well, or in a way that shows the upstream healthy."""
        if era == self._era:
            self._failures = 0
            self._take(Event.SUCCEEDED)

    def failed(self, now: float, era: int) -> None:
        """A call ended in a way that the upstream is to blame for."""
        if era != self._era:
            return
        self._failures += 1
        if self.state is State.CLOSED and self._failures < self._failure_threshold:
            self._take(Event.FAILED)
            return
        self._reopens_at = now + self._cooldown_seconds
        self._take(Event.TRIPPED if self.state is State.CLOSED else Event.FAILED)

    def abandoned(self, now: float, era: int) -> None:
        """A call ended and told nothing; if it was the probe, the next call is."""
        if era == self._era:
            self._take(Event.ABANDONED)

    def _take(self, event: Event) -> None:
        before, self.state = self.state, TRANSITIONS[self.state, event]
        if self.state is not before:
            self._era += 1
