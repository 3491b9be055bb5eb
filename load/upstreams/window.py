"""A request limit as hosted services keep it: so many arrivals per period, then a lock-out.

Pure: no clock and no socket. The caller passes `now` in seconds, from any clock that never runs backwards, so
the same class serves a real server and a test in virtual time.

Two kinds are in use. A *sliding* window remembers the moment of each admitted arrival and counts those
younger than one period. A *fixed* window counts from each multiple of the period and forgets everything at
the next. The fixed kind admits up to twice the limit around a boundary, which is why callers should be tested
with both.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Literal

Kind = Literal["sliding", "fixed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a window says to one arrival."""

    admitted: bool
    locked: bool = False
    """True when an earlier refusal's lock-out refused this arrival, False when it broke the limit itself."""
    wait_seconds: float = 0.0
    """Seconds until an arrival can be admitted again; 0 when this one was."""


class Window:
    """Admits `limit` arrivals per `period` seconds; the first one over it locks out for `lockout` seconds.

    Refused arrivals neither count against the limit nor prolong a running lock-out.
    """

    def __init__(self, limit: int = 150, period: float = 10.0, lockout: float = 60.0, kind: Kind = "sliding") -> None:
        if limit < 1 or period <= 0 or lockout < 0 or kind not in ("sliding", "fixed"):
            raise ValueError(f"no such window: {limit} per {period} s, lock-out {lockout} s, {kind}")
        self.limit = limit
        self.period = period
        self.lockout = lockout
        self.kind: Kind = kind
        self.locked_until = -math.inf
        self._arrivals: deque[float] = deque()
        self._last = -math.inf

    def __repr__(self) -> str:
        return f"<Window {self.limit}/{self.period}s {self.kind} holds {len(self._arrivals)}>"

    def arrive(self, now: float) -> Verdict:
        """Judge one arrival at `now` seconds and remember it if it is admitted.

        Raises `ValueError` when `now` is earlier than the arrival before.
        """
        if now < self._last:
            raise ValueError(f"time ran backwards: {now} after {self._last}")
        self._last = now
        if now < self.locked_until:
            return Verdict(False, locked=True, wait_seconds=self.locked_until - now)
        self._forget(now)
        if len(self._arrivals) < self.limit:
            self._arrivals.append(now)
            return Verdict(True)
        self.locked_until = now + self.lockout
        return Verdict(False, wait_seconds=max(self.lockout, self._free_at(now) - now))

    def _forget(self, now: float) -> None:
        # An arrival exactly one period old has left the window: the limit reads "150 within 10 seconds".
        while self._arrivals and self._left(self._arrivals[0], now):
            self._arrivals.popleft()

    def _left(self, arrival: float, now: float) -> bool:
        if self.kind == "sliding":
            return now - arrival >= self.period
        return now // self.period > arrival // self.period

    def _free_at(self, now: float) -> float:
        if self.kind == "sliding":
            return self._arrivals[0] + self.period
        return (now // self.period + 1) * self.period
