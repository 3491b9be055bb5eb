"""A picture order, and how the native dialect's JSON becomes one: nearly everything wrong is passed over."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from load.upstreams.sdcpp.catalogue import (
    FALLBACK_SIDE,
    LATENT_MODES,
    MAX_BATCH,
    MAX_STEPS,
    SAMPLERS,
    SCHEDULERS,
    UPSCALERS,
    Shop,
)
from load.upstreams.sdcpp.json_text import BadRequest, ServerError, int32, kind_of, single, value_of
from load.upstreams.sdcpp.uploads import Unreadable, decode_image

INVALID = "invalid generation parameters"
_MAX_RANDOM_SEED = 2**31 - 1
_CACHE_MODES = frozenset({"", "disabled", "easycache", "ucache", "dbcache", "taylorseer", "cache-dit", "spectrum"})
KNOWN = frozenset(
    {
        *("prompt", "negative_prompt", "ad_model", "ad_prompt", "ad_negative_prompt", "extra_ad_args", "cache_mode"),
        *("cache_option", "scm_mask", "clip_skip", "width", "height", "batch_count", "qwen_image_layers", "fps"),
        *("video_frames", "upscale_repeats", "seed", "strength", "control_strength", "ip_adapter_strength"),
        *("moe_boundary", "vace_strength", "auto_resize_ref_image", "increase_ref_index", "embed_image_metadata"),
        *("hires", "sample_params", "high_noise_sample_params", "vae_tiling_params", "lora", "init_image"),
        *("end_image", "ref_images", "control_frames", "mask_image", "control_image", "ip_adapter_image"),
        *("output_format", "output_compression"),
    }
)


@dataclass(slots=True)
class Hires:
    """The second, larger pass."""

    enabled: bool = False
    upscaler: str = "Latent"
    scale: float = 2.0
    width: int = 0
    height: int = 0
    steps: int = 0
    strength: float = 0.7


@dataclass(slots=True)
class Order:
    """What is to be drawn, as the server holds it."""

    width: int
    height: int
    steps: int
    txt_cfg: float
    seed: int
    strength: float
    control_strength: float
    prompt: str = ""
    negative_prompt: str = ""
    batch: int = 1
    clip_skip: int = -1
    sampler: str = "NONE"
    """NONE leaves the choice to the model."""
    scheduler: str | None = None
    init: Image.Image | None = None
    mask: Image.Image | None = None
    control: Image.Image | None = None
    adapter: Image.Image | None = None
    references: list[Image.Image] = field(default_factory=list)
    loras: dict[str, float] = field(default_factory=dict)
    hires: Hires = field(default_factory=Hires)
    cache_mode: str = ""
    shifted_timestep: int = 0
    upscale_repeats: int = 1
    embed_metadata: bool = True
    format: str = "png"
    compression: int = 100

    @classmethod
    def of(cls, shop: Shop) -> Order:
        """An order for which nothing was said."""
        given = shop.defaults
        return cls(
            given.width, given.height, given.steps, given.txt_cfg, given.seed, given.strength, given.control_strength
        )

    @property
    def sized(self) -> bool:
        return self.width > 0 and self.height > 0

    @property
    def resolved_width(self) -> int:
        return self.width if self.width > 0 else FALLBACK_SIDE

    @property
    def resolved_height(self) -> int:
        return self.height if self.height > 0 else FALLBACK_SIDE

    @property
    def wording(self) -> str:
        """The text that, with the seed, decides the colour: the prompt, then each LoRA with its weight."""
        return self.prompt + "".join(f"<lora:{path}:{weight:g}>" for path, weight in sorted(self.loras.items()))

    def size_from(self, picture: Image.Image) -> None:
        """Take the picture's size if none was asked for."""
        if not self.sized:
            self.width, self.height = picture.size

    def canvas(self, shop: Shop) -> tuple[int, int]:
        """Width and height of the first pass."""
        return align(self.resolved_width, shop.multiple), align(self.resolved_height, shop.multiple)

    def final_size(self, shop: Shop) -> tuple[int, int]:
        """Width and height of the picture that comes back."""
        width, height = self.canvas(shop)
        if not self.hires.enabled:
            return width, height
        # One target side alone asks for a square.
        wide = self.hires.width or self.hires.height or round(width * self.hires.scale)
        high = self.hires.height or self.hires.width or round(height * self.hires.scale)
        return (align(wide, shop.multiple), align(high, shop.multiple)) if wide > 0 and high > 0 else (width, height)


