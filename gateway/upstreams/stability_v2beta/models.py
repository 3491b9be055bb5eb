"""What Stability AI's v2beta stable-image has: its services, what each takes and costs, and the models that they are.

A service is one endpoint, or one engine of the endpoint for the SD 3.5 family. The first five are models of their own.
All others are the model `stable-image`, where the task says which service it is, but for two:

- `controlnet` is the service of the control image's kind: `sketch`, `structure` or `style`.
- `upscale` without a prompt is `upscale-fast`, 4 times each edge and little else. With a prompt it is
  `upscale-conservative`, or `upscale-creative` where more than 4 times an edge was asked for: there most of the picture
  must be invented. Both of these draw some 4 million pixels; what was asked for only chooses.

`reference` is the service `style`: it makes a new picture in the style of the reference. The vendor's style transfer is
not offered, for it repaints a second picture, which our task `reference` does not have.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import log
from typing import Final

from gateway.core.models import AS_IT_IS, Model, Sizes
from gateway.core.normal import Request
from gateway.upstreams.pictures import MOST_PIXELS
from gateway.upstreams.stability_v1.models import STYLES

MICROS_PER_CREDIT: Final = 10_000
"""A credit is a hundredth of a dollar, and an amount is in millionths."""
MOST_PROMPT: Final = 10_000
"""Characters of any text."""
MOST_EXPAND: Final = 2000
"""Pixels on a side."""

# ------------------------------------------------------------------------------------------------------------ services


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an input image may be; edges in pixels, `None` = any."""

    least_edge: int = 64
    most_edge: int | None = None
    least_pixels: int = 4_096
    most_pixels: int = 9_437_184
    widest: float | None = None
    """How many times the longer edge may be the shorter one."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of the vendor's services, by what it takes and costs."""

    path: str
    """Below `/v2beta/stable-image/`."""
    credits: float
    fields: frozenset[str]
    """Of our words, those that it has a field for: `prompt`, `negative_prompt`, `seed`, `style`."""
    image: Bounds = Bounds()
    """What its input image may be."""
    engine: str | None = None
    """Which of the endpoint's engines it is, where that has several."""
    is_async: bool = False
    """Whether an order is answered with an id, and the picture must be asked for."""


_ALL: Final = frozenset({"prompt", "negative_prompt", "seed", "style"})
_STANDARD: Final = Bounds(widest=2.5)
_INIT: Final = Bounds(most_edge=16_384, most_pixels=MOST_PIXELS)
_SMALL: Final = Bounds(least_edge=32, most_edge=1536, least_pixels=1_024, most_pixels=1_048_576)

SERVICES: Final[Mapping[str, Service]] = {
    "core": Service("generate/core", 3, _ALL),
    "ultra": Service("generate/ultra", 8, _ALL, _INIT),
    "sd3.5-large": Service("generate/sd3", 6.5, _ALL, _INIT, "sd3.5-large"),
    "sd3.5-large-turbo": Service("generate/sd3", 4, _ALL, _INIT, "sd3.5-large-turbo"),
    "sd3.5-medium": Service("generate/sd3", 3.5, _ALL, _INIT, "sd3.5-medium"),
    "inpaint": Service("edit/inpaint", 5, _ALL, Bounds()),
    "outpaint": Service("edit/outpaint", 4, _ALL - {"negative_prompt"}, _STANDARD),
    "search-replace": Service("edit/search-and-replace", 5, _ALL, _STANDARD),
    "remove-background": Service("edit/remove-background", 5, frozenset(), Bounds(most_pixels=4_194_304)),
    "sketch": Service("control/sketch", 5, _ALL, _STANDARD),
    "structure": Service("control/structure", 5, _ALL, _STANDARD),
    "style": Service("control/style", 5, _ALL, _STANDARD),
    "upscale-fast": Service("upscale/fast", 2, frozenset(), _SMALL),
    "upscale-conservative": Service("upscale/conservative", 40, _ALL - {"style"}, _STANDARD),
    "upscale-creative": Service("upscale/creative", 60, _ALL, Bounds(most_pixels=1_048_576), is_async=True),
}
CONTROLS: Final = ("sketch", "structure", "style")
_MOST_FAST_FACTOR: Final = 4
_BY_TASK: Final[Mapping[str, tuple[str, ...]]] = {
    "inpaint": ("inpaint",),
    "outpaint": ("outpaint",),
    "search_replace": ("search-replace",),
    "remove_background": ("remove-background",),
    "controlnet": CONTROLS,
    "reference": ("style",),
    "upscale": ("upscale-fast", "upscale-conservative", "upscale-creative"),
}
"""Task of `stable-image` -> the services that may do it."""


