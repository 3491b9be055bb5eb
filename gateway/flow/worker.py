"""One claimed job, worked to its end: what is asked of the upstream next, what may be asked again, and when to stop.

The worker may be cancelled at any await. What it has written it always knows (`Book`); what it does not know is only
what the upstream makes of a call that was cut, and that is what `core.calls` is for: such a call is looked up where the
vendor can be asked, done again where that costs nobody anything, and else given up.

A `StaleClaim` means that somebody else has the job: the worker stops without a word.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Final

from gateway.core.backoff import wait_seconds
from gateway.core.calls import Call, CallEvent, GiveUp, LookUp
from gateway.core.models import Model
from gateway.core.records import Claimed, JobRecord, StaleClaim
from gateway.core.reports import ImageMade, Outcome, PreviewMade, Report, StepDone, UpstreamFault, WorkBegun
from gateway.core.routing import USABLE
from gateway.flow.book import Book, Workshop, closing_event, is_our_request
from gateway.flow.gate import Passage
from gateway.flow.lines import Line, Lines
from gateway.flow.teller import Teller
from gateway.ports import CallOrder
from protocol.errors import ClientFault
from protocol.messages import Canceler

MAX_ATTEMPTS: Final = 3
"""After so many beginnings a fault of the upstream is final, also where a repeat would cost nobody money."""
MAX_ATTEMPTS_IN_ALL: Final = 20
"""After so many, lost claims among them, the job is: one that takes its gateway down each time must end as well."""


class Reroute(Exception):
    """The job goes to another upstream, which can do it and is well."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.upstream = upstream


