"""The stand-in of ComfyUI: its HTTP and WebSocket dialect on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import WSCloseCode, web

from load.upstreams.comfyui import nodes, nodes_image
from load.upstreams.comfyui.answers import refusal, spoilt
from load.upstreams.comfyui.control import control
from load.upstreams.comfyui.executor import Hold, Settings
from load.upstreams.comfyui.facts import Facts
from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.handlers import Handlers
from load.upstreams.comfyui.hub import Hub, Socket
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.records import Records
from load.upstreams.comfyui.requests import Request, is_foreign, is_upgrade, operation_of, without_api
from load.upstreams.comfyui.spec import NodeClass
from load.upstreams.comfyui.troubles import PromptRule, PromptRules, SocketKind, SocketRule, SocketRules
from load.upstreams.comfyui.values import Checkpoint, Library
from load.upstreams.comfyui.worker import Worker
from load.upstreams.dying import break_connections
from load.upstreams.faults import Garbage, Refuse
from load.upstreams.service_time import ServiceTime
from load.upstreams.standin import CONTROL, Asked, Exchange, StandIn
from load.upstreams.wire import Answer, deliver

VERSION = "0.3.64"
_UPLOAD_BYTES = 104_857_600


class ComfyUI(StandIn):
    """A double of a ComfyUI server.

    `step_time` is the time of a sampler's step and `node_time` of each node that runs, in seconds or as a
    distribution. `checkpoints` and `library` are its models. `previews` of False is the server's own default;
    `preview_size` is the longest side; `preview_bytes` and `picture_bytes` are least sizes of files. `version`
    is what `/system_stats` tells. `old` stands for servers before 2024's rewrite and what came with it: no
    event 4, `progress_state`, `execution_success`, `display_node` or `/features`; an interrupt stops whatever
    runs, and the server makes all prompt ids itself. `prompts` and `sockets` are rules of what goes wrong
    inside. `hold` is awaited before each node and each step, so that a test can stop the work at an exact
    place. `extra_classes` are nodes beyond the usual. The rest is `StandIn`'s.
    """

    def __init__(
        self,
        *,
        step_time: ServiceTime | str | float = 0.001,
        node_time: ServiceTime | str | float = 0.0,
        library: Library | None = None,
        checkpoints: Iterable[Checkpoint] = (),
        previews: bool = True,
        preview_size: int = 512,
        preview_bytes: int = 0,
        picture_bytes: int = 0,
        version: str | None = None,
        old: bool = False,
        prompts: PromptRules = (),
        sockets: SocketRules = (),
        hold: Hold | None = None,
        extra_classes: Iterable[NodeClass] = (),
        max_upload_bytes: int = _UPLOAD_BYTES,
        files_limit: int = 10_000,
        log_limit: int = 100_000,
        **common: Any,
    ) -> None:
        self.folders = Folders(files_limit)
        library = library or Library()
        if own := tuple(checkpoints):
            library.checkpoints = own
        self._settings = Settings(
            classes={kind.name: kind for kind in (*nodes.CLASSES, *nodes_image.CLASSES, *extra_classes)},
            library=library,
            folders=self.folders,
            step_time=_service_time(step_time),
            node_time=_service_time(node_time),
            preview_size=preview_size,
            previews=previews,
            preview_bytes=preview_bytes,
            picture_bytes=picture_bytes,
            old=old,
            hold=hold,
            crash=self.crash_soon,
        )
        self._facts = Facts(self._settings, version or (None if old else VERSION), max_upload_bytes)
        self._records = Records(log_limit)
        self._tasks: list[asyncio.Task[None]] = []
        self._crashing: asyncio.Task[None] | None = None
        self._last_url: str | None = None
        self.starts = 0
        """How often the server has begun to listen."""
        super().__init__(log_limit=log_limit, **common)
        self.script_prompts(*prompts)
        self.script_sockets(*sockets)
        self._start_afresh()

    # What tests look at and turn

    @property
    def url(self) -> str:
        """The address; it stays the same over `kill` and `restart`."""
        return super().url if self._last_url is None else self._last_url

    @property
    def jobs(self) -> list[Job]:
        """The latest accepted prompts, in order."""
        return list(self._records.jobs)

    @property
    def requests(self) -> list[Request]:
        """The latest requests as they came."""
        return list(self._records.requests)

    @property
    def hub(self) -> Hub:
        """The WebSockets since the server's start."""
        return self._worker.hub

    @property
    def idle(self) -> bool:
        """Whether no prompt runs or waits and everything published has been sent."""
        return not self._worker.queue.remaining and self.hub.idle

    @property
    def frames_sent(self) -> int:
        """WebSocket messages handed to sockets since the server's start."""
        return self.hub.sent

    @property
    def open_sockets(self) -> int:
        """WebSocket connections that are open now, deaf ones too."""
        return len(self.hub.open)

    def counters(self) -> dict[str, object]:
        """All counts, ready for JSON."""
        return self.tally.counters() | self._records.counters()

    def script_prompts(self, *rules: PromptRule | Mapping[str, Any]) -> None:
        """Put these rules for prompts in force; accepted prompts count from 1 again."""
        self._records.script_prompts(*rules)

    def script_sockets(self, *rules: SocketRule | Mapping[str, Any]) -> None:
        """Put these rules for sockets in force; connections count from 1 again."""
        self._records.script_sockets(*rules)

    def spoil_sockets(self, kind: SocketKind = "zombie") -> None:
        """Make all sockets that are open now go wrong."""
        for socket in self.hub.open:
            socket.trouble = kind

    def forget(self) -> None:
        self._records.forget(self.chance("ids"))
        self._steps_chance = self.chance("steps")

    # Life

    async def __aenter__(self) -> Self:
        await self.restart()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._crashing is not None:
            await _cancel([self._crashing])
        await self.kill()

    async def restart(self) -> None:
        """Listen, after a `kill` on the same port; files of input and output are still there."""
        self._start_afresh()
        self._closing = asyncio.Event()
        await super().__aenter__()
        if self._last_url is None:
            self._last_url = super().url
            self._port = int(self._last_url.rpartition(":")[2])
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self.hub.send_all()), loop.create_task(self._worker.work())]
        self.starts += 1

    async def kill(self) -> None:
        """Break all connections without a close frame and forget queue, history and cache."""
        self._closing.set()
        runner, self._runner = self._runner, None
        if runner is not None:
            await break_connections(runner)
            await runner.cleanup()
        tasks, self._tasks = self._tasks, []
        await _cancel(tasks)
        for job in self._records.jobs:
            if job.state in ("pending", "running"):
                job.state = "lost"

    def _start_afresh(self) -> None:
        self._worker = Worker(self._settings, self._facts, self._records, self._steps_chance, self.clock)
        self._handlers = Handlers(self._settings, self._facts, self._worker, self._records, self.tally)

    def crash_soon(self, restart_after: float | None = None) -> None:
        """Kill the server as soon as the caller lets go, and start it again so many seconds later."""
        self._crashing = asyncio.get_running_loop().create_task(self._crash_and_return(restart_after))

    async def _crash_and_return(self, restart_after: float | None) -> None:
        await self.kill()
        if restart_after is not None:
            await asyncio.sleep(restart_after)
            await self.restart()

    # WebSockets

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(f"{CONTROL}comfyui/"):
            answer = await control(self, request.method, request.path, await request.read())
            return (await deliver(request, answer, None, self._closing))[1]
        if request.method == "GET" and without_api(request.path) == "/ws" and is_upgrade(request):
            return await self._open_socket(request)
        return await super()._handle(request)

    async def _open_socket(self, request: web.Request) -> web.StreamResponse:
        exchange = self._exchange(request, b"", self.route(request), self.limit(self.route(request), 0), self.clock())
        if exchange.fault is not None or is_foreign(request):
            return await self._converse(exchange)
        call = exchange.call
        self.tally.begin(call)
        call.status, call.outcome = 101, "answered"
        try:
            await self.pace(exchange, begun=False)
            return await self._serve_socket(request)
        finally:
            self.tally.end(call, self.clock())

    async def _serve_socket(self, request: web.Request) -> web.StreamResponse:
        ws = web.WebSocketResponse(autoping=False)
        await ws.prepare(request)
        number, rule = self._records.connect()
        sid = request.query.get("clientId", "") or self._records.new_id().hex
        executor = self._worker.executor
        running = executor.running_node if executor.client_id == sid else None
        await self.hub.serve(Socket(number, sid, ws, rule=rule), running)
        with contextlib.suppress(ConnectionError):
            await ws.close(code=WSCloseCode.OK)
        return ws

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        operation = operation_of(request.method, request.path)
        return Asked(operation, generation=operation == "prompt", client=request.headers.get("User-Agent"))

    async def answer(self, exchange: Exchange) -> Answer:
        self._records.requests.append(Request.of(exchange.call.number, exchange.request, exchange.body))
        fault = exchange.fault
        if isinstance(fault, Refuse) and not (exchange.asked.generation and exchange.begun(fault.status)):
            await self.pace(exchange, begun=False)
            return refusal(fault)
        answer = self._handlers.answer(exchange)
        await self.pace(exchange, begun=exchange.asked.generation and answer.status == 200)
        if answer.status != 200:
            return answer
        if isinstance(fault, Refuse):
            return refusal(fault)
        return spoilt(answer, fault) if isinstance(fault, Garbage) else answer


def _service_time(value: ServiceTime | str | float) -> ServiceTime:
    return value if isinstance(value, ServiceTime) else ServiceTime.parse(value)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """End the tasks; one that failed by itself says so here."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
