"""What tests of checks and requests ask for: pictures, a model that can do it all, and the least of each task."""

import random
from dataclasses import replace
from typing import Any, Final

import pytest

from gateway.core.models import Model, Sizes
from gateway.core.normal import InputImage, Request
from gateway.core.params import TASKS, Expand, Params
from gateway.core.requests import normalise
from protocol.errors import ClientFault

ASSET: Final = "sha256:" + "0" * 64
OTHER: Final = "sha256:" + "1" * 64
INIT: Final = InputImage("init", ASSET, 640, 384)
MASK: Final = InputImage("mask", OTHER, 640, 384)
CANNY: Final = InputImage("canny", ASSET, 512, 512)
DEPTH: Final = InputImage("depth", OTHER, 512, 512)
REFERENCE: Final = InputImage("reference", ASSET, 300, 200)

_PARAMS: Final = frozenset(Params.__struct_fields__) - {"prompts", "adjust"}
_NO_INIT: Final = frozenset({"txt2img", "reference"})
MODEL: Final = Model(
    id="m",
    upstream="up",
    vendor_model="v",
    tasks={task: _PARAMS - {"strength"} if task in _NO_INIT else _PARAMS for task in TASKS},
    sizes=Sizes(smallest=64, largest=1024, multiple_of=8, max_pixels=1024 * 768),
    task_sizes={"upscale": Sizes(smallest=1, largest=4096, multiple_of=1, max_pixels=4096 * 4096)},
    steps=(2, 50),
    default_steps=20,
    guidance=(1.0, 12.5),
    max_n=4,
    samplers=("euler", "ddim"),
    schedulers=("karras",),
    styles=("anime",),
    loras=("ink", "neon"),
    backgrounds=("auto", "opaque"),
    controls=("canny", "depth"),
    max_controls=3,
    preprocessors=("auto", "none"),
    max_references=2,
    max_prompt=100,
)
NARROW: Final = replace(MODEL, tasks={"txt2img": frozenset({"prompt", "seed"})})
"""It does one thing, with two params."""

_PROMPT: Final = {"prompt": "a fox"}
LEAST: Final[dict[str, tuple[list[InputImage], dict[str, Any]]]] = {
    "txt2img": ([], _PROMPT),
    "img2img": ([INIT], _PROMPT),
    "inpaint": ([MASK, INIT], _PROMPT),
    "outpaint": ([INIT], {"expand": Expand(left=64, down=128)}),
    "controlnet": ([CANNY], _PROMPT),
    "reference": ([REFERENCE], _PROMPT),
    "upscale": ([INIT], {}),
    "remove_background": ([INIT], {}),
    "search_replace": ([INIT], {**_PROMPT, "search": "a dog"}),
}
"""Task -> the inputs and params without which it is refused."""


def made(task: str = "txt2img", model: Model = MODEL, inputs: list[InputImage] | None = None, **params: Any) -> Request:
    """Return the normal form of a task's least params and these."""
    least_inputs, least = LEAST[task]
    asked = {name: value for name, value in {**least, **params}.items() if value is not None}
    return normalise(task, Params(**asked), least_inputs if inputs is None else inputs, model, random.Random(1))


def refused(
    task: str = "txt2img", model: Model = MODEL, inputs: list[InputImage] | None = None, **params: Any
) -> ClientFault:
    """Return how a task's least params and these are refused; one that is `None` is left out."""
    with pytest.raises(ClientFault) as caught:
        made(task, model, inputs, **params)
    return caught.value
