"""How the worker works, and what it remembers between prompts."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.hub import Hub
from load.upstreams.comfyui.spec import NodeClass
from load.upstreams.comfyui.values import Library
from load.upstreams.service_time import ServiceTime


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
