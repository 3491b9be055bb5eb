"""What a node class is: its inputs and outputs as `/object_info` tells them, and the function that runs it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from load.upstreams.comfyui.folders import Folders

if TYPE_CHECKING:
    from load.upstreams.comfyui.running import Context
    from load.upstreams.comfyui.values import Made

    Run = Callable[[Context, Mapping[str, Any]], Made | Awaitable[Made]]

Config = list[Any]
"""An input's type and its options, as the wire has them."""


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
