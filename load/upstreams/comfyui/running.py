"""Running one prompt: its nodes in order, its messages, its cache and its end."""

from __future__ import annotations

import asyncio
import inspect
import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui import arrays, hub
from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.hub import Hub
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.plan import Plan, Signatures, is_link
from load.upstreams.comfyui.prompt_queue import Item
from load.upstreams.comfyui.spec import NodeClass
from load.upstreams.comfyui.troubles import (
    OUT_OF_MEMORY,
    SERVER_ROOT,
    Crash,
    Fail,
    NoPreviews,
    Pause,
    Trouble,
    Vanish,
)
from load.upstreams.comfyui.values import Floats, Interrupted, Library, Made, NodeError, Vanished
from load.upstreams.service_time import ServiceTime

_OUT_OF_MEMORY_TIP = "The stand-in's graphics card is full."


@dataclass(frozen=True, slots=True)
class Moment:
    """Where the work stands when the stand-in's `hold` is asked whether it may go on."""

    prompt_id: str
    node: str
    class_type: str
    step: int | None
    """The step that is about to be done; None when the node is about to begin."""


Hold = Callable[[Moment], Awaitable[None]]


@dataclass(slots=True)
class Settings:
    """How the server works."""

    classes: Mapping[str, NodeClass]
    library: Library
    folders: Folders
    step_time: ServiceTime
    node_time: ServiceTime
    preview_size: int = 512
    previews: bool = True
    preview_bytes: int = 0
    picture_bytes: int = 0
    old: bool = False
    hold: Hold | None = None
    crash: Callable[[float | None], None] = lambda _seconds: None


@dataclass(frozen=True, slots=True)
class Cached:
    """What a node left for later prompts."""

    outputs: tuple[Any, ...]
    shown: Mapping[str, Any] | None
    told: Mapping[str, Any]
    """How the history names the node."""


