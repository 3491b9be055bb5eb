"""The vendor's endpoints: what each takes, what it costs and which sizes come out.

Pure: bytes in, an `Order` or a `Refusal` out. The bounds are the published ones (see PROVENANCE.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from load.upstreams.forms import FormError, parse_form
from load.upstreams.stability_v2beta.fields import LARGEST_SEED, Choice, Field, Form, Number, Picture, Text, Values
from load.upstreams.stability_v2beta.trouble import bad_request

Size = tuple[int, int]
FOUR_MEGAPIXELS = 4_194_304
ONE_MEGAPIXEL = 1_048_576

STYLE_PRESETS = (
    *("enhance", "anime", "photographic", "digital-art", "comic-book", "fantasy-art", "line-art", "analog-film"),
    *("neon-punk", "isometric", "low-poly", "origami", "modeling-compound", "cinematic", "3d-model", "pixel-art"),
    "tile-texture",
)
FORMATS = ("png", "jpeg", "webp")
RATIOS = ("21:9", "16:9", "3:2", "5:4", "1:1", "4:5", "2:3", "9:16", "9:21")

SD3_CREDITS: Mapping[str, float] = MappingProxyType(
    {"sd3.5-large": 6.5, "sd3.5-large-turbo": 4.0, "sd3.5-medium": 3.5, "sd3.5-flash": 2.5}
)
SD3_OLD_NAMES: Mapping[str, str] = MappingProxyType(
    {"sd3-large": "sd3.5-large", "sd3-large-turbo": "sd3.5-large-turbo", "sd3-medium": "sd3.5-medium"}
)
DUMMY_FIELD = "none"
"""A file of this name is how the vendor's samples force a multipart form; it is no mistake."""


def _both_ways(*wide: Size) -> Mapping[str, Size]:
    sizes = [*wide, *((height, width) for width, height in reversed(wide[:-1]))]
    return MappingProxyType(dict(zip(RATIOS, sizes, strict=True)))