def align(side: int, multiple: int) -> int:
    """The side rounded up to a multiple."""
    return -(-side // multiple) * multiple


def read_native(body: object, shop: Shop, chance: random.Random) -> Order:
    """The order of an img_gen request; raises `BadRequest` or `ServerError`."""
    order = Order.of(shop)
    apply_native(order, body, shop)
    set_output(order, value_of(body, "output_format", "png"), value_of(body, "output_compression", 100), shop.formats)
    if not settle(order, chance):
        raise BadRequest(INVALID)
    return order


def unknown_fields(body: object) -> tuple[str, ...]:
    """Members of a native request the server knows nothing of."""
    return tuple(sorted(set(body) - KNOWN)) if isinstance(body, dict) else ()


def set_output(order: Order, wanted: str, compression: int, formats: tuple[str, ...]) -> None:
    """Choose how the pictures are encoded; raises `BadRequest`."""
    order.format = wanted.lower()
    order.compression = max(0, min(compression, 100))
    if order.format not in formats:
        raise BadRequest(f"invalid output_format, must be one of [{', '.join(formats)}]")


def settle(order: Order, chance: random.Random) -> bool:
    """Draw what is random and clamp what is clamped; says whether the server then takes the order."""
    if order.seed < 0:
        order.seed = chance.randint(0, _MAX_RANDOM_SEED)
    order.batch = max(1, min(order.batch, MAX_BATCH))
    order.steps = max(1, min(order.steps, MAX_STEPS))
    if order.hires.enabled and order.hires.upscaler == "None":
        order.hires.enabled = False
    return (
        0 <= order.strength <= 1
        and order.txt_cfg >= 0
        and 0 <= order.shifted_timestep <= 1000
        and order.upscale_repeats >= 1
        and order.cache_mode in _CACHE_MODES
        and (not order.hires.enabled or _sound(order.hires))
    )


def _sound(hires: Hires) -> bool:
    return (
        hires.upscaler in ("", *UPSCALERS, *LATENT_MODES)
        and hires.width >= 0
        and hires.height >= 0
        and (hires.scale > 0 or hires.width > 0 or hires.height > 0)
        and hires.steps >= 0
        and 0 < hires.strength <= 1
    )


def apply_native(order: Order, body: object, shop: Shop, *, known_loras: bool = True) -> None:
    """Lay a native request's members over the order.

    A member of the wrong type is passed over, pictures and LoRAs excepted: those raise `BadRequest`.
    """
    # Anything but an object has no members at all, which only the strict reads that follow notice.
    given = body if isinstance(body, dict) else {}
    _apply_scalars(order, given)
    _apply_sampling(order, _object(given, "sample_params"))
    _apply_hires(order.hires, _object(given, "hires"))
    _apply_loras(order, given, shop if known_loras else None)
    _apply_pictures(order, given, shop)


def _apply_scalars(order: Order, given: dict[str, Any]) -> None:
    order.prompt = _text(given, "prompt", order.prompt)
    order.negative_prompt = _text(given, "negative_prompt", order.negative_prompt)
    order.cache_mode = _text(given, "cache_mode", order.cache_mode)
    order.clip_skip = _integer(given, "clip_skip", order.clip_skip)
    order.width = _integer(given, "width", order.width)
    order.height = _integer(given, "height", order.height)
    order.batch = _integer(given, "batch_count", order.batch)
    order.upscale_repeats = _integer(given, "upscale_repeats", order.upscale_repeats)
    # The seed alone has 64 bits.
    if kind_of(given.get("seed")) == "number" and isinstance(given["seed"], int):
        order.seed = given["seed"]
    order.strength = _number(given, "strength", order.strength)
    order.control_strength = _number(given, "control_strength", order.control_strength)
    order.embed_metadata = _flag(given, "embed_image_metadata", default=order.embed_metadata)


def _apply_sampling(order: Order, given: dict[str, Any]) -> None:
    order.steps = _integer(given, "sample_steps", order.steps)
    order.shifted_timestep = _integer(given, "shifted_timestep", order.shifted_timestep)
    order.txt_cfg = _number(_object(given, "guidance"), "txt_cfg", order.txt_cfg)
    if (sampler := _text(given, "sample_method", "")) in SAMPLERS:
        order.sampler = sampler
    if (scheduler := _text(given, "scheduler", "")) in SCHEDULERS:
        order.scheduler = scheduler
    sigmas = given.get("custom_sigmas")
    if isinstance(sigmas, list) and (odd := [item for item in sigmas if kind_of(item) != "number"]):
        raise ServerError(f"[json.exception.type_error.302] type must be number, but is {kind_of(odd[0])}")


def _apply_hires(hires: Hires, given: dict[str, Any]) -> None:
    hires.enabled = _flag(given, "enabled", default=hires.enabled)
    hires.upscaler = _text(given, "upscaler", hires.upscaler)
    hires.scale = _number(given, "scale", hires.scale)
    hires.width = _integer(given, "target_width", hires.width)
    hires.height = _integer(given, "target_height", hires.height)
    hires.steps = _integer(given, "steps", hires.steps)
    hires.strength = _number(given, "denoising_strength", hires.strength)


def _apply_loras(order: Order, given: dict[str, Any], shop: Shop | None) -> None:
    if "lora" not in given:
        return
    if not isinstance(given["lora"], list):
        raise BadRequest(INVALID)
    order.loras = {}
    for item in given["lora"]:
        if not isinstance(item, dict):
            raise BadRequest(INVALID)
        path = value_of(item, "path", "")
        if not path or (shop is not None and path not in shop.loras):
            raise BadRequest(INVALID)
        # Named twice, the weights add up.
        order.loras[path] = order.loras.get(path, 0.0) + value_of(item, "multiplier", 1.0)


def _apply_pictures(order: Order, given: dict[str, Any], shop: Shop) -> None:
    size = (order.width, order.height)
    order.init = _picture(given, "init_image", 3, size, shop, order.init)
    _picture(given, "end_image", 3, size, shop, None)
    order.references = _pictures(given, "ref_images", size, shop, order.references)
    _pictures(given, "control_frames", size, shop, [])
    order.mask = _picture(given, "mask_image", 1, size, shop, order.mask)
    order.control = _picture(given, "control_image", 3, size, shop, order.control)
    order.adapter = _picture(given, "ip_adapter_image", 3, size, shop, order.adapter)


def _picture(
    given: dict[str, Any], name: str, channels: int, size: tuple[int, int], shop: Shop, default: Image.Image | None
) -> Image.Image | None:
    if name not in given:
        return default
    return None if given[name] is None else _decoded(given[name], channels, size, shop)


def _pictures(
    given: dict[str, Any], name: str, size: tuple[int, int], shop: Shop, default: list[Image.Image]
) -> list[Image.Image]:
    if name not in given:
        return default
    if given[name] is None:
        return []
    if not isinstance(given[name], list):
        raise BadRequest(INVALID)
    return [_decoded(item, 3, size, shop) for item in given[name]]


def _decoded(value: object, channels: int, size: tuple[int, int], shop: Shop) -> Image.Image:
    if not isinstance(value, str):
        raise BadRequest(INVALID)
    try:
        return decode_image(value, channels, size, webp=shop.webp)
    except Unreadable as error:
        raise BadRequest(INVALID) from error


def _object(given: dict[str, Any], name: str) -> dict[str, Any]:
    found = given.get(name)
    return found if isinstance(found, dict) else {}


def _text(given: dict[str, Any], name: str, default: str) -> str:
    found = given.get(name)
    return found if isinstance(found, str) else default


def _integer(given: dict[str, Any], name: str, default: int) -> int:
    found = given.get(name)
    return int32(found) if isinstance(found, int) and not isinstance(found, bool) else default


def _number(given: dict[str, Any], name: str, default: float) -> float:
    found = given.get(name)
    return single(found) if isinstance(found, int | float) and not isinstance(found, bool) else default


def _flag(given: dict[str, Any], name: str, *, default: bool) -> bool:
    found = given.get(name)
    return found if isinstance(found, bool) else default
