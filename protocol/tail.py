"""The tail of one job's log as ready frames, shared by everyone on this node who watches the job.

Here a numbered event becomes bytes once for owners and once for guests (who see neither `ref` nor costs), a preview
becomes bytes once a rung of the ladder. Watchers keep only a cursor. The tail knows nothing of connections, tasks or
the ledger; whoever owns it tells it what happened, in order, and asks for missing events by number.

Addresses of pictures are made when a frame is rendered and stand in 5-minute steps, so that frames can be shared; a
frame older than one step is rendered anew.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

import msgspec
from msgspec import UNSET

from protocol.codec import encode
from protocol.header import FORMAT_NAMES, HEADER_SIZE, Flag, Header, Kind, pack
from protocol.ladder import Rung
from protocol.messages import (
    END_TYPES,
    Accepted,
    Canceled,
    Completed,
    ErrorBody,
    Failed,
    Image,
    ImageReady,
    Numbered,
    Progress,
    Queued,
    Snapshot,
    Started,
)
from protocol.wire import binary_frame, text_frame

URL_STEP_MS: Final = 300_000
LARGEST_METADATA: Final = 160
"""An asset id, a seed below 2**53, their names and the padding; so the room for data is the same in every chunk."""
Reason = Literal["trimmed", "store_reset"]
JobState = Literal["queued", "running", "completed", "failed", "canceled"]


class Links(Protocol):
    """Makes the absolute addresses that events carry; the log stores none."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        """Return a signed address of a picture, and for how many milliseconds it is good."""
        ...

    def events(self, job: str, time_ms: int) -> str:
        """Return the signed address of a job's SSE stream."""
        ...


@dataclass(frozen=True, slots=True)
class Preview:
    """One encoded preview of one rung, ready to be written; `size` is the whole binary message."""

    frame: int
    size: int
    wire: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message of a final: its frame, the message's size, the image bytes in it, and whether it is the last."""

    wire: bytes
    size: int
    data: int
    last: bool


@dataclass(frozen=True, slots=True)
class PreviewFacts:
    """What the header of a preview says beside its pixels."""

    frame: int
    seq: int
    step: int
    steps: int
    image_index: int
    image_count: int
    approximate: bool


@dataclass(slots=True)
class _Rendered:
    wire: bytes
    url_step: int


