"""What a server of the WebUI family has, and how it is offered: checkpoints, names, and what can be asked of each."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PureWindowsPath
from typing import Final, Literal

from gateway.core.models import Model, Sizes
from gateway.upstreams.pictures import MOST_PIXELS

Flavour = Literal["auto", "a1111", "forge", "sdnext"]

SAMPLERS: Final[dict[str, str]] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "euler": "Euler",
    "euler_a": "Euler a",
    "heun": "Heun",
    "dpm2": "DPM2",
    "dpm2_a": "DPM2 a",
    "dpmpp_2m": "DPM++ 2M",
    "dpmpp_2s_a": "DPM++ 2S a",
    "dpmpp_sde": "DPM++ SDE",
    "lms": "LMS",
}
"""Our names of samplers to the server's; a sampler that is not in here is offered under the server's own name."""
_OURS: Final = {theirs: ours for ours, theirs in SAMPLERS.items()}

CONTROL_WORDS: Final[dict[str, tuple[str, ...]]] = {
    "canny": ("canny",),
    "depth": ("depth",),
    "hed": ("hed", "softedge"),
    "lineart": ("lineart",),
    "mlsd": ("mlsd",),
    "normal": ("normal",),
    "pose": ("openpose", "pose"),
    "scribble": ("scribble",),
    "segmentation": ("_seg",),
    "shuffle": ("shuffle",),
    "sketch": ("sketch",),
    "softedge": ("softedge", "hed"),
    "tile": ("tile",),
}
"""Kind of control image -> what the name of a ControlNet model for it contains; an earlier word counts more."""
_LARGE_NAMES: Final = re.compile(r"xl|flux|sd3|pony|illustrious", re.IGNORECASE)
_HASH: Final = re.compile(r"\s*\[[0-9a-fA-F]+\]$")
_PLAIN_UPSCALERS: Final = ("Lanczos", "Nearest")
"""Those that only resample."""

SIZES: Final = Sizes(smallest=64, largest=2048, multiple_of=8, max_pixels=2048 * 2048)
UPSCALED_SIZES: Final = Sizes(smallest=64, largest=8192, multiple_of=8, max_pixels=MOST_PIXELS)
"""Upscalers round edges down to a multiple of 8."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How one checkpoint of the server is offered."""

    name: str
    """What the server calls it: its title, its file's name, or that without folder and suffix."""
    model: str = ""
    """The name that clients ask for; default "" = the file's name without folder and suffix."""
    sizes: Sizes = SIZES
    """Default: edges of 64 to 2048 pixels in steps of 8, at most 4 Mi pixels."""
    default_size: tuple[int, int] | None = None
    """`None` = 1024x1024 if the name speaks of a model of that size (XL, Flux ...), else 512x512."""
    default_steps: int = 20
    default_guidance: float = 7.0
    max_n: int = 4
    """Most images of one job; they are made in one call."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a server has; nothing before it was asked."""

    titles: tuple[str, ...] = ()
    """Checkpoints, as the server's list calls them."""
    samplers: tuple[str, ...] = ()
    schedulers: tuple[str, ...] = ()
    styles: tuple[str, ...] = ()
    loras: tuple[str, ...] = ()
    upscalers: tuple[str, ...] = ()
    control_models: tuple[str, ...] = ()
    control_modules: tuple[str, ...] = ()
    control_units: int = 3
    previews: bool = True
    full_previews: bool = False
    """Whether previews are the picture itself, decoded, and no cheap guess at it."""


def stem_of(name: str) -> str:
    """Return a checkpoint's short name: without folder, hash and suffix."""
    file = PureWindowsPath(_HASH.sub("", name)).name  # takes both kinds of slashes
    stem, dot, suffix = file.rpartition(".")
    return stem if dot and suffix.lower() in ("safetensors", "ckpt", "pt", "pth", "gguf", "bin", "sft") else file


def sampler_of(name: str) -> str:
    """Return the server's name of one of our samplers, or the name itself."""
    return SAMPLERS.get(name, name)


def upscaler_of(offer: Offer, wanted: str) -> str | None:
    """Return the upscaler to use: the wanted one, else the first that does more than resample; `None` if none is."""
    if wanted:
        return wanted if wanted in offer.upscalers else None
    real = [name for name in offer.upscalers if name != "None"]
    return next((name for name in real if name not in _PLAIN_UPSCALERS), real[0] if real else None)


