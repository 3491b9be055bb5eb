"""The stand-in of the WebUI family: AUTOMATIC1111, Forge and SD.Next.

    async with A1111(web=True, service_time=0.005) as standin:
        ...  # send requests to standin.url, then look at standin.log, standin.requests and standin.jobs

`service_time` is the time of one sampling step. What is known of the servers and what is a guess stands in
PROVENANCE.md.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web

from load.upstreams.a1111 import answers, controlnet, fields, images, listings, orders, routes
from load.upstreams.a1111.answers import UvicornAnswer
from load.upstreams.a1111.engine import Engine, Job
from load.upstreams.a1111.errors import Flavour, Invalid, Json, Problem, Raised, Refused, told
from load.upstreams.a1111.faults import Crash
from load.upstreams.a1111.generation import Generation, set_options
from load.upstreams.a1111.options import default_options
from load.upstreams.a1111.sdnext_jobs import File, JobQueue, StoredJob
from load.upstreams.a1111.sdnext_ws import Tickets, Watcher
from load.upstreams.a1111.state import State, Tasks
from load.upstreams.faults import Garbage, Refuse, VendorFault
from load.upstreams.standin import Asked, Exchange, StandIn
from load.upstreams.tally import Call
from load.upstreams.window import Verdict
from load.upstreams.wire import Answer

STEP_SECONDS = 0.002
FOREIGN_COLOUR = (255, 0, 255)
"""What previews of somebody else's job are painted in."""
_REMEMBERED_REQUESTS = 200
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_GZIP_IN_THREAD = 64 * 1024
_GZIP_FROM = {"forge": 1000, "a1111": 1000, "sdnext": 2048}
_V1_JOB = {
    "forge": {"txt2img": "scripts_txt2img", "img2img": "scripts_img2img"},
    "a1111": {"txt2img": "scripts_txt2img", "img2img": "scripts_img2img"},
    "sdnext": {"txt2img": "API-TXT", "img2img": "API-IMG"},
}
_NO_ANSWER = {"skip", "refresh-checkpoints", "refresh-loras"}


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
        self.flavour: Flavour = flavour
        self.options = default_options(flavour, models, previews=previews)
        self.requests: deque[Received] = deque(maxlen=_REMEMBERED_REQUESTS)
        self._web, self._older, self._no_content = web, older, no_content
        self._users = dict(pair.split(":", 1) for pair in auth.split(",")) if auth else {}
        self._models, self._loras, self._upscalers = tuple(models), tuple(loras), tuple(upscalers)
        self._picture_bytes, self._answer_delay = picture_bytes, answer_delay
        self._poll_seconds, self._ping_seconds = poll_seconds, ping_seconds
        self._frozen, self._foreign_steps = frozen_progress, foreign_steps
        self._routes = routes.table(flavour, web=web)
        self._address = ""
        self._work: set[asyncio.Task[Any]] = set()
        self._crashes: set[asyncio.Task[None]] = set()
        self._tickets = Tickets()
        self._stored: dict[str, StoredJob] = {}
        self._submitted: dict[str, Exchange] = {}
        super().__init__(**{"service_time": STEP_SECONDS, **common})
        self._boot()

    # What a test uses

    @property
    def url(self) -> str:
        """The address, which stays the same while the server is down between `kill` and `restart`."""
        return super().url if self._runner is not None else self._known_address()

    @property
    def jobs(self) -> list[Job]:
        """The latest jobs in the order they came, with how each ended; foreign ones too."""
        return list(self.engine.jobs)

    @property
    def state(self) -> State:
        """What progress is told from."""
        return self.engine.state

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
        job = Job(
            name=task,
            task=task,
            steps=steps,
            passes=passes,
            preview=(64, 64),
            colour=lambda _number, done: images.on_the_way(FOREIGN_COLOUR, done),
            step_seconds=self._step if step_seconds is None else lambda: step_seconds,
            foreign=True,
        )
        self._spawn(self.engine.run(job))
        return job

    async def kill(self) -> None:
        """Die at once: connections break without a word, what was in memory is gone, stored jobs stay."""
        runner, self._address = self._runner, self.url
        if runner is None:
            return
        self._port = int(self._address.rpartition(":")[2])
        for connection in list(getattr(runner.server, "connections", ())):
            if connection.transport is not None:
                connection.transport.abort()
        await self._stop_work()
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
        if self.flavour == "sdnext":
            self._spawn(self.queue.work())
        if self._foreign_steps:
            self.foreign_job(self._foreign_steps)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._crashes:
            task.cancel()
        await asyncio.gather(*self._crashes, return_exceptions=True)
        await super().__aexit__(kind, error, trace)
        await self._stop_work()

    def forget(self) -> None:
        self._seeds, self._ids = self.chance("seeds"), self.chance("ids")
        self.requests.clear()

    def _boot(self) -> None:
        """Everything that lives in memory, as at the start of the process."""
        state = State(self.flavour)
        self.engine = Engine(state, Tasks(), self.options, frozen_progress=self._frozen)
        self.engine.on_crash = self._crash
        self._tickets = Tickets()
        self.queue = JobQueue(
            state, self.options, self._execute, self._ids, poll_seconds=self._poll_seconds, older=self._older
        )
        self.queue.jobs = self._stored
        self.queue.restarted()

    def _known_address(self) -> str:
        if not self._address:
            raise RuntimeError("the stand-in is not running")
        return self._address

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._worked)
        return task

    def _worked(self, task: asyncio.Task[Any]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            # Whoever waited has left, as a rule; the work's failure is no surprise to the server.
            task.exception()

    async def _stop_work(self) -> None:
        work = list(self._work)
        for task in work:
            task.cancel()
        await asyncio.gather(*work, return_exceptions=True)

    def _crash(self, fault: Crash) -> None:
        task = asyncio.create_task(self._crash_now(fault))
        self._crashes.add(task)
        task.add_done_callback(self._crashes.discard)

    async def _crash_now(self, fault: Crash) -> None:
        await self.kill()
        if fault.down_seconds is not None:
            await asyncio.sleep(fault.down_seconds)
            await self.restart()

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        operation = routes.operation(self._routes, request.method, request.path, self.flavour)
        return Asked(operation, operation in routes.GENERATIONS, key=self._user(request))

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if self.route(request).operation == "jobs/ws":
            return await self._watch(request)
        return await super()._handle(request)

    async def answer(self, exchange: Exchange) -> Answer:
        try:
            body = self._admit(exchange)
            if exchange.asked.generation:
                made = await self._generate(exchange, body)
            else:
                made = await self._read(exchange, body)
        except (Invalid, Refused, Raised) as error:
            made = self._error(exchange, error)
        if not exchange.asked.generation:
            await self.pace(exchange, begun=False)
        if isinstance(exchange.fault, Garbage) and made.status < 300:
            made = answers.spoilt(made, exchange.fault)
        return await self._dressed(exchange, made)

    def _admit(self, exchange: Exchange) -> object:
        """The body as JSON; raises what comes before the handler is reached."""
        fault, asked, request = exchange.fault, exchange.asked, exchange.request
        if isinstance(fault, Refuse) and not (asked.generation and exchange.begun(fault.status)):
            raise _scripted(fault)
        if asked.operation == "unknown":
            raise routes.refuse(self._routes, request.path, self.flavour)
        # The framework parses a body before it looks at credentials, and checks its fields after that.
        body = fields.parse(exchange.body, request.headers.get("Content-Type", "")) if _has_body(asked) else None
        self.requests.append(Received(exchange.call, body))
        self._authorize(exchange)
        return body

    def _authorize(self, exchange: Exchange) -> None:
        operation, path = exchange.asked.operation, exchange.request.path
        # Forge leaves its progress open.
        if not self._users or not path.startswith("/sdapi/") or (operation == "progress" and self.flavour == "forge"):
            return
        if exchange.asked.key is None:
            given = exchange.request.headers.get("Authorization", "").lower().startswith("basic ")
            detail = "Incorrect username or password" if given else "Not authenticated"
            # The other two rewrite the error and lose its header.
            headers = [("www-authenticate", "Basic")] if self.flavour == "forge" else []
            raise Refused(401, "Unauthorized" if self.flavour == "sdnext" and given else detail, *headers)

    def _user(self, request: web.BaseRequest) -> str | None:
        scheme, _, coded = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "basic":
            return None
        try:
            user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except ValueError:
            return None
        return user if user in self._users and self._users[user] == password else None

    def _error(self, exchange: Exchange, error: Invalid | Refused | Raised) -> UvicornAnswer:
        status, body = told(error, self.flavour)
        headers = error.headers if isinstance(error, Refused) else ()
        return answers.answer(status, answers.to_json(body), first=headers)

    async def _dressed(self, exchange: Exchange, made: UvicornAnswer) -> UvicornAnswer:
        """The answer with what the middleware adds."""
        if self.flavour != "forge":
            now = asyncio.get_running_loop().time()
            timed = (("x-process-time", str(round(now - exchange.started, 4))),)
            made = UvicornAnswer(made.status, made.headers + timed, made.body)
        if isinstance(exchange.fault, Garbage) or not self._zips(exchange.request, made):
            return made
        if len(made.body) < _GZIP_IN_THREAD:
            return answers.zipped(made)
        return await asyncio.to_thread(answers.zipped, made)

    def _zips(self, request: web.BaseRequest, made: UvicornAnswer) -> bool:
        if self.flavour == "forge" and self._web:
            return False
        return len(made.body) >= _GZIP_FROM[self.flavour] and "gzip" in request.headers.get("Accept-Encoding", "")

    # Generations

    async def _generate(self, exchange: Exchange, body: object) -> UvicornAnswer:
        if exchange.asked.operation == "jobs":
            return self._submit(exchange, body)
        make = self._upscale if exchange.asked.operation == "extra-single-image" else self._picture
        # Shielded: the client's leaving stops no work here.
        return await asyncio.shield(self._spawn(make(exchange, body)))

    async def _picture(self, exchange: Exchange, body: object) -> UvicornAnswer:
        operation = exchange.asked.operation
        table = fields.generation_fields(operation, self.flavour)
        values = fields.read(table, body)
        exchange.call.unknown_fields = fields.unknown(table, body)
        work = self._checked(operation, values)
        if isinstance(work, UvicornAnswer):
            return work
        exchange.call.seeds = work.order.seeds
        job = self._job(exchange, work)
        await self.engine.run(job, work.prepare)
        if isinstance(exchange.fault, Refuse):
            raise _scripted(exchange.fault)
        await asyncio.sleep(self._answer_delay)
        return answers.answer(200, await work.body(job))

    def _checked(self, operation: str, values: dict[str, Any]) -> Generation | UvicornAnswer:
        """The generation, if its body passes; the order of the checks is the server's."""
        if operation == "img2img" and values["init_images"] is None:
            if self.flavour == "sdnext":
                return answers.answer(400, answers.to_json({"error": "Init image is none"}))
            raise Refused(404, "Init image not found")
        order = orders.make_order(values, self._draw_seed(), self._loras)
        work = Generation(operation, order, self.flavour, self.options, self.engine.state, self._models)
        work.override_at_once()
        if values.get("mask"):
            images.decode(values["mask"])
        orders.check_scripts(values, operation)
        sampler = orders.find_sampler(values["sampler_name"] or values["sampler_index"], self.flavour)
        work.order = orders.with_sampler(order, sampler)
        work.picture_bytes = self._picture_bytes
        return work

    def _job(self, exchange: Exchange | None, work: Generation) -> Job:
        order, operation = work.order, work.operation
        fault = exchange.fault if exchange is not None else None

        def bill() -> None:
            if exchange is not None:
                self.bill(exchange, fault.status if isinstance(fault, Refuse) else 200, len(order.seeds))

        work.bill = bill
        return Job(
            name=_V1_JOB[self.flavour][operation],
            task=self._task_id(order.values.get("force_task_id"), operation),
            steps=order.steps,
            passes=order.rounds * order.passes,
            preview=images.preview_size(order.size, self.options["show_progress_type"]),
            colour=work.colour,
            step_seconds=self._steps_of(exchange, order),
            begun=work.begun,
            ended=work.ended,
            trouble=fault if isinstance(fault, VendorFault) else None,
        )

    def _steps_of(self, exchange: Exchange | None, order: orders.Order) -> Callable[[], float]:
        whole = exchange.rule.service_seconds if exchange is not None else None
        if whole is None:
            return self._step
        return lambda: whole / (order.steps * order.rounds * order.passes)

    def _step(self) -> float:
        return self._service.draw(self._service_chance)

    def _draw_seed(self) -> int:
        return self._seeds.randrange(orders.MAX_SEED)

    def _task_id(self, forced: str | None, operation: str) -> str:
        if self.flavour == "sdnext":
            return f"{self._ids.getrandbits(60):015x}"
        return forced or f"task({operation}-{''.join(self._ids.choices(_LETTERS, k=7))})"

    async def _upscale(self, exchange: Exchange, body: object) -> UvicornAnswer:
        asked = fields.read(fields.EXTRAS, body)
        exchange.call.unknown_fields = fields.unknown(fields.EXTRAS, body)
        picture = await asyncio.to_thread(images.decode, asked["image"])
        box = (asked["upscaling_resize_w"], asked["upscaling_resize_h"]) if asked["resize_mode"] == 1 else None
        order = images.Upscale(
            picture, asked["upscaler_1"], asked["upscaling_resize"], box, crop=asked["upscaling_crop"]
        )
        made: list[bytes] = []

        async def work() -> None:
            self.bill(exchange, exchange.fault.status if isinstance(exchange.fault, Refuse) else 200, 1)
            await asyncio.sleep(self._step() if exchange.rule.service_seconds is None else 0)
            made.append((await asyncio.to_thread(self._enlarged, order)).data)

        await self.engine.alone(work, "extras")
        await self.pace(exchange, begun=False)
        if isinstance(exchange.fault, Refuse):
            raise _scripted(exchange.fault)
        body_json = {"html_info": "<p></p>", "image": base64.b64encode(made[0]).decode()}
        return answers.answer(200, answers.to_json(body_json))

    def _enlarged(self, order: images.Upscale) -> File:
        picture = images.upscale(order, self._upscalers)
        kind = self.options["samples_format"]
        data = images.encode(picture, kind, self.options["jpeg_quality"], at_least=self._picture_bytes)
        return File(data, picture.width, picture.height, kind)

    # All other paths

    async def _read(self, exchange: Exchange, body: object) -> UvicornAnswer:
        operation = exchange.asked.operation
        if operation.startswith("jobs/"):
            return self._job_path(exchange)
        if operation in {"interrupt", "skip"}:
            return self._flag(operation)
        if operation == "page":
            return answers.answer(200, b"<!doctype html><title>WebUI</title>", "text/html; charset=utf-8")
        value = self._value(exchange, body) if operation not in _NO_ANSWER else None
        return answers.answer(200, answers.to_json(value))

    def _flag(self, operation: str) -> UvicornAnswer:
        if operation == "interrupt":
            self.state.interrupted = True
        else:
            self.state.skipped = True
        if self.flavour == "sdnext" and self._no_content:
            return answers.empty(204)
        return answers.answer(200, b"{}" if operation == "interrupt" else b"null")

    def _value(self, exchange: Exchange, body: object) -> object:
        operation = exchange.asked.operation
        match operation:
            case "progress":
                return self._progress(exchange.request)
            case "internal/progress":
                return self._task_progress(fields.read(fields.PROGRESS, body))
            case "internal/pending-tasks":
                waiting = self.engine.tasks.pending
                return {"size": len(waiting), "tasks": list(waiting)}
            case "options":
                return dict(self.options)
            case "options/set":
                return self._set_options(dict(fields.as_object(body)))
            case "png-info":
                return _png_info(fields.read(fields.PNG_INFO, body)["image"])
            case "controlnet/detect":
                return controlnet.detect(fields.read(fields.DETECT, body))
            case "ws-ticket":
                return {"ticket": self._tickets.new()}
        return self._listing(operation)

    def _listing(self, operation: str) -> object:
        match operation:
            case "sd-models":
                return listings.sd_models(self._models)
            case "loras":
                return listings.loras(self._loras)
            case "upscalers":
                return listings.upscalers(self._upscalers)
            case "script-info":
                return listings.script_info()
            case "cmd-flags":
                return {"api": True, "nowebui": not self._web, "api_auth": None, "port": self._port or None}
        if operation.startswith("controlnet/"):
            return controlnet.listing(operation.removeprefix("controlnet/"))
        return listings.LISTINGS.get(operation, {})

    def _progress(self, request: web.BaseRequest) -> Json:
        skip = _skip_image(request.query.get("skip_current_image", "false"))
        state = self.state
        idle = state.global_progress() == (0.0, 0.0) and state.job_count == 0
        progress, remaining = state.global_progress()
        if not idle:
            state.refresh_image(self.options)
        image = None if idle or skip else self._preview(self.options["samples_format"])
        numbered: Json = {"id": state.id} if self.flavour == "sdnext" else {}
        return {
            **numbered,
            "progress": progress,
            "eta_relative": remaining,
            "state": state.as_json(),
            "current_image": image,
            "textinfo": state.textinfo,
        }

    def _preview(self, kind: str) -> str | None:
        shown = self.state.image
        if shown is None:
            return None
        return base64.b64encode(images.encode_preview(shown.size, shown.colour, kind)).decode()

    def _task_progress(self, asked: Mapping[str, Any]) -> Json:
        tasks, task = self.engine.tasks, asked["id_task"]
        flags = {
            "active": task == tasks.current,
            "queued": task in tasks.pending,
            "completed": task in tasks.finished,
        }
        if not flags["active"]:
            return _inactive(flags, task, tasks.pending)
        progress = self.state.fraction()
        elapsed = self.state.clock() - self.state.started
        number, shown = asked["id_live_preview"], None
        if asked["live_preview"] and self.options["live_previews_enable"]:
            number, shown = self._new_preview(number)
        return {
            **flags,
            "progress": progress,
            "eta": elapsed / progress - elapsed if progress > 0 else None,
            "live_preview": shown,
            "id_live_preview": number,
            "textinfo": self.state.textinfo,
        }

    def _new_preview(self, seen: int) -> tuple[int, str | None]:
        """The number and picture of a preview, if it is another than the one seen."""
        self.state.refresh_image(self.options)
        if self.state.image_number == seen or self.state.image is None:
            return seen, None
        kind = self.options["live_previews_image_format"]
        return self.state.image_number, f"data:image/{kind};base64,{self._preview(kind)}"

    def _set_options(self, given: dict[str, Any]) -> Json | None:
        changed = set_options(self.options, given, self._models, strict=self.flavour != "sdnext")
        if self.flavour != "sdnext":
            return None
        return {"updated": [{name: one} for name, one in zip(given, changed, strict=True)]}

    # SD.Next's jobs

    def _submit(self, exchange: Exchange, body: object) -> UvicornAnswer:
        fault = exchange.fault
        params = dict(fields.as_object(body))
        job = self.queue.submit(params)
        self._submitted[job.id] = exchange
        if len(self._submitted) > _REMEMBERED_REQUESTS:
            # Those cancelled before their turn are never asked for.
            del self._submitted[next(iter(self._submitted))]
        if isinstance(fault, Refuse):
            raise _scripted(fault)
        return answers.answer(202, answers.to_json(job.as_json()))

    async def _execute(self, stored: StoredJob, check: Callable[[], None]) -> None:
        """Do a stored job's work; raises what it raises."""
        exchange = self._submitted.pop(stored.id, None)
        match stored.type:
            case "generate":
                await self._execute_generate(stored, exchange, check)
            case "upscale":
                await self._execute_upscale(stored, check)
            case "caption" | "enhance" | "detect" | "preprocess":
                stored.info = _words(stored)
            case _:
                raise Raised("NotImplementedError", f"the stand-in makes no {stored.type}")

    async def _execute_generate(self, stored: StoredJob, exchange: Exchange | None, check: Callable[[], None]) -> None:
        try:
            asked = fields.read(fields.JOB, stored.params)
        except Invalid as error:
            raise Raised("ValidationError", str(error)) from error
        operation, values = orders.job_values(asked)
        sampler = orders.known_sampler(asked["sampler_name"])
        order = orders.with_sampler(orders.make_order(values, self._draw_seed(), self._loras), sampler)
        work = Generation(operation, order, self.flavour, self.options, self.state, self._models)
        work.picture_bytes = self._picture_bytes
        job = self._job(exchange, work)
        job.name = "API-V2"

        async def prepare() -> None:
            check()
            await work.prepare()

        await self.engine.run(job, prepare)
        files, _ = await asyncio.to_thread(work.files, job)
        kind = self.options["samples_format"]
        stored.files = [File(data, *order.size, kind) for data in files]

    async def _execute_upscale(self, stored: StoredJob, check: Callable[[], None]) -> None:
        picture = await asyncio.to_thread(images.decode, stored.params.get("image", ""))
        factor = stored.params.get("scale", 2.0)
        order = images.Upscale(picture, str(stored.params.get("upscaler", "None")), float(factor))

        async def work() -> None:
            check()
            await asyncio.sleep(self._step())
            stored.files = [await asyncio.to_thread(self._enlarged, order)]

        await self.engine.alone(work, "API-V2-UP")

    def _job_path(self, exchange: Exchange) -> UvicornAnswer:
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

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        exchange = self._exchange(request, b"", self.route(request), Verdict(True), self.clock())
        call = exchange.call
        self.tally.begin(call)
        try:
            watcher = Watcher(request, self.queue, self.state, ping_seconds=self._ping_seconds)
            may = not self._users or self._tickets.take(request.query.get("ticket"))
            sent = await watcher.run(exchange.fault, may=may, closing=self._closing)
            call.status, call.outcome = watcher.status, watcher.outcome
            return sent
        except (ConnectionError, asyncio.CancelledError):
            call.outcome = "dropped"
            raise
        finally:
            self.tally.end(call, self.clock())


def _has_body(asked: Asked) -> bool:
    return asked.generation or asked.operation in {
        "options/set",
        "png-info",
        "internal/progress",
        "controlnet/detect",
    }


def _scripted(fault: Refuse) -> Refused | Raised:
    """The error a script asks for; an exception's class as its name makes it one from inside the work."""
    message = fault.message or "scripted by the stand-in"
    if fault.status == 500:
        return Raised(fault.name or "RuntimeError", message)
    wait = () if fault.retry_after is None else (("retry-after", str(fault.retry_after)),)
    return Refused(fault.status, message, *wait)


def _skip_image(text: str) -> bool:
    if text.lower() in {"true", "1", "on", "yes"}:
        return True
    if text.lower() in {"false", "0", "off", "no"}:
        return False
    message = "Input should be a valid boolean, unable to interpret input"
    raise Invalid([Problem("bool_parsing", ("query", "skip_current_image"), message, text)])


def _whole(request: web.BaseRequest, name: str, default: int, low: int, high: int | None = None) -> int:
    text = request.query.get(name, str(default))
    if text.isdecimal() and int(text) >= low and (high is None or int(text) <= high):
        return int(text)
    message = "Input should be a valid integer, unable to parse string as an integer"
    raise Invalid([Problem("int_parsing", ("query", name), message, text)])


def _inactive(flags: dict[str, bool], task: object, pending: list[str]) -> Json:
    place = f"In queue: {pending.index(str(task)) + 1}/{len(pending)}" if flags["queued"] else "Waiting..."
    nothing = {"progress": None, "eta": None, "live_preview": None, "id_live_preview": -1}
    return {**flags, **nothing, "textinfo": place}


def _png_info(text: str) -> Json:
    picture = images.decode(text.strip())
    told_in = str(picture.info.get("parameters", ""))
    return {"info": told_in, "items": {}, "parameters": {}}


def _words(stored: StoredJob) -> Json:
    match stored.type:
        case "caption":
            return {"caption": "a picture"}
        case "enhance":
            return {"prompt": stored.params.get("prompt", ""), "seed": stored.params.get("seed", -1)}
        case "detect":
            return {"detections": []}
    return {}