def service_of(vendor_model: str, request: Request) -> str:
    """Return the name of the service that does a request; `vendor_model` is the model's."""
    if request.task == "upscale":
        return _upscaler(request)
    name, *others = _services_of(vendor_model, request.task)
    return request.controls[0].role if others else name


def _services_of(vendor_model: str, task: str) -> tuple[str, ...]:
    return (vendor_model,) if vendor_model in SERVICES else _BY_TASK[task]


def _upscaler(request: Request) -> str:
    if not request.prompt.strip():
        return "upscale-fast"
    init = request.input("init")
    assert init is not None, "an upscale has an init image"
    growth = max(request.width / init.width, request.height / init.height)
    return "upscale-creative" if growth > _MOST_FAST_FACTOR else "upscale-conservative"


# --------------------------------------------------------------------------------------------------------------- sizes

RATIOS: Final[Mapping[str, float]] = {
    f"{width}:{height}": width / height
    for width, height in ((21, 9), (16, 9), (3, 2), (5, 4), (1, 1), (4, 5), (2, 3), (9, 16), (9, 21))
}
"""The vendor's aspect ratios, by its names of them."""


def ratio_of(width: int, height: int) -> str:
    """Return the vendor's aspect ratio that is most like a size's."""
    return min(RATIOS, key=lambda name: abs(log(width / height / RATIOS[name])))


def _both_ways(*wide: tuple[int, int]) -> Sizes:
    return Sizes(listed=(*wide, *((height, width) for width, height in wide if width != height)))


def _any_up_to(pixels: int) -> Sizes:
    return Sizes(smallest=64, largest=16_384, multiple_of=1, max_pixels=pixels)


# What the vendor draws at each ratio; its documents tell the ratios only. A picture's real size is read from its bytes.
_ONE_MEGAPIXEL: Final = _both_ways((1024, 1024), (1088, 896), (1216, 832), (1344, 768), (1536, 640))
_CORE: Final = _both_ways((1536, 1536), (1632, 1344), (1824, 1248), (2016, 1152), (2304, 960))
_STYLED: Final = _both_ways((1024, 1024), (1144, 915), (1254, 836), (1365, 768), (1564, 670))
_BY_TASK_SIZES: Final[Mapping[str, Sizes]] = {
    # An init image's size is the result's, as far as the vendor says.
    "img2img": _any_up_to(MOST_PIXELS),
    "inpaint": _any_up_to(SERVICES["inpaint"].image.most_pixels),
    "outpaint": _any_up_to(MOST_PIXELS),
    "search_replace": _any_up_to(SERVICES["search-replace"].image.most_pixels),
    "remove_background": _any_up_to(SERVICES["remove-background"].image.most_pixels),
    # What is asked for here only chooses the upscaler: some 20 million pixels of one million are a creative one.
    "upscale": _any_up_to(2 * MOST_PIXELS),
}

# -------------------------------------------------------------------------------------------------------------- models

_WORDS: Final = frozenset({"prompt", "negative_prompt", "seed", "n", "style"})
_SIZE: Final = frozenset({"width", "height"})
_WEIGHED: Final = {**AS_IT_IS, "weight": (0.0, 1.0)}
_GENERATE: Final[Mapping[str, frozenset[str]]] = {"txt2img": _WORDS | _SIZE}
_BOTH: Final[Mapping[str, frozenset[str]]] = {**_GENERATE, "img2img": _WORDS | _SIZE | {"strength"}}
_GUIDED: Final = {task: names | {"guidance"} for task, names in _BOTH.items()}
_EDIT: Final[Mapping[str, frozenset[str]]] = {
    "inpaint": _WORDS,
    "outpaint": _WORDS - {"negative_prompt"} | {"expand"},
    "controlnet": _WORDS | _SIZE,
    "reference": _WORDS | _SIZE,
    "upscale": _WORDS | _SIZE | {"scale"},
    "remove_background": frozenset(),
    "search_replace": _WORDS | {"search"},
}


