"""A stand-in of stable-diffusion.cpp's `sd-server`: its three dialects, its one worker and its faults.

    async with SdCpp(step_seconds=0.002) as standin:
        ...  # send requests to standin.url, then look at standin.calls, standin.log and standin.tally

What is known of the server and what is a guess stands in PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import pybase64
from aiohttp import web

from load.upstreams.faults import Garbage, Refuse, Rule, ScriptError, rule_from_json
from load.upstreams.forms import FormError, parse_form
from load.upstreams.sdcpp import answers, catalogue, dialects, painting
from load.upstreams.sdcpp.answers import Headed
from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.connections import Connections
from load.upstreams.sdcpp.jobs import Expired, Generating, Job, Jobs, QueueFull, Unknown
from load.upstreams.sdcpp.json_text import BadRequest, NotJson, ServerError, parse
from load.upstreams.sdcpp.orders import Order, read_native, unknown_fields
from load.upstreams.sdcpp.special import Special
from load.upstreams.sdcpp.tally import JobTally
from load.upstreams.service_time import ServiceTime
from load.upstreams.standin import Asked, Exchange, StandIn

SPECIALS = frozenset({"fail", "out_of_memory", "stick", "expire", "crash"})
NO_RESULTS = "generate_image returned no results"
_NO_VIDEO = "loaded model does not support vid_gen"
_JOB_PATH = re.compile(r"/sdcpp/v1/jobs/([A-Za-z0-9_\-]+)(/cancel)?")
_POSTS = {
    "/sdcpp/v1/img_gen": "img_gen",
    "/sdcpp/v1/vid_gen": "vid_gen",
    "/sdapi/v1/txt2img": "txt2img",
    "/sdapi/v1/img2img": "img2img",
    "/v1/images/generations": "generations",
    "/v1/images/edits": "edits",
}
GENERATIONS = frozenset(_POSTS.values()) - {"vid_gen"}
_READS: dict[str, tuple[str, Callable[[Shop], object]]] = {
    "/sdcpp/v1/capabilities": ("capabilities", catalogue.capabilities),
    "/v1/models": ("models", lambda _: catalogue.openai_models()),
    "/sdapi/v1/options": ("options", catalogue.webui_options),
    "/sdapi/v1/samplers": ("samplers", lambda _: catalogue.webui_samplers()),
    "/sdapi/v1/schedulers": ("schedulers", lambda _: catalogue.webui_schedulers()),
    "/sdapi/v1/sd-models": ("sd-models", catalogue.webui_models),
    "/sdapi/v1/loras": ("loras", catalogue.loras),
    "/sdapi/v1/upscalers": ("upscalers", lambda _: catalogue.webui_upscalers()),
    "/sdapi/v1/latent-upscale-modes": ("latent-upscale-modes", lambda _: catalogue.webui_latent_modes()),
}
_INDEX = Headed(200, (("Content-Type", "text/html"),), b"Stable Diffusion Server is running")
_LONGEST_LOGGED_TEXT = 1000
_DEEPEST_LOGGED = 12
_THREAD_FROM_BYTES = 32 * 1024
_LOG_LIMIT = 100_000


class Failed(Exception):
    """The model made no picture."""


@dataclass(frozen=True, slots=True)
class Work:
    """An order and the request it came with, whose rule governs its making."""

    order: Order
    exchange: Exchange

    @property
    def special_seconds(self) -> float | None:
        fault = self.exchange.fault
        return fault.seconds if isinstance(fault, Special) else None

    @property
    def special_message(self) -> str | None:
        fault = self.exchange.fault
        return fault.message if isinstance(fault, Special) else None

    def happens(self, *names: str) -> bool:
        """Whether the script asks for one of these."""
        fault = self.exchange.fault
        return isinstance(fault, Special) and fault.name in names


@dataclass(slots=True)
class Run:
    """What one run of the server holds in memory; a new one knows nothing of the last."""

    jobs: Jobs[Work]
    model: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the model draws: one picture order at a time, whatever the dialect."""
    working: bool = False
    """Whether the worker has a job, if only one that waits for the model."""


