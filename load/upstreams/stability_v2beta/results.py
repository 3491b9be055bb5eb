"""Results of asynchronous requests, as the polling paths see them.

Pure: no clock; the caller passes `now` in seconds.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

from load.upstreams.stability_v2beta.answers import Made

KEPT_SECONDS = 24 * 3600.0


@dataclass(slots=True)
class Result:
    """One asynchronous request after it was taken."""

    id: str
    operation: str
    key: str | None
    """Only this key may fetch it."""
    ready_at: float
    made: Made
    lost_after: float = math.inf
    """So many polls are answered; to later ones it is unknown."""
    polls: int = 0
    polled_at: float = -math.inf


class Results:
    """The latest `limit` results, each for 24 hours after it was ready."""

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._results: OrderedDict[str, Result] = OrderedDict()

    def __len__(self) -> int:
        return len(self._results)

    def add(self, result: Result) -> None:
        """Keep a result, and let the oldest go when there are too many."""
        self._results[result.id] = result
        if len(self._results) > self._limit:
            self._results.popitem(last=False)

    def find(self, id: str, key: str | None, now: float) -> Result | None:
        """The result, if it is this key's, was not lost and is not too old."""
        result = self._results.get(id)
        if result is None or result.key != key or result.polls >= result.lost_after:
            return None
        return result if now < result.ready_at + KEPT_SECONDS else None

    def lose(self, id: str | None = None) -> None:
        """Forget one result, or all."""
        if id is None:
            self._results.clear()
        else:
            self._results.pop(id, None)
