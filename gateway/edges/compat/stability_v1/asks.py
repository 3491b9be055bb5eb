"""Stability AI's REST v1: what its requests may hold, and what they ask for in our words. No I/O."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from gateway.edges.compat.dialect import Sent, Wish
from gateway.edges.compat.stability_both import Style
from gateway.edges.compat.stability_v1.tables import CONTROLS, HINTS, SAMPLERS
from protocol.errors import ClientFault

Clip = Literal["FAST_BLUE", "FAST_GREEN", "NONE", "SIMPLE", "SLOW", "SLOWER", "SLOWEST"]
Sampler = Literal[
    "DDIM", "DDPM", "K_DPMPP_2M", "K_DPMPP_2S_ANCESTRAL", "K_DPM_2", "K_DPM_2_ANCESTRAL", "K_EULER",
    "K_EULER_ANCESTRAL", "K_HEUN", "K_LMS",
]  # fmt: skip
ControlKind = Literal[
    "canny", "depth", "hed", "lineart", "mlsd", "normal", "normalbae", "normal_map", "openpose", "pose", "scribble",
    "seg", "segmentation", "shuffle", "sketch", "softedge", "tile",
]  # fmt: skip
Files = Mapping[str, bytes]
_Share = Annotated[float, Meta(ge=0, le=1)]
_PROMPT: Final = re.compile(r"text_prompts\[(\d{1,9})\]\[(text|weight)\]")
_MULTIPLE: Final = 64
_LEAST_EDGE: Final = 128


class TextPrompt(Struct, frozen=True):
    """A part of the prompt; a negative weight says what should not be seen."""

    text: Annotated[str, Meta(min_length=1, max_length=2000)]
    weight: Annotated[float, Meta(ge=-10, le=10)] | None = None


class Common(Struct, frozen=True, kw_only=True):
    """What all generations take but upscaling; unknown names are ignored, as by the vendor, and so is its `extras`."""

    text_prompts: Annotated[list[TextPrompt], Meta(min_length=1, max_length=32)]
    cfg_scale: Annotated[float, Meta(ge=0, le=35)] | None = None
    clip_guidance_preset: Clip | None = None
    """Checked and ignored: nothing here is guided by CLIP."""
    sampler: Sampler | None = None
    samples: Annotated[int, Meta(ge=1, le=10)] | None = None
    seed: Annotated[int, Meta(ge=0, le=4_294_967_295)] | None = None
    """0 is any."""
    steps: Annotated[int, Meta(ge=10, le=150)] | None = None
    style_preset: Style | None = None


class TextToImage(Common, frozen=True, kw_only=True):
    """The body of `text-to-image`."""

    width: int | None = None
    height: int | None = None


def text_to_image(engine: str, asked: TextToImage) -> Wish:
    """Return what a `text-to-image` asks for. Raises `ClientFault`."""
    return Wish("txt2img", {**common(asked), **size(asked.width, asked.height)}, engine, hints=HINTS, has_preset=True)


class Controlled(TextToImage, frozen=True, kw_only=True):
    """The body of `text-to-image-controlnet`, which is the guide's."""

    init_image: str | None = None
    controlnet_type: ControlKind = "canny"
    controlnet_weight: Annotated[float, Meta(ge=0, le=2)] | None = None


class Inpainted(TextToImage, frozen=True, kw_only=True):
    """The body of `image-to-image-inpainting`, which is the guide's."""

    init_image: str | None = None
    mask_image: str | None = None
    image_strength: _Share | None = None
    """1 keeps the picture, 0 ignores it where the mask is white, which is the default."""


class ImageToImage(Common, frozen=True, kw_only=True):
    """The fields of `image-to-image`."""

    init_image: str | None = None
    init_image_mode: Literal["IMAGE_STRENGTH", "STEP_SCHEDULE"] = "IMAGE_STRENGTH"
    image_strength: _Share = 0.35
    """1 keeps the picture."""
    step_schedule_start: _Share = 0.65
    step_schedule_end: _Share | None = None
    """Checked and ignored: a schedule here goes to its end."""


class Masked(Common, frozen=True, kw_only=True):
    """The fields of `image-to-image/masking`."""

    mask_source: Literal["MASK_IMAGE_WHITE", "MASK_IMAGE_BLACK", "INIT_IMAGE_ALPHA"]
    init_image: str | None = None
    mask_image: str | None = None


class Upscaled(Struct, frozen=True, kw_only=True):
    """The fields of `image-to-image/upscale`; one edge at most, else the picture becomes twice as large."""

    image: str | None = None
    width: Annotated[int, Meta(ge=512)] | None = None
    height: Annotated[int, Meta(ge=512)] | None = None


