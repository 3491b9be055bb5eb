"""The two blocking dialects, WebUI and OpenAI: reading their requests, and their answers' bodies."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from types import MappingProxyType

from load.upstreams.forms import FormError, Part, media_type, parse_form
from load.upstreams.sdcpp.catalogue import FALLBACK_SIDE, SAMPLERS, SCHEDULERS, Shop
from load.upstreams.sdcpp.infotext import infotext
from load.upstreams.sdcpp.json_text import BadRequest, NotJson, ServerError, dump, parse, single, value_of
from load.upstreams.sdcpp.orders import Order, apply_native, set_output, settle
from load.upstreams.sdcpp.uploads import Unreadable, decode_image, load_image

_EXTRA = re.compile(r"<sd_cpp_extra_args>(.*?)</sd_cpp_extra_args>")
_LEADING_INTEGER = re.compile(r"\s*([+-]?\d+)")
_INVALID_PARAMS = "invalid params"
WEBUI_SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "euler a": "euler_a",
        "k_euler_a": "euler_a",
        "euler": "euler",
        "k_euler": "euler",
        "heun": "heun",
        "k_heun": "heun",
        "dpm2": "dpm2",
        "k_dpm_2": "dpm2",
        "lcm": "lcm",
        "ddim": "ddim_trailing",
        "dpm++ 2m": "dpm++2m",
        "k_dpmpp_2m": "dpm++2m",
        "dpm++ 2m sde": "dpm++2m_sde",
        "k_dpmpp_2m_sde": "dpm++2m_sde",
        "dpm++ 2m sde gpu": "dpm++2m_sde_bt",
        "k_dpmpp_2m_sde_gpu": "dpm++2m_sde_bt",
        "res multistep": "res_multistep",
        "k_res_multistep": "res_multistep",
        "res 2s": "res_2s",
        "k_res_2s": "res_2s",
        "k_euler_cfg_pp": "euler_cfg_pp",
        "k_euler_a_cfg_pp": "euler_cfg_pp",
    }
)


def read_webui(body: object, shop: Shop, chance: random.Random, *, img2img: bool) -> Order:
    """The order of a txt2img or img2img request; raises `BadRequest` or `ServerError`."""
    order = Order.of(shop)
    prompt = value_of(body, "prompt", "")
    order.negative_prompt = value_of(body, "negative_prompt", "")
    # Only here a size that is not positive is refused, and only here it defaults to 512 whatever the server's is.
    if value_of(body, "width", FALLBACK_SIDE) <= 0 or value_of(body, "height", FALLBACK_SIDE) <= 0:
        raise BadRequest("width and height must be positive")
    if not prompt:
        raise BadRequest("prompt required")
    assert isinstance(body, dict), "value_of refuses all else"
    order.prompt = prompt
    order.width, order.height = value_of(body, "width", -1), value_of(body, "height", -1)
    order.steps = value_of(body, "steps", order.steps)
    order.txt_cfg = single(value_of(body, "cfg_scale", float(order.txt_cfg)))
    order.seed = value_of(body, "seed", -1)
    order.batch = value_of(body, "batch_size", 1)
    clip_skip = value_of(body, "clip_skip", -1)
    sampler, scheduler = value_of(body, "sampler_name", ""), value_of(body, "scheduler", "")
    if not img2img:
        _read_hires(order, body)
    _take_extra_arguments(order, shop)
    order.clip_skip = clip_skip if clip_skip > 0 else order.clip_skip
    if (found := sampler if sampler in SAMPLERS else WEBUI_SAMPLERS.get(sampler.lower())) is not None:
        order.sampler = found
    order.scheduler = scheduler if scheduler in SCHEDULERS else order.scheduler
    _read_loras(order, body, shop)
    if img2img:
        _read_init(order, body, shop)
    if not settle(order, chance):
        raise BadRequest(_INVALID_PARAMS)
    return order


def webui_body(order: Order, shop: Shop, images: list[str], body: object, *, img2img: bool) -> bytes:
    """The answer of the WebUI dialect: `parameters` repeats the request, `info` is JSON inside a string."""
    info: dict[str, object] = {
        "all_negative_prompts": [order.negative_prompt] * len(images),
        "all_prompts": [order.prompt] * len(images),
        "all_seeds": [order.seed + number for number in range(len(images))],
        "cfg_scale": single(order.txt_cfg),
        "height": order.resolved_height,
        "infotexts": [infotext(order, shop, order.seed + number) for number in range(len(images))],
        "prompt": order.prompt,
        "sampler_name": order.sampler,
        "sd_model_name": shop.model,
        "seed": order.seed,
        "steps": order.steps,
        "version": "stable-diffusion.cpp",
        "width": order.resolved_width,
    }
    if order.negative_prompt:
        info["negative_prompt"] = order.negative_prompt
    if order.clip_skip != -1:
        info["clip_skip"] = order.clip_skip
    if order.scheduler is not None:
        info["extra_generation_params"] = {"Schedule type": order.scheduler}
    if img2img:
        info["denoising_strength"] = single(order.strength)
    return dump({"images": images, "info": dump(info), "parameters": body}).encode()


def read_generation(body: object, shop: Shop, chance: random.Random) -> Order:
    """The order of an OpenAI generation; raises `BadRequest` or `ServerError`."""
    order = Order.of(shop)
    prompt = value_of(body, "prompt", "")
    order.batch = max(1, value_of(body, "n", 1))
    size = value_of(body, "size", "")
    encoding, compression = value_of(body, "output_format", "png"), value_of(body, "output_compression", 100)
    if not prompt:
        raise BadRequest("prompt required")
    set_output(order, encoding, compression, shop.formats)
    order.prompt = prompt
    order.width, order.height = _size(size, (order.resolved_width, order.resolved_height))
    return _finished(order, shop, chance)


def read_edit(content_type: str, data: bytes, shop: Shop, chance: random.Random) -> Order:
    """The order of an OpenAI edit, a form; raises `BadRequest`."""
    if media_type(content_type) != "multipart/form-data":
        raise BadRequest("Content-Type must be multipart/form-data")
    try:
        parts = parse_form(content_type, data)
    except FormError as error:
        raise BadRequest("") from error
    texts = {part.name: part.data.decode("utf-8", "replace") for part in parts if part.filename is None}
    if not texts.get("prompt"):
        raise BadRequest("prompt required")
    uploads = _files(parts, "image[]") or _files(parts, "image")[:1]
    if not uploads:
        raise BadRequest("at least one image[] required")
    order = Order.of(shop)
    # WebP is never offered here, whatever the server was built with.
    compression = _whole(texts.get("output_compression", ""), 100)
    set_output(order, texts.get("output_format", "png"), compression, ("png", "jpeg"))
    order.prompt = texts["prompt"]
    order.batch = _whole(texts.get("n", ""), 1)
    order.width, order.height = _size(texts.get("size", ""), (-1, -1))
    _take_uploads(order, uploads, _files(parts, "mask"), shop)
    return _finished(order, shop, chance)


def openai_body(order: Order, images: list[str], now: float) -> bytes:
    """The answer of the OpenAI dialect."""
    data = [{"b64_json": image} for image in images]
    return dump({"created": int(now), "data": data, "output_format": order.format}).encode()


def _finished(order: Order, shop: Shop, chance: random.Random) -> Order:
    _take_extra_arguments(order, shop)
    if not settle(order, chance):
        raise BadRequest(_INVALID_PARAMS)
    return order


def _take_extra_arguments(order: Order, shop: Shop) -> None:
    """Obey native JSON hidden in the prompt, and cut it out."""
    match = _EXTRA.search(order.prompt)
    if match is None:
        return
    order.prompt = _EXTRA.sub("", order.prompt)
    if not match[1]:
        return
    try:
        # No list of LoRAs is looked at here: the path goes to the loader as it stands.
        apply_native(order, parse(match[1].encode()), shop, known_loras=False)
    except (NotJson, BadRequest) as error:
        raise BadRequest("invalid sd_cpp_extra_args") from error


def _read_hires(order: Order, body: dict[str, object]) -> None:
    hires = order.hires
    if not value_of(body, "enable_hr", False):
        return
    hires.enabled = True
    hires.scale = value_of(body, "hr_scale", hires.scale)
    hires.width = value_of(body, "hr_resize_x", hires.width)
    hires.height = value_of(body, "hr_resize_y", hires.height)
    hires.steps = value_of(body, "hr_steps", hires.steps)
    hires.strength = value_of(body, "denoising_strength", hires.strength)
    hires.upscaler = value_of(body, "hr_upscaler", hires.upscaler)


def _read_loras(order: Order, body: dict[str, object], shop: Shop) -> None:
    given = body.get("lora")
    if not isinstance(given, list):
        return
    order.loras = {}
    for item in given:
        if not isinstance(item, dict):
            continue
        path = value_of(item, "path", "")
        if not path:
            raise BadRequest("lora.path required")
        if path not in shop.loras:
            raise BadRequest(f"invalid lora path: {path}")
        order.loras[path] = order.loras.get(path, 0.0) + value_of(item, "multiplier", 1.0)


def _read_init(order: Order, body: dict[str, object], shop: Shop) -> None:
    # A picture that cannot be read is as good as none in this dialect: the answer is a picture out of nothing.
    size = (order.width, order.height) if order.sized else (0, 0)
    images = body.get("init_images")
    if isinstance(images, list) and images:
        if not isinstance(images[0], str):
            raise ServerError("[json.exception.type_error.302] type must be string")
        try:
            order.init = decode_image(images[0], 3, size, webp=shop.webp)
            order.size_from(order.init)
        except Unreadable:
            pass
    _read_mask(order, body, size, shop)
    strength = value_of(body, "denoising_strength", -1.0)
    if strength >= 0:
        order.strength = single(min(strength, 1.0))


def _read_mask(order: Order, body: dict[str, object], size: tuple[int, int], shop: Shop) -> None:
    mask = body.get("mask")
    if not isinstance(mask, str):
        return
    try:
        order.mask = decode_image(mask, 1, size, webp=shop.webp)
    except Unreadable:
        return
    order.size_from(order.mask)
    if value_of(body, "inpainting_mask_invert", 0):
        order.mask = order.mask.point(lambda level: 255 - level)


def _take_uploads(order: Order, uploads: list[bytes], masks: list[bytes], shop: Shop) -> None:
    for data in uploads:
        try:
            picture = load_image(data, 3, (order.width, order.height), webp=shop.webp)
        except Unreadable:
            continue
        order.size_from(picture)
        order.references.append(picture)
    order.init = order.references[0] if order.references else None
    if masks and masks[0]:
        try:
            order.mask = load_image(masks[0], 1, (order.width, order.height), webp=shop.webp)
        except Unreadable:
            return
        order.size_from(order.mask)


def _files(parts: list[Part], name: str) -> list[bytes]:
    return [part.data for part in parts if part.name == name and part.filename is not None]


def _size(text: str, default: tuple[int, int]) -> tuple[int, int]:
    wide, cross, high = text.partition("x")
    width, height = _LEADING_INTEGER.match(wide), _LEADING_INTEGER.match(high)
    if not cross or width is None:
        return default
    # The width stands even if the height cannot be read.
    return int(width[1]), int(height[1]) if height is not None else default[1]


def _whole(text: str, default: int) -> int:
    found = _LEADING_INTEGER.match(text)
    return int(found[1]) if found else default