@dataclass(frozen=True, slots=True)
class _Kind:
    """How a model is offered."""

    vendor_model: str
    """The service that it is, or its own name where it is several."""
    tasks: Mapping[str, frozenset[str]]
    description: str
    sizes: Sizes = _ONE_MEGAPIXEL
    guidance: float = 4.0


_KINDS: Final[Mapping[str, _Kind]] = {
    "stable-image-core": _Kind("core", _GENERATE, "Stable Image Core: fast, about 2.4 megapixels", _CORE),
    "stable-image-ultra": _Kind("ultra", _BOTH, "Stable Image Ultra: the vendor's best"),
    "sd3.5-large": _Kind("sd3.5-large", _GUIDED, "Stable Diffusion 3.5 Large"),
    "sd3.5-large-turbo": _Kind("sd3.5-large-turbo", _GUIDED, "Stable Diffusion 3.5 Large Turbo", guidance=1.0),
    "sd3.5-medium": _Kind("sd3.5-medium", _GUIDED, "Stable Diffusion 3.5 Medium"),
    "stable-image": _Kind(
        "stable-image",
        _EDIT,
        "Stable Image's services. An upscale without a prompt is fast and cheap, one with a prompt conservative, "
        "and one with a prompt and more than 4 times an edge creative.",
        _STYLED,
    ),
}
MODELS: Final = tuple(_KINDS)
"""The names of all models."""


def models_of(services: Collection[str]) -> tuple[str, ...]:
    """Return the models that are one of these services, or do their work by one."""
    return tuple(
        name
        for name, kind in _KINDS.items()
        if any(not set(services).isdisjoint(_services_of(kind.vendor_model, task)) for task in kind.tasks)
    )


def prices_of(overridden: Mapping[str, int]) -> dict[str, int]:
    """Return the price of each service in millionths; `ValueError` for one that there is not."""
    unknown = sorted(set(overridden) - set(SERVICES))
    if unknown:
        raise ValueError(f"there is no service {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    return {name: round(one.credits * MICROS_PER_CREDIT) for name, one in SERVICES.items()} | dict(overridden)


def model_of(upstream: str, name: str, prices: Mapping[str, int], max_n: int) -> Model:
    """Return a model for the upstream of that configured name; `ValueError` if there is none of this name."""
    if name not in _KINDS:
        raise ValueError(f"there is no model {name}; there are {', '.join(MODELS)}")
    kind = _KINDS[name]
    task_prices = {
        task: max(prices[service] for service in _services_of(kind.vendor_model, task)) for task in kind.tasks
    }
    return Model(
        id=name,
        upstream=upstream,
        vendor_model=kind.vendor_model,
        tasks=kind.tasks,
        sizes=kind.sizes,
        task_sizes={task: sizes for task, sizes in _BY_TASK_SIZES.items() if task in kind.tasks},
        default_size=kind.sizes.listed[0],
        # The vendor knows no steps and tells none.
        steps=(1, 1),
        default_steps=1,
        guidance=(1.0, 10.0),
        default_guidance=kind.guidance,
        max_n=max_n,
        images_per_call=1,
        styles=STYLES,
        controls=CONTROLS if "controlnet" in kind.tasks else (),
        bounds={"control": _WEIGHED, "reference": _WEIGHED},
        max_prompt=MOST_PROMPT,
        progress="estimated",
        previews=False,
        # Dropping the connection is all there is, and nobody says that it stops the work or the bill.
        cancel="no",
        billed=True,
        price_micros=max(task_prices.values()),
        task_prices=task_prices,
        request_price=lambda request: prices[service_of(kind.vendor_model, request)],
        description=kind.description,
    )