@dataclass(slots=True)
class Executor:
    """The worker's memory between prompts."""

    settings: Settings
    hub: Hub
    chance: random.Random
    temp_prefix: str
    interrupt: bool = False
    client_id: str | None = None
    running_node: str | None = None
    cache: dict[str, Cached] = field(default_factory=dict)

    def tell(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send to the prompt's client; to everybody if it named none."""
        self.hub.publish(kind, data, self.client_id)

    def tell_named(self, kind: str, data: Mapping[str, Any]) -> None:
        """Send to the prompt's client; to nobody if it named none."""
        if self.client_id is not None:
            self.tell(kind, data)


@dataclass(slots=True)
class Run:
    """One prompt on its way through the executor."""

    executor: Executor
    item: Item
    troubles: list[Trouble]
    messages: list[list[Any]] = field(default_factory=list)
    progress: dict[str, dict[str, Any]] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    """Signatures of the prompt's nodes, by id."""
    success: bool = False

    @property
    def job(self) -> Job:
        return self.item.job

    @property
    def settings(self) -> Settings:
        return self.executor.settings

    async def go(self) -> None:
        """Run the prompt to its end, good or bad; raises only `Vanished`."""
        executor, job = self.executor, self.job
        executor.interrupt = False
        executor.client_id = job.client_id
        self._note("execution_start", {"prompt_id": job.prompt_id})
        self._sign()
        cached = [name for name in job.graph if self._cached(name)]
        self._note("execution_cached", {"nodes": cached, "prompt_id": job.prompt_id})
        plan = Plan(job.graph, lambda name: self._cached(name) is not None, self._is_output)
        for output in job.outputs:
            plan.add(output)
        try:
            await self._run_all(plan)
        finally:
            executor.running_node = None

    def result(self) -> dict[str, Any]:
        """What the history keeps beside the prompt itself."""
        shown = {name: cached for name in self.results if (cached := self._cached(name)) and cached.shown is not None}
        status = {
            "status_str": "success" if self.success else "error",
            "completed": self.success,
            "messages": self.messages,
        }
        told: dict[str, Any] = {
            "outputs": {name: cached.shown for name, cached in shown.items()},
            "status": status,
        }
        # The nodes' names beside their outputs came with the same rewrite as `display_node`.
        return told if self.settings.old else told | {"meta": {name: cached.told for name, cached in shown.items()}}

    def end(self) -> None:
        """Tell the client that the history is written."""
        self.executor.tell_named("executing", {"node": None, "prompt_id": self.job.prompt_id})

    async def _run_all(self, plan: Plan) -> None:
        while plan:
            name = plan.pick()
            if not await self._run_one(name):
                return
            plan.done(name)
        self.success = True
        if not self.settings.old:
            self._note("execution_success", {"prompt_id": self.job.prompt_id})

    async def _run_one(self, name: str) -> bool:
        cached = self._cached(name)
        if cached is not None:
            # An output, or the twin of a node that just ran.
            self.executor.tell_named("executed", self._names(name, output=cached.shown))
            self._finish(name)
            return True
        context = Context(self, name)
        try:
            made = await self._make(context)
        except Interrupted:
            self._note("execution_interrupted", self._ended_at(name), broadcast=True)
            return False
        except Vanished:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a node raises is the prompt's end and the server's news
            self._note("execution_error", self._ended_at(name) | context.told_error(error))
            return False
        self._keep(name, made)
        self._finish(name)
        self.job.ran.append(name)
        return True

    async def _make(self, context: Context) -> Made:
        name = context.node
        self._set(name, value=0.0, maximum=1.0, state="running")
        self.executor.running_node = name
        self.executor.tell_named("executing", self._names(name))
        context.gather()
        await context.arrive(None)
        context.look_at_flag()
        made = context.kind.run(context, context.given)
        result: Made = await made if inspect.isawaitable(made) else made
        if result.shown is not None:
            self.executor.tell_named("executed", self._names(name, output=result.shown))
        return result

    def _keep(self, name: str, made: Made) -> None:
        told = {"node_id": name, "display_node": name, "parent_node": None, "real_node_id": name}
        self.executor.cache[self.results[name]] = Cached(made.outputs, made.shown, told)

    def _finish(self, name: str) -> None:
        entry = self.progress.setdefault(name, {"value": 0, "max": 1})
        self._set(name, value=entry["max"], maximum=entry["max"], state="finished")

    def _sign(self) -> None:
        graph, folders = self.job.graph, self.settings.folders
        signatures = Signatures(graph, lambda name: self._fingerprint(graph[name], folders))
        self.results = {name: signatures.of(name) for name in graph}
        known = set(self.results.values())
        self.executor.cache = {key: value for key, value in self.executor.cache.items() if key in known}

    def _fingerprint(self, node: Mapping[str, Any], folders: Folders) -> str:
        kind = self.settings.classes[node["class_type"]]
        return kind.fingerprint(folders, node["inputs"]) if kind.fingerprint is not None else ""

    def _cached(self, name: str) -> Cached | None:
        return self.executor.cache.get(self.results[name])

    def _is_output(self, name: str) -> bool:
        return self.settings.classes[self.job.graph[name]["class_type"]].output_node

    def value_of(self, link: list[Any]) -> Any:
        """What a node put out earlier."""
        cached = self._cached(link[0])
        assert cached is not None, "a node runs after those it needs"
        return cached.outputs[int(link[1])]

    def _names(self, name: str, **more: Any) -> dict[str, Any]:
        display = {} if self.settings.old else {"display_node": name}
        return {"node": name, **display, **more, "prompt_id": self.job.prompt_id}

    def _ended_at(self, name: str) -> dict[str, Any]:
        return {
            "prompt_id": self.job.prompt_id,
            "node_id": name,
            "node_type": self.job.graph[name]["class_type"],
            "executed": list(self.job.ran),
        }

    def _note(self, kind: str, data: dict[str, Any], *, broadcast: bool = False) -> None:
        """Tell the client, or everybody, and write it into the history."""
        data = {**data, "timestamp": int(time.time() * 1000)}
        self.messages.append([kind, data])
        (self.executor.tell if broadcast else self.executor.tell_named)(kind, data)

    def _set(self, name: str, *, value: float, maximum: float, state: str) -> None:
        self.progress[name] = {"value": value, "max": maximum, "state": state}
        if self.settings.old:
            return
        nodes = {node: self._told_progress(node, entry) for node, entry in self.progress.items()}
        self.executor.tell("progress_state", {"prompt_id": self.job.prompt_id, "nodes": nodes})

    def _told_progress(self, node: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        return {**entry, **self.metadata(node)}

    def metadata(self, node: str) -> dict[str, Any]:
        """How a message names its node."""
        return {
            "node_id": node,
            "prompt_id": self.job.prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }

    def step(self, node: str, value: int, total: int, image: tuple[int, bytes] | None) -> None:
        """One tick of a node, with a picture or without."""
        self._set(node, value=value, maximum=total, state="running")
        with_metadata = image is not None and self.executor.hub.wants_metadata(self.executor.client_id)
        if image is not None and with_metadata:
            self._send_with_metadata(node, *image)
        told = {"value": value, "max": total, "prompt_id": self.job.prompt_id, "node": node}
        self.executor.tell("progress", told)
        if image is not None and not with_metadata:
            kind, data = image
            self.executor.hub.publish_bytes(hub.PREVIEW, kind.to_bytes(4, "big") + data, self.executor.client_id)

    def _send_with_metadata(self, node: str, kind: int, data: bytes) -> None:
        mime = "image/jpeg" if kind == hub.JPEG else "image/png"
        told = json.dumps({**self.metadata(node), "image_type": mime}).encode()
        framed = len(told).to_bytes(4, "big") + told + data
        self.executor.hub.publish_bytes(hub.PREVIEW_WITH_METADATA, framed, self.executor.client_id)


@dataclass(slots=True)
class Context:
    """What a running node can ask of the server."""

    run: Run
    node: str
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.run.settings

    @property
    def library(self) -> Library:
        return self.settings.library

    @property
    def folders(self) -> Folders:
        return self.settings.folders

    @property
    def temp_prefix(self) -> str:
        return self.run.executor.temp_prefix

    @property
    def kind(self) -> NodeClass:
        return self.settings.classes[self.run.job.graph[self.node]["class_type"]]

    @property
    def texts(self) -> dict[str, object]:
        """What saved pictures carry: the graph, and what the client put beside it."""
        more = self.run.job.extra_data.get("extra_pnginfo") or {}
        return {"prompt": self.run.job.graph, **more}

    def gather(self) -> None:
        """Take the inputs from the graph and from the nodes before."""
        inputs = self.run.job.graph[self.node]["inputs"]
        for name, value in inputs.items():
            self.given[name] = self.run.value_of(value) if is_link(value) else value

    def look_at_flag(self) -> None:
        """Stop here if somebody asked for it."""
        if self.run.executor.interrupt:
            self.run.executor.interrupt = False
            raise Interrupted

    async def arrive(self, step: int | None) -> None:
        """Come to a step, or to the node's beginning: wait as the test wants, and meet what the script says."""
        if self.settings.hold is not None:
            await self.settings.hold(Moment(self.run.job.prompt_id, self.node, self.kind.name, step))
        for trouble in self.run.troubles:
            await self._meet(trouble, step)
        draw = self.settings.node_time if step is None else self.settings.step_time
        await asyncio.sleep(draw.draw(self.run.executor.chance))

    async def sleep(self, seconds: float) -> None:
        """Work for so long."""
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def step(self, value: int, total: int, image: Callable[[], tuple[int, bytes]] | None = None) -> None:
        """Tell one tick, unless the work is to stop."""
        self.look_at_flag()
        self.run.step(self.node, value, total, image() if image is not None else None)
        await asyncio.sleep(0)

    def preview(self, image: Floats) -> Callable[[], tuple[int, bytes]] | None:
        """A preview of a step, if this prompt has previews."""
        settings = self.settings
        if not settings.previews or any(isinstance(trouble, NoPreviews) for trouble in self.run.troubles):
            return None
        return lambda: (hub.JPEG, arrays.preview_jpeg(image, settings.preview_size, settings.preview_bytes))

    def send_text(self, text: str) -> None:
        """A line of text for the node, which goes to everybody."""
        node = self.node.encode()
        self.run.executor.hub.publish_bytes(hub.TEXT, len(node).to_bytes(4, "big") + node + text.encode())

    def told_error(self, error: Exception) -> dict[str, Any]:
        """An exception as the server tells it, paths and all."""
        kind = type(error)
        own = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        name = error.type_name if isinstance(error, NodeError) else own
        tip = _OUT_OF_MEMORY_TIP if name == OUT_OF_MEMORY else ""
        lines = ((496, "execute"), (315, "get_output_data"), (289, "_async_map_node_over_list"))
        return {
            "exception_message": f"{error}\n{tip}",
            "exception_type": name,
            "traceback": [f'  File "{SERVER_ROOT}/execution.py", line {n}, in {at}\n    ...\n' for n, at in lines],
            "current_inputs": {key: [_formatted(value)] for key, value in self.given.items()},
            "current_outputs": list(self.run.job.graph),
        }

    async def _meet(self, trouble: Trouble, step: int | None) -> None:
        match trouble:
            case Fail() if self._is_at(trouble.at_node) and step == trouble.at_step:
                raise NodeError(trouble.exception, trouble.message)
            case Vanish() if self._is_at(trouble.at_node) and step == trouble.at_step:
                raise Vanished
            case Crash() if self._is_at(trouble.at_node) and step == trouble.at_step:
                self.settings.crash(trouble.restart_after)
                await asyncio.Event().wait()
            case Pause() if self._is_at(trouble.at_node) and _pauses(trouble, step):
                await _silence(trouble.seconds)
            case _:
                pass

    def _is_at(self, node: str) -> bool:
        return node in (self.node, self.kind.name)


def _pauses(pause: Pause, step: int | None) -> bool:
    return step is not None if pause.at_step is None else (step or 0) == pause.at_step


async def _silence(seconds: float | None) -> None:
    if seconds is None:
        await asyncio.Event().wait()
    else:
        await asyncio.sleep(seconds)


def _formatted(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