class SdCpp(StandIn):
    """The double of `http://127.0.0.1:1234`; `url` goes in that address's place.

    `shop` says which model it holds and with which defaults it was started. A picture takes `step_seconds` for each
    of its steps, and the whole request `service_time` besides; both are seconds, a distribution as text or a
    `ServiceTime`. `keep_seconds` is how long an ended job is known. `races` is how often, from 0 to 1, an idle
    worker begins a job before its 202 is written, which then says `generating`. `wall` gives the time of day in
    seconds, for the times and ids of jobs and the end of their keeping. `keepalive_requests` and
    `keepalive_seconds` are how many requests a connection lives and how long it may be idle. `picture_bytes` is the
    least size of a PNG file. The rest is `StandIn`'s.
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
        **common: Any,
    ) -> None:
        self.shop = shop or Shop()
        self._step = step_seconds if isinstance(step_seconds, ServiceTime) else ServiceTime.parse(step_seconds)
        self._keep_seconds, self._races, self._picture_bytes, self._wall = keep_seconds, races, picture_bytes, wall
        self._connections = Connections(keepalive_requests, keepalive_seconds)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._run = Run(Jobs(max_pending=0, keep_seconds=0))
        super().__init__(**common)
        self.tally: JobTally = JobTally(common.get("log_limit", _LOG_LIMIT))

    @property
    def jobs(self) -> Jobs[Work]:
        """The jobs of this run."""
        return self._run.jobs

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
        await self._stop_tasks()
        await super().__aexit__(kind, error, trace)
        self._connections.forget()

    async def kill(self) -> None:
        """Die at once: drop every connection where it stands and forget all jobs; `restart` brings it back."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        self._port = runner.addresses[0][1]
        for site in list(runner.sites):
            await site.stop()
        for connection in runner.server.connections if runner.server is not None else ():
            if connection.transport is not None:
                connection.transport.abort()
        self._connections.forget()
        await self._stop_tasks()
        await runner.cleanup()
        self.forget()

    async def restart(self) -> None:
        """Listen on the same port again, knowing no job; raises `OSError` if somebody else took the port."""
        await super().__aenter__()

    def forget(self) -> None:
        # What is being drawn goes on, in a run that nobody asks any more. The count goes on too: ids hold the second,
        # and a restart within it must not give a forgotten job's id to another.
        made = self._run.jobs.made
        self._run = Run(Jobs(max_pending=self.shop.max_pending, keep_seconds=self._keep_seconds, made=made))
        self._seeds, self._steps, self._race_chance = self.chance("seeds"), self.chance("steps"), self.chance("races")

    async def _stop_tasks(self) -> None:
        # A crash is one of the tasks, and must not stop itself.
        others = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # A client that left does not look at its failure; looked at here, it is not reported as forgotten.
            task.exception()

    async def _crash(self, restart_after: float | None) -> None:
        await self.kill()
        if restart_after is not None:
            await asyncio.sleep(restart_after)
            await self.restart()

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        self._connections.arrived(request)
        operation = _operation(request.method, request.path)
        return Asked(operation, operation in GENERATIONS, client=request.headers.get("User-Agent"))

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
                return self._job(path, cancel=operation == "cancel")
            case "vid_gen":
                return answers.error(400, _NO_VIDEO if exchange.body else "empty body")
            case "unknown":
                return answers.empty(404)
        return answers.json_told(200, _READS[path][1](self.shop))

    def _job(self, path: str, *, cancel: bool) -> Headed:
        match = _JOB_PATH.fullmatch(path)
        assert match is not None, "the route has matched the path"
        try:
            if cancel:
                job, did = self.jobs.cancel(match[1], self._wall())
                self.tally.cancelled += did
            else:
                job = self.jobs.find(match[1], self._wall())
        except Generating:
            return answers.error(409, "job is currently generating and cannot be interrupted yet")
        except Expired:
            return answers.error(410, "job expired")
        except Unknown:
            return answers.error(404, "job not found")
        return answers.told(200, job.told(self.jobs.position(job)))

    async def _generate(self, exchange: Exchange) -> Headed:
        try:
            given, order = await self._order(exchange)
        except NotJson as error:
            # Only the native dialect tells bad JSON from its own mishaps.
            if exchange.asked.operation == "img_gen":
                return answers.error(400, "invalid json", str(error))
            return answers.error(500, "server_error", str(error))
        except BadRequest as error:
            # An upload form that cannot be parsed is refused below the routes, without a text.
            return answers.error(400, str(error)) if str(error) else answers.empty(400)
        except ServerError as error:
            return answers.error(500, "server_error", str(error))
        work = Work(order, exchange)
        return self._accept(work) if exchange.asked.operation == "img_gen" else await self._draw_now(work, given)

    async def _order(self, exchange: Exchange) -> tuple[object, Order]:
        """What the request says, and what the server makes of it."""
        operation, body = exchange.asked.operation, exchange.body
        if operation == "edits":
            content_type = exchange.request.headers.get("Content-Type", "")
            exchange.call.fields = _form_fields(content_type, body)
            edit = functools.partial(dialects.read_edit, content_type, body, self.shop, self._seeds)
            return None, await _aside(body, edit)
        if not body:
            raise BadRequest("empty body")
        given = parse(body)
        exchange.call.fields = _abridged(given) if isinstance(given, dict) else {}
        if operation == "img_gen":
            exchange.call.unknown_fields = unknown_fields(given)
        return given, await _aside(body, functools.partial(_READERS[operation], given, self.shop, self._seeds))

    # Drawing

    def _accept(self, work: Work) -> Headed:
        try:
            job = self.jobs.add(work, work.order.format, self._wall())
        except QueueFull:
            work.exchange.call.limited = True
            return answers.error(429, "job queue is full")
        self.tally.accepted += 1
        if self._races and self._race_chance.random() < self._races:
            self._begin_next(self._run)
        answer = answers.json_told(202, job.accepted())
        self._begin_next(self._run)
        return answer

    def _begin_next(self, run: Run) -> None:
        """Set the one worker to work unless it is."""
        if not run.working and run.jobs.waiting:
            run.working = True
            self._spawn(self._work_on(run.jobs.take(self._wall()), run), "sdcpp job")

    async def _work_on(self, job: Job[Work], run: Run) -> None:
        work = job.work
        assert work is not None, "a job keeps its work until it ends"
        try:
            images = await self._draw(work, run)
            if work.happens("expire"):
                job.keep_seconds = work.special_seconds or 0.0
            run.jobs.complete(job, images, self._wall())
        except Failed as error:
            run.jobs.fail(job, str(error), self._wall())
        run.working = False
        if run is self._run:
            self._begin_next(run)

    async def _draw_now(self, work: Work, given: object) -> Headed:
        operation = work.exchange.asked.operation
        # In a task of its own and shielded: the server does not notice that a client leaves.
        task = self._spawn(self._draw(work, self._run), f"sdcpp {operation}")
        try:
            images: list[str] = await asyncio.shield(task)
        except Failed as error:
            return answers.error(500, str(error))
        if operation in ("generations", "edits"):
            return answers.told(200, dialects.openai_body(work.order, images, self._wall()))
        img2img = operation == "img2img"
        return answers.told(200, dialects.webui_body(work.order, self.shop, images, given, img2img=img2img))

    async def _draw(self, work: Work, run: Run) -> list[str]:
        """The pictures as base64, made while the model does nothing else; raises `Failed`."""
        async with run.model:
            self.bill(work.exchange, 200, work.order.batch)
            await self._take_time(work)
            if work.happens("fail", "out_of_memory") or self._too_large(work.order):
                self.tally.failed += 1
                raise Failed(work.special_message or NO_RESULTS)
            paint = functools.partial(painting.paint, work.order, self.shop, self._picture_bytes)
            files = paint() if painting.is_plain(work.order) else await asyncio.to_thread(paint)
        self.tally.completed += 1
        fault = work.exchange.fault
        spoilt = answers.spoilt_picture(fault) if isinstance(fault, Garbage) else None
        return [spoilt or pybase64.b64encode(file).decode() for file in files]

    async def _take_time(self, work: Work) -> None:
        if work.happens("crash"):
            await asyncio.sleep(work.exchange.rule.service_seconds or 0.0)
            self._spawn(self._crash(work.special_seconds), "sdcpp crash")
            # The crash ends this task.
            await asyncio.Event().wait()
        await asyncio.sleep(self._duration(work))
        if work.happens("stick"):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(work.special_seconds):
                    await asyncio.Event().wait()

    def _duration(self, work: Work) -> float:
        if (scripted := work.exchange.rule.service_seconds) is not None:
            return scripted
        if work.happens("out_of_memory") or self._too_large(work.order):
            # Memory is asked for before the first step.
            return 0.0
        steps = work.order.steps * work.order.batch
        return self._service.draw(self._service_chance) + sum(self._step.draw(self._steps) for _ in range(steps))

    def _too_large(self, order: Order) -> bool:
        width, height = order.final_size(self.shop)
        return width * height > self.shop.max_pixels


