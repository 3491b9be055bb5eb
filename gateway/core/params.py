"""What a client can ask for, as types: the kinds of work and the names inside `params`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from protocol.codec import MAX_PARAMS, decode_fields
from protocol.errors import ClientFault

CONTROLS: Final = (
    "control", "canny", "depth", "hed", "lineart", "mlsd", "normal", "pose", "scribble", "segmentation", "shuffle",
    "sketch", "softedge", "structure", "style", "tile",
)  # fmt: skip
"""Roles of control images; `control` is one of the upstream's own choice."""
Background = Literal["auto", "opaque", "transparent"]
BACKGROUNDS: Final[tuple[Background, ...]] = ("auto", "opaque", "transparent")
"""What may lie behind the figure of a picture; `auto` leaves it to the model."""
MAX_CONTROLS: Final = 8
MAX_REFERENCES: Final = 8


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of work: how many input images it takes by role, at least and at most, and what else it needs."""

    roles: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """`control` stands for all of `CONTROLS`."""
    needs: frozenset[str] = frozenset({"prompt"})
    """Names inside `params` without which the task means nothing."""
    uses_strength: bool = False


_ONE: Final = (1, 1)
_MAYBE: Final = (0, 1)
TASKS: Final[dict[str, Task]] = {
    "txt2img": Task(),
    "img2img": Task({"init": _ONE}, uses_strength=True),
    "inpaint": Task({"init": _ONE, "mask": _ONE}, uses_strength=True),
    "outpaint": Task({"init": _ONE}, frozenset({"expand"})),
    "controlnet": Task({"init": _MAYBE, "mask": _MAYBE, "control": (1, MAX_CONTROLS)}, uses_strength=True),
    "reference": Task({"reference": (1, MAX_REFERENCES), "mask": _MAYBE}),
    "upscale": Task({"init": _ONE}, frozenset()),
    "remove_background": Task({"init": _ONE}, frozenset()),
    "search_replace": Task({"init": _ONE}, frozenset({"prompt", "search"})),
}
"""Every kind of work that a client can ask for."""

_Pixels = Annotated[int, Meta(ge=0, le=8192)]


class WeightedPrompt(Struct, frozen=True, forbid_unknown_fields=True):
    """A part of a prompt that counts more or less; a negative weight says what should not be seen."""

    text: Annotated[str, Meta(min_length=1)]
    weight: Annotated[float, Meta(ge=-10, le=10)] = 1.0


class Lora(Struct, frozen=True, forbid_unknown_fields=True):
    """A small addition to a model, by the upstream's name of it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    weight: Annotated[float, Meta(ge=-10, le=10)] = 1.0


class Expand(Struct, frozen=True, forbid_unknown_fields=True):
    """Pixels by which a picture grows on each side."""

    left: _Pixels = 0
    right: _Pixels = 0
    up: _Pixels = 0
    down: _Pixels = 0


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """The base names inside `params`; anything else is refused by name."""

    prompt: str | UnsetType = UNSET
    prompts: Annotated[list[WeightedPrompt], Meta(min_length=1, max_length=32)] | UnsetType = UNSET
    """In place of `prompt`: its parts with their weights."""
    negative_prompt: str | UnsetType = UNSET
    width: Annotated[int, Meta(ge=1, le=16384)] | UnsetType = UNSET
    height: Annotated[int, Meta(ge=1, le=16384)] | UnsetType = UNSET
    steps: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    guidance: Annotated[float, Meta(ge=0, le=100)] | UnsetType = UNSET
    sampler: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    scheduler: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, lt=2**53)] | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    strength: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    style: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    loras: Annotated[list[Lora], Meta(max_length=16)] | UnsetType = UNSET
    expand: Expand | UnsetType = UNSET
    """How far an outpainted picture grows."""
    scale: Annotated[float, Meta(ge=1, le=8)] | UnsetType = UNSET
    """How many times larger an upscaled picture becomes; in place of `width` and `height`."""
    search: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    """What `search_replace` looks for in the picture."""
    tiling: bool | UnsetType = UNSET
    """Whether the picture goes on at its opposite edge, so that copies of it join without a seam."""
    background: Background | UnsetType = UNSET
    """`transparent`: the figure alone, in a picture with an alpha channel."""
    adjust: bool = False
    """Whether what the model cannot do is brought to the nearest that it can, with a `notice`, and not refused."""


def decode_params(raw: bytes | Raw) -> Params:
    """Return the typed params; `ClientFault` names the wrong field, `payload_too_large` over 32 KiB."""
    if len(bytes(raw)) > MAX_PARAMS:
        raise ClientFault("payload_too_large", f"params has at most {MAX_PARAMS} bytes", details={"path": "params"})
    return decode_fields(raw, Params, "params")


def split_prompts(parts: Sequence[WeightedPrompt]) -> tuple[str, str]:
    """Return weighted parts as prompt and negative prompt in the notation `(text:weight)` that many upstreams read."""
    return (
        ", ".join(_weighted(part.text, part.weight) for part in parts if part.weight >= 0),
        ", ".join(_weighted(part.text, part.weight) for part in parts if part.weight < 0),
    )


def _weighted(text: str, weight: float) -> str:
    # The notation has neither an exponent, with which a small number would be written, nor a sign.
    weight = abs(round(weight, 4))
    return text if weight == 1 else f"({text}:{weight:g})"
