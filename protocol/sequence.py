"""The client's rule of section 2.0: which number comes next in each job, and what is a repeat or a gap.

A job is open while its events are wanted and ended once its end was handled, or it was given up. Nothing of an ended
job is ever next again, unless `set` opens it anew. Ended jobs are remembered, the newest `max_ended` of them, because
a server that has not heard of the end may replay them; `have` tells it once.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Final

from protocol.messages import Have

MAX_HAVE: Final = 256


class Step(Enum):
    """What an event's number means for the one who receives it."""

    REPEAT = "repeat"
    """It was handled: ignore it."""
    NEXT = "next"
    """Handle it."""
    GAP = "gap"
    """Something before it is missing: ignore it and watch from `last`."""


class Positions:
    """The last handled number of every job."""

    def __init__(self, have: Iterable[Have] = (), max_ended: int = 1024) -> None:
        self._open = {one.job: one.seq for one in have}
        self._ended: dict[str, int] = {}
        self._untold: set[str] = set()
        self._max_ended = max_ended

    def __repr__(self) -> str:
        return f"<Positions {self._open} and {len(self._ended)} ended>"

    def last(self, job: str) -> int:
        """Return the last handled number of the job, 0 if there is none."""
        return self._open.get(job, self._ended.get(job, 0))

    def is_ended(self, job: str) -> bool:
        """Whether the job's end was handled here, or the job given up."""
        return job in self._ended

    def step(self, job: str, seq: int) -> Step:
        """Return what to do with event `seq` of the job; changes nothing."""
        last = self.last(job)
        if seq <= last or job in self._ended:
            return Step.REPEAT
        return Step.NEXT if seq == last + 1 else Step.GAP

    def advance(self, job: str, seq: int) -> None:
        """Note that `seq`, which is next, was handled."""
        assert self.step(job, seq) is Step.NEXT, f"{seq} does not follow {self.last(job)}"
        self._open[job] = seq

    def set(self, job: str, seq: int) -> None:
        """Put the job at `seq`, even downwards, and open it again if it was ended."""
        self._ended.pop(job, None)
        self._open[job] = seq

    def end(self, job: str) -> None:
        """Note that no more events of the job are wanted; the oldest ended job may be forgotten for it."""
        self._ended[job] = self._open.pop(job, self.last(job))
        self._untold.add(job)
        while len(self._ended) > self._max_ended:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._untold.discard(oldest)

    def open_jobs(self) -> list[str]:
        """Return the jobs that are not ended, oldest first."""
        return list(self._open)

    def have(self, limit: int = MAX_HAVE) -> list[Have]:
        """Return what `hello` should tell: the newest open jobs, then ended ones the server may not know of."""
        newest_open = [(job, seq) for job, seq in reversed(self._open.items()) if seq]
        newest_ended = [(job, seq) for job, seq in reversed(self._ended.items()) if seq and job in self._untold]
        return [Have(job=job, seq=seq) for job, seq in (newest_open + newest_ended)[:limit]]

    def settle(self, told: Iterable[Have]) -> None:
        """Note that the server has heard these positions, so that their ends need not be told again."""
        self._untold.difference_update(one.job for one in told)
