"""A delivery without a socket: what is appended, what is pumped, and that it keeps to its limits."""

from dataclasses import dataclass, field
from math import inf
from typing import Any

import msgspec

from protocol.delivery import Cursor, Delivery
from protocol.header import Kind, parse
from protocol.ladder import Rung, rung_for
from protocol.messages import Finals, ImageReady, Limits, Numbered, Previews
from protocol.tail import URL_STEP_MS, PreviewFacts, Tail
from tests.protocol.playbook import JOB, OTHER, accepted, image, progress, started

EVERY_PREVIEW = Previews()
RUNG = rung_for(EVERY_PREVIEW, 1024)
LARGE = bytes(range(256)) * 200
SMALL = b"png" * 300


class Signs:
    """Links that say when they were made."""

    def asset(self, job: str, asset: str, time_ms: int) -> tuple[str, int]:
        return f"https://gw/{asset[-4:]}?t={time_ms // URL_STEP_MS}", 3_600_000

    def events(self, job: str, time_ms: int) -> str:
        return f"https://gw/{job}/events?t={time_ms // URL_STEP_MS}"


def asset(number: int) -> str:
    """Return the name of a picture."""
    return f"sha256:{number:064x}"


def picture(seq: int, job: str = JOB, number: int = 0) -> ImageReady:
    """Return a finished picture whose asset is `number`."""
    return msgspec.structs.replace(image(seq, job), asset=asset(number))


def message_in(wire: bytes) -> bytes:
    """Return the payload of a frame."""
    return wire[{126: 4, 127: 10}.get(wire[1], 2) :]


@dataclass
class Line:
    """A delivery, the tails it reads, and what was written: `pump` says it in short words."""

    delivery: Delivery
    tails: dict[str, Tail] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    now: float = 100.0
    time_ms: int = 0
    wires: list[bytes] = field(default_factory=list)
    binary_bytes: int = 0
    frames: int = 0

    def watch(self, job: str = JOB, after: int = 0, **terms: Any) -> Cursor:
        """Follow a job."""
        self.tails.setdefault(job, Tail(job, Signs()))
        return self.delivery.watch(job, after, **({"owner": True} | terms))

    def append(self, *events: Numbered) -> None:
        """Numbered events are in the log."""
        for event in events:
            self.tails[event.job].append([event])
            self.delivery.mark(event.job)

    def step(self, step: int, job: str = JOB, *, size: int = 0) -> None:
        """A step is done; with a `size`, its preview has as many bytes."""
        self.tails[job].set_progress(progress(step, job))
        if size:
            self.preview(job, size=size)
        self.delivery.mark(job)

    def preview(self, job: str = JOB, *, size: int = 100, rung: Rung | None = None) -> None:
        """The newest frame of the job is encoded."""
        self.frames += 1
        wanted = rung or self.delivery.cursors[job].rung
        if wanted is not None:
            facts = PreviewFacts(self.frames, self.tails[job].head, 1, 30, 0, 1, approximate=False)
            self.tails[job].set_preview(wanted, facts, bytes(size), (8, 8))
        self.delivery.mark(job)

    def pump(self, take: float = inf) -> list[str]:
        """Take at most so many frames, as a socket does that is full then."""
        taken: list[str] = []
        if take:
            for wire in self.delivery.pump(self.tails, self.blobs, self.now, self.time_ms):
                self.wires.append(wire)
                self._check(wire)
                taken.append(say(wire))
                if len(taken) >= take:
                    break
        if self.delivery.dirty:
            self.delivery.held_up(self.tails, self.now)
        return taken

    def _check(self, wire: bytes) -> None:
        """No binary message is too large, none goes beyond the window, and each is counted."""
        message = message_in(wire)
        if message[:1] == b"S":
            self.binary_bytes += len(message)
            assert len(message) <= self.delivery.max_binary
        assert self.delivery.sent_bytes == self.binary_bytes
        if self.delivery.window:
            assert self.delivery.sent_bytes - self.delivery.acked_bytes <= self.delivery.window


def say(wire: bytes) -> str:
    """Return a frame in a word or two; the other job's with a `B` in front."""
    message = message_in(wire)
    if message[:1] == b"S":
        header = parse(message)
        mark = "B " if header.job_id == OTHER else ""
        if header.kind == Kind.PREVIEW:
            return f"{mark}preview {header.frame}"
        return f"{mark}final {header.seq}@{header.chunk_offset}" + ("." if header.is_last_chunk else "")
    told = msgspec.json.decode(message)
    mark = "B " if told["job"] == OTHER else ""
    number = told.get("seq", told.get("step", told.get("position")))
    return f"{mark}{told['type']} {number}"


def line(
    *,
    max_message: int = 65535,
    window: int = 0,
    previews: Previews | None = None,
    finals: Finals = "url",
    limits: Limits | None = None,
) -> Line:
    """Return a line with nothing on it."""
    return Line(Delivery(limits or Limits(), max_message, window, previews, finals))


def running(**terms: Any) -> Line:
    """Return a line that watches a job which has started, with all that written."""
    one = line(**terms)
    one.watch()
    one.append(accepted(), started())
    assert one.pump() == ["accepted 1", "started 2"]
    return one


def told(wire: bytes) -> dict[str, Any]:
    """Return a JSON frame's object."""
    found = msgspec.json.decode(message_in(wire))
    assert isinstance(found, dict)
    return found
