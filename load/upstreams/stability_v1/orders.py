"""Stability AI REST v1: which engines there are and what a generation request may hold.

Pure: bytes in, an `Order` or a `Refusal` out. The error names are the published ones; which fault takes which
name is in part our reading (see PROVENANCE.md).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal, NoReturn, cast

from load.upstreams.forms import FormError, media_type, parse_form
from load.upstreams.pictures import MaskSource, PictureError, measure
from load.upstreams.stability_v1.fields import Fields, refuse

Operation = Literal["text-to-image", "image-to-image", "masking", "upscale"]

SDXL_SIZES = frozenset(
    {(1024, 1024), (1152, 896), (1216, 832), (1344, 768), (1536, 640)}
    | {(640, 1536), (768, 1344), (832, 1216), (896, 1152)}
)
SAMPLERS = frozenset(
    {"DDIM", "DDPM", "K_DPMPP_2M", "K_DPMPP_2S_ANCESTRAL", "K_DPM_2", "K_DPM_2_ANCESTRAL"}
    | {"K_EULER", "K_EULER_ANCESTRAL", "K_HEUN", "K_LMS"}
)
CLIP_PRESETS = frozenset({"FAST_BLUE", "FAST_GREEN", "NONE", "SIMPLE", "SLOW", "SLOWER", "SLOWEST"})
STYLE_PRESETS = frozenset(
    {"3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art"}
    | {"isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic"}
    | {"pixel-art", "tile-texture"}
)
MASK_SOURCES = frozenset({"MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"})
MIME_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
MAX_SEED = 4294967295
MAX_PROMPT_CHARACTERS = 2000
MAX_UPSCALED_PIXELS = 4_194_304

_PROMPT_FIELD = re.compile(r"text_prompts\[(\d{1,9})\]\[(text|weight)\]")
_FILES = {"image-to-image": ("init_image",), "masking": ("init_image", "mask_image"), "upscale": ("image",)}


@dataclass(frozen=True, slots=True)
class Engine:
    """One entry of the engines list, and the rule its picture sizes obey."""

    id: str
    name: str
    rule: Literal["sdxl", "v1-6", "beta", "768", "512", "upscaler"]


ENGINES = (
    Engine("stable-diffusion-xl-1024-v1-0", "Stable Diffusion XL v1.0", "sdxl"),
    Engine("stable-diffusion-xl-1024-v0-9", "Stable Diffusion XL v0.9", "sdxl"),
    Engine("stable-diffusion-v1-6", "Stable Diffusion v1.6", "v1-6"),
    Engine("stable-diffusion-xl-beta-v2-2-2", "Stable Diffusion v2.2.2-XL Beta", "beta"),
    Engine("stable-diffusion-768-v2-1", "Stable Diffusion v2.1-768", "768"),
    Engine("stable-diffusion-512-v2-1", "Stable Diffusion v2.1", "512"),
    Engine("stable-diffusion-v1-5", "Stable Diffusion v1.5", "512"),
    Engine("esrgan-v1-x2plus", "Real-ESRGAN x2", "upscaler"),
)


@dataclass(frozen=True, slots=True)
class Order:
    """A valid generation request."""

    operation: Operation
    width: int
    height: int
    samples: int = 1
    seed: int = 0
    """0 asks for a random one."""
    prompts: tuple[tuple[str, float], ...] = ()
    keep: float = 0.0
    """Share of the init picture that stays, 0 to 1."""
    image: bytes = b""
    mask: bytes | None = None
    mask_source: MaskSource = "MASK_IMAGE_WHITE"
    unknown_fields: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """All prompt texts in their order, one a line."""
        return "\n".join(text for text, _ in self.prompts)


@dataclass(frozen=True, slots=True)
class Limits:
    """What an operator of the stand-in can move."""

    banned: Collection[str] = frozenset({"standin-banned"})
    """Lower-case words that make a prompt invalid, in a negative one as well."""
    max_file_bytes: int = 10 * 1024 * 1024


def read_order(operation: Operation, engine: Engine, content_type: str, body: bytes, limits: Limits) -> Order:
    """The order a request's body holds; raises `Refusal` for the first thing wrong with it."""
    fields = _json(content_type, body) if operation == "text-to-image" else _form(operation, content_type, body)
    match operation:
        case "text-to-image":
            return _text_to_image(fields, engine, limits)
        case "image-to-image":
            return _image_to_image(fields, engine, limits)
        case "masking":
            return _masking(fields, engine, limits)
        case "upscale":
            return _upscale(fields, limits)


