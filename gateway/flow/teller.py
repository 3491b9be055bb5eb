"""What passes while a job is worked: progress and previews, told at once and kept nowhere.

Where an upstream tells nothing, progress is an estimate from what its own past runs took; a timer tells it, and it is
marked as one.
"""

import asyncio
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import UNSET

from gateway.core.eta import estimated_share, ratio_of, remaining_ms
from gateway.core.normal import Request
from gateway.core.reports import PreviewMade, StepDone
from gateway.flow.book import Book
from protocol.messages import Progress
from protocol.tail import PreviewFacts

ESTIMATE_EVERY_SECONDS: Final = 0.25


class Teller:
    """Tells of one job's work."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._shop = book.shop
        self._begun_at = 0.0
        self._begun_ratio = 0.0

    def begin(self) -> None:
        """The work has begun."""
        self._begun_at = self._shop.clock.now()
        self._begun_ratio = ratio_of(len(self._book.delivered), self._book.request.n, 0, 1)

    def progress(self, report: StepDone, index: int) -> None:
        """Tell a step of image `index` of the job."""
        book = self._book
        book.step = report.step
        done = sum(1 for image in book.delivered if image != index) + report.index
        ratio = ratio_of(done, book.request.n, report.step, report.steps)
        eta = remaining_ms(self._shop.clock.now() - self._begun_at, self._begun_ratio, ratio)
        self._shop.feeds.progressed(
            book.job.id,
            Progress(
                job=book.job.id, phase=report.phase, step=report.step, steps=report.steps, ratio=round(ratio, 4),
                eta_ms=UNSET if eta is None else eta,
            ),
        )  # fmt: skip
        self._shop.meter.count("steps", upstream=book.model.upstream)

    def preview(self, report: PreviewMade, index: int) -> None:
        """Tell a preview of image `index` of the job."""
        book = self._book
        facts = PreviewFacts(
            frame=self._shop.feeds.next_frame(book.job.id, book.attempt),
            seq=book.seq,
            step=report.step,
            steps=report.steps,
            image_index=index,
            image_count=book.request.n,
            approximate=report.approximate,
        )
        self._shop.feeds.previewed(book.job.id, facts, report.picture)

    @contextmanager
    def estimating(self, count: int) -> Iterator[None]:
        """Tell estimates of a call for `count` images while the block runs, and learn what it took if it ends well."""
        if self._book.model.progress != "estimated":
            yield
            return
        kind = self._kind(count)
        began = self._shop.clock.now()
        expected = self._shop.past.expected(kind)
        ticker = None if expected is None else _Ticker(lambda: self._estimate(began, expected, count))
        try:
            yield
        finally:
            if ticker is not None:
                ticker.stop()
        self._shop.past.note(kind, self._shop.clock.now() - began)

    def _estimate(self, began: float, expected: float, count: int) -> None:
        book = self._book
        if book.attempt == 0:
            return  # it waits at the gate
        elapsed = self._shop.clock.now() - began
        share = estimated_share(elapsed, expected)
        ratio = min(0.9999, (len(book.delivered) + share * count) / book.request.n)
        step = int(share * book.request.steps)
        book.step = step
        self._shop.feeds.progressed(
            book.job.id,
            Progress(
                job=book.job.id, phase="denoising", step=step, steps=book.request.steps, ratio=round(ratio, 4),
                eta_ms=int(max(0.0, expected - elapsed) * 1000), estimated=True,
            ),
        )  # fmt: skip

    def _kind(self, count: int) -> Hashable:
        return kind_of(self._book.model.upstream, self._book.request, count)


def kind_of(upstream: str, request: Request, count: int) -> Hashable:
    """Return what runs that take the same time have in common."""
    return upstream, request.model, request.task, request.width, request.height, request.steps, count


class _Ticker:
    """Calls a function now and then until it is stopped."""

    def __init__(self, tick: Callable[[], None]) -> None:
        self._tick = tick
        self._timer: asyncio.TimerHandle | None = None
        self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(ESTIMATE_EVERY_SECONDS, self._ring)

    def _ring(self) -> None:
        self._arm()
        self._tick()
