"""How far a job is and how long it may still take, from what is told or from what the past took."""

from bisect import insort
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final

_MOST_KEYS: Final = 256
_NEWEST: Final = 32
"""Runs that count: what is older may have been another machine, or another load."""
_QUANTILE: Final = 0.75
"""An estimate that most runs are done within: a bar that waits at its end is worse than one that jumps to it."""
_SHARE_AT_EXPECTED: Final = 0.9
_MOST_SHARE: Final = 0.999


def ratio_of(images_done: int, images: int, step: int, steps: int) -> float:
    """Return the share of a job's work that is done, 0 to 1, over all its images."""
    share = step / steps if steps else 0.0
    return min(1.0, (images_done + share) / max(1, images))


def remaining_ms(elapsed_seconds: float, ratio_at_begin: float, ratio: float) -> int | None:
    """Return the milliseconds still to go at the pace so far; `None` before anything is done."""
    done = ratio - ratio_at_begin
    if done <= 0:
        return None
    return int(elapsed_seconds / done * (1.0 - ratio) * 1000)


def estimated_share(elapsed_seconds: float, expected_seconds: float) -> float:
    """Return the share of a run that is likely done after a time: rising for ever, never 1."""
    if elapsed_seconds <= expected_seconds:
        return _SHARE_AT_EXPECTED * (elapsed_seconds / expected_seconds)
    # Each value stands once in the formula, so that rounding can't let the share fall.
    return _SHARE_AT_EXPECTED + (_MOST_SHARE - _SHARE_AT_EXPECTED) * (1 - expected_seconds / elapsed_seconds)


class PastRuns:
    """How long runs of a kind took; the kinds used longest ago are forgotten first."""

    def __init__(self) -> None:
        self._runs: OrderedDict[Hashable, deque[float]] = OrderedDict()

    def note(self, kind: Hashable, seconds: float) -> None:
        """Note what a run took."""
        runs = self._runs.setdefault(kind, deque(maxlen=_NEWEST))
        self._runs.move_to_end(kind)
        runs.append(max(seconds, 0.001))
        if len(self._runs) > _MOST_KEYS:
            self._runs.popitem(last=False)

    def expected(self, kind: Hashable) -> float | None:
        """Return the seconds within which most runs of a kind are done; `None` before the first."""
        runs = self._runs.get(kind)
        if not runs:
            return None
        ordered: list[float] = []
        for seconds in runs:
            insort(ordered, seconds)
        return ordered[min(len(ordered) - 1, int(_QUANTILE * len(ordered)))]
