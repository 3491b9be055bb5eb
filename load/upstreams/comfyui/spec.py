"""What a node class is: its inputs and outputs as `/object_info` tells them, and the function that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from load.upstreams.comfyui.folders import Folders
from load.upstreams.comfyui.values import Floats, Library, Made

Config = list[Any]
"""An input's type and its options, as the wire has them."""
Picture = tuple[int, bytes]
"""A picture's format, by its number on the wire, and its file."""


class Context(Protocol):
    """What a running node can ask of the server."""

    @property
    def library(self) -> Library: ...

    @property
    def folders(self) -> Folders: ...

    @property
    def temp_prefix(self) -> str: ...

    @property
    def picture_bytes(self) -> int:
        """The least size of a picture's file."""
        ...

    @property
    def loses_files(self) -> bool:
        """Whether results are to be gone when somebody asks for them."""
        ...

    @property
    def texts(self) -> dict[str, object]:
        """What saved pictures carry: the graph, and what the client put beside it."""
        ...

    def look_at_flag(self) -> None:
        """Stop here if somebody asked for it."""
        ...

    async def arrive(self, step: int | None) -> None:
        """Come to a step, or to the node's beginning: wait as the test wants, and meet what the script says."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Work for so long."""
        ...

    async def step(self, value: int, total: int, image: Callable[[], Picture] | None = None) -> None:
        """Tell one tick, unless the work is to stop."""
        ...

    def count_step(self) -> None:
        """Note that a step of a sampler was done."""
        ...

    def preview(self, image: Floats) -> Callable[[], Picture] | None:
        """A preview of a step, if this prompt has previews."""
        ...

    def send_text(self, text: str) -> None:
        """A line of text for the node, which goes to everybody."""
        ...


Run = Callable[[Context, Mapping[str, Any]], Made | Awaitable[Made]]


@dataclass(frozen=True, slots=True)
class Input:
    """One input; `kind` is a type's name, or a function of the server's lists that gives the choices."""

    name: str
    kind: str | Callable[[Lists], list[str]]
    options: Mapping[str, Any] = field(default_factory=dict)
    optional: bool = False
    v3: bool = False
    """Whether the choices are told in the newer form: `["COMBO", {"options": [...]}]`."""

    def config(self, lists: Lists) -> Config:
        """The input as `/object_info` tells it."""
        if isinstance(self.kind, str):
            return [self.kind, dict(self.options)]
        if self.v3:
            return ["COMBO", {**self.options, "multiselect": False, "options": self.kind(lists)}]
        return [self.kind(lists), dict(self.options)]


@dataclass(frozen=True, slots=True)
class Lists:
    """What the choices of inputs are made from: names by models folder, and the uploaded files."""

    models: Mapping[str, list[str]]
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeClass:
    """A kind of node."""

    name: str
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    run: Run
    display_name: str | None = None
    category: str = "standin"
    output_node: bool = False
    output_names: tuple[str, ...] | None = None
    hidden: Mapping[str, str] = field(default_factory=dict)
    v3: bool = False
    checked: Callable[[Folders, Mapping[str, Any]], Mapping[str, str]] | None = None
    """The class's own check when a prompt comes: what is wrong by input."""
    fingerprint: Callable[[Folders, Mapping[str, Any]], str] | None = None
    """What must be the same, beside the inputs, for a cached result to be used."""

    def input(self, name: str) -> Input | None:
        return next((one for one in self.inputs if one.name == name), None)

    def describe(self, lists: Lists) -> dict[str, Any]:
        """The class as `/object_info` tells it."""
        groups: dict[str, dict[str, Any]] = {"required": {}}
        for one in self.inputs:
            groups.setdefault("optional" if one.optional else "required", {})[one.name] = one.config(lists)
        if self.hidden:
            groups["hidden"] = dict(self.hidden)
        told: dict[str, Any] = {
            "input": groups,
            "input_order": {name: list(group) for name, group in groups.items()},
            "output": list(self.outputs),
            "output_is_list": [False] * len(self.outputs),
            "output_name": list(self.output_names or self.outputs),
            "name": self.name,
            "display_name": self.display_name or self.name,
            "description": "",
            "python_module": "nodes",
            "category": self.category,
            "output_node": self.output_node,
        }
        return told | self._newer()

    def _newer(self) -> dict[str, Any]:
        if not self.v3:
            return {}
        flags = dict.fromkeys(("deprecated", "experimental", "api_node"), False)
        return {"output_tooltips": [None] * len(self.outputs), **flags}