def controlled(engine: str, asked: Controlled, files: Files) -> Wish:
    """Return what a `text-to-image-controlnet` asks for; no engine of the vendor's does that. Raises `ClientFault`."""
    role = CONTROLS[asked.controlnet_type]
    control = Sent(role, _needed(files, "init_image"), "init_image", weight=asked.controlnet_weight, is_raw=True)
    params = {**common(asked), **size(asked.width, asked.height)}
    return Wish("controlnet", params, engine, (control,), hints=HINTS, has_preset=True, goes_anywhere=True)


def inpainted(engine: str, asked: Inpainted, files: Files) -> Wish:
    """Return what an `image-to-image-inpainting` asks for. Raises `ClientFault`."""
    params = {**common(asked), **size(asked.width, asked.height)}
    if asked.image_strength is not None:
        params["strength"] = _strength(asked.image_strength)
    return _masked(engine, params, files)


def image_to_image(engine: str, asked: ImageToImage, files: Files) -> Wish:
    """Return what an `image-to-image` asks for. Raises `ClientFault`."""
    by_steps = asked.init_image_mode == "STEP_SCHEDULE"
    strength = asked.step_schedule_start if by_steps else _strength(asked.image_strength)
    init = Sent("init", _needed(files, "init_image"), "init_image")
    return Wish("img2img", {**common(asked), "strength": strength}, engine, (init,), hints=HINTS, has_preset=True)


def masked(engine: str, asked: Masked, files: Files) -> Wish:
    """Return what an `image-to-image/masking` asks for; its mask is white where it is changed."""
    return _masked(engine, common(asked), files)


def upscaled(engine: str, asked: Upscaled, files: Files) -> Wish:
    """Return what an `image-to-image/upscale` asks for. Raises `ClientFault`."""
    if asked.width is not None and asked.height is not None:
        raise ClientFault("resolution_not_supported", "give one of width and height", details={"path": "width"})
    image = Sent("init", _needed(files, "image"), "image")
    return Wish("upscale", {"width": asked.width, "height": asked.height}, engine, (image,))


def _masked(engine: str, params: dict[str, Any], files: Files) -> Wish:
    init = Sent("init", _needed(files, "init_image"), "init_image")
    mask = Sent("mask", _needed(files, "mask_image"), "mask_image")
    # What is white there is replaced, and not only changed: the vendor's mask is all there is of a strength.
    hints = HINTS | {"strength"}
    return Wish("inpaint", params, engine, (init, mask), hints=hints, has_preset=True, defaults={"strength": 1.0})


def _strength(kept: float) -> float:
    """Ours says how much is changed, the vendor's how much is kept."""
    return round(1 - kept, 6)


def _needed(files: Files, name: str) -> bytes:
    if name not in files:
        raise ClientFault("invalid_param", "is required", details={"path": name})
    return files[name]


def nested(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a form's fields with its prompts as a list; they come as `text_prompts[0][text]`, or as JSON.

    Numbers may have gaps, and of a repeated one the later counts.
    """
    parts: dict[int, dict[str, str]] = {}
    for name, text in fields.items():
        found = _PROMPT.fullmatch(name)
        if found is not None:
            parts.setdefault(int(found[1]), {})[found[2]] = text
    rest = {name: text for name, text in fields.items() if not _PROMPT.fullmatch(name)}
    if parts:
        return rest | {"text_prompts": [parts[number] for number in sorted(parts)]}
    if "text_prompts" in rest:
        rest["text_prompts"] = _listed(rest["text_prompts"])
    return rest


def _listed(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return [{"text": text}]


def size(width: int | None, height: int | None) -> dict[str, Any]:
    """Return the edges as params; they are multiples of 64, and what else the model draws is for it to say."""
    for name, edge in (("width", width), ("height", height)):
        if edge is not None and (edge < _LEAST_EDGE or edge % _MULTIPLE):
            message = f"must be a multiple of {_MULTIPLE}, and at least {_LEAST_EDGE}"
            raise ClientFault("resolution_not_supported", message, details={"path": name})
    return {"width": width, "height": height}


def common(asked: Common) -> dict[str, Any]:
    """Return what all generations take, as params."""
    return {
        **_prompts(asked.text_prompts),
        "guidance": asked.cfg_scale,
        "sampler": None if asked.sampler is None else SAMPLERS[asked.sampler],
        "n": asked.samples,
        "seed": asked.seed or None,
        "steps": asked.steps,
        "style": asked.style_preset,
    }


def _prompts(parts: list[TextPrompt]) -> dict[str, Any]:
    """Prompt and negative prompt where there is one of each and no weight matters; else the parts."""
    weights = [1.0 if part.weight is None else part.weight for part in parts]
    plain = {1.0: "prompt", -1.0: "negative_prompt"}
    if len(set(weights)) == len(weights) and set(weights) <= plain.keys() and 1.0 in weights:
        return {plain[weight]: part.text for weight, part in zip(weights, parts, strict=True)}
    return {"prompts": [{"text": part.text, "weight": one} for part, one in zip(parts, weights, strict=True)]}