_READERS: dict[str, Callable[..., Order]] = {
    "img_gen": read_native,
    "txt2img": functools.partial(dialects.read_webui, img2img=False),
    "img2img": functools.partial(dialects.read_webui, img2img=True),
    "generations": dialects.read_generation,
}


async def _aside(body: bytes, read: Callable[[], Order]) -> Order:
    # Decoding an upload takes milliseconds, which other requests need not wait for.
    return read() if len(body) < _THREAD_FROM_BYTES else await asyncio.to_thread(read)


def _operation(method: str, path: str) -> str:
    if method == "OPTIONS":
        return "preflight"
    if method == "POST" and path in _POSTS:
        return _POSTS[path]
    job = _JOB_PATH.fullmatch(path)
    if job is not None and method == ("POST" if job[2] else "GET"):
        return "cancel" if job[2] else "job"
    if method == "GET" and path == "/":
        return "index"
    return _READS[path][0] if method == "GET" and path in _READS else "unknown"


def _form_fields(content_type: str, body: bytes) -> dict[str, object]:
    try:
        parts = parse_form(content_type, body)
    except FormError:
        return {}
    fields: dict[str, list[object]] = {}
    for part in parts:
        value = part.data.decode("utf-8", "replace") if part.filename is None else _digest(part.data, "bytes")
        fields.setdefault(part.name, []).append(_abridged(value))
    return {name: values[0] if len(values) == 1 else values for name, values in fields.items()}


def _abridged(value: Any, levels: int = _DEEPEST_LOGGED) -> Any:
    """The value with each long text replaced by its length and digest: the log is kept whole."""
    if isinstance(value, dict | list) and not levels:
        return "..."
    if isinstance(value, dict):
        return {name: _abridged(item, levels - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_abridged(item, levels - 1) for item in value]
    if isinstance(value, str) and len(value) > _LONGEST_LOGGED_TEXT:
        return _digest(value.encode("utf-8", "surrogatepass"), "characters")
    return value


def _digest(data: bytes, unit: str) -> str:
    return f"<{len(data)} {unit}, sha256 {hashlib.sha256(data).hexdigest()}>"