def control_model(kind: str, titles: Sequence[str], checkpoint: str) -> str | None:
    """Return the ControlNet model for a kind of control image, best one of the checkpoint's own size."""
    found = [name for word in CONTROL_WORDS.get(kind, ()) for name in titles if word in name.casefold()]
    is_large = _LARGE_NAMES.search(checkpoint) is not None
    fitting = [name for name in found if (_LARGE_NAMES.search(name) is not None) == is_large]
    return next(iter(fitting or found), None)


def missing(checkpoints: Sequence[Checkpoint], offer: Offer) -> list[str]:
    """Return the names of configured checkpoints that the server does not have."""
    return [one.name for one in checkpoints if _title(one.name, offer) is None]


def models_of(
    upstream: str, offer: Offer, checkpoints: Sequence[Checkpoint], upscaler: str, *, previews: bool
) -> tuple[Model, ...]:
    """Return what is offered: the configured checkpoints that the server has, or else all that it has.

    Before the server was asked (no titles), every configured one counts as there.
    """
    wanted = checkpoints or tuple(Checkpoint(title) for title in offer.titles)
    models: dict[str, Model] = {}
    for one in wanted:
        title = _title(one.name, offer) if offer.titles else one.name
        if title is not None:
            model = _model(upstream, title, one, offer, upscaler, previews=previews)
            # Two files of one name in two folders: the second bears its folder.
            free = model.id if model.id not in models else _HASH.sub("", title)
            models.setdefault(free, replace(model, id=free))
    return tuple(models.values())


def _title(name: str, offer: Offer) -> str | None:
    """The server's title of a configured checkpoint."""
    plain = _HASH.sub("", name)
    for same in (
        lambda title: title == name,
        lambda title: _HASH.sub("", title) == plain,
        lambda title: stem_of(title) == stem_of(name),
    ):
        found = next((title for title in offer.titles if same(title)), None)
        if found is not None:
            return found
    return None


def _model(upstream: str, title: str, one: Checkpoint, offer: Offer, upscaler: str, *, previews: bool) -> Model:
    edge = 1024 if _LARGE_NAMES.search(stem_of(title)) else 512
    controls = tuple(kind for kind in CONTROL_WORDS if control_model(kind, offer.control_models, title) is not None)
    modules = tuple(name for name in offer.control_modules if name.casefold() != "none")
    return Model(
        id=one.model or stem_of(title),
        upstream=upstream,
        vendor_model=title,
        tasks=_tasks(offer, controls=bool(controls), upscales=upscaler_of(offer, upscaler) is not None),
        sizes=one.sizes,
        task_sizes={"upscale": UPSCALED_SIZES},
        default_size=one.default_size or (edge, edge),
        steps=(1, 150),
        default_steps=one.default_steps,
        default_guidance=one.default_guidance,
        max_n=one.max_n,
        images_per_call=one.max_n,
        samplers=tuple(_OURS.get(name, name) for name in offer.samplers),
        schedulers=offer.schedulers,
        styles=offer.styles,
        loras=offer.loras,
        controls=controls,
        max_controls=max(1, offer.control_units),
        preprocessors=("none", *modules),
        progress="steps",
        previews=previews and offer.previews,
        # What runs is interrupted; what waits in the server behind somebody else's work is, once its turn has come.
        cancel="yes",
        billed=False,
        description=one.description,
    )


def _tasks(offer: Offer, *, controls: bool, upscales: bool) -> dict[str, frozenset[str]]:
    named = {"sampler": offer.samplers, "scheduler": offer.schedulers, "style": offer.styles, "loras": offer.loras}
    shared = frozenset({"prompt", "negative_prompt", "steps", "guidance", "seed", "n", "tiling"})
    shared |= {name for name, values in named.items() if values}
    sized = shared | {"width", "height"}
    tasks = {
        "txt2img": sized,
        "img2img": sized | {"strength"},
        "inpaint": sized | {"strength"},
        "outpaint": shared | {"expand"},
    }
    if controls:
        tasks["controlnet"] = sized | {"strength"}
    if upscales:
        tasks["upscale"] = frozenset({"scale", "width", "height"})
    return tasks
