"""The client's jobs: what of each job's events is delivered, what is ignored, and what makes a repair.

The rule is section 2.0 for every numbered event, whatever carries it: JSON, an inline image, or a type that this client
does not know. The last counts as handled, for else the event after it would be a gap for ever. `Inbox` knows no
connection: whoever calls it drops the `Send`s that cannot go out now, and says with `clear` that a connection ended.
"""

import random
from typing import Final

import msgspec

from protocol.assembly import Assembly, Outcome, format_name, read_metadata
from protocol.codec import encode
from protocol.follows import Follow
from protocol.header import Flag, Header, HeaderFault, Kind, parse, payload
from protocol.messages import Error, ErrorBody, Numbered, Ok, Passing, Snapshot, Unwatch, Watch
from protocol.replica_effects import (
    Answer,
    Deliver,
    Effect,
    Event,
    ImageBytes,
    JobLost,
    Preview,
    Send,
    Unreadable,
    ends_job,
)
from protocol.sequence import Positions, Step
from protocol.unanswered import Request, Unanswered

_RETRY_SECONDS: Final = 1.0


class _Trace(msgspec.Struct):
    """What can still be read of a message of unknown type or with wrong fields."""

    type: str = ""
    job: str = ""
    seq: int = 0


class Inbox:
    """The open jobs; `positions` and `unanswered` are shared with the session machine that owns them."""

    def __init__(
        self,
        positions: Positions,
        unanswered: Unanswered,
        chance: random.Random,
        *,
        max_assembly_bytes: int,
        quiet_seconds: float,
    ) -> None:
        self._positions = positions
        self._unanswered = unanswered
        self._chance = chance
        self._quiet_seconds = quiet_seconds
        self._assembly = Assembly(max_assembly_bytes)
        self._follows: dict[str, Follow] = {}

    def __repr__(self) -> str:
        return f"<Inbox {self._positions} {self._assembly}>"

    def make_ref(self) -> str:
        """Return a new name for a request."""
        return f"{self._chance.getrandbits(128):032x}"

    # Connections

    def clear(self, now: float) -> None:
        """Begin a connection: parts of images are gone, and every open job has its quiet time before it."""
        self._assembly.clear()
        for job in self._positions.open_jobs():
            self.follow(job, now).heard = now

    def watch_all(self, now: float) -> list[Effect]:
        """Watch every open job that no watch is under way for, because the server's session is a new one (R8)."""
        idle = [(job, follow) for job, follow in self._follows.items() if follow.watch_ref is None]
        return [send for job, follow in idle for send in self._watch(job, follow, now)]

    def renew(self, watch: Watch, now: float) -> Watch:
        """Return a watch that was not answered as it has to read now."""
        assert isinstance(watch.ref, str), "every request under way has a ref"
        return self.follow(watch.job, now).watch(watch.ref, self._positions.last(watch.job), now)

    # Time

    def due(self) -> float | None:
        """Return when `timeout` is to be called for a job that is silent."""
        return min((follow.due(self._quiet_seconds) for follow in self._follows.values()), default=None)

    def timeout(self, now: float) -> list[Effect]:
        """Watch again what was silent too long (R10), or whose repair was held back until now."""
        due = [(job, one) for job, one in self._follows.items() if one.due(self._quiet_seconds) <= now]
        return [send for job, follow in due for send in self._watch(job, follow, now)]

    # Wishes

    def follow(self, job: str, now: float) -> Follow:
        """Return what is known of the job, which is followed from now on."""
        follow = self._follows.get(job)
        if follow is None:
            follow = self._follows[job] = Follow(terms=Watch(job=job), heard=now)
        return follow

    def find(self, job: str) -> Follow | None:
        """Return what is known of the job if it is followed."""
        return self._follows.get(job)

    def open(self, job: str, after: int, now: float) -> Follow:
        """Follow the job from `after`, also downwards and also after its end."""
        self._positions.set(job, after)
        self._assembly.discard(job)
        return self.follow(job, now)

    def close(self, job: str) -> list[Effect]:
        """Follow the job no longer; watches under way are void, and those of the user answered."""
        self._positions.end(job)
        self._follows.pop(job, None)
        self._assembly.discard(job)
        void = self._unanswered.pop_watches(job)
        return [Answer(one.ref, Ok(ref=one.ref, job=job)) for one in void if not one.is_own]

    # What came

    def receive_numbered(self, event: Numbered, now: float) -> list[Effect]:
        """Apply the rule to a numbered event."""
        return self._take(event.job, event.seq, event, now)

    def receive_snapshot(self, event: Snapshot, now: float) -> list[Effect]:
        """Put the job where the snapshot says, even downwards."""
        if self._hear(event.job, now) is None:
            return []
        self._positions.set(event.job, event.seq)
        self._assembly.discard(event.job)
        return self._deliver(event.job, event)

    def receive_passing(self, event: Passing, now: float) -> list[Effect]:
        """Deliver a passing event of a job that is known and not ended."""
        if event.job not in self._follows:
            return []
        self._follows[event.job].hear(now)
        return [Deliver(event)]

    def receive_unreadable(self, raw: bytes, reason: str | None, now: float) -> list[Effect]:
        """Count a message as handled that cannot be: of unknown type (`reason` is `None`) or with wrong fields."""
        try:
            trace = msgspec.json.decode(raw, type=_Trace)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return []
        if not trace.job or trace.seq < 1:
            return []
        event = None if reason is None else Unreadable(trace.job, trace.seq, trace.type, reason)
        return self._take(trace.job, trace.seq, event, now)

    def receive_binary(self, message: bytes, now: float) -> list[Effect]:
        """Take a preview or a chunk of an image; anything else is ignored."""
        try:
            header = parse(message)
        except HeaderFault:
            return []
        if header.kind == Kind.PREVIEW:
            return self._receive_preview(header, message, now)
        if header.kind in (Kind.FINAL, Kind.AUXILIARY):
            return self._receive_chunk(header, message, now)
        return []

    # How watches were answered

    def receive_ok(self, request: Request, now: float) -> None:
        """Note that a watch was answered, so that the next gap makes another."""
        follow = self._follows.get(_job_of(request))
        if follow is not None and follow.watch_ref == request.ref:
            follow.watch_ref = None
            follow.hear(now)

    def receive_refusal(self, request: Request, error: ErrorBody, now: float) -> list[Effect]:
        """Watch again later if the refusal may pass, else give the job up."""
        job = _job_of(request)
        follow = self._follows.get(job)
        if follow is None or follow.watch_ref != request.ref:
            return []
        if not (error.retryable and follow.is_confirmed):
            return self.lose(job, error)
        follow.watch_ref = None
        wait_ms = error.retry_after_ms
        follow.again_at = now + (wait_ms / 1000 if isinstance(wait_ms, int) else _RETRY_SECONDS)
        return []

    def receive_error(self, error: Error) -> list[Effect]:
        """Take an error that answers no request: a job that is gone is given up."""
        job = error.job
        if isinstance(job, str) and job in self._follows and error.error.code == "job_not_found":
            return self.lose(job, error.error)
        return [Deliver(error)]

    def lose(self, job: str, error: ErrorBody) -> list[Effect]:
        """Give the job up and say so."""
        return [*self.close(job), Deliver(JobLost(job, error))]

    # Within

    def _hear(self, job: str, now: float) -> Follow | None:
        """Return the follow of a job of which something came, `None` if nothing more of it is wanted."""
        if self._positions.is_ended(job):
            return None
        follow = self.follow(job, now)
        follow.hear(now)
        return follow

    def _take(self, job: str, seq: int, event: Event | None, now: float) -> list[Effect]:
        follow = self._hear(job, now)
        step = self._positions.step(job, seq)
        if follow is None or step is Step.REPEAT:
            return []
        if step is Step.GAP:
            return self._repair(job, follow, now)
        self._positions.advance(job, seq)
        self._assembly.discard(job)
        return self._deliver(job, event) if event is not None else []

    def _deliver(self, job: str, event: Event) -> list[Effect]:
        """Deliver a job's event; at the job's end leave it, so that the server may forget it for us (R3)."""
        if not ends_job(event):
            return [Deliver(event)]
        return [Deliver(event), *self.close(job), Send(encode(Unwatch(job=job)))]

    def _repair(self, job: str, follow: Follow, now: float) -> list[Effect]:
        self._assembly.discard(job)
        if not follow.begin_repair(self._positions.last(job), now):
            return []
        return self._watch(job, follow, now)

    def _watch(self, job: str, follow: Follow, now: float) -> list[Effect]:
        """Watch from the last handled number; a watch that nobody answered is sent again under its name."""
        ref = follow.watch_ref or self.make_ref()
        watch = follow.watch(ref, self._positions.last(job), now)
        if self._unanswered.find(ref) is None:
            self._unanswered.add(Request(ref, watch, is_own=True))
        return [Send(encode(watch))]

    def _receive_chunk(self, header: Header, message: bytes, now: float) -> list[Effect]:
        """Take a chunk: the image is handled when its last one came (R2)."""
        job = header.job_id
        follow = self._hear(job, now)
        step = self._positions.step(job, header.seq)
        if follow is None or step is Step.REPEAT:
            return []
        outcome = self._assembly.add(header, message) if step is Step.NEXT else Outcome.GAP
        if isinstance(outcome, ImageBytes):
            self._positions.advance(job, header.seq)
            return [Deliver(outcome)]
        if outcome is Outcome.MORE:
            return []
        if outcome is Outcome.TOO_BIG:
            follow.terms = msgspec.structs.replace(follow.terms, finals="url")
        return self._repair(job, follow, now)

    def _receive_preview(self, header: Header, message: bytes, now: float) -> list[Effect]:
        """Deliver a preview unless it is the one that came last, as the newest is sent again after a resume."""
        follow = self._follows.get(header.job_id)
        data = payload(message, header)
        if follow is None or len(data) != header.total_size:
            return []
        follow.hear(now)
        if header.frame == follow.frame:
            return []
        follow.frame = header.frame
        return [Deliver(_preview(header, message, data))]


def _job_of(request: Request) -> str:
    assert isinstance(request.wish, Watch), "only watches are answered here"
    return request.wish.job


def _preview(header: Header, message: bytes, data: memoryview) -> Preview:
    return Preview(
        job=header.job_id,
        frame=header.frame,
        step=header.step,
        steps=header.steps,
        format=format_name(header.format),
        width=header.width,
        height=header.height,
        image_index=header.image_index,
        image_count=header.image_count,
        has_alpha=bool(header.flags & Flag.ALPHA),
        is_approximate=bool(header.flags & Flag.APPROXIMATE),
        data=data,
        metadata=read_metadata(message, header),
    )
