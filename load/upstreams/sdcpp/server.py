"""A stand-in of stable-diffusion.cpp's `sd-server`: its three dialects, its one worker and its faults.

    async with SdCpp(step_seconds=0.002) as standin:
        ...  # send requests to standin.url, then look at standin.calls, standin.log and standin.tally

What is known of the server and what is a guess stands in PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any

from aiohttp import web

from load.upstreams.dying import Chores, break_connections
from load.upstreams.faults import Garbage, Refuse, Rule, ScriptError, rule_from_json
from load.upstreams.sdcpp import answers, reading, routes
from load.upstreams.sdcpp.answers import Headed
from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.connections import Connections
from load.upstreams.sdcpp.jobs import Jobs
from load.upstreams.sdcpp.json_text import BadRequest, NotJson, ServerError
from load.upstreams.sdcpp.model import Model
from load.upstreams.sdcpp.run import Run
from load.upstreams.sdcpp.settings import Settings, Work
from load.upstreams.sdcpp.special import SPECIALS, Special
from load.upstreams.sdcpp.tally import JobTally
from load.upstreams.service_time import ServiceTime
from load.upstreams.standin import Asked, Exchange, StandIn

_NO_VIDEO = "loaded model does not support vid_gen"
_INDEX = Headed(200, (("Content-Type", "text/html"),), b"Stable Diffusion Server is running")
_LOG_LIMIT = 100_000


class SdCpp(StandIn):
    """The double of `http://127.0.0.1:1234`; `url` goes in that address's place.

    `shop` says which model it holds and with which defaults it was started. A picture takes `step_seconds` for each
    of its steps, and the whole request `service_time` besides; both are seconds, a distribution as text or a
    `ServiceTime`. `keep_seconds` is how long an ended job is known. `races` is how often, from 0 to 1, an idle
    worker begins a job before its 202 is written, which then says `generating`. `wall` gives the time of day in
    seconds, for the times and ids of jobs and the end of their keeping. `keepalive_requests` and
    `keepalive_seconds` are how many requests a connection lives and how long it may be idle. `picture_bytes` is the
    least size of a PNG file. `hold` is awaited in place of the time that a drawing takes. The rest is `StandIn`'s.
    """

    def __init__(
        self,
        *,
        shop: Shop | None = None,
        step_seconds: ServiceTime | str | float = 0.001,
        keep_seconds: float = 600.0,
        races: float = 0.0,
        keepalive_requests: int = 100,
        keepalive_seconds: float = 5.0,
        picture_bytes: int = 0,
        wall: Callable[[], float] = time.time,
        hold: Callable[[Work], Awaitable[None]] | None = None,
        **common: Any,
    ) -> None:
        self.settings = Settings(
            wall=wall,
            shop=shop or Shop(),
            step_seconds=step_seconds if isinstance(step_seconds, ServiceTime) else ServiceTime.parse(step_seconds),
            keep_seconds=keep_seconds,
            races=races,
            picture_bytes=picture_bytes,
            hold=hold,
        )
        self._connections = Connections(keepalive_requests, keepalive_seconds)
        self._chores = Chores()
        self._run: Run | None = None
        self.tally: JobTally = JobTally(common.get("log_limit", _LOG_LIMIT))
        super().__init__(tally=self.tally, **common)

    @property
    def shop(self) -> Shop:
        """The model it holds and the defaults it was started with."""
        return self.settings.shop

    @property
    def jobs(self) -> Jobs[Work]:
        """The jobs of this run."""
        return self._now.jobs

    def script(self, *rules: Rule | Mapping[str, object]) -> None:
        read = [rule if isinstance(rule, Rule) else rule_from_json(rule) for rule in rules]
        for rule in read:
            if isinstance(rule.do, Special) and rule.do.name not in SPECIALS:
                raise ScriptError(f"a special is one of {', '.join(sorted(SPECIALS))}, not {rule.do.name}")
        super().script(*read)

    # Running, dying and coming back

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._chores.stop()
        await super().__aexit__(kind, error, trace)
        self._connections.forget()

    async def kill(self) -> None:
        """Die at once: drop every connection where it stands and forget all jobs; `restart` brings it back."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self._port = runner.addresses[0][1]
        await break_connections(runner)
        self._connections.forget()
        await self._chores.stop()
        await runner.cleanup()
        self.forget()

    async def restart(self) -> None:
        """Listen on the same port again, knowing no job; raises `OSError` if somebody else took the port."""
        await super().__aenter__()

    def forget(self) -> None:
        # The count goes on: ids hold the second, and a restart within it must not give a forgotten job's id to another.
        made = 0 if self._run is None else self._run.jobs.made
        if self._run is not None:
            self._run.abandon()
        self._seeds = self.chance("seeds")
        model = Model(self, self.settings, self.tally, self.chance("steps"), self._crash_soon)
        self._run = Run(self.settings, model, self.tally, self._chores, self.chance("races"), made=made)

    @property
    def _now(self) -> Run:
        assert self._run is not None, "the constructor begins a run"
        return self._run

    def _crash_soon(self, restart_after: float | None) -> None:
        self._chores.start(self._crash(restart_after), "sdcpp crash")

    async def _crash(self, restart_after: float | None) -> None:
        await self.kill()
        if restart_after is not None:
            await asyncio.sleep(restart_after)
            await self.restart()

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        self._connections.arrived(request)
        operation = routes.operation_of(request.method, request.path)
        return Asked(operation, operation in routes.GENERATIONS, client=request.headers.get("User-Agent"))

    async def answer(self, exchange: Exchange) -> Headed:
        answer = await self._answer(exchange)
        if isinstance(exchange.fault, Garbage):
            answer = answers.spoilt(answer, exchange.fault)
        return self._connections.answered(exchange.request, answer)

    async def _answer(self, exchange: Exchange) -> Headed:
        fault, asked = exchange.fault, exchange.asked
        if asked.generation and not (isinstance(fault, Refuse) and not exchange.begun(fault.status)):
            answer = await self._generate(exchange)
            return answers.refused(fault) if isinstance(fault, Refuse) and answer.status < 400 else answer
        await self.pace(exchange, begun=False)
        return answers.refused(fault) if isinstance(fault, Refuse) else self._read(exchange)

    def _read(self, exchange: Exchange) -> Headed:
        path = exchange.request.path
        match exchange.asked.operation:
            case "preflight":
                return answers.empty(204)
            case "index":
                return _INDEX
            case "job" | "cancel" as operation:
                return self._now.tell(routes.job_id(path), cancel=operation == "cancel")
            case "vid_gen":
                return answers.error(400, _NO_VIDEO if exchange.body else "empty body")
            case "unknown":
                return answers.empty(404)
        return answers.json_told(200, routes.LISTINGS[exchange.asked.operation](self.shop))

    async def _generate(self, exchange: Exchange) -> Headed:
        operation = exchange.asked.operation
        try:
            given, order = await reading.read(exchange, self.shop, self._seeds)
        except (NotJson, BadRequest, ServerError) as error:
            return reading.refusal(error, operation)
        work = Work(order, exchange)
        return self._now.accept(work) if operation == "img_gen" else await self._now.draw_now(work, given)
