"""The stand-in of ComfyUI: its HTTP and WebSocket dialect on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import urllib.parse
import uuid
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self

from aiohttp import WSCloseCode, web

from load.upstreams.comfyui import files_http, nodes, nodes_image
from load.upstreams.comfyui.answers import SERVER, empty, json_answer, plain, refusal, spoilt, trouble
from load.upstreams.comfyui.control import control
from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.hub import Hub, Socket
from load.upstreams.comfyui.jobs import Job, State
from load.upstreams.comfyui.prompt_queue import Item, PromptQueue
from load.upstreams.comfyui.requests import KNOWN_PATHS, Request, operation_of, without_api
from load.upstreams.comfyui.running import Executor, Hold, Run, Settings
from load.upstreams.comfyui.spec import Lists, NodeClass
from load.upstreams.comfyui.troubles import (
    SERVER_ROOT,
    LateHistory,
    PromptRule,
    PromptRules,
    SocketKind,
    SocketRule,
    SocketRules,
    prompt_rule,
    socket_rule,
)
from load.upstreams.comfyui.validation import InvalidPrompt, problem, validate
from load.upstreams.comfyui.values import MODEL_FOLDERS, Checkpoint, Library, Vanished
from load.upstreams.faults import Garbage, Refuse
from load.upstreams.service_time import ServiceTime
from load.upstreams.standin import CONTROL, Asked, Exchange, StandIn
from load.upstreams.wire import Answer, deliver

VERSION = "0.3.64"
_UPLOAD_BYTES = 104_857_600
_JOBS_KEPT = _REQUESTS_KEPT = 10_000
_TEMP_LETTERS = "abcdefghijklmnopqrstuvwxyz"


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
        self._library = library or Library()
        if own := tuple(checkpoints):
            self._library.checkpoints = own
        self._settings = Settings(
            classes={kind.name: kind for kind in (*nodes.CLASSES, *nodes_image.CLASSES, *extra_classes)},
            library=self._library,
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
        self._version, self._old = version or (None if old else VERSION), old
        self._max_upload_bytes = max_upload_bytes
        self._log_limit = log_limit
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
        return list(self._jobs)

    @property
    def requests(self) -> list[Request]:
        """The latest requests as they came."""
        return list(self._requests)

    @property
    def idle(self) -> bool:
        """Whether no prompt runs or waits and everything published has been sent."""
        return not self._queue.remaining and self._hub.idle

    @property
    def frames_sent(self) -> int:
        """WebSocket messages handed to sockets since the server's start."""
        return self._hub.sent

    @property
    def open_sockets(self) -> int:
        """WebSocket connections that are open now, deaf ones too."""
        return len(self._hub.open)

    def counters(self) -> dict[str, object]:
        """All counts, ready for JSON."""
        states = Counter(job.state for job in self._jobs)
        steps = sum(job.steps for job in self._jobs)
        return self.tally.counters() | {"prompts": dict(states), "steps": steps} | dict(self._counts)

    def script_prompts(self, *rules: PromptRule | Mapping[str, Any]) -> None:
        """Put these rules for prompts in force; accepted prompts count from 1 again."""
        self._prompt_rules = [prompt_rule(rule) for rule in rules]
        self._accepted = 0

    def script_sockets(self, *rules: SocketRule | Mapping[str, Any]) -> None:
        """Put these rules for sockets in force; connections count from 1 again."""
        self._socket_rules = [socket_rule(rule) for rule in rules]
        self._connected = 0

    def spoil_sockets(self, kind: SocketKind = "zombie") -> None:
        """Make all sockets that are open now go wrong."""
        for socket in self._hub.open:
            socket.trouble = kind

    def forget(self) -> None:
        self._jobs: deque[Job] = deque(maxlen=min(self._log_limit, _JOBS_KEPT))
        self._requests: deque[Request] = deque(maxlen=min(self._log_limit, _REQUESTS_KEPT))
        self._counts: Counter[str] = Counter()
        self._job_number = 0
        self._ids = self.chance("ids")
        self._steps_chance = self.chance("steps")
        self._prompt_rules, self._accepted = [], 0
        self._socket_rules, self._connected = [], 0

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
        self._tasks = [loop.create_task(self._hub.send_all()), loop.create_task(self._work())]
        self.starts += 1

    async def kill(self) -> None:
        """Break all connections without a close frame and forget queue, history and cache."""
        self._closing.set()
        runner, self._runner = self._runner, None
        if runner is not None and runner.server is not None:
            for site in list(runner.sites):
                await site.stop()
            for handler in list(runner.server.connections):
                if handler.transport is not None:
                    handler.transport.abort()
            await runner.cleanup()
        tasks, self._tasks = self._tasks, []
        await _cancel(tasks)
        for job in self._jobs:
            if job.state in ("pending", "running"):
                job.state = "lost"

    def _start_afresh(self) -> None:
        self._queue = PromptQueue(self._tell_status)
        self._hub = Hub(self._queue_info, self._features(), negotiates=not self._old)
        temp = "".join(self._ids.choice(_TEMP_LETTERS) for _ in range(5))
        self._executor = Executor(self._settings, self._hub, self._steps_chance, temp)
        self._free_asked = False
        self._next_number = 0
        self.folders.clear("temp")

    def crash_soon(self, restart_after: float | None = None) -> None:
        """Kill the server as soon as the caller lets go, and start it again so many seconds later."""
        self._crashing = asyncio.get_running_loop().create_task(self._crash_and_return(restart_after))

    async def _crash_and_return(self, restart_after: float | None) -> None:
        await self.kill()
        if restart_after is not None:
            await asyncio.sleep(restart_after)
            await self.restart()

    # The worker

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            await self._run(item)
            if self._free_asked:
                self._executor.cache.clear()
                self._free_asked = False

    async def _run(self, item: Item) -> None:
        job = item.job
        job.state, job.began = "running", self.clock()
        troubles = [rule.do for rule in self._prompt_rules if rule.fits(self._place_in_rules(job))]
        run = Run(self._executor, item, troubles)
        try:
            await run.go()
        except Vanished:
            job.state, job.ended = "vanished", self.clock()
            self._queue.finish(item)
            return
        late = next((trouble for trouble in troubles if isinstance(trouble, LateHistory)), None)
        result = run.result()
        if late is not None and late.after_end:
            asyncio.get_running_loop().call_later(late.seconds, self._queue.remember, item, result)
        else:
            await asyncio.sleep(late.seconds if late is not None else 0)
            self._queue.remember(item, result)
        job.state, job.ended = _state(run), self.clock()
        self._queue.finish(item)
        run.end()

    def _place_in_rules(self, job: Job) -> int:
        return job.number - (self._job_number - self._accepted)

    def _tell_status(self) -> None:
        self._hub.publish("status", {"status": self._queue_info()})

    def _queue_info(self) -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": self._queue.remaining}}

    def _features(self) -> dict[str, Any]:
        return {"supports_preview_metadata": True, "max_upload_size": self._max_upload_bytes}

    # WebSockets

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith(f"{CONTROL}comfyui/"):
            answer = await control(self, request.method, request.path, await request.read())
            return (await deliver(request, answer, None, self._closing))[1]
        if request.method == "GET" and without_api(request.path) == "/ws" and _upgrades(request):
            return await self._open_socket(request)
        return await super()._handle(request)

    async def _open_socket(self, request: web.Request) -> web.StreamResponse:
        exchange = self._exchange(request, b"", self.route(request), self.limit(self.route(request), 0), self.clock())
        if exchange.fault is not None or _foreign(request):
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
        self._connected += 1
        self._counts["sockets"] += 1
        rule = next((rule for rule in self._socket_rules if rule.fits(self._connected)), None)
        sid = request.query.get("clientId", "") or self._new_id().hex
        executor = self._executor
        running = executor.running_node if executor.client_id == sid else None
        await self._hub.serve(Socket(self._connected, sid, ws, rule=rule), running)
        with contextlib.suppress(ConnectionError):
            await ws.close(code=WSCloseCode.OK)
        return ws

    # Requests

    def route(self, request: web.BaseRequest) -> Asked:
        operation = operation_of(request.method, request.path)
        return Asked(operation, generation=operation == "prompt", client=request.headers.get("User-Agent"))

    async def answer(self, exchange: Exchange) -> Answer:
        self._requests.append(Request.of(exchange.call.number, exchange.request, exchange.body))
        fault = exchange.fault
        if isinstance(fault, Refuse) and not (exchange.asked.generation and exchange.begun(fault.status)):
            await self.pace(exchange, begun=False)
            return refusal(fault)
        answer = self._answer(exchange)
        await self.pace(exchange, begun=exchange.asked.generation and answer.status == 200)
        if answer.status != 200:
            return answer
        if isinstance(fault, Refuse):
            return refusal(fault)
        return spoilt(answer, fault) if isinstance(fault, Garbage) else answer

    def _answer(self, exchange: Exchange) -> Answer:
        request = exchange.request
        if _foreign(request):
            return empty(403)
        if len(exchange.body) > self._max_upload_bytes:
            text = f"Maximum request body size {self._max_upload_bytes} exceeded, actual body size {len(exchange.body)}"
            return plain(413, text)
        try:
            return self._dispatch(exchange)
        except InvalidPrompt as error:
            return json_answer({"error": error.error, "node_errors": error.node_errors}, 400)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            return trouble()

    def _dispatch(self, exchange: Exchange) -> Answer:
        request, operation = exchange.request, exchange.asked.operation
        path = without_api(request.path)
        match operation:
            case "prompt":
                return self._take_prompt(exchange)
            case "prompt_info":
                return json_answer(self._queue_info())
            case "queue":
                return json_answer(self._queue.told())
            case "queue_edit":
                return self._edit_queue(json.loads(exchange.body))
            case "interrupt":
                return self._interrupt(exchange.body)
            case "history":
                return self._history(path, request.query)
            case "history_edit":
                return self._edit_history(json.loads(exchange.body))
            case "view":
                return files_http.view(self.folders, request.query, request.headers.get("Range"))
            case "upload_image" | "upload_mask":
                return self._upload(exchange, mask=operation == "upload_mask")
            case "free":
                return self._free(json.loads(exchange.body))
        return self._tell(operation, path)

    def _tell(self, operation: str, path: str) -> Answer:
        match operation:
            case "system_stats":
                return json_answer(self._system_stats())
            case "features" if not self._old:
                return json_answer(self._features())
            case "object_info":
                return json_answer(self._object_info(path))
            case "models":
                return self._models(path)
            case "embeddings" | "extensions":
                return json_answer([])
            case "ws":
                return plain(400, 'No WebSocket UPGRADE hdr: None\n Can "Upgrade" only to "WebSocket".')
            case "wrong_method":
                return plain(405, "405: Method Not Allowed", ("Allow", KNOWN_PATHS[path]))
        return Answer(404, (("Content-Type", "application/octet-stream"), SERVER), b"")

    def _take_prompt(self, exchange: Exchange) -> Answer:
        body = json.loads(exchange.body)
        number = self._number(body)
        if "prompt" not in body:
            if self._old:
                return json_answer({"error": "no prompt", "node_errors": []}, 400)
            raise InvalidPrompt(problem("no_prompt", "No prompt provided", "No prompt provided"))
        graph = json.loads(json.dumps(body["prompt"]))
        _must_be_graph(graph)
        valid = validate(graph, self._settings.classes, self._lists(), self.folders)
        given = None if self._old else body.get("prompt_id")
        prompt_id = str(self._new_id()) if given is None else str(given)
        extra_data = dict(body.get("extra_data") or {})
        if "client_id" in body:
            extra_data["client_id"] = body["client_id"]
        if exchange.begun(200):
            self._accept(exchange, number, prompt_id, body, graph, extra_data, valid.outputs)
        return json_answer({"prompt_id": prompt_id, "number": number, "node_errors": valid.node_errors})

    def _accept(
        self,
        exchange: Exchange,
        number: float,
        prompt_id: str,
        body: dict[str, Any],
        graph: dict[str, Any],
        extra_data: dict[str, Any],
        outputs: list[str],
    ) -> None:
        self._accepted += 1
        self._job_number += 1
        client_id = extra_data.get("client_id")
        call = exchange.call.number
        job = Job(self._job_number, call, prompt_id, client_id, body, graph, extra_data, outputs)
        self._jobs.append(job)
        self.tally.bill(exchange.call, 1)
        self._queue.put(number, job)

    def _number(self, body: Mapping[str, Any]) -> float:
        if "number" in body:
            return float(body["number"])
        number = -self._next_number if body.get("front") else self._next_number
        self._next_number += 1
        return number

    def _interrupt(self, body: bytes) -> Answer:
        try:
            wanted = json.loads(body).get("prompt_id")
        except ValueError:
            wanted = None
        running = [item.job.prompt_id for item in self._queue.running]
        if self._old or not wanted or wanted in running:
            self._executor.interrupt = True
        return empty()

    def _edit_queue(self, body: Mapping[str, Any]) -> Answer:
        gone = self._queue.clear() if body.get("clear") else []
        for prompt_id in body.get("delete", ()):
            found = self._queue.delete(prompt_id)
            gone += [found] if found is not None else []
        for item in gone:
            item.job.state = "deleted"
        return empty()

    def _history(self, path: str, query: Mapping[str, str]) -> Answer:
        _, _, prompt_id = path.removeprefix("/history").partition("/")
        if prompt_id:
            known = self._queue.history.get(prompt_id)
            return json_answer({prompt_id: known} if known is not None else {})
        most = int(query["max_items"]) if "max_items" in query else None
        return json_answer(self._queue.told_history(most, int(query.get("offset", "-1"))))

    def _edit_history(self, body: Mapping[str, Any]) -> Answer:
        if body.get("clear"):
            self._queue.history.clear()
        for prompt_id in body.get("delete", ()):
            self._queue.history.pop(prompt_id, None)
        return empty()

    def _upload(self, exchange: Exchange, *, mask: bool) -> Answer:
        content_type = exchange.request.headers.get("Content-Type", "")
        answer, told = files_http.take_upload(self.folders, content_type, exchange.body, mask=mask)
        return answer if told is None else json_answer(told)

    def _free(self, body: Mapping[str, Any]) -> Answer:
        if body.get("free_memory"):
            if self._queue.running:
                self._free_asked = True
            else:
                self._executor.cache.clear()
        return empty()

    def _system_stats(self) -> dict[str, Any]:
        memory = 25_276_502_016
        system = {
            "os": "posix",
            "ram_total": memory,
            "ram_free": memory,
            "comfyui_version": self._version,
            "required_frontend_version": "1.27.10",
            "installed_templates_version": None,
            "required_templates_version": "0.1.95",
            "python_version": "3.11.7 (stand-in)",
            "pytorch_version": "2.13.0+cpu",
            "embedded_python": False,
            "argv": ["main.py", "--output-directory", f"{SERVER_ROOT}/output"],
        }
        if self._version is None:
            del system["comfyui_version"]
        amounts = ("vram_total", "vram_free", "torch_vram_total", "torch_vram_free")
        device = {"name": "cpu", "type": "cpu", "index": None, **dict.fromkeys(amounts, memory)}
        return {"system": system, "devices": [device]}

    def _object_info(self, path: str) -> dict[str, Any]:
        _, _, name = path.removeprefix("/object_info").partition("/")
        classes, lists = self._settings.classes, self._lists()
        if name:
            return {name: classes[name].describe(lists)} if name in classes else {}
        return {name: kind.describe(lists) for name, kind in classes.items()}

    def _models(self, path: str) -> Answer:
        _, _, folder = path.removeprefix("/models").partition("/")
        if not folder:
            return json_answer(list(MODEL_FOLDERS))
        names = self._library.folder(folder)
        return empty(404) if names is None else json_answer(names)

    def _lists(self) -> Lists:
        folders = {name: self._library.folder(name) or [] for name in MODEL_FOLDERS}
        return Lists(folders, self.folders.names("input"))

    def _new_id(self) -> uuid.UUID:
        return uuid.UUID(int=self._ids.getrandbits(128), version=4)


