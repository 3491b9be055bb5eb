"""What a running node meets: the server's settings, the script's troubles, and whoever wants it to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui import arrays, hub
from load.upstreams.comfyui.executor import Executor, Moment, Settings
from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.jobs import Job
from load.upstreams.comfyui.spec import Context, NodeClass, Picture
from load.upstreams.comfyui.troubles import (
    OUT_OF_MEMORY,
    SERVER_ROOT,
    Crash,
    Fail,
    LoseFiles,
    NoPreviews,
    Pause,
    Trouble,
    Vanish,
)
from load.upstreams.comfyui.values import Floats, Interrupted, Library, NodeError, Vanished

_OUT_OF_MEMORY_TIP = "The stand-in's graphics card is full."
Tick = Callable[[str, int, int, Picture | None], None]
"""Tells one step of a node: which of how many, and the picture to show if there is one."""


@dataclass(slots=True)
class NodeContext(Context):
    """One node of one prompt, on its way."""

    executor: Executor
    job: Job
    troubles: list[Trouble]
    node: str
    tick: Tick
    given: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> Settings:
        return self.executor.settings

    @property
    def library(self) -> Library:
        return self.settings.library

    @property
    def folders(self) -> Folders:
        return self.settings.folders

    @property
    def temp_prefix(self) -> str:
        return self.executor.temp_prefix

    @property
    def picture_bytes(self) -> int:
        return self.settings.picture_bytes

    @property
    def loses_files(self) -> bool:
        return any(isinstance(trouble, LoseFiles) for trouble in self.troubles)

    @property
    def kind(self) -> NodeClass:
        return self.settings.classes[self.job.graph[self.node]["class_type"]]

    @property
    def texts(self) -> dict[str, object]:
        more = self.job.extra_data.get("extra_pnginfo") or {}
        return {"prompt": self.job.graph, **more}

    def count_step(self) -> None:
        self.job.steps += 1

    def look_at_flag(self) -> None:
        if self.executor.interrupt:
            self.executor.interrupt = False
            raise Interrupted

    async def arrive(self, step: int | None) -> None:
        if self.settings.hold is not None:
            await self.settings.hold(Moment(self.job.prompt_id, self.node, self.kind.name, step))
        for trouble in self.troubles:
            await self._meet(trouble, step)
        draw = self.settings.node_time if step is None else self.settings.step_time
        await asyncio.sleep(draw.draw(self.executor.chance))

    async def sleep(self, seconds: float) -> None:
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def step(self, value: int, total: int, image: Callable[[], Picture] | None = None) -> None:
        self.look_at_flag()
        self.tick(self.node, value, total, image() if image is not None else None)
        await asyncio.sleep(0)

    def preview(self, image: Floats) -> Callable[[], Picture] | None:
        settings = self.settings
        if not settings.previews or any(isinstance(trouble, NoPreviews) for trouble in self.troubles):
            return None
        return lambda: (hub.JPEG, arrays.preview_jpeg(image, settings.preview_size, settings.preview_bytes))

    def send_text(self, text: str) -> None:
        node = self.node.encode()
        self.executor.hub.publish_bytes(hub.TEXT, len(node).to_bytes(4, "big") + node + text.encode())

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
            "current_outputs": list(self.job.graph),
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
