"""Servers of the WebUI family: AUTOMATIC1111, Forge, SD.Next and what else speaks `/sdapi/v1`.

`models` has what such a server offers, `discovery` how it tells that, `wire` what the two
vocabularies mean to each other, `progress` what polls mean; all are without I/O. `polls` looks at running
work, `jobs` is SD.Next's second API.

The server works one request at a time and answers it when it is done; meanwhile it can be asked how far it is. Let the
gateway be its only client: progress, previews and the interruption belong to whatever runs. With the web page's
`/internal/progress` our own task is told apart by its id; without it, see `Attribution`.

A request that waits in the server behind somebody else's work cannot be taken out, nor does our leaving stop it. When
it is cancelled there, the next call, which waits behind it, interrupts it as soon as its turn has come.

Nothing can be asked afterwards: a finished picture is in the answer and nowhere else. So a call is found only where
SD.Next's stored jobs are. No call is billed; one whose answer was lost may be made again.
"""

import asyncio
import base64
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from gateway.core.models import Model
from gateway.core.reports import Outcome, Report, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder, Findings
from gateway.upstreams.a1111.discovery import LISTS, MODELS_PATH, findings, no_api, no_entry, offer_of
from gateway.upstreams.a1111.jobs import JOBS, StoredJobs
from gateway.upstreams.a1111.models import Checkpoint, Flavour, Offer, models_of
from gateway.upstreams.a1111.polls import NOBODY, Call, Lookout, aside
from gateway.upstreams.a1111.progress import Follow
from gateway.upstreams.a1111.wire import from_vendor, needs_pixels, prepared, refusal, suits_job, to_vendor
from gateway.upstreams.http import Beside
from gateway.upstreams.pictures import unusable
from gateway.upstreams.vendor import Answer, Ask, Vendor

__all__ = ["A1111", "Checkpoint"]

_ASK_SECONDS: Final = 10.0
_MOST_LIST_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Ways:
    """How a server's work can be followed."""

    tasks: bool
    """By `/internal/progress`."""
    jobs: bool
    """By SD.Next's stored jobs."""


