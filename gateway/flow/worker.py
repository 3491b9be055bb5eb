"""One claimed job, worked to its end: calls committed before they are sent, events before they are told.

The worker may be cancelled at any await. Every effect on the ledger is awaited to its end all the same
(`uninterrupted`), so it always knows what is written; what it does not know is only what the upstream makes of a call
that was cut, and that is what `core.calls` is for.

A `StaleClaim` means that somebody else has the job: the worker stops without a word.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET

from gateway.core.backoff import wait_seconds
from gateway.core.calls import CallEvent, CallState, GiveUp, plan
from gateway.core.eta import ratio_of, remaining_ms
from gateway.core.models import Model
from gateway.core.records import Append, CallSettled, Claimed, JobRecord, NewCall, StaleClaim
from gateway.core.reports import ImageMade, Outcome, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.flow.feeds import BlobCache, Feeds
from gateway.flow.gate import Gate, Passage
from gateway.flow.pictures import Pictures
from gateway.flow.supervise import uninterrupted
from gateway.ports import CallOrder, Clock, Ledger, Meter, Upstream
from protocol.errors import ERRORS, ClientFault
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
    Progress,
    Started,
    Timings,
)
from protocol.tail import PreviewFacts

MAX_ATTEMPTS: Final = 3
"""After so many beginnings a fault of the upstream is final, also where a repeat would cost nobody money."""
MAX_ATTEMPTS_IN_ALL: Final = 20
"""After so many, lost claims among them, the job is: one that takes its gateway down each time must end as well."""


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


@dataclass(frozen=True, slots=True)
class Line:
    """One credential of one upstream, and the gate before it."""

    upstream: Upstream
    credential: str
    gate: Gate
    concurrency: int
    """How many jobs of it are worked at once on this node."""


class Worker:
    """Works one claimed job; `stop` ends it before its time."""

    def __init__(self, shop: Workshop, line: Line, model: Model, claimed: Claimed) -> None:
        self.shop = shop
        self.job: JobRecord = claimed.job
        self.stop_for: Canceler | None = claimed.job.cancel_by
        self._upstream = line.upstream
        self._line = line
        self._model = model
        self._request = claimed.request
        self._calls = claimed.calls
        self._delivered = set(claimed.delivered)
        self._images: list[Image] = list(claimed.images)
        self._seq = claimed.job.seq
        self._cost = claimed.job.cost_micros
        self._attempt = claimed.job.attempt
        self._step = claimed.job.step
        self._begun_at: float | None = None
        self._begun_ratio = 0.0
        self._started_ms = claimed.job.started_ms
        self._open_call: NewCall | None = None
        self._is_at_work = False
        self._is_let_go = False

    def stop(self, task: asyncio.Task[None], by: Canceler | None = None) -> None:
        """End the job for `by`, or let it go back to the queue; `task` is the one that runs `work`."""
        if by is None:
            self._is_let_go = True
        else:
            self.stop_for = by
        # A task that is cancelled before its first step runs none: nobody would end the job or give it back.
        if self._is_at_work:
            task.cancel()

    async def work(self) -> None:
        """Bring the job to its end event, or release it when it was let go or the task cancelled."""
        self._is_at_work = True
        try:
            if self.stop_for is not None:
                await uninterrupted(self._cancel(self.stop_for))
            elif self._is_let_go:
                await uninterrupted(self._release())
            else:
                await self._work()
        except UpstreamFault as fault:
            await uninterrupted(self._fail(fault))
        except ClientFault as fault:  # an input image is gone
            await uninterrupted(self._fail(UpstreamFault(Outcome.FAILED, fault.code, fault.message)))
        except asyncio.CancelledError:
            if self.stop_for is not None:
                await uninterrupted(self._cancel(self.stop_for))
                return
            await uninterrupted(self._release())
            raise
        except StaleClaim:
            raise
        except Exception:  # the job must end, whatever our own mistake; the task's end reports it
            await uninterrupted(self._fail(self._our_fault()))
            raise

    async def _work(self) -> None:
        plan_or_not = plan(self._request.n, self._delivered, self._calls, self._model.images_per_call)
        if isinstance(plan_or_not, GiveUp):
            raise self._outcome_unknown(plan_or_not.call_id)
        if self._request.task not in self._model.tasks:
            raise UpstreamFault(Outcome.FAILED, "model_not_found", "the model is no longer offered")
        if self._attempt >= MAX_ATTEMPTS_IN_ALL:
            raise UpstreamFault(
                Outcome.FAILED, "worker_lost", f"the work was begun {self._attempt} times and never ended"
            )
        inputs = await self._inputs()
        for first, count in plan_or_not.batches:
            await self._batch(first, count, inputs)
        if not plan_or_not.batches:  # a worker was lost between the last picture and the end
            end = self._completed(self._images, self._seq + 2, self._cost)
            await uninterrupted(self._append((self._started(self._request.steps), end), hold="settled"))

    async def _inputs(self) -> Mapping[str, bytes]:
        return {
            image.role: await self.shop.pictures.content(self.job.tenant, image.asset) for image in self._request.inputs
        }

    # --- calls ---

    async def _batch(self, first: int, count: int, inputs: Mapping[str, bytes]) -> None:
        """Call the upstream for `count` images until it has made them; repeats only what may be repeated."""
        tries = 0
        while True:
            try:
                await self._call(first, count, inputs)
                return
            except UpstreamFault as fault:
                tries += 1
                wait = self._retry_after(fault, tries)
                self.shop.meter.count("call_retries", upstream=self._upstream.name, outcome=fault.outcome.value)
            await asyncio.sleep(wait)

    def _retry_after(self, fault: UpstreamFault, tries: int) -> float:
        """Return how long to wait before the next try, or raise the fault if there may be none."""
        repeatable = fault.outcome in (Outcome.NOT_SENT, Outcome.REFUSED) or (
            fault.outcome is Outcome.UNKNOWN and not self._model.billed and self._attempt < MAX_ATTEMPTS
        )
        if not repeatable or tries >= self.shop.max_tries:
            raise fault
        if fault.locked_out:
            return 0.0  # the gate itself stays closed for everybody; it knows for how long
        shop = self.shop
        return wait_seconds(
            tries, shop.backoff_base_seconds, shop.backoff_cap_seconds, shop.chance, fault.retry_after_seconds
        )

    async def _call(self, first: int, count: int, inputs: Mapping[str, bytes]) -> None:
        async with self._line.gate.enter() as passage:
            order = await self._begin_call(first, count, inputs, passage)
            try:
                passage.sending()
                made = await self._listen(order, first)
                passage.answered()
                self._check_made(made, count)
                await uninterrupted(self._deliver(order, first, made))
                passage.succeeded()
            except UpstreamFault as fault:
                self._tell_gate(passage, fault)
                if fault.outcome is Outcome.UNKNOWN and self._model.billed and fault.code != "outcome_unknown":
                    raise self._outcome_unknown(order.id) from fault  # whatever the adapter called it
                if fault.outcome is Outcome.FAILED or (fault.outcome is Outcome.UNKNOWN and self._model.billed):
                    raise  # the call is settled together with the job's end
                await uninterrupted(self._settle(fault))
                raise

    async def _begin_call(self, first: int, count: int, inputs: Mapping[str, bytes], passage: Passage) -> CallOrder:
        now_ms = self.shop.clock.time_ms()
        call = NewCall(
            id=make_ulid(now_ms, self.shop.chance),
            run=self.job.run,
            job=self.job.id,
            tenant=self.job.tenant,
            upstream=self._upstream.name,
            credential=self._line.credential,
            billed=self._model.billed,
            first=first,
            count=count,
            price_micros=self._model.price_micros * count,
            sent_ms=now_ms,
        )
        await uninterrupted(self._commit_call(call))
        self.shop.meter.count("calls", upstream=self._upstream.name)
        return CallOrder(
            id=call.id,
            model=self._model,
            request=self._request,
            seed=self._request.seed + first,
            count=count,
            inputs=inputs,
            sent=passage.sent,
        )

    async def _commit_call(self, call: NewCall) -> None:
        await self.shop.ledger.work.begin_call(call, self.job.claim)
        self._open_call = call

    async def _listen(self, order: CallOrder, first: int) -> list[ImageMade]:
        """Tell what the upstream reports until it ends; returns the finished images."""
        made: list[ImageMade] = []
        begun = False
        async with aclosing(self._upstream.run(order)) as reports:
            async for report in reports:
                if not begun:
                    begun = True
                    await self._begin(report)
                match report:
                    case StepDone():
                        self._progress(report, first + report.index)
                    case PreviewMade():
                        self._preview(report, first + report.index)
                    case ImageMade():
                        made.append(report)
                    case WorkBegun():
                        pass
        return made

    async def _begin(self, report: Report) -> None:
        """Append `started` once for each attempt: the upstream has begun."""
        if self._begun_at is not None:
            return
        self._begun_at = self.shop.clock.now()
        self._begun_ratio = ratio_of(len(self._delivered), self._request.n, 0, 1)
        steps = self._request.steps if isinstance(report, ImageMade) else report.steps
        await uninterrupted(self._append((self._started(steps),)))

    def _started(self, steps: int) -> Started:
        self._attempt += 1
        self._step = 0
        now_ms = self.shop.clock.time_ms()
        if self._started_ms is None:
            self._started_ms = now_ms
            waited = (now_ms - self.job.created_ms) / 1000
            self.shop.meter.observe("queue_seconds", waited, upstream=self._upstream.name)
        return Started(job=self.job.id, seq=0, time_ms=now_ms, attempt=self._attempt, model=self._model.id, steps=steps)

    def _progress(self, report: StepDone, index: int) -> None:
        self._step = report.step
        done = sum(1 for image in self._delivered if image != index) + report.index
        ratio = ratio_of(done, self._request.n, report.step, report.steps)
        assert self._begun_at is not None, "the first report of a call begins it"
        eta = remaining_ms(self.shop.clock.now() - self._begun_at, self._begun_ratio, ratio)
        self.shop.feeds.progressed(
            self.job.id,
            Progress(
                job=self.job.id, phase=report.phase, step=report.step, steps=report.steps, ratio=round(ratio, 4),
                eta_ms=UNSET if eta is None else eta,
            ),
        )  # fmt: skip
        self.shop.meter.count("steps", upstream=self._upstream.name)

    def _preview(self, report: PreviewMade, index: int) -> None:
        facts = PreviewFacts(
            frame=self.shop.feeds.next_frame(self.job.id, self._attempt),
            seq=self._seq,
            step=report.step,
            steps=report.steps,
            image_index=index,
            image_count=self._request.n,
            approximate=report.approximate,
        )
        self.shop.feeds.previewed(self.job.id, facts, report.picture)

    def _check_made(self, made: list[ImageMade], count: int) -> None:
        if sorted(image.index for image in made) != list(range(count)):
            raise UpstreamFault(
                Outcome.FAILED,
                "invalid_output",
                f"the upstream sent {len(made)} of {count} images",
                charged=True,
                details={"upstream": self._upstream.name},
            )

    async def _deliver(self, order: CallOrder, first: int, made: list[ImageMade]) -> None:
        """Store the images, then append them, the call's outcome and, if these were the last, the end: at once."""
        await self.shop.feeds.settle(self.job.id)
        events: list[Numbered] = []
        images = list(self._images)
        for one in sorted(made, key=lambda image: image.index):
            event = await self._picture_event(one, first + one.index)
            events.append(event)
            if isinstance(event, ImageReady):
                images.append(_image(event, self._seq + len(events)))
        delivered = self._delivered.union(range(first, first + order.count))
        call = self._open_call
        assert call is not None, "a call is open until it is settled"
        cost = self._cost + call.price_micros
        settled = CallSettled(call.id, CallEvent.ANSWER, self.shop.clock.time_ms(), call.price_micros)
        whole = len(delivered) == self._request.n
        if whole:
            events.append(self._completed(images, self._seq + len(events) + 1, cost))
        await self._append(tuple(events), settled, "settled" if whole else None)
        # Only now: if the ledger refuses, the job's end tells what was delivered and spent before.
        self._delivered, self._images, self._cost = delivered, images, cost

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
            job=self.job.id, seq=0, time_ms=now_ms, index=index, count=self._request.n, format=record.format,
            w=record.width, h=record.height, bytes=record.bytes, asset=record.id, seed=made.seed,
        )  # fmt: skip

    def _tell_gate(self, passage: Passage, fault: UpstreamFault) -> None:
        match fault.outcome:
            case Outcome.NOT_SENT:
                passage.not_sent()
            case Outcome.REFUSED:
                passage.refused(fault.retry_after_seconds, locked_out=fault.locked_out)
            case Outcome.FAILED if _is_our_request(fault):
                passage.succeeded()  # the vendor is well; this request was not to its liking
            case _:
                passage.failed()

    async def _settle(self, fault: UpstreamFault) -> None:
        """Write what became of a call that ended without an event."""
        call = self._open_call
        assert call is not None, "a call is open until it is settled"
        event = _EVENTS[fault.outcome]
        settled = CallSettled(call.id, event, self.shop.clock.time_ms(), 0, fault.code)
        await self.shop.ledger.work.settle_call(self.job.id, self.job.claim, settled)
        self._open_call = None
        if fault.outcome is Outcome.UNKNOWN:
            self._begun_at = None  # what had begun is lost; the next call begins a new attempt

    # --- ends ---

    async def _append(
        self, events: tuple[Numbered, ...], call: CallSettled | None = None, hold: str | None = None
    ) -> None:
        step = Append(
            job=self.job.id, claim=self.job.claim, after=self._seq, lease_ms=self._lease(), events=events, call=call,
            hold=hold, step=self._step,
        )  # fmt: skip
        numbered = await self.shop.ledger.work.append(step)
        self._seq += len(numbered)
        if call is not None:
            self._open_call = None
        self.shop.feeds.appended(self.job.id, numbered)
        for event in numbered:
            if isinstance(event, Completed | Failed | Canceled):
                end, seconds = type(event).__name__.lower(), (event.time_ms - self.job.created_ms) / 1000
                self.shop.meter.count("jobs_ended", upstream=self._upstream.name, end=end)
                self.shop.meter.observe("job_seconds", seconds, upstream=self._upstream.name, end=end)

    def _completed(self, images: list[Image], seq: int, cost_micros: int) -> Completed:
        now_ms = self.shop.clock.time_ms()
        started_ms = self._started_ms or now_ms
        return Completed(
            job=self.job.id, seq=seq, time_ms=now_ms, images=images, cost_micros=cost_micros,
            timings=Timings(
                queue_ms=max(0, started_ms - self.job.created_ms), load_ms=0, run_ms=max(0, now_ms - started_ms),
                total_ms=max(0, now_ms - self.job.created_ms),
            ),
        )  # fmt: skip

    async def _fail(self, fault: UpstreamFault) -> None:
        call, hold = self._closing(fault)
        body = self._error_body(fault)
        end = Failed(
            job=self.job.id, seq=0, time_ms=self.shop.clock.time_ms(), error=body, images=self._images,
            cost_micros=self._cost,
        )  # fmt: skip
        await self._append((end,), call, hold)

    def _closing(self, fault: UpstreamFault) -> tuple[CallSettled | None, str]:
        """What the open call and the hold come to when the job fails."""
        unknown = fault.code == "outcome_unknown"
        call = self._open_call
        if call is None:
            return None, "spent_unknown" if unknown else "settled"
        cost = call.price_micros if fault.charged or unknown else 0
        self._cost += cost
        settled = CallSettled(call.id, _EVENTS[fault.outcome], self.shop.clock.time_ms(), cost, fault.code)
        return settled, "spent_unknown" if unknown else "settled"

    def _error_body(self, fault: UpstreamFault) -> ErrorBody:
        missing = [index for index in range(self._request.n) if index not in self._delivered]
        details = {"upstream": self._upstream.name, **fault.details}
        if self._images and missing:
            details["missing"] = missing
        if fault.code == "outcome_unknown" and self._open_call is not None:
            details["call"] = self._open_call.id
        retry = fault.retry_after_seconds
        return ErrorBody(
            code=fault.code,
            message=fault.message,
            retryable=ERRORS[fault.code].retryable and not fault.credential and not _is_our_request(fault),
            retry_after_ms=UNSET if retry is None else int(retry * 1000),
            details=details,
        )

    def _our_fault(self) -> UpstreamFault:
        call = self._open_call
        if call is not None and call.billed:
            return self._outcome_unknown(call.id)
        return UpstreamFault(Outcome.UNKNOWN, "internal", "the gateway failed; its log has the reason")

    def _outcome_unknown(self, call: str) -> UpstreamFault:
        return UpstreamFault(
            Outcome.UNKNOWN,
            "outcome_unknown",
            "a billed call went out and its answer is lost; it was not repeated",
            details={"call": call},
        )

    async def _cancel(self, by: Canceler) -> None:
        call, hold = self._open_call, "spent_unknown" if self._has_lost_money() else "settled"
        settled = None
        if call is not None:
            # The answer was not waited for. Unbilled work is simply gone; a billed call may have been done.
            cost = call.price_micros if call.billed else 0
            self._cost += cost
            hold = "spent_unknown" if call.billed else hold
            settled = CallSettled(call.id, CallEvent.LOSE, self.shop.clock.time_ms(), cost, "canceled")
        end = Canceled(
            job=self.job.id, seq=0, time_ms=self.shop.clock.time_ms(), by=by, step=self._step, images=self._images,
            cost_micros=self._cost,
        )  # fmt: skip
        await self._append((end,), settled, hold)

    def _has_lost_money(self) -> bool:
        """Whether a worker before us was lost with a billed call out."""
        return any(call.billed and call.state is CallState.UNKNOWN for call in self._calls)

    async def _release(self) -> None:
        """Let the job go back to the queue. An open call is lost; if it was billed, the next claim gives the job up."""
        call = self._open_call
        if call is not None:
            cost = call.price_micros if call.billed else 0
            settled = CallSettled(call.id, CallEvent.LOSE, self.shop.clock.time_ms(), cost, "released")
            await self.shop.ledger.work.settle_call(self.job.id, self.job.claim, settled)
            self._open_call = None
        await self.shop.ledger.work.release(self.job.id, self.job.claim, ready_ms=0)

    def _lease(self) -> int:
        return self.shop.clock.time_ms() + self.shop.lease_ms


_EVENTS: Final[dict[Outcome, CallEvent]] = {
    Outcome.NOT_SENT: CallEvent.PROVE_NOT_SENT,
    Outcome.REFUSED: CallEvent.REFUSE,
    Outcome.FAILED: CallEvent.ANSWER,
    Outcome.UNKNOWN: CallEvent.LOSE,
}


def _is_our_request(fault: UpstreamFault) -> bool:
    """Whether the vendor found fault with the request and not with itself, so that a repeat would fail as well."""
    status = fault.details.get("status", 500)
    return fault.outcome is Outcome.FAILED and not fault.credential and (fault.code != "upstream_error" or status < 500)


def _image(event: ImageReady, seq: int) -> Image:
    return Image(
        index=event.index, format=event.format, w=event.w, h=event.h, bytes=event.bytes, asset=event.asset,
        seed=event.seed, seq=seq,
    )  # fmt: skip
