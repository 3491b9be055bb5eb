"""What a loaded pipeline can do, as the gateway's model; without I/O, and without torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gateway.core.models import Model, Sizes
from gateway.core.params import MAX_CONTROLS
from gateway.upstreams.diffusers.wire import Loaded

MOST_STEPS: Final = 150
_LONGEST_EDGE: Final = 4096
_SHORTEST_EDGE: Final = 64
_ODD: Final = re.compile(r"[^A-Za-z0-9._-]+")
_ALWAYS: Final = frozenset({"prompt", "width", "height", "steps", "seed", "n"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What is offered, as far as the pipeline does not tell."""

    model: str = ""
    """Name to offer the model under; empty: made of the folder's or the hub's."""
    max_pixels: int = 2_097_152
    """Of the largest picture to ask for."""
    steps: int | None = None
    """Where a request tells none; `None` = what the pipeline itself takes."""
    guidance: float | None = None
    """As `steps`."""


def model_of(upstream: str, origin: str, loaded: Loaded, terms: Terms) -> Model:
    """Return what is offered; `origin` is the folder or the hub's name of the model."""
    name = terms.model or name_of(origin)
    sizes = Sizes(
        smallest=_SHORTEST_EDGE,
        largest=_LONGEST_EDGE,
        multiple_of=loaded.multiple_of,
        max_pixels=max(terms.max_pixels, _SHORTEST_EDGE**2),
    )
    return Model(
        id=name,
        upstream=upstream,
        vendor_model=name,
        tasks=tasks_of(loaded),
        sizes=sizes,
        default_size=sizes.nearest(*loaded.size),
        steps=(1, MOST_STEPS),
        default_steps=min(loaded.steps if terms.steps is None else terms.steps, MOST_STEPS),
        default_guidance=loaded.guidance if terms.guidance is None else terms.guidance,
        max_n=4,
        images_per_call=1,
        samplers=loaded.samplers,
        loras=loaded.loras,
        controls=loaded.controls,
        max_controls=min(max(1, len(loaded.controls)), MAX_CONTROLS),
        progress="steps",
        previews=loaded.previews,
        cancel="yes",
        billed=False,
        description=f"{loaded.pipeline} of diffusers, on {loaded.device}",
    )


def name_of(origin: str) -> str:
    """Return a name to offer a model under: the last part of its folder or of its name on the hub."""
    last = origin.rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    return _ODD.sub("-", last).strip("-")[:128] or "model"


def tasks_of(loaded: Loaded) -> dict[str, frozenset[str]]:
    """Return each task with the names inside `params` that have an effect there."""
    return {task: _names(params, loaded) for task, params in loaded.params.items()}


_EFFECTS: Final[Mapping[str, str]] = {
    "negative_prompt": "negative_prompt",
    "guidance_scale": "guidance",
    "true_cfg_scale": "guidance",
    "strength": "strength",
}
"""The pipeline's name of a parameter -> ours."""


def _names(params: frozenset[str], loaded: Loaded) -> frozenset[str]:
    names = {ours for theirs, ours in _EFFECTS.items() if theirs in params}
    if loaded.samplers:
        names.add("sampler")
    if loaded.loras:
        names.add("loras")
    return _ALWAYS | names


def facts_told(loaded: Loaded, model: Model) -> tuple[str, ...]:
    """Return what is there, for people."""
    width, height = model.default_size
    most = model.sizes.max_pixels
    return (
        f"pipeline: {loaded.pipeline} on {loaded.device}, offered as {model.id}",
        f"sizes: {width}x{height} by default, multiples of {loaded.multiple_of}, at most {most} pixels",
        f"samplers: {', '.join(loaded.samplers) or 'its own only'}",
        f"LoRAs: {', '.join(loaded.loras) or 'none'}",
        f"control images: {', '.join(loaded.controls) or 'none'}",
    )