def _service_time(value: ServiceTime | str | float) -> ServiceTime:
    return value if isinstance(value, ServiceTime) else ServiceTime.parse(value)


def _state(run: Run) -> State:
    if run.success:
        return "success"
    return "interrupted" if run.messages[-1][0] == "execution_interrupted" else "error"


def _must_be_graph(graph: object) -> None:
    if not isinstance(graph, dict) or not all(isinstance(node, dict) for node in graph.values()):
        raise TypeError("not a graph")


def _upgrades(request: web.BaseRequest) -> bool:
    return request.headers.get("Upgrade", "").lower() == "websocket"


def _foreign(request: web.BaseRequest) -> bool:
    """Whether a browser on another site sends this to a server on loopback."""
    origin = urllib.parse.urlparse(request.headers.get("Origin", ""))
    host = urllib.parse.urlparse(f"//{request.headers.get('Host', '')}")
    if not origin.netloc or host.hostname not in ("127.0.0.1", "localhost", "::1"):
        return False
    if host.port is None or origin.port is None:
        return origin.hostname != host.hostname
    return origin.netloc.lower() != host.netloc.lower()


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    """End the tasks; one that failed by itself says so here."""
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(ended, BaseException) and not isinstance(ended, asyncio.CancelledError):
            raise ended