class A1111:
    """One server; see `Upstream`. It works one call at a time, whatever the gate lets through.

    `user` and `password` are those of the server's `--api-auth`. `flavour` is what the server is; "auto" asks it for
    SD.Next's jobs. `checkpoints` are what is offered, none = all that the server has. `upscaler` is the server's name
    of one, "" = the first that does more than resample. `poll_seconds` is the time between two looks at the progress,
    `previews` whether pictures are looked at too. `timeout_seconds` is for a whole call, its wait in the server and the
    loading of a model included. `max_answer_bytes` is for the answer with all pictures of a call, as base64. See
    `Vendor` for the others.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        user: str | None = None,
        password: str | None = None,
        flavour: Flavour = "auto",
        checkpoints: Sequence[Checkpoint] = (),
        upscaler: str = "",
        poll_seconds: float = 0.3,
        previews: bool = True,
        timeout_seconds: float = 1800.0,
        connect_timeout_seconds: float = 10.0,
        keepalive_seconds: float = 2.0,
        max_answer_bytes: int = 256 * 1024 * 1024,
    ) -> None:
        self.name = name
        self._keeps_jobs = flavour == "sdnext"
        """Whether the server keeps jobs that can be asked for."""
        self._flavour = flavour
        self._checkpoints = tuple(checkpoints)
        self._upscaler = upscaler
        self._poll_seconds = poll_seconds
        self._previews = previews
        self._max_answer_bytes = max_answer_bytes
        self._secret = Secret(password or "")
        self._has_password = password is not None
        basic = Secret(base64.b64encode(f"{user or ''}:{password or ''}".encode()).decode())
        self._vendor = Vendor(
            name,
            base_url,
            secret=self._secret,
            headers=lambda: {
                "Accept": "application/json",
                **({"Authorization": f"Basic {basic.reveal()}"} if password is not None else {}),
            },
            timeout_seconds=timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
            keepalive_seconds=keepalive_seconds,
        )
        self._lookout = Lookout(self._vendor)
        self._jobs = StoredJobs(
            self._vendor,
            self._secret,
            poll_seconds=poll_seconds,
            timeout_seconds=timeout_seconds,
            max_answer_bytes=max_answer_bytes,
        )
        self._offer = Offer()
        self._ways: _Ways | None = None
        self.models: tuple[Model, ...] = self._models()
        self._turn = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<A1111 {self.name} at {self._vendor.base_url}>"

    async def open(self) -> None:
        """See `Upstream.open`."""
        await self._vendor.open()

    async def close(self) -> None:
        """Close all connections; calls under way fail."""
        await self._vendor.close()

    # --- what is there ---

    async def refresh(self) -> None:
        """See `Upstream.refresh`: asks for checkpoints, samplers, schedulers, styles, LoRAs, upscalers, ControlNet."""
        self._offer = offer_of(await self._listed())
        self._ways = await self._found_ways()
        self.models = self._models()

    async def probe(self) -> Findings:
        """See `Upstream.probe`."""
        try:
            offer, ways = offer_of(await self._listed()), await self._found_ways()
        except UpstreamFault as fault:
            if fault.credential:
                return no_entry(has_password=self._has_password)
            if fault.details.get("status") == 404:
                return no_api()
            raise
        return findings(
            offer, self._checkpoints, self._upscaler, tasks=ways.tasks, jobs=ways.jobs, previews=self._previews
        )

    def _models(self) -> tuple[Model, ...]:
        return models_of(self.name, self._offer, self._checkpoints, self._upscaler, previews=self._previews)

    async def _listed(self) -> dict[str, bytes]:
        found = {}
        for name, path in LISTS.items():
            answer = await self._vendor.ask(Ask("GET", path, seconds=_ASK_SECONDS, most=_MOST_LIST_BYTES))
            if answer.status == 200:
                found[name] = answer.body
            elif path == MODELS_PATH or answer.status == 401:
                raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        return found

    async def _found_ways(self) -> _Ways:
        """Ask how work can be followed. Raises `UpstreamFault`."""
        jobs = self._flavour in ("auto", "sdnext") and await self._has_jobs()
        tasks = not jobs and self._flavour != "sdnext" and await self._lookout.ask_task(NOBODY) is not None
        self._keeps_jobs = jobs or self._flavour == "sdnext"
        return _Ways(tasks=tasks, jobs=jobs)

    async def _has_jobs(self) -> bool:
        ask = Ask("GET", JOBS, query={"limit": "1"}, seconds=_ASK_SECONDS, most=_MOST_LIST_BYTES)
        answer = await self._vendor.ask(ask)
        if answer.status == 401:
            raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name)
        return answer.status == 200 and b'"items"' in answer.body

    # --- calls ---

    async def run(self, order: CallOrder) -> AsyncGenerator[Report, None]:
        """See `Upstream.run`. Cancelling interrupts the work if it is ours that runs, and drops what comes of it."""
        if needs_pixels(order):
            order = await asyncio.to_thread(prepared, order)
        async with self._turn:
            ways = await self._known_ways()
            if ways.jobs and suits_job(order):
                work = self._jobs.run(order, self._follow(order), previews=order.model.previews)
            else:
                work = self._posted(order, ways)
            async with aclosing(work) as reports:
                async for report in reports:
                    yield report

    def can_find(self, handle: str | None) -> bool:
        """See `Upstream.can_find`: SD.Next keeps its jobs; the others keep nothing."""
        return self._keeps_jobs and handle is not None

    async def resume(self, order: CallOrder, handle: str | None) -> AsyncGenerator[Report, None]:
        """See `Upstream.resume`: SD.Next's stored jobs can be found again, nothing else can."""
        if not self._keeps_jobs:
            raise UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", "the server cannot be asked what became of a call")
        if handle is None:
            raise UpstreamFault(Outcome.GONE, "worker_lost", "the work has no id by which the server could find it")
        async with self._turn:
            work = self._jobs.resume(order, handle, self._follow(order), previews=order.model.previews)
            async with aclosing(work) as reports:
                async for report in reports:
                    yield report

    def _follow(self, order: CallOrder) -> Follow:
        return Follow(order.request.steps, approximate=not self._offer.full_previews)

    async def _known_ways(self) -> _Ways:
        if self._ways is None:
            try:
                self._ways = await self._found_ways()
            except UpstreamFault as fault:
                if fault.outcome is Outcome.UNKNOWN:
                    # That was a question; of the work itself nothing went out.
                    fault.outcome, fault.code = Outcome.NOT_SENT, "model_unavailable"
                raise
        return self._ways

    async def _posted(self, order: CallOrder, ways: _Ways) -> AsyncGenerator[Report, None]:
        size = sum(map(len, order.inputs.values()))
        path, body = await aside(size, lambda: to_vendor(order, self._offer, self._upscaler))
        before = None if ways.tasks else await self._lookout.server()
        call = Call(self._lookout, order, path, self._follow(order), by_task=ways.tasks, before=before)
        answering = self._answered(Ask("POST", path, body, most=self._max_answer_bytes), call)
        async with (
            Beside(answering, f"{self.name} call {order.id}") as work,
            Beside(call.poll(self._poll_seconds), f"{self.name} progress of {order.id}"),
        ):
            try:
                while not call.board.is_done:
                    for report in await call.board.take():
                        yield report
                answer = await work.result()
                if answer.status != 200:
                    raise refusal(answer.status, answer.headers, answer.body, self._secret, self.name, order)
            except (GeneratorExit, asyncio.CancelledError, UpstreamFault) as error:
                if call.sent.is_set() and _may_run_on(error):
                    await call.stop()
                raise
        if not answer.is_whole:
            raise unusable(f"the answer has more than {self._max_answer_bytes} bytes", charged=False)
        for image in await aside(len(answer.body), lambda: from_vendor(order, answer.body)):
            yield image

    async def _answered(self, ask: Ask, call: Call) -> Answer:
        try:
            return await self._vendor.ask(ask, call.note_sent)
        finally:
            call.board.close()


def _may_run_on(error: BaseException) -> bool:
    """Whether the server may still be at work for a call that ended so."""
    return not isinstance(error, UpstreamFault) or error.outcome is Outcome.UNKNOWN
