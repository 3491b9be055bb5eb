"""A stream of server-sent events as bytes come in, without I/O, and the reports that wait for whoever iterates.

`Frames` splits a stream into its events; it looks at each byte once, however large an event is. `Mail` is where reports
wait that come faster than they are taken, so that a slow consumer never holds up the vendor's socket.
"""

import asyncio
from collections import deque
from typing import Final

from gateway.core.reports import PreviewMade, WorkBegun

Frame = tuple[str, bytes]
"""An event's name, empty if it has none, and its data."""
_MOST_PREVIEWS: Final = 3


class FrameTooLarge(Exception):
    """An event has more bytes than allowed."""


class Frames:
    """Splits a stream into events of at most `most` bytes; lines may end with LF or CR LF."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._line: list[bytes] = []
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> list[Frame]:
        """Return the events that end within `piece`; raises `FrameTooLarge`."""
        frames: list[Frame] = []
        *ended, rest = piece.split(b"\n")
        for end in ended:
            self._grow(len(end))
            line = b"".join([*self._line, end])
            self._line = []
            frames += self._take(line.removesuffix(b"\r"))
        if rest:
            self._grow(len(rest))
            self._line.append(rest)
        return frames

    def finish(self) -> list[Frame]:
        """Return the last event if the stream ended without the empty line that should come after it."""
        return [*self.feed(b"\n"), *self.feed(b"\n")]

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > self._most:
            raise FrameTooLarge

    def _take(self, line: bytes) -> list[Frame]:
        if not line:
            frames = [(self._name, b"\n".join(self._data))] if self._data else []
            self._name, self._data, self._size = "", [], 0
            return frames
        kind, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if kind == b"event":
            self._name = value.decode("utf-8", "replace")[:200]
        elif kind == b"data":
            self._data.append(value)
        else:
            # A comment keeps the connection awake, and is part of no event.
            self._size -= min(self._size, len(line))
        return []


class Mail:
    """Reports in order; of more than three previews that nobody takes, the oldest are dropped."""

    def __init__(self) -> None:
        self._begun: WorkBegun | None = None
        self._previews: deque[PreviewMade] = deque(maxlen=_MOST_PREVIEWS)
        self._is_closed = False
        self._news = asyncio.Event()

    def put(self, report: WorkBegun | PreviewMade) -> None:
        """Leave a report."""
        if isinstance(report, WorkBegun):
            self._begun = report
        else:
            self._previews.append(report)
        self._news.set()

    def close(self) -> None:
        """Say that no more will come."""
        self._is_closed = True
        self._news.set()

    async def next(self) -> WorkBegun | PreviewMade | None:
        """Wait for the next report and take it; `None` after the last."""
        while True:
            if self._begun is not None:
                begun, self._begun = self._begun, None
                return begun
            if self._previews:
                return self._previews.popleft()
            if self._is_closed:
                return None
            self._news.clear()
            await self._news.wait()