def _text_to_image(fields: Fields, engine: Engine, limits: Limits) -> Order:
    width, height = _side(fields, "width"), _side(fields, "height")
    check_size(engine, width, height, "invalid_height_or_width")
    return _order(fields, "text-to-image", width, height, limits)


def _image_to_image(fields: Fields, engine: Engine, limits: Limits) -> Order:
    image, width, height = _init_image(fields, engine, limits)
    mode = fields.choice("init_image_mode", {"IMAGE_STRENGTH", "STEP_SCHEDULE"}, "IMAGE_STRENGTH")
    strength = fields.number("image_strength", 0, 1, 0.35)
    start = fields.number("step_schedule_start", 0, 1, 0.65)
    fields.number("step_schedule_end", 0, 1, 1)
    keep = strength if mode == "IMAGE_STRENGTH" else 1 - start
    return _order(fields, "image-to-image", width, height, limits, image=image, keep=keep)


def _masking(fields: Fields, engine: Engine, limits: Limits) -> Order:
    image, width, height = _init_image(fields, engine, limits)
    source = fields.choice("mask_source", MASK_SOURCES)
    if source is None:
        refuse("bad_request", "mask_source: is required")
    mask = _mask(fields, (width, height), limits) if source != "INIT_IMAGE_ALPHA" else None
    fields.asked.add("mask_image")
    mask_source = cast("MaskSource", source)
    return _order(fields, "masking", width, height, limits, image=image, mask=mask, mask_source=mask_source)


def _upscale(fields: Fields, limits: Limits) -> Order:
    image, own_width, own_height = _picture(fields, "image", limits)
    width, height = fields.get("width"), fields.get("height")
    if width is not None and height is not None:
        refuse("invalid_height_or_width", "only one of width and height may be given")
    scale = 2.0
    for name, own in (("width", own_width), ("height", own_height)):
        if fields.get(name) is not None:
            scale = fields.integer(name, 512, MAX_UPSCALED_PIXELS, 512, "invalid_height_or_width") / own
    size = max(1, round(own_width * scale)), max(1, round(own_height * scale))
    if size[0] * size[1] > MAX_UPSCALED_PIXELS:
        refuse("invalid_pixel_count", f"the output may have {MAX_UPSCALED_PIXELS} pixels at most")
    return Order("upscale", *size, image=image, unknown_fields=fields.unknown())


def _order(
    fields: Fields,
    operation: Operation,
    width: int,
    height: int,
    limits: Limits,
    *,
    image: bytes = b"",
    keep: float = 0.0,
    mask: bytes | None = None,
    mask_source: MaskSource = "MASK_IMAGE_WHITE",
) -> Order:
    prompts = _prompts(fields, limits)
    samples = fields.integer("samples", 1, 10, 1, "invalid_samples")
    seed = fields.integer("seed", 0, MAX_SEED, 0)
    _check_unused(fields)
    unknown = fields.unknown()
    return Order(operation, width, height, samples, seed, prompts, keep, image, mask, mask_source, unknown)


def _check_unused(fields: Fields) -> None:
    """Check what the vendor checks although it leaves no trace in our pictures."""
    fields.number("cfg_scale", 0, 35, 7)
    fields.integer("steps", 10, 150, 50)
    fields.choice("clip_guidance_preset", CLIP_PRESETS, "NONE")
    fields.choice("sampler", SAMPLERS)
    fields.choice("style_preset", STYLE_PRESETS)
    fields.get("extras")


def _side(fields: Fields, name: str) -> int:
    side = fields.integer(name, 128, 1 << 20, 512, "invalid_height_or_width")
    if side % 64:
        refuse("invalid_height_or_width", f"{name}: must be a multiple of 64")
    return side


def check_size(engine: Engine, width: int, height: int, error: str) -> None:
    """Raise a `Refusal` named `error` if the engine makes no pictures of this size.

    A wrong number of pixels has a name of its own, `invalid_pixel_count`.
    """
    pixels = width * height
    if engine.rule == "sdxl" and (width, height) not in SDXL_SIZES:
        refuse(error, f"{engine.id} makes {', '.join(f'{w}x{h}' for w, h in sorted(SDXL_SIZES))} only")
    if engine.rule == "v1-6" and not (min(width, height) >= 320 and max(width, height) <= 1536):
        refuse(error, "each side must be from 320 to 1536")
    if engine.rule == "beta" and not (max(width, height) <= 896 and min(width, height) <= 512):
        refuse(error, "sides must be from 128 to 896 and only one may exceed 512")
    least = {"768": 589_824, "512": 262_144}.get(engine.rule)
    if least is not None and not least <= pixels <= 1_048_576:
        refuse("invalid_pixel_count", f"width times height must be from {least} to 1048576")


