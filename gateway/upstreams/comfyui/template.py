"""Workflows of the operator's own, offered as models: API-format graphs with slots; without I/O.

A template is what ComfyUI saves with "Export (API)": an object of node ids, each with `class_type` and `inputs`. Where
a call's value belongs stands a slot, always as a JSON string:

    {"3": {"class_type": "KSampler", "inputs": {"seed": "{{seed}}", "steps": "{{steps}}", "denoise": 1, ...}},
     "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "oil painting, {{prompt}}", "clip": ["4", 1]}},
     "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["8", 0]}}}

A string that is one slot becomes the value in its own type; within a longer string the value becomes text. What is put
in is never read again, so a prompt that holds a slot's name stays as it is.

Slots of params: `prompt` `negative_prompt` `sampler` `scheduler` `search` (text), `width` `height` `steps` `seed`
`left` `right` `up` `down` (whole numbers), `guidance` `strength` (fractions). The template takes exactly the params
that it has slots for, others are refused by name; what is drawn from a prompt must have `prompt` and `seed`.
Slots of input images: `init` `mask` `control` `reference`, and `control_2` ... `reference_2` ... for more of them, each
the uploaded file's name as `LoadImage` takes it; `control_weight` `control_start` `control_end` belong to `control`.
A missing further picture is the last one again. `prefix` is a file name of this call's own; `filename_prefix` of
`SaveImage` is always set to it, since a result that the server has cached would name an old file.

The kind of work follows from the slots: `reference`; else `control` = controlnet; else `init` with `left` or its like =
outpaint, with `mask` = inpaint, with `prompt` = img2img, alone = upscale; else txt2img. To say otherwise, wrap the
graph: `{"task": "remove_background", "graph": {...}}`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from gateway.core.models import AS_IT_IS, Bounds, Model
from gateway.core.normal import Request
from gateway.core.params import MAX_CONTROLS, MAX_REFERENCES, TASKS, Expand
from gateway.core.reports import Outcome, UpstreamFault
from gateway.ports import CallOrder
from gateway.upstreams.comfyui.graph import Graph, Library, chosen_sampler

_SLOT: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_SIDES: Final = ("left", "right", "up", "down")
_PARAMS: Final[dict[str, Callable[[Request, Library], Any]]] = {
    "prompt": lambda request, _: request.prompt,
    "negative_prompt": lambda request, _: request.negative_prompt,
    "sampler": lambda request, library: chosen_sampler(request, library)[0],
    "scheduler": lambda request, library: chosen_sampler(request, library)[1],
    "search": lambda request, _: request.search or "",
    "width": lambda request, _: request.width,
    "height": lambda request, _: request.height,
    "steps": lambda request, _: request.steps,
    "guidance": lambda request, _: request.guidance,
    "tiling": lambda request, _: request.tiling,
    "strength": lambda request, _: 1.0 if request.strength is None else request.strength,
    "left": lambda request, _: (request.expand or Expand()).left,
    "right": lambda request, _: (request.expand or Expand()).right,
    "up": lambda request, _: (request.expand or Expand()).up,
    "down": lambda request, _: (request.expand or Expand()).down,
}
_OF_CONTROL: Final = ("control_weight", "control_start", "control_end")
_OTHERS: Final = frozenset({"seed", "prefix", "init", "mask", *_OF_CONTROL})
_SEVERAL: Final = {"control": MAX_CONTROLS, "reference": MAX_REFERENCES}


class TemplateError(ValueError):
    """A workflow cannot be offered; the message says why."""


@dataclass(frozen=True, slots=True)
class Template:
    """A graph with slots."""

    name: str
    task: str
    graph: Mapping[str, Any]
    slots: frozenset[str]

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> Self:
        """Return the template that a parsed file holds; raises `TemplateError`."""
        graph: Any = given
        task = None
        if "graph" in given and "class_type" not in given["graph"]:
            graph, task = given["graph"], given.get("task")
        if not isinstance(graph, Mapping) or not graph:
            raise TemplateError(f"template {name} is no workflow in API format")
        for node_id, node in graph.items():
            if not isinstance(node, Mapping) or not isinstance(node.get("inputs"), Mapping) or "class_type" not in node:
                raise TemplateError(
                    f"template {name}: node {node_id} has no class_type and inputs: export it for the API"
                )
        slots = frozenset(_slots_of(graph))
        made = cls(name, task or _task_of(slots), graph, slots)
        made._check()
        return made

    def _check(self) -> None:
        if self.task not in TASKS:
            raise TemplateError(f"template {self.name}: there is no task {self.task}")
        for slot in sorted(self.slots):
            if not (slot in _PARAMS or slot in _OTHERS or _place(slot)):
                raise TemplateError(f"template {self.name}: there is no slot {{{{{slot}}}}}")
        needed = {"prompt", "seed"} if "prompt" in TASKS[self.task].needs else set()
        needed |= {role for role, (least, _) in TASKS[self.task].roles.items() if least}
        for slot in sorted(needed - self.slots):
            raise TemplateError(f"template {self.name}: {self.task} needs the slot {{{{{slot}}}}}")

    def model(self, upstream: str, library: Library) -> Model:
        """Return it as a model that takes what it has slots for."""
        params = {slot for slot in self.slots if slot in _PARAMS and slot not in _SIDES} | ({"seed"} & self.slots)
        if not self.slots.isdisjoint(_SIDES):
            params.add("expand")
        if self.task == "upscale" and params & {"width", "height"}:
            params.add("scale")
        if "seed" in self.slots:
            params.add("n")
        return Model(
            id=self.name,
            upstream=upstream,
            vendor_model=self.name,
            tasks={self.task: frozenset(params)},
            samplers=tuple(library.samplers) if "sampler" in self.slots else (),
            schedulers=library.schedulers if "scheduler" in self.slots else (),
            controls=("control",) if "control" in self.slots else (),
            max_controls=self._count("control"),
            max_references=self._count("reference"),
            bounds={"control": self._fixed(), "reference": AS_IT_IS},
            max_n=8 if "seed" in self.slots else 1,
            progress="steps",
            previews=True,
            cancel="yes",
            description="a workflow of the operator's",
        )

    def fill(self, order: CallOrder, library: Library, images: Mapping[str, str], prefix: str) -> Graph:
        """Return the graph of an order. Raises `UpstreamFault` if its images are not those that there are slots for."""
        self._check_images(images)
        values: dict[str, Any] = {name: value(order.request, library) for name, value in _PARAMS.items()}
        values |= {"seed": order.seed, "prefix": prefix} | self._pictures(order.request, images)
        graph: Graph = {}
        for node_id, node in self.graph.items():
            graph[node_id] = {**node, "inputs": _filled(dict(node["inputs"]), values)}
            if node["class_type"] == "SaveImage":
                graph[node_id]["inputs"]["filename_prefix"] = prefix
        return graph

    def _fixed(self) -> dict[str, Bounds]:
        """The options of a control image that it has no slot for."""
        return {name: bounds for name, bounds in AS_IT_IS.items() if f"control_{name}" not in self.slots}

    def _count(self, role: str) -> int:
        return max(1, sum(1 for slot in self.slots if (place := _place(slot)) is not None and place[0] == role))

    def _check_images(self, images: Mapping[str, str]) -> None:
        for role in ("init", "mask"):
            if (role in images) != (role in self.slots):
                has = "needs" if role in self.slots else "takes no"
                message = f"{self.name} {has} input image of role {role}".replace("needs input", "needs an input")
                raise UpstreamFault(Outcome.FAILED, "invalid_param", message, details={"path": "inputs"})

    def _pictures(self, request: Request, images: Mapping[str, str]) -> dict[str, Any]:
        values: dict[str, Any] = {slot: name for slot, name in images.items() if slot in ("init", "mask")}
        for role, given in (("control", request.controls), ("reference", request.references)):
            names = [images[one.slot or one.role] for one in given]
            for number in range(1, _SEVERAL[role] + 1) if names else ():
                slot = role if number == 1 else f"{role}_{number}"
                values[slot] = names[min(number, len(names)) - 1]
        first = next(iter(request.controls), None)
        if first is not None:
            numbers = (1.0 if first.weight is None else first.weight, first.start or 0.0, first.end)
            values |= dict(zip(_OF_CONTROL, (*numbers[:2], 1.0 if numbers[2] is None else numbers[2]), strict=True))
        return values


def _place(slot: str) -> tuple[str, int] | None:
    """The role and number of a slot for one of several pictures."""
    role, _, number = slot.partition("_")
    if role not in _SEVERAL or (number and not number.isdecimal()):
        return None
    count = int(number or 1)
    return (role, count) if 1 <= count <= _SEVERAL[role] else None


def _task_of(slots: frozenset[str]) -> str:
    if "init" in slots and "reference" not in slots and "control" not in slots:
        if not slots.isdisjoint(_SIDES):
            return "outpaint"
        if "mask" in slots:
            return "inpaint"
        return "img2img" if "prompt" in slots else "upscale"
    return "reference" if "reference" in slots else "controlnet" if "control" in slots else "txt2img"


def _slots_of(value: Any) -> set[str]:
    if isinstance(value, str):
        return set(_SLOT.findall(value))
    if isinstance(value, Mapping):
        value = list(value.values())
    return set().union(*map(_slots_of, value)) if isinstance(value, list) else set()


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        whole = _SLOT.fullmatch(value)
        if whole is not None:
            return values[whole[1]]
        return _SLOT.sub(lambda slot: str(values[slot[1]]), value)
    if isinstance(value, Mapping):
        return {key: _filled(one, values) for key, one in value.items()}
    return [_filled(one, values) for one in value] if isinstance(value, list) else value