class Tail:
    """The log's end, the newest passing events and the newest previews of one job."""

    def __init__(self, job: str, links: Links) -> None:
        self.job = job
        self._links = links
        self._events: dict[int, Numbered] = {}
        self._rendered: dict[tuple[int, bool], _Rendered] = {}
        self.head = 0
        """The highest number of the log."""
        self.trimmed = False
        """Whether only the end event is left of the log."""
        self.steps = 0
        self._begun = 0
        """The number of the newest `started`."""
        self.queue: tuple[int, bytes] | None = None
        """The newest `queue` as (version, frame); versions rise by one."""
        self.progress: tuple[int, bytes] | None = None
        self.previews: dict[Rung, Preview] = {}
        self._versions = 0

    def __repr__(self) -> str:
        return f"Tail({self.job}, head={self.head}, held={len(self._events)}, previews={len(self.previews)})"

    @property
    def has_ended(self) -> bool:
        """Whether the end event is in the log."""
        return self.head in self._events and isinstance(self._events[self.head], END_TYPES)

    def event(self, seq: int) -> Numbered | None:
        """Return a numbered event, `None` if it is not held."""
        return self._events.get(seq)

    def append(self, events: Sequence[Numbered]) -> None:
        """Take events in order; those already held are ignored. A hole is the caller's mistake."""
        for event in events:
            if event.seq <= self.head and event.seq in self._events:
                continue
            assert self.trimmed or event.seq == self.head + 1 or event.seq <= self.head, (
                f"{event.seq} after {self.head}"
            )
            self._events[event.seq] = event
            self.head = max(self.head, event.seq)
            self._note(event)

    def _note(self, event: Numbered) -> None:
        if isinstance(event, Started):
            self.steps, self._begun = event.steps, event.seq
        self.queue = None  # its job is no longer waiting, or about to be asked again
        if isinstance(event, Started | Completed | Failed | Canceled):  # what passed belongs to an attempt that is over
            self.progress = None
            self.previews.clear()

    def set_queue(self, event: Queued) -> bool:
        """Keep the newest place in the queue; `False` once the job has moved on."""
        if self.head > 1:
            return False
        self._versions += 1
        self.queue = (self._versions, text_frame(encode(event)))
        return True

    def set_progress(self, event: Progress) -> bool:
        """Keep the newest progress; `False` after the end."""
        if self.has_ended:
            return False
        self._versions += 1
        self.progress = (self._versions, text_frame(encode(event)))
        return True

    def set_preview(self, rung: Rung, facts: PreviewFacts, content: bytes, size: tuple[int, int]) -> bool:
        """Keep the newest preview of a rung; `size` in pixels. `False` after the end, or if it is not the newest."""
        held = self.previews.get(rung)
        if self.has_ended or facts.seq < self._begun or (held is not None and held.frame >= facts.frame):
            return False
        name = "rgba8" if rung.format == "raw" else rung.format
        header = Header(
            kind=Kind.PREVIEW, format=FORMAT_NAMES[name], job_id=self.job, total_size=len(content), seq=facts.seq,
            frame=facts.frame, width=size[0], height=size[1], step=_u16(facts.step), steps=_u16(facts.steps),
            image_index=facts.image_index, image_count=facts.image_count,
            flags=Flag.LAST_CHUNK | (Flag.APPROXIMATE if facts.approximate else 0),
        )  # fmt: skip
        wire = binary_frame(pack(header), content)
        self.previews[rung] = Preview(facts.frame, HEADER_SIZE + len(content), wire)
        return True

    def told(self, event: Numbered, time_ms: int) -> bytes:
        """Return the frame of an event for its owner alone, not kept: an `accepted` that answers one submit."""
        return self._render(event, owner=True, time_ms=time_ms)

    def numbered(self, event: Numbered, *, owner: bool, time_ms: int) -> bytes:
        """Return the frame of an event of this tail for an owner or a guest."""
        url_step = time_ms // URL_STEP_MS
        held = self._rendered.get((event.seq, owner))
        if held is None or held.url_step != url_step:
            wire = self._render(event, owner=owner, time_ms=time_ms)
            held = self._rendered[event.seq, owner] = _Rendered(wire, url_step)
        return held.wire

    def snapshot(self, reason: Reason, *, owner: bool, time_ms: int) -> bytes:
        """Return the frame of a snapshot of the whole log as it is known here."""
        state, images, error = self._fold()
        attempt = sum(isinstance(event, Started) for event in self._events.values())
        return text_frame(
            encode(
                Snapshot(
                    job=self.job, seq=self.head, time_ms=time_ms, state=state, attempt=attempt,
                    images=[_with_url(image, self.job, self._links, time_ms) for image in images], reset=True,
                    reason=reason, error=error,
                )
            )
        )  # fmt: skip

    def chunk(self, event: ImageReady, content: bytes, offset: int, max_message: int) -> Chunk:
        """Return the part of a final from `offset` on that fits a message of `max_message` bytes."""
        metadata: dict[str, object] = {"asset": event.asset}
        if event.seed is not UNSET:
            metadata["seed"] = event.seed
        room = max_message - HEADER_SIZE - LARGEST_METADATA
        data = memoryview(content)[offset : offset + room]
        last = offset + len(data) == len(content)
        flags = (Flag.LAST_CHUNK if last else 0) | (Flag.ALPHA if has_alpha(content) else 0)
        head = pack(
            Header(
                kind=Kind.FINAL, format=FORMAT_NAMES[event.format], job_id=self.job, total_size=len(content),
                chunk_offset=offset, seq=event.seq, width=event.w, height=event.h, step=_u16(self.steps),
                steps=_u16(self.steps), image_index=event.index, image_count=event.count, flags=int(flags),
            ),
            metadata,
        )  # fmt: skip
        return Chunk(binary_frame(head, data), len(head) + len(data), len(data), last)

    def _fold(self) -> tuple[JobState, list[Image], ErrorBody | msgspec.UnsetType]:
        last = self._events.get(self.head)
        match last:
            case Completed():
                return "completed", last.images, UNSET
            case Failed():
                return "failed", last.images, last.error
            case Canceled():
                return "canceled", last.images, UNSET
        images = [_image(event) for event in self._events.values() if isinstance(event, ImageReady)]
        running = any(isinstance(event, Started) for event in self._events.values())
        return "running" if running else "queued", images, UNSET

    def _render(self, event: Numbered, *, owner: bool, time_ms: int) -> bytes:
        return text_frame(encode(render(event, self._links, owner=owner, time_ms=time_ms)))


def render(event: Numbered, links: Links, *, owner: bool, time_ms: int) -> Numbered:
    """Return a stored event as it is told: with addresses, and for guests without `ref` and costs."""
    replace = msgspec.structs.replace
    if isinstance(event, Accepted):
        event = replace(event, events_url=links.events(event.job, time_ms))
    elif isinstance(event, ImageReady):
        url, expires = links.asset(event.job, event.asset, time_ms)
        event = replace(event, url=url, url_expires_in_ms=expires)
    elif isinstance(event, Completed | Failed | Canceled):
        event = replace(event, images=[_with_url(image, event.job, links, time_ms) for image in event.images])
    return event if owner else _for_guests(event)


def _with_url(image: Image, job: str, links: Links, time_ms: int) -> Image:
    url, expires = links.asset(job, image.asset, time_ms)
    return msgspec.structs.replace(image, url=url, url_expires_in_ms=expires)


def _for_guests(event: Numbered) -> Numbered:
    replace = msgspec.structs.replace
    if isinstance(event, Accepted):
        return replace(event, ref=UNSET, cost_max_micros=UNSET, events_url=UNSET)
    if isinstance(event, Completed | Failed | Canceled):
        return replace(event, cost_micros=UNSET)
    return event


def has_alpha(content: bytes) -> bool:
    """Whether a PNG says in its header that it has an alpha channel; other formats are taken to have none."""
    return content[:8] == b"\x89PNG\r\n\x1a\n" and len(content) > 25 and content[25] in (4, 6)


def _u16(steps: int) -> int:
    """Return a number of steps as a header can say it."""
    return min(steps, 65535)


def _image(event: ImageReady) -> Image:
    return Image(
        index=event.index, format=event.format, w=event.w, h=event.h, bytes=event.bytes, asset=event.asset,
        seed=event.seed, seq=event.seq,
    )  # fmt: skip
