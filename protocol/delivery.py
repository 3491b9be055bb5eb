"""What goes out next on one connection: a cursor and a dirty bit a job, and nothing else.

No image bytes, no queue, no message lies here; those are in the job's `Tail`, once for everybody. When something
changes, the job is marked dirty and `pump` is asked; it yields finished frames until the caller stops taking them
(the socket is over its mark) or nothing more may go. What is not taken stays dirty, and the newest state goes out when
there is room again: that is the whole of back-pressure, and why it costs a slow connection nothing but previews.

Order: numbered JSON of all jobs, then finals (one image in flight), then passing events, jobs in turn. Within a job a
number never overtakes a smaller one, and nothing passing goes out while a number waits. The first binary message that
the window has no room for keeps those behind it back too, or small previews would take the room that a final waits for.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final

from msgspec import UNSET

from protocol.header import HEADER_SIZE
from protocol.ladder import Rung, rung_for, step_down
from protocol.messages import Finals, ImageReady, Limits, Previews
from protocol.tail import LARGEST_METADATA, Preview, Reason, Tail

LARGEST_BINARY: Final = 262_144
"""No single binary message is larger, whatever the client could take."""


@dataclass(slots=True)
class Cursor:
    """Where one connection is in one job."""

    job: str
    seq: int
    """The last number that went out whole."""
    owner: bool
    inline: bool = False
    """Whether finals that begin from now on go out as bytes; one that has begun goes on as it began."""
    previews: Previews | None = None
    rung: Rung | None = None
    snapshot: Reason | None = None
    """A snapshot is due before anything else."""
    offset: int = 0
    """Bytes of the final after `seq` that went out already."""
    queue: int = 0
    progress: int = 0
    frame: int = 0
    preview_at: float = -inf
    progress_at: float = -inf
    allowed_at: float = inf
    """When a rate cap lets what waits go; infinite if no cap holds anything."""
    waiting_since: float | None = None
    """Since when a numbered item waits for the socket, the window or its bytes."""

    def is_at(self, seq: int) -> bool:
        """Whether everything up to `seq` went out."""
        return self.seq >= seq and self.snapshot is None


class Delivery:
    """The sending side of one connection."""

    def __init__(
        self, limits: Limits, max_message: int, window: int, previews: Previews | None, finals: Finals
    ) -> None:
        self._limits = limits
        self._previews = previews
        self._finals: Finals = finals
        self.max_binary = min(max_message, limits.max_message, LARGEST_BINARY)
        """The largest binary message, in bytes."""
        self.window = window
        self.sent_bytes = 0
        self.acked_bytes = 0
        self.cursors: dict[str, Cursor] = {}
        self.dirty: dict[str, None] = {}
        self.missing: dict[str, str] = {}
        """Job to asset: finals whose bytes the caller must fetch, and then mark the job."""
        self.stepped_down: set[str] = set()
        """Jobs whose previews the caller must have made smaller: the newest did not fit a message."""
        self._is_full = False
        """Whether something binary found no room in this pump."""

    def __repr__(self) -> str:
        in_flight = self.sent_bytes - self.acked_bytes
        return f"Delivery(jobs={len(self.cursors)}, dirty={len(self.dirty)}, in_flight={in_flight})"

    # --- what the client wants ---

    def watch(
        self, job: str, after: int, *, owner: bool, previews: Previews | None = None, finals: Finals | None = None
    ) -> Cursor:
        """Begin or begin again to follow a job from `after`; a policy not given is the connection's."""
        before = self.cursors.get(job)
        cursor = self.cursors[job] = Cursor(job, after, owner)
        if before is not None:  # watching again is no way round a rate cap
            cursor.preview_at, cursor.progress_at = before.preview_at, before.progress_at
        self._apply(cursor, self._previews if previews is None else previews, finals or self._finals)
        self.dirty[job] = None
        return cursor

    def unwatch(self, job: str) -> None:
        """Stop following a job."""
        self.cursors.pop(job, None)
        self.dirty.pop(job, None)
        self.missing.pop(job, None)

    def prefer(self, job: str | None, previews: Previews | None, finals: Finals | None) -> None:
        """Change the policy of one job, or of the connection and every job on it; `None` leaves as it is."""
        if job is None:
            self._previews = previews if previews is not None else self._previews
            self._finals = finals or self._finals
        for cursor in self.cursors.values() if job is None else [self.cursors[job]]:
            kept: Finals = "inline" if cursor.inline else "url"
            self._apply(cursor, cursor.previews if previews is None else previews, finals or kept)
            self.dirty[cursor.job] = None

    def ack(self, total: int) -> None:
        """The client has consumed `total` binary bytes; lower values than before are ignored, higher than sent too."""
        self.acked_bytes = max(self.acked_bytes, min(total, self.sent_bytes))

    def _apply(self, cursor: Cursor, previews: Previews | None, finals: Finals) -> None:
        cursor.inline = finals == "inline"
        if previews == cursor.previews:
            return  # a rung that was stepped down to stays
        cursor.previews = previews
        cursor.rung = None
        if previews is not None and previews.max_fps != 0 and self._limits.max_preview_fps:
            cursor.rung = rung_for(previews, self._limits.max_preview_edge)

    # --- what goes out ---

    def mark(self, job: str) -> None:
        """Something about the job changed."""
        if job in self.cursors:
            self.dirty[job] = None

    def pump(self, tails: Mapping[str, Tail], blobs: Mapping[str, bytes], now: float, time_ms: int) -> Iterator[bytes]:
        """Yield frames that may go out now, in order; each counts as sent once it is yielded.

        `blobs` are the bytes of finals by asset. Stop taking when the socket is over its mark: the rest stays dirty.
        """
        self._is_full = False
        for job in list(self.dirty):
            yield from self._numbered(self.cursors[job], tails[job], time_ms)
        for job in list(self.dirty):
            yield from self._finals_of(self.cursors[job], tails[job], blobs, now, time_ms)
        for job in list(self.dirty):
            yield from self._passing(self.cursors[job], tails[job], now)

    def held_up(self, tails: Mapping[str, Tail], now: float) -> None:
        """Note for every job with a number still to go that it waits, from `now` unless it did already."""
        for job in self.dirty:
            cursor = self.cursors[job]
            due = cursor.snapshot is not None or cursor.seq < tails[job].head
            if due and cursor.waiting_since is None:
                cursor.waiting_since = now

    def oldest_wait(self) -> float | None:
        """Since when the longest waiting numbered item waits."""
        waits = (self.cursors[job].waiting_since for job in self.dirty)
        return min((since for since in waits if since is not None), default=None)

    def next_allowed(self) -> float:
        """When a rate cap lets a dirty job's passing event out, so that the caller pumps again; infinite if none."""
        return min((self.cursors[job].allowed_at for job in self.dirty), default=inf)

    def allow(self, now: float) -> bool:
        """Lift the caps that are over; whether there were any. What they held goes with the next pump, when that is."""
        over = [cursor for job in self.dirty if (cursor := self.cursors[job]).allowed_at <= now]
        for cursor in over:
            cursor.allowed_at = inf
        return bool(over)

    def _numbered(self, cursor: Cursor, tail: Tail, time_ms: int) -> Iterator[bytes]:
        """Everything numbered up to the next inline final."""
        if cursor.snapshot is not None:
            reason, cursor.snapshot = cursor.snapshot, None
            cursor.seq, cursor.offset, cursor.waiting_since = tail.head, 0, None
            yield tail.snapshot(reason, owner=cursor.owner, time_ms=time_ms)
        while cursor.seq < tail.head:
            event = tail.event(cursor.seq + 1)
            if event is None or (isinstance(event, ImageReady) and (cursor.inline or cursor.offset)):
                return
            frame = tail.numbered(event, owner=cursor.owner, time_ms=time_ms)
            cursor.seq, cursor.waiting_since = event.seq, None
            yield frame

    def _finals_of(
        self, cursor: Cursor, tail: Tail, blobs: Mapping[str, bytes], now: float, time_ms: int
    ) -> Iterator[bytes]:
        """The inline finals after `cursor.seq`, chunk by chunk, and the numbers behind them."""
        while cursor.seq < tail.head:
            event = tail.event(cursor.seq + 1)
            if not isinstance(event, ImageReady):
                return
            content = blobs.get(event.asset)
            if content is None:
                self.missing[cursor.job] = event.asset
                return
            while cursor.seq < event.seq:
                rest = HEADER_SIZE + LARGEST_METADATA + len(content) - cursor.offset
                # A chunk is cut to the message limit, never to what the window happens to leave.
                if not self._has_room(min(self.max_binary, rest)):
                    return
                chunk = tail.chunk(event, content, cursor.offset, self.max_binary)
                self.sent_bytes += chunk.size
                cursor.offset += chunk.data
                if chunk.last:
                    cursor.seq, cursor.offset = event.seq, 0
                cursor.waiting_since = None if cursor.seq == tail.head else now
                yield chunk.wire
            yield from self._numbered(cursor, tail, time_ms)

    def _passing(self, cursor: Cursor, tail: Tail, now: float) -> Iterator[bytes]:
        """The newest passing events, and the job's dirty bit cleared if nothing of it waits."""
        cursor.allowed_at = inf
        if cursor.seq != tail.head or cursor.snapshot is not None:
            return
        cursor.waiting_since = None
        if tail.queue is not None and tail.queue[0] > cursor.queue:
            cursor.queue = tail.queue[0]
            yield tail.queue[1]
        yield from self._progress(cursor, tail, now)
        all_out = yield from self._preview(cursor, tail, now)
        if all_out and cursor.allowed_at == inf:
            self.dirty.pop(cursor.job, None)

    def _progress(self, cursor: Cursor, tail: Tail, now: float) -> Iterator[bytes]:
        if tail.progress is None or tail.progress[0] <= cursor.progress:
            return
        hz = UNSET if cursor.previews is None else cursor.previews.progress_max_hz
        allowed_at = -inf if hz is UNSET else cursor.progress_at + 1 / hz
        if now < allowed_at:
            cursor.allowed_at = min(cursor.allowed_at, allowed_at)
            return
        cursor.progress, cursor.progress_at = tail.progress[0], now
        yield tail.progress[1]

    def _preview(self, cursor: Cursor, tail: Tail, now: float) -> Generator[bytes, None, bool]:
        """Yield the newest preview if there is one and room for it; returns whether none waits for the window."""
        preview = self._fitting(cursor, tail)
        if preview is None or cursor.previews is None or preview.frame <= cursor.frame:
            return True
        fps = cursor.previews.max_fps
        allowed_at = -inf if fps is UNSET else cursor.preview_at + 1 / min(fps, self._limits.max_preview_fps)
        if now < allowed_at:
            cursor.allowed_at = min(cursor.allowed_at, allowed_at)
            return True
        if not self._has_room(preview.size):
            return False
        cursor.frame, cursor.preview_at = preview.frame, now
        self.sent_bytes += preview.size
        self.dirty[cursor.job] = self.dirty.pop(cursor.job)  # to the end of the line, should a cap keep it dirty
        yield preview.wire
        return True

    def _fitting(self, cursor: Cursor, tail: Tail) -> Preview | None:
        """Return the newest preview that fits a message, stepping down until one does or none is made yet."""
        while cursor.rung is not None:
            preview = tail.previews.get(cursor.rung)
            if preview is None or preview.size <= self.max_binary:
                return preview
            cursor.rung = step_down(cursor.rung)  # from now on they are made for this one
            self.stepped_down.add(cursor.job)
        return None

    def _has_room(self, size: int) -> bool:
        """Whether the window takes a binary message, and nothing before it waits; without a window always."""
        if self.window and size > self.window - (self.sent_bytes - self.acked_bytes):
            self._is_full = True
        return not self._is_full