class Worker:
    """Works one claimed job; `stop` ends it before its time."""

    def __init__(
        self,
        shop: Workshop,
        lines: Lines,
        model: Model,
        claimed: Claimed,
        elsewhere: Callable[[Claimed], str | None] = lambda _: None,
    ) -> None:
        self.shop = shop
        self.job: JobRecord = claimed.job
        self.stop_for: Canceler | None = claimed.job.cancel_by
        self.went_to: str | None = None
        """The upstream that the job went to, if it was rerouted."""
        self._claimed = claimed
        self._elsewhere = elsewhere
        self._lines = lines
        self._model = model
        self._request = claimed.request
        self._book = Book(shop, model, claimed)
        self._teller = Teller(self._book)
        self._inputs: Mapping[str, bytes] = {}
        self._tries = self._book.refusals
        self._has_begun = False
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
        """Bring the job to its end event, or release it when it was let go, rerouted or the task cancelled."""
        self._is_at_work = True
        book = self._book
        try:
            if self.stop_for is not None:
                await book.cancel(self.stop_for)
            elif self._is_let_go:
                await book.release()
            else:
                await self._work()
        except UpstreamFault as fault:
            await book.fail(fault)
        except ClientFault as fault:  # an input image is gone
            await book.fail(UpstreamFault(Outcome.FAILED, fault.code, fault.message))
        except Reroute as way:
            self.went_to = way.upstream
            await book.release(way.upstream)
        except asyncio.CancelledError:
            if self.stop_for is not None:
                await book.cancel(self.stop_for)
                return
            await book.release()
            raise
        except StaleClaim:
            raise
        except Exception:  # the job must end, whatever our own mistake; the task's end reports it
            await book.fail(self._our_fault())
            raise

    async def _work(self) -> None:
        self._check()
        while not self._book.has_ended:
            match self._book.plan(self._can_find):
                case GiveUp(call):
                    raise _outcome_unknown(call)
                case LookUp(call):
                    await self._look_up(call)
                case next_up if next_up.batches:
                    await self._ask(*next_up.batches[0])
                case _:
                    await self._book.complete()

    def _check(self) -> None:
        if self._request.task not in self._model.tasks and not self._book.has_lost_money:
            raise UpstreamFault(Outcome.FAILED, "model_not_found", "the model is no longer offered")
        if self._book.attempt >= MAX_ATTEMPTS_IN_ALL:
            message = f"the work was begun {self._book.attempt} times and never ended"
            raise UpstreamFault(Outcome.FAILED, "worker_lost", message)

    # --- a new call ---

    async def _ask(self, first: int, count: int) -> None:
        """Call the upstream for `count` images; returns when they are made, or may be asked for again."""
        if not self._inputs:
            self._inputs = await self._read_inputs()
        line = self._lines.pick()
        if self._lines.health() not in USABLE:
            self._go_elsewhere()
        try:
            await self._call(line, first, count)
        except UpstreamFault as fault:
            await self._wait_after(fault, line)

    async def _read_inputs(self) -> Mapping[str, bytes]:
        pictures, tenant = self.shop.pictures, self.job.tenant
        return {image.slot or image.role: await pictures.content(tenant, image.asset) for image in self._request.inputs}

    def _go_elsewhere(self) -> None:
        """Raise `Reroute` if another upstream can do the job and is well."""
        other = self._elsewhere(self._claimed)
        if other is not None:
            self.shop.meter.count("reroutes", upstream=self._model.upstream)
            raise Reroute(other)

    async def _call(self, line: Line, first: int, count: int) -> None:
        async with line.gate.enter() as passage:
            call = await self._book.begin_call(first, count, line.credential)
            order = self._order(call, passage)
            try:
                passage.sending()
                with self._teller.estimating(count):
                    made = await self._listen(line.upstream.run(order), first)
                passage.answered()
                _check_made(made, count, self._model.upstream)
                await self._book.deliver(call, made, CallEvent.ANSWER)
                passage.succeeded()
            except UpstreamFault as told:
                _tell_gate(passage, told)
                call = self._book.open_call or call  # by now it may have the vendor's own id
                fault = self._judged(line, call, told)
                await self._settle(call, fault)
                raise fault from (None if fault is told else told)

    def _order(self, call: Call, passage: Passage | None = None) -> CallOrder:
        order = CallOrder(
            id=call.id,
            model=self._model,
            request=self._request,
            seed=self._request.seed + call.first,
            count=call.count,
            inputs=self._inputs,
            noted=self._book.note_handle,
        )
        return order if passage is None else replace(order, sent=passage.sent)

    def _judged(self, line: Line, call: Call, fault: UpstreamFault) -> UpstreamFault:
        """Return what a fault of an account's call means for the job."""
        if fault.credential and self._lines.put_out(line):
            # Refused before any work, and another account may be allowed what this one is not.
            return replace(fault, outcome=Outcome.REFUSED, retry_after_seconds=0.0)
        is_lost = fault.outcome is Outcome.UNKNOWN and call.billed and not self._can_find(call)
        if is_lost and fault.code != "outcome_unknown":  # whatever the adapter called it
            return _outcome_unknown(call.id)
        return fault

    async def _settle(self, call: Call, fault: UpstreamFault) -> None:
        """Write what became of a call that failed, if the job may go on after it; else its end settles it."""
        is_lost = fault.outcome is Outcome.UNKNOWN and call.billed and not self._can_find(call)
        if fault.outcome is Outcome.FAILED or is_lost:
            return
        event = closing_event(call.state, fault.outcome)
        assert event is not None, "every outcome says something of a call that is being sent"
        spent = call.price_micros if fault.outcome is Outcome.UNKNOWN and call.billed else 0
        await self._book.settle(event, spent, fault.code)
        if fault.outcome is Outcome.GONE or (fault.outcome is Outcome.UNKNOWN and not self._can_find(call)):
            self._has_begun = False  # what had begun is lost; the next call begins a new attempt

    async def _wait_after(self, fault: UpstreamFault, line: Line | None = None) -> None:
        """Wait before the next try, or raise the fault if there may be none."""
        self._tries += 1
        if self._tries >= self.shop.max_tries or not self._may_go_on(fault):
            raise fault
        self.shop.meter.count("call_retries", upstream=self._model.upstream, outcome=fault.outcome.value)
        if line is not None and fault.outcome in (Outcome.NOT_SENT, Outcome.REFUSED) and not fault.credential:
            self._go_elsewhere()
        if not (fault.locked_out or fault.credential):  # the gate itself stays closed; it knows for how long
            shop = self.shop
            await asyncio.sleep(
                wait_seconds(
                    self._tries,
                    shop.backoff_base_seconds,
                    shop.backoff_cap_seconds,
                    shop.chance,
                    fault.retry_after_seconds,
                )
            )

    def _can_find(self, call: Call) -> bool:
        return self._lines.upstream.can_find(call.handle)

    def _may_go_on(self, fault: UpstreamFault) -> bool:
        """Whether there is something left to try after a fault."""
        match fault.outcome:
            case Outcome.NOT_SENT | Outcome.REFUSED:
                return True
            case Outcome.UNKNOWN if isinstance(self._book.plan(self._can_find), LookUp):
                return True
            case Outcome.UNKNOWN if self._model.billed:
                return False
            case Outcome.UNKNOWN | Outcome.GONE:
                return self._book.attempt < MAX_ATTEMPTS
        return False

    # --- a call whose outcome is unknown ---

    async def _look_up(self, call: Call) -> None:
        """Ask the upstream what became of a call, and go on with it if it lives; returns when that is settled."""
        line = self._lines.named(call.credential)
        if line is None:
            raise _outcome_unknown(call.id)  # only the account that made it can ask for it
        if not self._inputs:
            self._inputs = await self._read_inputs()
        self._book.open_call = call
        try:
            with self._teller.estimating(call.count):
                made = await self._listen(line.upstream.resume(self._order(call), call.handle), call.first)
            _check_made(made, call.count, self._model.upstream)
            await self._book.deliver(call, made, CallEvent.FIND)
        except UpstreamFault as fault:
            if fault.outcome is Outcome.GONE:
                await self._book.settle(CallEvent.MISS, 0, fault.code)
                self._has_begun = False
            elif fault.outcome is not Outcome.FAILED and self._tries + 1 >= self.shop.max_tries and call.billed:
                raise _outcome_unknown(call.id) from fault
            await self._wait_after(fault)

    # --- what the upstream reports ---

    async def _listen(self, run: AsyncGenerator[Report, None], first: int) -> list[ImageMade]:
        """Tell what the upstream reports until it ends; returns the finished images."""
        made: list[ImageMade] = []
        async with aclosing(run) as reports:
            async for report in reports:
                await self._begin(report)
                match report:
                    case StepDone():
                        self._teller.progress(report, first + report.index)
                    case PreviewMade():
                        self._teller.preview(report, first + report.index)
                    case ImageMade():
                        made.append(report)
                    case WorkBegun():
                        pass
        return made

    async def _begin(self, report: Report) -> None:
        """Append `started` once for each attempt: the upstream has begun."""
        if self._has_begun:
            return
        self._has_begun = True
        self._teller.begin()
        await self._book.begin(self._request.steps if isinstance(report, ImageMade) else report.steps)

    def _our_fault(self) -> UpstreamFault:
        call = self._book.open_call
        if call is not None and call.billed:
            return _outcome_unknown(call.id)
        return UpstreamFault(Outcome.UNKNOWN, "internal", "the gateway failed; its log has the reason")


def _check_made(made: list[ImageMade], count: int, upstream: str) -> None:
    if sorted(image.index for image in made) != list(range(count)):
        raise UpstreamFault(
            Outcome.FAILED,
            "invalid_output",
            f"the upstream sent {len(made)} of {count} images",
            charged=True,
            details={"upstream": upstream},
        )


def _tell_gate(passage: Passage, fault: UpstreamFault) -> None:
    match fault.outcome:
        case Outcome.NOT_SENT:
            passage.not_sent()
        case Outcome.REFUSED:
            passage.refused(fault.retry_after_seconds, locked_out=fault.locked_out)
        case Outcome.FAILED if is_our_request(fault):
            passage.succeeded()  # the vendor is well; this request was not to its liking
        case _:
            passage.failed()


def _outcome_unknown(call: str) -> UpstreamFault:
    return UpstreamFault(
        Outcome.UNKNOWN,
        "outcome_unknown",
        "a billed call went out and its answer is lost; it was not repeated",
        details={"call": call},
    )
