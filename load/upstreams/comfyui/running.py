"""Running one prompt: its nodes in order, its messages, its cache and its end."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui import hub
from load.upstreams.comfyui.context import NodeContext
from load.upstreams.comfyui.executor import Cached, Executor, Settings
from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.plan import Plan, Signatures, is_link
from load.upstreams.comfyui.prompt_queue import Item
from load.upstreams.comfyui.troubles import Trouble
from load.upstreams.comfyui.values import Interrupted, Made, Vanished


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
        executor, cached = self.executor, self._cached(name)
        if cached is not None:
            # An output, or the twin of a node that just ran.
            executor.tell_named("executed", self._names(name, output=cached.shown))
            self._finish(name)
            return True
        context = NodeContext(executor, self.job, self.troubles, name, self._step)
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

    async def _make(self, context: NodeContext) -> Made:
        name = context.node
        self._set(name, value=0.0, maximum=1.0, state="running")
        self.executor.running_node = name
        self.executor.tell_named("executing", self._names(name))
        context.given.update(self._inputs(name))
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

    def _inputs(self, name: str) -> dict[str, Any]:
        """A node's inputs, from the graph and from the nodes before it."""
        given = self.job.graph[name]["inputs"]
        return {key: self._value_of(value) if is_link(value) else value for key, value in given.items()}

    def _value_of(self, link: list[Any]) -> Any:
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
        return {**entry, **self._metadata(node)}

    def _metadata(self, node: str) -> dict[str, Any]:
        """How a message names its node."""
        return {
            "node_id": node,
            "prompt_id": self.job.prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }

    def _step(self, node: str, value: int, total: int, image: tuple[int, bytes] | None) -> None:
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
        told = json.dumps({**self._metadata(node), "image_type": mime}).encode()
        framed = len(told).to_bytes(4, "big") + told + data
        self.executor.hub.publish_bytes(hub.PREVIEW_WITH_METADATA, framed, self.executor.client_id)
