"""The nodes that load, describe and sample.

Pixel truth: a sampler's own picture is one flat colour, which follows from seed, prompt, negative prompt and
place in the batch (`colour`). Strength `denoise` and the noise mask mix it over what the latent holds, linear
and exact at both ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from load.upstreams.comfyui import arrays
from load.upstreams.comfyui.spec import Context, Input, NodeClass
from load.upstreams.comfyui.values import (
    Checkpoint,
    Conditioning,
    Floats,
    Hint,
    Latent,
    Made,
    Named,
    NodeError,
    Upscaler,
)
from load.upstreams.pictures import Colour, colour_of

HINT_SHARE = 0.5
"""How much of a ControlNet's picture shows in the result at strength 1."""

_MAX_SIDE = 16384
_GREY = np.float32(0.5)
_SIDE: Mapping[str, Any] = MappingProxyType({"default": 512, "min": 0, "max": _MAX_SIDE})

SAMPLERS = (
    "euler",
    "euler_cfg_pp",
    "euler_ancestral",
    "euler_ancestral_cfg_pp",
    "heun",
    "heunpp2",
    "dpm_2",
    "dpm_2_ancestral",
    "lms",
    "dpm_fast",
    "dpm_adaptive",
    "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_sde_gpu",
    "dpmpp_2m",
    "dpmpp_2m_cfg_pp",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun",
    "dpmpp_2m_sde_heun_gpu",
    "dpmpp_3m_sde",
    "dpmpp_3m_sde_gpu",
    "ddpm",
    "lcm",
    "ipndm",
    "ipndm_v",
    "deis",
    "res_multistep",
    "res_multistep_cfg_pp",
    "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp",
    "gradient_estimation",
    "gradient_estimation_cfg_pp",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "sa_solver",
    "sa_solver_pece",
    "ddim",
    "uni_pc",
    "uni_pc_bh2",
)
SCHEDULERS = (
    "simple",
    "sgm_uniform",
    "karras",
    "exponential",
    "ddim_uniform",
    "beta",
    "normal",
    "linear_quadratic",
    "kl_optimal",
)


def colour(seed: int, positive: str, negative: str = "", index: int = 0) -> Colour:
    """The flat colour a sampler paints for one picture of a batch."""
    parts = [positive]
    if negative:
        parts.append(f"without {negative}")
    if index:
        parts.append(f"number {index}")
    return colour_of(seed, "\n".join(parts))


def models(folder: str) -> Any:
    """The choices of an input that names a model file."""
    return lambda lists: lists.models[folder]


def choices(*names: str) -> Any:
    """The choices of an input that are always the same."""
    return lambda _lists: list(names)


def number(name: str, kind: str, low: float, high: float, default: float, **more: Any) -> Input:
    """A numeric input with its range."""
    return Input(name, kind, {"default": default, "min": low, "max": high, **more})


def _load_checkpoint(context: Context, given: Mapping[str, Any]) -> Made:
    checkpoint = context.library.checkpoint(given["ckpt_name"])
    return Made((checkpoint, Named(checkpoint.name), Named(checkpoint.name)))