def _prompts(fields: Fields, limits: Limits) -> tuple[tuple[str, float], ...]:
    items = fields.get("text_prompts")
    if not isinstance(items, list) or not items:
        refuse("bad_request", "text_prompts: at least one is required")
    prompts = tuple(_prompt(fields, item) for item in items)
    if any(word in text.lower() for text, _ in prompts for word in limits.banned):
        # The vendor gives no hint which word it was.
        refuse("invalid_prompts", "One or more prompts contains filtered words.")
    return prompts


def _prompt(fields: Fields, item: object) -> tuple[str, float]:
    text = item.get("text") if isinstance(item, dict) else None
    if not isinstance(item, dict) or not isinstance(text, str) or not text:
        refuse("bad_request", "text_prompts: each needs a text")
    if len(text) > MAX_PROMPT_CHARACTERS:
        refuse("bad_request", f"text_prompts: a text may have {MAX_PROMPT_CHARACTERS} characters at most")
    weight = fields.numeric("weight", item.get("weight"))
    if weight is not None and not math.isfinite(weight):
        refuse("bad_request", "weight: must be a number")
    return text, 1.0 if weight is None else weight


def _init_image(fields: Fields, engine: Engine, limits: Limits) -> tuple[bytes, int, int]:
    image, width, height = _picture(fields, "init_image", limits)
    if width % 64 or height % 64 or min(width, height) < 128:
        refuse("invalid_image_dimensions", "init_image: sides must be multiples of 64 and at least 128")
    check_size(engine, width, height, "invalid_image_dimensions")
    return image, width, height


def _mask(fields: Fields, size: tuple[int, int], limits: Limits) -> bytes:
    if "mask_image" not in fields.files:
        refuse("invalid_mask_image", "mask_image: is required for this mask_source")
    mask, width, height = _picture(fields, "mask_image", limits)
    if (width, height) != size:
        refuse("invalid_mask_image", "mask_image: must have the dimensions of init_image")
    return mask


def _picture(fields: Fields, name: str, limits: Limits) -> tuple[bytes, int, int]:
    fields.asked.add(name)
    part = fields.files.get(name)
    if part is None:
        refuse("bad_request", f"{name}: is required")
    if not 0 < len(part.data) <= limits.max_file_bytes:
        refuse("invalid_file_size", f"{name}: must have 1 to {limits.max_file_bytes} bytes")
    if part.content_type not in MIME_TYPES | {None, "application/octet-stream"}:
        refuse("invalid_mime_type", f"{name}: {part.content_type} is not supported")
    try:
        mime, width, height = measure(part.data)
    except PictureError:
        mime, width, height = "", 0, 0
    if mime not in MIME_TYPES:
        refuse("invalid_mime_type", f"{name}: must be PNG, JPEG or WebP")
    return part.data, width, height


def _json(content_type: str, body: bytes) -> Fields:
    if media_type(content_type) != "application/json":
        refuse("bad_request", "content-type: must be application/json")
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        refuse("bad_request", "body: not JSON")
    if not isinstance(values, dict):
        refuse("bad_request", "body: must be an object")
    return Fields(values)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _form(operation: Operation, content_type: str, body: bytes) -> Fields:
    try:
        parts = {part.name: part for part in parse_form(content_type, body)}
        files = {name: parts.pop(name) for name in _FILES[operation] if name in parts}
        # A repeated name overrides the one before, whole fields and prompt indices alike: the dict does it.
        texts = {name: part.text() for name, part in parts.items()}
    except FormError as error:
        refuse("bad_request", f"body: {error}")
    values: dict[str, object] = {name: text for name, text in texts.items() if not _PROMPT_FIELD.fullmatch(name)}
    prompts = _prompt_items(texts)
    return Fields(values | ({"text_prompts": prompts} if prompts else {}), files, textual=True)


def _prompt_items(texts: Mapping[str, str]) -> list[dict[str, str]]:
    items: dict[int, dict[str, str]] = {}
    for name, text in texts.items():
        if match := _PROMPT_FIELD.fullmatch(name):
            items.setdefault(int(match[1]), {})[match[2]] = text
    return [items[index] for index in sorted(items)]
