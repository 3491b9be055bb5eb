"""The vendor's rate limits: allowances that fill up steadily, one for requests and one for pictures.

Pure: the caller passes `now` in seconds of any clock.
"""

from __future__ import annotations

from dataclasses import dataclass

from load.upstreams.openai_images.refusals import duration


@dataclass(slots=True)
class Allowance:
    """`limit` units per `period` seconds, refilled evenly; a full one can be spent at once."""

    limit: int
    period: float
    level: float
    touched: float

    @classmethod
    def full(cls, limit: int, period: float, now: float) -> Allowance:
        """One of which nothing is spent yet."""
        return cls(limit, period, float(limit), now)

    def wait(self, cost: int, now: float) -> float:
        """Seconds until `cost` units can be spent; 0 when they can be now."""
        self._refill(now)
        return max(0.0, (cost - self.level) * self.period / self.limit)

    def spend(self, cost: int) -> None:
        """Take the units; ask `wait` first."""
        self.level -= cost

    def headers(self, name: str, now: float) -> tuple[tuple[str, str], ...]:
        """The three headers that tell of it."""
        self._refill(now)
        reset = (self.limit - self.level) * self.period / self.limit
        return (
            (f"x-ratelimit-limit-{name}", str(self.limit)),
            (f"x-ratelimit-remaining-{name}", str(max(0, int(self.level)))),
            (f"x-ratelimit-reset-{name}", duration(reset)),
        )

    def _refill(self, now: float) -> None:
        self.level = min(self.limit, self.level + (now - self.touched) * self.limit / self.period)
        self.touched = now
