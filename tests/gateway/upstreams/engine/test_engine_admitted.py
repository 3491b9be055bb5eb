"""What admission lets through, the engine draws: nothing that a client may ask for is refused only at the call."""

import functools
import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as some
from msgspec import structs
from PIL import Image

from gateway.core.models import Model
from gateway.core.normal import InputImage, Request
from gateway.core.params import CONTROLS, TASKS, decode_params
from gateway.core.requests import normalise
from gateway.engine.interface import Painting
from gateway.ports import CallOrder
from gateway.upstreams.engine import Engine
from protocol.errors import ClientFault
from tests.depth import deep_count
from tests.gateway.upstreams.engine.talk import ON_SHARED_LOOP, made, shared_engine
from tests.pictures import flat

engine = shared_engine()
MODELS: Final = Engine().models
MOST_PIXELS: Final = 100_000
"""Of a picture that is drawn here."""

# ---------------------------------------------------------------------------------------------- what may be asked for

WORDS: Final = ("a red apple", "two blue fish on green, (night:1.4)", "((", "((:1)", "\x00\ud7ff", "狐 🦊", "x " * 4000)
PARTS: Final = (
    [{"text": "a fox", "weight": 10}, {"text": "rain", "weight": -10}],
    [{"text": "a", "weight": 1e-9}, {"text": "b", "weight": 0}, {"text": "c"}],
)
VALUES: Final[Mapping[str, Sequence[Any]]] = {
    "negative_prompt": ("", *WORDS),
    "guidance": (0, 1, 7.5, 20, 30, 30.5),
    "seed": (0, 7, 2**32, 2**53 - 1),
    "n": (1, 2, 4, 5),
    "strength": (0, 0.01, 0.5, 1),
    "style": ("drawn", "pixel-art", "anime"),
    "tiling": (True, False),
    "background": ("auto", "opaque", "transparent"),
    "scale": (1, 1.01, 3.3, 8),
    "sampler": ("euler",),
}
"""Name inside `params` -> what the wire lets through: mostly what the engine has, and what lies just beyond."""
EDGES: Final = (64, 64, 72, 72, 128, 128, 192, 68)
STEPS: Final = (1, 1, 2, 2, 3, 3, 4, 151)
OPTIONS: Final[Mapping[str, Sequence[float]]] = {
    "weight": (1.0, 1.0, 0.0, 2.0, 2.5, -1.0),
    "start": (0.0, 0.0, 0.0, 0.5),
    "end": (1.0, 1.0, 1.0, 0.5),
}
KINDS: Final = ("canny", "scribble", "softedge", "control", "depth")
OTHERS: Final = ((), (), ("init",), ("init", "mask"), ("mask",))
SHAPES: Final = (
    ("RGB", (64, 64)),
    ("RGBA", (1, 1)),
    ("L", (9, 70)),
    ("LA", (100, 3)),
    ("P", (72, 128)),
    ("1", (1, 90)),
)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client asks for, and the files of its pictures by role."""

    model: Model
    task: str
    params: Mapping[str, Any]
    images: Sequence[InputImage]
    files: Mapping[str, bytes]

    def admitted(self) -> Request:
        """Return the normal form; raises `ClientFault` if it is refused."""
        params = decode_params(msgspec.json.encode(self.params))
        return normalise(self.task, params, self.images, self.model, random.Random(1))


@some.composite
def wishes(draw: some.DrawFn, task: str) -> Wish:
    """Something that may be asked of one of the models, with small edges and few steps."""
    model = draw(some.sampled_from(MODELS))
    roles = draw(roles_of(task))
    shapes = {role: draw(some.sampled_from(SHAPES)) for role in roles}
    images = [InputImage(role, role, *size, **draw(uses(role))) for role, (_, size) in shapes.items()]
    files = {role: picture(*shape) for role, shape in shapes.items()}
    return Wish(model, task, draw(params_of(model, task, roles)), images, files)


def roles_of(task: str) -> some.SearchStrategy[list[str]]:
    """The pictures that a task needs and some that it may have, now and then of a kind that the models lack."""
    bounds = TASKS[task].roles
    needed = [role for role, (least, _) in bounds.items() if least and role != "control"]
    kinds = some.sampled_from(KINDS).map(lambda kind: [kind] if "control" in bounds else [])
    others = some.sampled_from(OTHERS).map(lambda roles: [role for role in roles if role in bounds])
    return some.tuples(kinds, others).map(lambda more: list(dict.fromkeys([*needed, *more[0], *more[1]])))


def uses(role: str) -> some.SearchStrategy[dict[str, Any]]:
    """How a picture may be used."""
    if role not in (*CONTROLS, "reference"):
        return some.just({})
    return some.fixed_dictionaries({}, optional={name: some.sampled_from(values) for name, values in OPTIONS.items()})


@some.composite
def params_of(draw: some.DrawFn, model: Model, task: str, roles: Sequence[str]) -> dict[str, Any]:
    """Some of the names that count in a task, now and then one that does not."""
    names = model.tasks[task] & VALUES.keys()
    if "init" not in roles or draw(some.booleans()):
        names -= {"strength"}
    chosen = draw(some.lists(some.sampled_from([*sorted(names) * 2, "sampler"]), max_size=5, unique=True))
    params = {name: draw(some.sampled_from(VALUES[name])) for name in chosen}
    if "prompt" in model.tasks[task]:
        sizes = {"width": EDGES, "height": EDGES, "steps": STEPS}
        params |= {name: draw(some.sampled_from(values)) for name, values in sizes.items()}
        params |= draw(some.sampled_from([*({"prompt": text} for text in WORDS), *({"prompts": one} for one in PARTS)]))
    return params


@functools.cache
def picture(mode: str, size: tuple[int, int]) -> bytes:
    """Return a file of one colour."""
    return flat(0, size, mode)


# ------------------------------------------------------------------------------------------------------ what is drawn


@ON_SHARED_LOOP
@pytest.mark.parametrize("task", sorted(MODELS[0].tasks))
@settings(max_examples=deep_count(12, 150))
@given(some.data())
async def test_what_admission_lets_through_is_drawn(engine: Engine, task: str, data: some.DataObject) -> None:
    """In its size, and with an alpha channel where that was asked for."""
    wish = data.draw(wishes(task))
    try:
        request = wish.admitted()
    except ClientFault:
        reject()
    assume(request.width * request.height <= MOST_PIXELS)
    call = CallOrder("call-1", wish.model, request, request.seed + request.n - 1, 1, wish.files)
    (one,) = await made(engine, call)
    with Image.open(io.BytesIO(one.picture.content)) as drawn:
        assert drawn.size == (request.width, request.height)
        assert task == "upscale" or ("A" in drawn.getbands()) == (request.background == "transparent")


INIT: Final = InputImage("init", "i", 64, 64)
MASK: Final = InputImage("mask", "m", 64, 64)
CANNY: Final = InputImage("canny", "c", 64, 64)
FIGURE: Final = InputImage("reference", "r", 64, 64)
TAKEN: Final[list[tuple[str, list[InputImage], dict[str, Any]]]] = [
    ("txt2img", [], {"guidance": 30}),
    ("controlnet", [structs.replace(CANNY, weight=2.0)], {"background": "transparent"}),
    ("reference", [structs.replace(FIGURE, weight=1.0, start=0.0, end=1.0)], {"background": "transparent"}),
]
REFUSED: Final[list[tuple[str, list[InputImage], dict[str, Any], str]]] = [
    ("txt2img", [], {"guidance": 30.5}, "params.guidance"),
    ("controlnet", [structs.replace(CANNY, weight=-1.0)], {}, "inputs[0].weight"),
    ("controlnet", [INIT, structs.replace(CANNY, weight=2.5)], {}, "inputs[1].weight"),
    ("controlnet", [CANNY, INIT], {"background": "transparent"}, "params.background"),
    ("img2img", [INIT], {"background": "transparent"}, "params.background"),
    ("reference", [FIGURE, MASK], {"background": "transparent"}, "params.background"),
    ("reference", [structs.replace(FIGURE, weight=0.5)], {}, "inputs[0].weight"),
    ("reference", [structs.replace(FIGURE, start=0.5)], {}, "inputs[0].start"),
    ("reference", [structs.replace(FIGURE, end=0.5)], {}, "inputs[0].end"),
]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
@pytest.mark.parametrize("task,images,params", TAKEN)
def test_the_most_of_everything_is_taken(
    model: Model, task: str, images: list[InputImage], params: dict[str, Any]
) -> None:
    """And what is usual, written out."""
    Wish(model, task, {"prompt": "a fox", **params}, images, {}).admitted()


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
@pytest.mark.parametrize("task,images,params,path", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(
    model: Model, task: str, images: list[InputImage], params: dict[str, Any], path: str
) -> None:
    """Before a job is made: a figure in a picture that fills its frame, a reference that counts half."""
    with pytest.raises(ClientFault) as caught:
        Wish(model, task, {"prompt": "a fox", **params}, images, {}).admitted()
    assert (caught.value.code, caught.value.details["path"]) == ("invalid_param", path)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_bounds_of_a_model_are_those_of_a_painting(model: Model) -> None:
    """What admission refuses is no whim: no painting can have it."""
    fox = Painting("a fox", 1, 64, 64)
    for name, (low, high) in (("guidance", model.guidance), ("edge_weight", model.bounds["control"]["weight"])):
        for value in (low, high):
            replace(fox, **{name: value})  # type: ignore[arg-type]
        for value in (low - 0.1, high + 0.1):
            with pytest.raises(ValueError, match="guidance is 0 to 30, an edge weight 0 to 2"):
                replace(fox, **{name: value})  # type: ignore[arg-type]
