"""The stand-in of the WebUI family: AUTOMATIC1111, Forge and SD.Next.

    async with A1111(web=True, service_time=0.005) as standin:
        ...  # send requests to standin.url, then look at standin.log, standin.requests and standin.jobs

`service_time` is the time of one sampling step. What is known of the servers and what is a guess stands in
PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from load.upstreams.a1111 import answers, listings
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.drawing import Drawing
from load.upstreams.a1111.engine import Engine, Job
from load.upstreams.a1111.enlarging import Enlarging
from load.upstreams.a1111.errors import Flavour, Invalid, Raised, Refused
from load.upstreams.a1111.faults import Crash
from load.upstreams.a1111.front import Front
from load.upstreams.a1111.options import default_options
from load.upstreams.a1111.reads import Reads
from load.upstreams.a1111.sdnext_api import Disk, JobsApi
from load.upstreams.a1111.sdnext_jobs import JobQueue
from load.upstreams.a1111.sdnext_ws import Tickets, Watcher
from load.upstreams.a1111.setup import Draws, Setup
from load.upstreams.a1111.state import State, Tasks
from load.upstreams.dying import Chores, break_connections
from load.upstreams.faults import Garbage
from load.upstreams.standin import Asked, Exchange, StandIn
from load.upstreams.tally import Call
from load.upstreams.window import Verdict
from load.upstreams.wire import Answer

STEP_SECONDS = 0.002
_REMEMBERED_REQUESTS = 200


@dataclass(frozen=True, slots=True)
class Received:
    """A request as it came: its record, and its JSON body if it had one."""

    call: Call
    json: Any


class A1111(StandIn):
    """The double of a server of the WebUI family; `url` goes in the place of `http://127.0.0.1:7860`.

    `flavour` is "forge", "a1111" (before its version 1.9) or "sdnext". `web` adds the web page's own paths,
    `/internal/progress` above all. `auth` is "user:password", several parted by commas. `previews` switches
    live previews; requests can switch them back by the option. `frozen_progress` keeps progress at its start
    while a job runs, as some builds do. `models`, `loras` and `upscalers` are what is installed.
    `answer_delay` is the time between a job's end, when progress falls to 0, and its answer. `older` and
    `no_content` are variants of SD.Next: the form of its word on a cancelled job, and 204 in place of an
    empty JSON answer. `foreign_steps` starts somebody else's job of so many steps with the server.
    `service_time` is the time of one step; the rest is `StandIn`'s.
    """

    def __init__(
        self,
        *,
        flavour: Flavour = "forge",
        web: bool = False,
        auth: str | None = None,
        previews: bool = True,
        frozen_progress: bool = False,
        models: Collection[str] = ("tiny.safetensors", "other.safetensors"),
        loras: Collection[str] = ("sketch",),
        upscalers: Collection[str] = listings.UPSCALERS,
        picture_bytes: int = 0,
        answer_delay: float = 0.0,
        older: bool = False,
        no_content: bool = False,
        poll_seconds: float = 0.1,
        ping_seconds: float = 30.0,
        foreign_steps: int = 0,
        **common: Any,
    ) -> None:
        self.setup = Setup(
            flavour=flavour,
            models=tuple(models),
            loras=tuple(loras),
            upscalers=tuple(upscalers),
            web=web,
            users=dict(pair.split(":", 1) for pair in auth.split(",")) if auth else {},
            frozen_progress=frozen_progress,
            picture_bytes=picture_bytes,
            answer_delay=answer_delay,
            older=older,
            no_content=no_content,
            poll_seconds=poll_seconds,
            ping_seconds=ping_seconds,
        )
        self.options = default_options(flavour, models, previews=previews)
        self.requests: deque[Received] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._foreign_steps = foreign_steps
        self._front = Front(self.setup)
        self._address = ""
        self._work, self._crashes = Chores(), Chores()
        self._draws, self._disk = Draws(), Disk()
        super().__init__(**{"service_time": STEP_SECONDS, **common})
        self._boot()

    # What a test uses

    @property
    def url(self) -> str:
        """The address, which stays the same while the server is down between `kill` and `restart`."""
        return self._address if self._runner is None and self._address else super().url

    @property
    def jobs(self) -> list[Job]:
        """The latest jobs in the order they came, with how each ended; foreign ones too."""
        return list(self.engine.jobs)

    @property
    def state(self) -> State:
        """What progress is told from."""
        return self.engine.state

    @property
    def queue(self) -> JobQueue:
        """SD.Next's stored jobs."""
        return self._stored.queue

    def hold(self, job_no: int = 0, step: int = 0, job: int = 0) -> None:
        """Let the sampler stop once its state shows this place; `release` lets it go on.

        `job` counts from 1 since the start: jobs before that one run freely, jobs after it stop at their
        beginning. 0 holds every job at the place.
        """
        self.engine.gate.hold(job_no, step, job)

    async def held(self) -> None:
        """Wait until the sampler stands where `hold` said."""
        await self.engine.gate.reached()

    def release(self) -> None:
        """Let the sampler go on after `hold`."""
        self.engine.gate.release()

    def foreign_job(
        self, steps: int = 20, *, passes: int = 1, step_seconds: float | None = None, task: str = "task(somebody)"
    ) -> Job:
        """Start somebody else's job: it waits for the lock as any, and is neither billed nor answered."""
        job = self._drawing.foreign_job(steps, passes=passes, step_seconds=step_seconds, task=task)
        self._work.start(self.engine.run(job))
        return job

    async def kill(self) -> None:
        """Die at once: connections break without a word, what was in memory is gone, stored jobs stay."""
        runner, self._address = self._runner, self.url
        if runner is None:
            return
        self._port = int(self._address.rpartition(":")[2])
        await break_connections(runner)
        await self._work.stop()
        self._runner = None
        await runner.cleanup()

    async def restart(self) -> None:
        """Listen on the same port again, with nothing in memory."""
        self._boot()
        await self.__aenter__()

    # Life

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        self._address = super().url
        if self.setup.flavour == "sdnext":
            self._work.start(self.queue.work())
        if self._foreign_steps:
            self.foreign_job(self._foreign_steps)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._crashes.stop()
        await super().__aexit__(kind, error, trace)
        await self._work.stop()

    def forget(self) -> None:
        self._draws.seeds, self._draws.ids = self.chance("seeds"), self.chance("ids")
        self.requests.clear()

    def _boot(self) -> None:
        """Everything that lives in memory, as at the start of the process."""
        setup, draws = self.setup, self._draws
        state = State(setup.flavour)
        self.engine = Engine(state, Tasks(), self.options, frozen_progress=setup.frozen_progress)
        self.engine.on_crash = self._crash_soon
        self._tickets = Tickets()
        self._reads = Reads(setup, self.engine, self._tickets, self._port)
        self._drawing = Drawing(self, setup, self.engine, draws)
        self._enlarging = Enlarging(self, setup, self.engine)
        self._stored = JobsApi(self, setup, self.engine, draws, self._drawing, self._enlarging)
        self._stored.restarted(self._disk)

    def _crash_soon(self, fault: Crash) -> None:
        self._crashes.start(self._crash(fault))

    async def _crash(self, fault: Crash) -> None:
        await self.kill()
        if fault.down_seconds is not None:
            await asyncio.sleep(fault.down_seconds)
            await self.restart()

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        return self._front.asked(request)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.route(request).operation == "jobs/ws":
            return await self._watch(request)
        return await super()._handle(request)

    async def answer(self, exchange: Exchange) -> Answer:
        try:
            body = self._front.body(exchange)
            self.requests.append(Received(exchange.call, body))
            self._front.authorize(exchange)
            made = await self._answer(exchange, body)
        except (Invalid, Refused, Raised) as error:
            made = self._front.error(error)
        if not exchange.asked.generation:
            await self.pace(exchange, begun=False)
        if isinstance(exchange.fault, Garbage) and made.status < 300:
            made = answers.spoilt(made, exchange.fault)
        return await self._front.dressed(exchange, made)

    async def _answer(self, exchange: Exchange, body: object) -> UvicornAnswer:
        operation = exchange.asked.operation
        match operation:
            case "txt2img" | "img2img":
                work = self._drawing.answer(exchange, body)
            case "extra-single-image":
                work = self._enlarging.answer(exchange, body)
            case "jobs":
                return self._stored.submit(exchange, body)
            case _ if operation.startswith("jobs/"):
                return self._stored.answer(exchange)
            case _:
                return self._reads.answer(exchange, body)
        # Shielded: the client's leaving stops no work here.
        made: UvicornAnswer = await asyncio.shield(self._work.start(work))
        return made

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        exchange = self._exchange(request, b"", self.route(request), Verdict(True), self.clock())
        call = exchange.call
        self.tally.begin(call)
        try:
            watcher = Watcher(request, self.queue, self.state, ping_seconds=self.setup.ping_seconds)
            may = not self.setup.users or self._tickets.take(request.query.get("ticket"))
            sent = await watcher.run(exchange.fault, may=may, closing=self._closing)
            call.status, call.outcome = watcher.status, watcher.outcome
            return sent
        except (ConnectionError, asyncio.CancelledError):
            call.outcome = "dropped"
            raise
        finally:
            self.tally.end(call, self.clock())