SMALL_SIZES = _both_ways((1536, 640), (1344, 768), (1216, 832), (1088, 896), (1024, 1024))
CORE_SIZES = _both_ways((2304, 960), (2016, 1152), (1824, 1248), (1632, 1344), (1536, 1536))
STYLE_SIZES = _both_ways((1564, 670), (1365, 768), (1254, 836), (1144, 915), (1024, 1024))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path below `/v2beta/stable-image/`."""

    path: str
    credits: float
    fields: tuple[Field, ...]
    check: Callable[[Values], Iterable[str]] = lambda _values: ()
    """What is wrong between fields."""
    is_async: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request."""

    endpoint: Endpoint
    values: Values
    seed: int = 0
    """0 asks for a random one."""
    unknown_fields: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The output format."""
        return self.values.texts["output_format"]

    @property
    def credits(self) -> float:
        """What it costs."""
        return SD3_CREDITS[self.model] if self.model else self.endpoint.credits

    @property
    def model(self) -> str | None:
        """The model that will serve it, an old name replaced; None where there is no choice."""
        name = self.values.texts.get("model")
        return SD3_OLD_NAMES.get(name, name) if name is not None else None

    def seeded(self, seed: int) -> Order:
        return replace(self, seed=seed)


def read_order(endpoint: Endpoint, content_type: str, body: bytes) -> Order:
    """The order a request describes; raises `Refusal` naming everything that is wrong with it."""
    form = read_form(content_type, body)
    values = Values(given=frozenset(form.parts))
    wrong: list[str] = []
    for field in endpoint.fields:
        field.read(form, values, wrong)
    wrong.extend(endpoint.check(values))
    if wrong:
        raise bad_request(*wrong)
    unknown = values.given - {field.name for field in endpoint.fields} - {DUMMY_FIELD}
    return Order(endpoint, values, int(values.numbers.get("seed", 0)), tuple(sorted(unknown)))


def read_form(content_type: str, body: bytes) -> Form:
    """The form in a body; raises `Refusal` when it is none."""
    if not content_type:
        raise bad_request("content-type: required")
    if not content_type.lower().startswith("multipart/form-data"):
        raise bad_request("content-type: must be multipart/form-data")
    try:
        return Form(parse_form(content_type, body))
    except FormError as error:
        raise bad_request(f"body: {error}") from error


def _ultra(values: Values) -> Iterable[str]:
    if "image" in values.given and "strength" not in values.given:
        yield "strength: required with image"
    if "strength" in values.given and "image" not in values.given:
        yield "strength: only valid with image"


def _sd3(values: Values) -> Iterable[str]:
    to_image = ("image", "strength")
    if values.texts.get("mode") == "image-to-image":
        yield from (f"{name}: required" for name in to_image if name not in values.given)
        yield from (f"{name}: only valid for text-to-image" for name in {"aspect_ratio"} & values.given)
    else:
        yield from (f"{name}: only valid for image-to-image" for name in to_image if name in values.given)


def _outpaint(values: Values) -> Iterable[str]:
    if not any(values.numbers.get(side) for side in SIDES) and set(SIDES) <= set(values.numbers):
        yield "left, right, up, down: at least one must be non-zero"


def _relight(values: Values) -> Iterable[str]:
    if "background_reference" not in values.given and not values.texts.get("background_prompt"):
        yield "background_prompt: required without background_reference"
    if "light_source_strength" in values.given and not {"light_reference", "light_source_direction"} & values.given:
        yield "light_source_strength: requires light_reference or light_source_direction"


SIDES = ("left", "right", "up", "down")

_PROMPT = Text("prompt", required=True, least=1)
_MAYBE_PROMPT = Text("prompt")
_NEGATIVE = Text("negative_prompt")
# The specification calls it a number; a fraction can only be a mistake.
_SEED = Number("seed", 0, LARGEST_SEED, 0, whole=True)
_RATIO = Choice("aspect_ratio", RATIOS, "1:1")
_STYLE = Choice("style_preset", STYLE_PRESETS)
_FORMAT = Choice("output_format", FORMATS, "png")
_COMMON = (_NEGATIVE, _SEED, _FORMAT)
_STYLED = (*_COMMON, _STYLE)
_IMAGE = Picture("image", required=True, widest=2.5)
_ANY_SHAPE = Picture("image", required=True)
_MASK = Picture("mask", least_side=1, least_pixels=1)
# No upper bound is published for these; one is needed so that a small file can't unfold to gigabytes.
_INIT = Picture("image", most_side=16_384, most_pixels=67_108_864)


def _growth(most: int, default: int) -> Number:
    return Number("grow_mask", 0, most, default)


def _share(name: str, default: float | None = None, low: float = 0.0, high: float = 1.0) -> Number:
    return Number(name, low, high, default)


_ALL = (
    Endpoint("generate/ultra", 8, (_PROMPT, _INIT, _share("strength"), _RATIO, *_STYLED), _ultra),
    Endpoint("generate/core", 3, (_PROMPT, _RATIO, *_STYLED)),
    Endpoint(
        "generate/sd3",
        6.5,
        (
            _PROMPT,
            Choice("mode", ("text-to-image", "image-to-image"), "text-to-image"),
            Choice("model", (*SD3_CREDITS, *SD3_OLD_NAMES), "sd3.5-large"),
            *(_INIT, _share("strength"), _RATIO, Number("cfg_scale", 1, 10), *_STYLED),
        ),
        _sd3,
    ),
    Endpoint(
        "upscale/fast",
        2,
        (
            Picture(
                "image", required=True, least_side=32, most_side=1536, least_pixels=1024, most_pixels=ONE_MEGAPIXEL
            ),
            _FORMAT,
        ),
    ),
    Endpoint("upscale/conservative", 40, (_IMAGE, _PROMPT, _share("creativity", 0.35, 0.2, 0.5), *_COMMON)),
    Endpoint(
        "upscale/creative",
        60,
        (
            Picture("image", required=True, most_pixels=ONE_MEGAPIXEL),
            *(_PROMPT, _share("creativity", 0.3, 0.1, 0.5), *_STYLED),
        ),
        is_async=True,
    ),
    Endpoint("edit/erase", 5, (_ANY_SHAPE, _MASK, _growth(20, 5), _SEED, _FORMAT)),
    Endpoint("edit/inpaint", 5, (_ANY_SHAPE, _PROMPT, _MASK, _growth(100, 5), *_STYLED)),
    Endpoint(
        "edit/outpaint",
        4,
        (
            *(_IMAGE, _MAYBE_PROMPT, _share("creativity", 0.5), _SEED, _FORMAT, _STYLE),
            *(Number(side, 0, 2000, 0, whole=True) for side in SIDES),
        ),
        _outpaint,
    ),
    Endpoint(
        "edit/search-and-replace",
        5,
        (_IMAGE, _PROMPT, Text("search_prompt", required=True), _growth(20, 3), *_STYLED),
    ),
    Endpoint(
        "edit/search-and-recolor",
        5,
        (_IMAGE, _PROMPT, Text("select_prompt", required=True), _growth(20, 3), *_STYLED),
    ),
    Endpoint(
        "edit/remove-background",
        5,
        (
            Picture("image", required=True, most_pixels=FOUR_MEGAPIXELS),
            Choice("output_format", ("png", "webp"), "png"),
        ),
    ),
    Endpoint(
        "edit/replace-background-and-relight",
        8,
        (
            Picture("subject_image", required=True, widest=2.5),
            *(Picture("background_reference"), Picture("light_reference")),
            *(Text("background_prompt"), Text("foreground_prompt")),
            *(_share("preserve_original_subject", 0.6), _share("original_background_depth", 0.5)),
            Choice("keep_original_background", ("true", "false"), "false"),
            Choice("light_source_direction", ("left", "right", "above", "below")),
            _share("light_source_strength", 0.3),
            *_COMMON,
        ),
        _relight,
        is_async=True,
    ),
    Endpoint("control/sketch", 5, (_IMAGE, _PROMPT, _share("control_strength", 0.7), *_STYLED)),
    Endpoint("control/structure", 5, (_IMAGE, _PROMPT, _share("control_strength", 0.7), *_STYLED)),
    Endpoint("control/style", 5, (_IMAGE, _PROMPT, _RATIO, _share("fidelity", 0.5), *_STYLED)),
    Endpoint(
        "control/style-transfer",
        8,
        (
            Picture("init_image", required=True, most_side=16_383, widest=2.5),
            Picture("style_image", required=True, most_side=16_383),
            *(_MAYBE_PROMPT, _share("style_strength", 1.0), _share("composition_fidelity", 0.9)),
            *(_share("change_strength", 0.9, 0.1), *_COMMON),
        ),
    ),
)

ENDPOINTS: Mapping[str, Endpoint] = MappingProxyType({endpoint.path: endpoint for endpoint in _ALL})
