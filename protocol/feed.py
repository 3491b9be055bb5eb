"""Events that wait for the application, in order, within bounds.

Numbered events are never dropped: when a feed is full its owner stops reading the socket. Passing events are kept one
by one while the application keeps up; when too many wait, those of the same job and kind make room for the newest.
"""

from collections.abc import Hashable
from typing import Final

from protocol.messages import PreviewReady, Progress, Queued
from protocol.replica_effects import Event, ImageBytes, Preview

_PASSING: Final = (Queued, Progress, PreviewReady, Preview)


class Feed:
    """A queue of events for one reader; it never waits, `is_full` tells when to stop putting."""

    def __init__(self, max_numbered: int = 64, max_passing: int = 16, max_bytes: int = 64 << 20) -> None:
        self._max_numbered = max_numbered
        self._max_passing = max_passing
        self._max_bytes = max_bytes
        self._waiting: dict[int, Event] = {}
        self._passing: dict[int, Hashable] = {}
        self._bytes = 0
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Feed of {len(self)} events, {self._bytes} bytes>"

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be put until something is taken."""
        return len(self) - len(self._passing) >= self._max_numbered or self._bytes >= self._max_bytes

    def put(self, event: Event) -> None:
        """Add the event, also if the feed is full."""
        if isinstance(event, _PASSING):
            kind = (event.job, type(event))
            if len(self._passing) >= self._max_passing:
                self._drop(kind)
            self._passing[self._count] = kind
        self._waiting[self._count] = event
        self._count += 1
        self._bytes += _size(event)

    def take(self) -> Event:
        """Return the oldest event; `IndexError` if there is none."""
        if not self._waiting:
            raise IndexError("take from an empty feed")
        return self._remove(next(iter(self._waiting)))

    def _drop(self, kind: Hashable) -> None:
        for number in [number for number, one in self._passing.items() if one == kind]:
            self._remove(number)

    def _remove(self, number: int) -> Event:
        event = self._waiting.pop(number)
        self._passing.pop(number, None)
        self._bytes -= _size(event)
        return event


def _size(event: Event) -> int:
    return len(event.data) if isinstance(event, ImageBytes | Preview) else 0
