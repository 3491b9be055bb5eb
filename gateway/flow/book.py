"""What is written of one claimed job: its calls, its events, its money, and the end.

Every method that writes is awaited to its end although the caller be cancelled meanwhile (`uninterrupted`), so the
worker always knows what is written. Each is one transaction, refused with `StaleClaim` when somebody else has the job.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import UNSET

from gateway.core.calls import Call, CallEvent, CallState, GiveUp, LookUp, Plan, advance_call, plan
from gateway.core.eta import PastRuns
from gateway.core.models import Model
from gateway.core.records import Append, CallSettled, Claimed, NewCall
from gateway.core.reports import ImageMade, Outcome, UpstreamFault
from gateway.flow.feeds import BlobCache, Feeds
from gateway.flow.pictures import Pictures
from gateway.flow.supervise import uninterrupted
from gateway.ports import Clock, Ledger, Meter
from protocol.errors import ERRORS
from protocol.ids import make_ulid
from protocol.messages import (
    Canceled,
    Canceler,
    Completed,
    ErrorBody,
    Failed,
    Image,
    ImageReady,
    Notice,
    Numbered,
    Started,
    Timings,
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What every worker of this node shares."""

    ledger: Ledger
    pictures: Pictures
    feeds: Feeds
    clock: Clock
    chance: random.Random
    meter: Meter
    lease_ms: int = 30_000
    max_tries: int = 8
    backoff_base_seconds: float = 0.5
    backoff_cap_seconds: float = 30.0
    blobs: BlobCache = field(default_factory=BlobCache)
    """Where connections of this node find the bytes of finals without a read."""
    past: PastRuns = field(default_factory=PastRuns)
    """What runs of upstreams took that tell nothing while they work."""