def _load_lora(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((given["model"], given["clip"]))


def _load_named(key: str) -> Any:
    return lambda _context, given: Made((Named(given[key]),))


def _load_upscaler(_context: Context, given: Mapping[str, Any]) -> Made:
    name = given["model_name"]
    match = re.match(r"\d+", name)
    return Made((Upscaler(name, int(match[0]) if match else 4),))


def _encode_text(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((Conditioning(given["text"]),))


def _empty_latent(_context: Context, given: Mapping[str, Any]) -> Made:
    width, height = given["width"] // 8 * 8, given["height"] // 8 * 8
    return Made((Latent(np.full((given["batch_size"], height, width, 3), _GREY, np.float32)),))


def _decode(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((given["samples"].samples,))


def _encode(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((Latent(_cut_to_eights(given["pixels"])),))


def _encode_for_inpaint(_context: Context, given: Mapping[str, Any]) -> Made:
    pixels = given["pixels"]
    mask = arrays.resize_mask(given["mask"], pixels.shape[2], pixels.shape[1])
    pixels, mask = _cut_to_eights(pixels), _cut_to_eights(mask[..., None])[..., 0]
    whole = np.round(mask)
    blanked = arrays.mix(pixels, np.full_like(pixels, _GREY), arrays.repeat_to(whole, len(pixels))[..., None])
    grown = _grow(whole, given["grow_mask_by"]) if given["grow_mask_by"] else mask
    return Made((Latent(blanked, np.round(grown)),))


def _set_noise_mask(_context: Context, given: Mapping[str, Any]) -> Made:
    return Made((Latent(given["samples"].samples, given["mask"]),))


def _inpaint_conditioning(context: Context, given: Mapping[str, Any]) -> Made:
    made = _encode(context, given).outputs[0]
    pixels = made.samples
    mask = arrays.resize_mask(given["mask"], pixels.shape[2], pixels.shape[1]) if given["noise_mask"] else None
    return Made((given["positive"], given["negative"], Latent(pixels, mask)))


def _upscale_latent(_context: Context, given: Mapping[str, Any]) -> Made:
    latent: Latent = given["samples"]
    width, height = given["width"], given["height"]
    if width == height == 0:
        return Made((latent,))
    own_height, own_width = latent.samples.shape[1:3]
    width = max(64, width or round(own_width * max(64, height) / own_height)) // 8 * 8
    height = max(64, height or round(own_height * max(64, width) / own_width)) // 8 * 8
    crop = given["crop"] == "center"
    return Made(
        (latent.with_samples(arrays.resize(latent.samples, width, height, given["upscale_method"], crop=crop)),)
    )


def _repeat_latent(_context: Context, given: Mapping[str, Any]) -> Made:
    latent: Latent = given["samples"]
    return Made((latent.with_samples(arrays.repeat_to(latent.samples, len(latent.samples) * given["amount"])),))


def _apply_controlnet(_context: Context, given: Mapping[str, Any]) -> Made:
    positive, negative = given["positive"], given["negative"]
    if given["strength"] == 0:
        return Made((positive, negative))
    hint = Hint(given["image"], given["strength"], given["start_percent"], given["end_percent"])
    return Made(tuple(Conditioning(one.text, (*one.hints, hint)) for one in (positive, negative)))


async def _sample(context: Context, given: Mapping[str, Any]) -> Made:
    latent: Latent = given["latent_image"]
    final = arrays.mix(latent.samples, _painted(given, latent.samples.shape), _weight(latent, given["denoise"]))
    # At strength 0 the server has no steps to do.
    steps = given["steps"] if given["denoise"] > 0 else 0
    for step in range(1, steps + 1):
        await _take_step(context, given["model"], step)
        shown = arrays.mix(latent.samples[0], final[0], step / steps)
        await context.step(step, steps, context.preview(shown))
    return Made((latent.with_samples(final),))


async def _take_step(context: Context, model: Checkpoint, step: int) -> None:
    if model.fail_at_step == step:
        raise NodeError(model.failure, model.message)
    await context.arrive(step)
    await context.sleep(model.step_seconds)
    context.count_step()


def _painted(given: Mapping[str, Any], shape: tuple[int, ...]) -> Floats:
    positive: Conditioning = given["positive"]
    flat = [colour(given["seed"], positive.text, given["negative"].text, index) for index in range(shape[0])]
    painted = np.broadcast_to(np.array(flat, np.float32)[:, None, None, :] / np.float32(255), shape)
    for hint in positive.hints:
        if hint.end > hint.start:
            seen = arrays.repeat_to(arrays.resize(hint.image, shape[2], shape[1]), shape[0])
            painted = arrays.mix(painted, seen, HINT_SHARE * min(1.0, hint.strength))
    return painted


def _weight(latent: Latent, denoise: float) -> Floats:
    count, height, width, _ = latent.samples.shape
    if latent.noise_mask is None:
        return np.full((count, 1, 1, 1), denoise, np.float32)
    mask = arrays.repeat_to(arrays.resize_mask(latent.noise_mask, width, height), count)
    return np.asarray(mask * np.float32(denoise), dtype=np.float32)[..., None]


def _cut_to_eights(image: Floats) -> Floats:
    height, width = (side // 8 * 8 for side in image.shape[1:3])
    top, left = (side % 8 // 2 for side in image.shape[1:3])
    return image[:, top : top + height, left : left + width]


def _grow(mask: Floats, by: int) -> Floats:
    """The mask where any of the `by` times `by` pixels around is set, shifted as the server's convolution does."""
    padding = -(-(by - 1) // 2)
    _, height, width = mask.shape
    padded = np.pad(mask, ((0, 0), (padding, padding), (padding, padding)))
    rows = np.max([padded[:, down : down + height] for down in range(min(by, padded.shape[1] - height + 1))], axis=0)
    shifts = range(min(by, padded.shape[2] - width + 1))
    return np.asarray(np.max([rows[:, :, right : right + width] for right in shifts], axis=0), dtype=np.float32)


CLASSES = (
    NodeClass(
        "KSampler",
        (
            Input("model", "MODEL"),
            number("seed", "INT", 0, 2**64 - 1, 0, control_after_generate=True),
            number("steps", "INT", 1, 10_000, 20),
            number("cfg", "FLOAT", 0.0, 100.0, 8.0, step=0.1, round=0.01),
            Input("sampler_name", choices(*SAMPLERS)),
            Input("scheduler", choices(*SCHEDULERS)),
            Input("positive", "CONDITIONING"),
            Input("negative", "CONDITIONING"),
            Input("latent_image", "LATENT"),
            number("denoise", "FLOAT", 0.0, 1.0, 1.0, step=0.01),
        ),
        ("LATENT",),
        _sample,
        category="sampling",
    ),
    NodeClass(
        "CheckpointLoaderSimple",
        (Input("ckpt_name", models("checkpoints")),),
        ("MODEL", "CLIP", "VAE"),
        _load_checkpoint,
        display_name="Load Checkpoint",
        category="loaders",
    ),
    NodeClass(
        "CLIPTextEncode",
        (Input("text", "STRING", {"multiline": True, "dynamicPrompts": True}), Input("clip", "CLIP")),
        ("CONDITIONING",),
        _encode_text,
        display_name="CLIP Text Encode (Prompt)",
        category="conditioning",
    ),
    NodeClass(
        "EmptyLatentImage",
        (
            number("width", "INT", 16, _MAX_SIDE, 512, step=8),
            number("height", "INT", 16, _MAX_SIDE, 512, step=8),
            number("batch_size", "INT", 1, 4096, 1),
        ),
        ("LATENT",),
        _empty_latent,
        display_name="Empty Latent Image",
        category="latent",
    ),
    NodeClass(
        "VAEDecode",
        (Input("samples", "LATENT"), Input("vae", "VAE")),
        ("IMAGE",),
        _decode,
        display_name="VAE Decode",
        category="latent",
    ),
    NodeClass(
        "VAEEncode",
        (Input("pixels", "IMAGE"), Input("vae", "VAE")),
        ("LATENT",),
        _encode,
        display_name="VAE Encode",
        category="latent",
    ),
    NodeClass(
        "VAEEncodeForInpaint",
        (
            Input("pixels", "IMAGE"),
            Input("vae", "VAE"),
            Input("mask", "MASK"),
            number("grow_mask_by", "INT", 0, 64, 6, step=1),
        ),
        ("LATENT",),
        _encode_for_inpaint,
        display_name="VAE Encode (for Inpainting)",
        category="latent/inpaint",
    ),
    NodeClass(
        "SetLatentNoiseMask",
        (Input("samples", "LATENT"), Input("mask", "MASK")),
        ("LATENT",),
        _set_noise_mask,
        display_name="Set Latent Noise Mask",
        category="latent/inpaint",
    ),
    NodeClass(
        "InpaintModelConditioning",
        (
            Input("positive", "CONDITIONING"),
            Input("negative", "CONDITIONING"),
            Input("vae", "VAE"),
            Input("pixels", "IMAGE"),
            Input("mask", "MASK"),
            Input("noise_mask", "BOOLEAN", {"default": True}),
        ),
        ("CONDITIONING", "CONDITIONING", "LATENT"),
        _inpaint_conditioning,
        category="conditioning/inpaint",
        output_names=("positive", "negative", "latent"),
    ),
    NodeClass(
        "LatentUpscale",
        (
            Input("samples", "LATENT"),
            Input("upscale_method", choices("nearest-exact", "bilinear", "area", "bicubic", "bislerp")),
            Input("width", "INT", {**_SIDE, "step": 8}),
            Input("height", "INT", {**_SIDE, "step": 8}),
            Input("crop", choices("disabled", "center")),
        ),
        ("LATENT",),
        _upscale_latent,
        display_name="Upscale Latent",
        category="latent",
    ),
    NodeClass(
        "RepeatLatentBatch",
        (Input("samples", "LATENT"), number("amount", "INT", 1, 64, 1)),
        ("LATENT",),
        _repeat_latent,
        display_name="Repeat Latent Batch",
        category="latent/batch",
    ),
    NodeClass(
        "LoraLoader",
        (
            Input("model", "MODEL"),
            Input("clip", "CLIP"),
            Input("lora_name", models("loras")),
            number("strength_model", "FLOAT", -100.0, 100.0, 1.0, step=0.01),
            number("strength_clip", "FLOAT", -100.0, 100.0, 1.0, step=0.01),
        ),
        ("MODEL", "CLIP"),
        _load_lora,
        display_name="Load LoRA",
        category="loaders",
    ),
    NodeClass(
        "VAELoader",
        (Input("vae_name", models("vae")),),
        ("VAE",),
        _load_named("vae_name"),
        display_name="Load VAE",
        category="loaders",
    ),
    NodeClass(
        "ControlNetLoader",
        (Input("control_net_name", models("controlnet")),),
        ("CONTROL_NET",),
        _load_named("control_net_name"),
        display_name="Load ControlNet Model",
        category="loaders",
    ),
    NodeClass(
        "ControlNetApplyAdvanced",
        (
            Input("positive", "CONDITIONING"),
            Input("negative", "CONDITIONING"),
            Input("control_net", "CONTROL_NET"),
            Input("image", "IMAGE"),
            number("strength", "FLOAT", 0.0, 10.0, 1.0, step=0.01),
            number("start_percent", "FLOAT", 0.0, 1.0, 0.0, step=0.001),
            number("end_percent", "FLOAT", 0.0, 1.0, 1.0, step=0.001),
            Input("vae", "VAE", optional=True),
        ),
        ("CONDITIONING", "CONDITIONING"),
        _apply_controlnet,
        display_name="Apply ControlNet",
        category="conditioning/controlnet",
        output_names=("positive", "negative"),
    ),
    NodeClass(
        "UpscaleModelLoader",
        (Input("model_name", models("upscale_models"), v3=True),),
        ("UPSCALE_MODEL",),
        _load_upscaler,
        display_name="Load Upscale Model",
        category="loaders",
        v3=True,
    ),
)
