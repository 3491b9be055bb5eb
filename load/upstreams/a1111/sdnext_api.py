"""SD.Next's second API over HTTP: submitting jobs, doing them in their turn, and asking for what became of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from aiohttp import web

from load.upstreams.a1111 import answers, fields, images, orders, routes
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.drawing import Drawing
from load.upstreams.a1111.engine import Engine
from load.upstreams.a1111.enlarging import Enlarging
from load.upstreams.a1111.errors import Invalid, Json, Problem, Raised, scripted
from load.upstreams.a1111.sdnext_jobs import File, JobQueue, StoredJob
from load.upstreams.a1111.setup import Draws, Setup
from load.upstreams.faults import Refuse
from load.upstreams.standin import Exchange, StandIn

_REMEMBERED_REQUESTS = 200


@dataclass(slots=True)
class Disk:
    """What outlives the server: its jobs, and the requests that brought those which wait."""

    jobs: dict[str, StoredJob] = field(default_factory=dict)
    submitted: dict[str, Exchange] = field(default_factory=dict)


class JobsApi:
    """The jobs of one run of the server."""

    def __init__(
        self, standin: StandIn, setup: Setup, engine: Engine, draws: Draws, drawing: Drawing, enlarging: Enlarging
    ) -> None:
        self._standin, self._engine, self._drawing, self._enlarging = standin, engine, drawing, enlarging
        self._submitted: dict[str, Exchange] = {}
        self.queue = JobQueue(
            engine.state,
            engine.options,
            self._execute,
            draws.ids,
            poll_seconds=setup.poll_seconds,
            older=setup.older,
        )

    def restarted(self, disk: Disk) -> None:
        """Take up what the last run left."""
        self._submitted, self.queue.jobs = disk.submitted, disk.jobs
        self.queue.restarted()

    def submit(self, exchange: Exchange, body: object) -> UvicornAnswer:
        """Store a job; raises what refuses it."""
        fault = exchange.fault
        params = dict(fields.as_object(body))
        job = self.queue.submit(params)
        self._submitted[job.id] = exchange
        if len(self._submitted) > _REMEMBERED_REQUESTS:
            # Those cancelled before their turn are never asked for.
            del self._submitted[next(iter(self._submitted))]
        if isinstance(fault, Refuse):
            raise scripted(fault)
        return answers.answer(202, answers.to_json(job.as_json()))

    def answer(self, exchange: Exchange) -> UvicornAnswer:
        """The answer to a request for a path of stored jobs."""
        request = exchange.request
        parts = routes.job_path(request.path)
        match exchange.asked.operation:
            case "jobs/get":
                made: object = self.queue.get(parts["id"]).as_json()
            case "jobs/cancel":
                made = self.queue.cancel(parts["id"])
            case "jobs/file":
                file = self.queue.file(parts["id"], parts["index"], parts["key"])
                return answers.answer(200, file.data, f"image/{images.FORMATS[file.kind].lower()}")
            case _:
                limit, offset = _whole(request, "limit", 20, 1, 100), _whole(request, "offset", 0, 0)
                made = self.queue.page(request.query.get("status"), request.query.get("type"), limit, offset)
        return answers.answer(200, answers.to_json(made))

    async def _execute(self, stored: StoredJob, check: Callable[[], None]) -> None:
        """Do a stored job's work; raises what it raises."""
        exchange = self._submitted.pop(stored.id, None)
        match stored.type:
            case "generate":
                await self._generate(stored, exchange, check)
            case "upscale":
                await self._upscale(stored, check)
            case "caption" | "enhance" | "detect" | "preprocess":
                stored.info = _words(stored)
            case _:
                raise Raised("NotImplementedError", f"the stand-in makes no {stored.type}")

    async def _generate(self, stored: StoredJob, exchange: Exchange | None, check: Callable[[], None]) -> None:
        try:
            asked = fields.read(fields.JOB, stored.params)
        except Invalid as error:
            raise Raised("ValidationError", str(error)) from error
        operation, values = orders.job_values(asked)
        sampler = orders.known_sampler(asked["sampler_name"])
        work = self._drawing.generation(operation, orders.with_sampler(self._drawing.order(values), sampler))
        job = self._drawing.job(exchange, work)
        job.name = "API-V2"

        async def prepare() -> None:
            check()
            await work.prepare()

        await self._engine.run(job, prepare)
        files, _ = await asyncio.to_thread(work.files, job)
        kind = self._engine.options["samples_format"]
        stored.files = [File(data, *work.order.size, kind) for data in files]

    async def _upscale(self, stored: StoredJob, check: Callable[[], None]) -> None:
        picture = await asyncio.to_thread(images.decode, stored.params.get("image", ""))
        factor = stored.params.get("scale", 2.0)
        order = images.Upscale(picture, str(stored.params.get("upscaler", "None")), float(factor))

        async def work() -> None:
            check()
            await asyncio.sleep(self._standin.drawn_seconds())
            stored.files = [await self._enlarging.file(order)]

        await self._engine.alone(work, "API-V2-UP")


def _whole(request: web.BaseRequest, name: str, default: int, low: int, high: int | None = None) -> int:
    text = request.query.get(name, str(default))
    if text.isdecimal() and int(text) >= low and (high is None or int(text) <= high):
        return int(text)
    message = "Input should be a valid integer, unable to parse string as an integer"
    raise Invalid([Problem("int_parsing", ("query", name), message, text)])


def _words(stored: StoredJob) -> Json:
    match stored.type:
        case "caption":
            return {"caption": "a picture"}
        case "enhance":
            return {"prompt": stored.params.get("prompt", ""), "seed": stored.params.get("seed", -1)}
        case "detect":
            return {"detections": []}
    return {}