class Book:
    """See the module."""

    def __init__(self, shop: Workshop, model: Model, claimed: Claimed) -> None:
        self.shop = shop
        self.model = model
        self.job = claimed.job
        self.request = claimed.request
        self.calls: dict[str, Call] = {call.id: call for call in claimed.calls}
        self.delivered = set(claimed.delivered)
        self.images: list[Image] = list(claimed.images)
        self.seq = claimed.job.seq
        self.cost = claimed.job.cost_micros
        self.attempt = claimed.job.attempt
        self.step = claimed.job.step
        self.has_ended = False
        self.open_call: Call | None = None
        """The call that is under way, or being looked up."""
        self._started_ms = claimed.job.started_ms

    @property
    def refusals(self) -> int:
        """How many calls of this run came to nothing without costing anything."""
        return sum(call.state in (CallState.REFUSED, CallState.NOT_SENT) for call in self.calls.values())

    @property
    def has_lost_money(self) -> bool:
        """Whether a billed call was lost for good."""
        return any(call.billed and call.state is CallState.UNKNOWN for call in self.calls.values())

    def plan(self, can_find: Callable[[Call], bool]) -> Plan | LookUp | GiveUp:
        """Return what is to be done next."""
        calls = list(self.calls.values())
        return plan(self.request.n, self.delivered, calls, self.model.images_per_call, can_find)

    # --- calls ---

    async def begin_call(self, first: int, count: int, credential: str) -> Call:
        """Commit a call as about to be sent; only then may its first byte go out."""
        now_ms = self.shop.clock.time_ms()
        new = NewCall(
            id=make_ulid(now_ms, self.shop.chance),
            run=self.job.run,
            job=self.job.id,
            tenant=self.job.tenant,
            upstream=self.model.upstream,
            credential=credential,
            billed=self.model.billed,
            first=first,
            count=count,
            price_micros=self.model.price_of(self.request) * count,
            sent_ms=now_ms,
        )
        call = Call(
            new.id, CallState.SENDING, new.billed, first, count, new.upstream, credential,
            price_micros=new.price_micros,
        )  # fmt: skip

        async def begin() -> None:
            await self.shop.ledger.work.begin_call(new, self.job.claim)
            self.open_call = self.calls[call.id] = call

        await uninterrupted(begin())
        self.shop.meter.count("calls", upstream=self.model.upstream)
        return call

    async def note_handle(self, handle: str) -> None:
        """Keep the vendor's own id of the open call's work."""
        call = self._opened()
        if call.handle == handle:
            return
        await uninterrupted(self.shop.ledger.work.note_handle(self.job.id, self.job.claim, call.id, handle))
        self.open_call = self.calls[call.id] = replace(call, handle=handle)

    async def settle(self, event: CallEvent, cost_micros: int = 0, error: str | None = None) -> None:
        """Write what became of the open call, where that is no event of the job."""
        settled = self._settled(event, cost_micros, error)

        async def settle() -> None:
            await self.shop.ledger.work.settle_call(self.job.id, self.job.claim, settled)
            self._close_call(settled)

        await uninterrupted(settle())

    def _opened(self) -> Call:
        assert self.open_call is not None, "a call is open until it is settled"
        return self.open_call

    def _settled(self, event: CallEvent, cost_micros: int, error: str | None) -> CallSettled:
        return CallSettled(self._opened().id, event, self.shop.clock.time_ms(), cost_micros, error)

    def _close_call(self, settled: CallSettled) -> None:
        call = self._opened()
        self.cost += settled.cost_micros - call.cost_micros
        state = advance_call(call.state, settled.event)
        self.calls[call.id] = replace(call, state=state, cost_micros=settled.cost_micros)
        self.open_call = None

    # --- events ---

    async def begin(self, steps: int) -> None:
        """Append `started`, and before all others what was changed of the request."""
        events: list[Numbered] = [self._started(steps)]
        if self.attempt == 1:
            now_ms = self.shop.clock.time_ms()
            events += [
                Notice(job=self.job.id, seq=0, time_ms=now_ms, code=note.code, message=note.message)
                for note in self.request.notes
            ]
        await uninterrupted(self._append(tuple(events)))

    async def deliver(self, call: Call, made: list[ImageMade], event: CallEvent) -> None:
        """Store the images, then append them, the call's outcome and, if these were the last, the end: at once."""
        await uninterrupted(self._deliver(call, made, event))

    async def complete(self) -> None:
        """End a job all of whose images are in the log: its worker was lost between the last of them and the end."""
        started = self._started(self.request.steps)
        await uninterrupted(self._append((started, self._completed(self.images, self.cost)), hold="settled"))

    async def fail(self, fault: UpstreamFault) -> None:
        """End the job, and the open call with it."""
        await uninterrupted(self._fail(fault))

    async def cancel(self, by: Canceler) -> None:
        """End the job, and the open call with it."""
        await uninterrupted(self._cancel(by))

    async def release(self, upstream: str | None = None) -> None:
        """Let the job go back to the queue, with `upstream` to another's. An open call is lost."""
        await uninterrupted(self._release(upstream))

    def _started(self, steps: int) -> Started:
        self.attempt += 1
        self.step = 0
        now_ms = self.shop.clock.time_ms()
        if self._started_ms is None:
            self._started_ms = now_ms
            waited = (now_ms - self.job.created_ms) / 1000
            self.shop.meter.observe("queue_seconds", waited, upstream=self.model.upstream)
        return Started(job=self.job.id, seq=0, time_ms=now_ms, attempt=self.attempt, model=self.model.id, steps=steps)

    async def _deliver(self, call: Call, made: list[ImageMade], event: CallEvent) -> None:
        await self.shop.feeds.settle(self.job.id)
        events: list[Numbered] = []
        images = list(self.images)
        for one in sorted(made, key=lambda image: image.index):
            told = await self._picture_event(one, call.first + one.index)
            events.append(told)
            if isinstance(told, ImageReady):
                images.append(_image(told, self.seq + len(events)))
        delivered = self.delivered.union(range(call.first, call.first + call.count))
        settled = self._settled(event, call.price_micros, None)
        whole = len(delivered) == self.request.n
        if whole:
            events.append(self._completed(images, self.cost + call.price_micros - call.cost_micros))
        await self._append(tuple(events), settled, "settled" if whole else None)
        # Only now: if the ledger refuses, the job's end tells what was delivered and spent before.
        self.delivered, self.images = delivered, images

    async def _picture_event(self, made: ImageMade, index: int) -> Numbered:
        now_ms = self.shop.clock.time_ms()
        if made.filtered:
            return Notice(
                job=self.job.id, seq=0, time_ms=now_ms, code="image_filtered", index=index,
                message=f"image {index} was held back by the upstream's content filter",
            )  # fmt: skip
        record = await self.shop.pictures.store_output(self.job.tenant, made.picture)
        self.shop.blobs.keep(record.id, made.picture.content)
        return ImageReady(
            job=self.job.id, seq=0, time_ms=now_ms, index=index, count=self.request.n, format=record.format,
            w=record.width, h=record.height, bytes=record.bytes, asset=record.id, seed=made.seed,
        )  # fmt: skip

    async def _append(
        self, events: tuple[Numbered, ...], call: CallSettled | None = None, hold: str | None = None
    ) -> None:
        step = Append(
            job=self.job.id, claim=self.job.claim, after=self.seq, events=events, call=call, hold=hold, step=self.step,
            lease_ms=self.shop.clock.time_ms() + self.shop.lease_ms,
        )  # fmt: skip
        numbered = await self.shop.ledger.work.append(step)
        self.seq += len(numbered)
        if call is not None:
            self._close_call(call)
        self.shop.feeds.appended(self.job.id, numbered)
        for event in numbered:
            if isinstance(event, Completed | Failed | Canceled):
                self._note_end(event)

    def _note_end(self, event: Completed | Failed | Canceled) -> None:
        self.has_ended = True
        end, seconds = type(event).__name__.lower(), (event.time_ms - self.job.created_ms) / 1000
        self.shop.meter.count("jobs_ended", upstream=self.model.upstream, end=end)
        self.shop.meter.observe("job_seconds", seconds, upstream=self.model.upstream, end=end)

    # --- ends ---

    def _completed(self, images: list[Image], cost_micros: int) -> Completed:
        now_ms = self.shop.clock.time_ms()
        started_ms = self._started_ms or now_ms
        return Completed(
            job=self.job.id, seq=0, time_ms=now_ms, images=images, cost_micros=cost_micros,
            timings=Timings(
                queue_ms=max(0, started_ms - self.job.created_ms), load_ms=0, run_ms=max(0, now_ms - started_ms),
                total_ms=max(0, now_ms - self.job.created_ms),
            ),
        )  # fmt: skip

    async def _fail(self, fault: UpstreamFault) -> None:
        is_unknown = fault.code == "outcome_unknown"
        settled = None
        cost, body = self.cost, self._error_body(fault)
        call = self.open_call
        if call is not None:
            event = closing_event(call.state, fault.outcome)
            spent = call.price_micros if fault.charged or (is_unknown and call.billed) else 0
            if event is not None:
                settled = self._settled(event, spent, fault.code)
                cost += spent - call.cost_micros
        end = Failed(
            job=self.job.id, seq=0, time_ms=self.shop.clock.time_ms(), error=body, images=self.images, cost_micros=cost
        )
        await self._append((end,), settled, "spent_unknown" if is_unknown else "settled")

    def _error_body(self, fault: UpstreamFault) -> ErrorBody:
        missing = [index for index in range(self.request.n) if index not in self.delivered]
        details = {"upstream": self.model.upstream, **fault.details}
        if self.images and missing:
            details["missing"] = missing
        if fault.code == "outcome_unknown" and self.open_call is not None:
            details["call"] = self.open_call.id
        retry = fault.retry_after_seconds
        return ErrorBody(
            code=fault.code,
            message=fault.message,
            retryable=ERRORS[fault.code].retryable and not fault.credential and not is_our_request(fault),
            retry_after_ms=UNSET if retry is None else int(retry * 1000),
            details=details,
        )

    async def _cancel(self, by: Canceler) -> None:
        call, is_lost = self.open_call, self.has_lost_money
        settled, cost = None, self.cost
        if call is not None and call.state is CallState.SENDING:
            # The answer was not waited for. Unbilled work is simply gone; a billed call may have been done.
            settled = self._settled(CallEvent.LOSE, call.price_micros if call.billed else 0, "canceled")
            cost += settled.cost_micros - call.cost_micros
            is_lost = is_lost or call.billed
        end = Canceled(
            job=self.job.id, seq=0, time_ms=self.shop.clock.time_ms(), by=by, step=self.step, images=self.images,
            cost_micros=cost,
        )  # fmt: skip
        await self._append((end,), settled, "spent_unknown" if is_lost else "settled")

    async def _release(self, upstream: str | None) -> None:
        call = self.open_call
        if call is not None and call.state is CallState.SENDING:
            settled = self._settled(CallEvent.LOSE, call.price_micros if call.billed else 0, "released")
            await self.shop.ledger.work.settle_call(self.job.id, self.job.claim, settled)
            self._close_call(settled)
        await self.shop.ledger.work.release(self.job.id, self.job.claim, ready_ms=0, upstream=upstream)


_CLOSING: Final[dict[tuple[CallState, Outcome], CallEvent]] = {
    (CallState.SENDING, Outcome.NOT_SENT): CallEvent.PROVE_NOT_SENT,
    (CallState.SENDING, Outcome.REFUSED): CallEvent.REFUSE,
    (CallState.SENDING, Outcome.FAILED): CallEvent.ANSWER,
    (CallState.SENDING, Outcome.UNKNOWN): CallEvent.LOSE,
    (CallState.SENDING, Outcome.GONE): CallEvent.MISS,
    (CallState.UNKNOWN, Outcome.FAILED): CallEvent.FIND,
    (CallState.UNKNOWN, Outcome.GONE): CallEvent.MISS,
}


def closing_event(state: CallState, outcome: Outcome) -> CallEvent | None:
    """Return what a fault says of a call: of one that is being looked up, most say nothing."""
    return _CLOSING.get((state, outcome))


def is_our_request(fault: UpstreamFault) -> bool:
    """Whether the vendor found fault with the request and not with itself, so that a repeat would fail as well."""
    status = fault.details.get("status", 500)
    return fault.outcome is Outcome.FAILED and not fault.credential and (fault.code != "upstream_error" or status < 500)


def _image(event: ImageReady, seq: int) -> Image:
    return Image(
        index=event.index, format=event.format, w=event.w, h=event.h, bytes=event.bytes, asset=event.asset,
        seed=event.seed, seq=seq,
    )  # fmt: skip
