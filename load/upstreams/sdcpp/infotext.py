"""The text about a picture's making: in PNG files as `parameters`, in the WebUI dialect's `info`."""

from __future__ import annotations

from pathlib import PurePosixPath

from load.upstreams.sdcpp.catalogue import Shop
from load.upstreams.sdcpp.json_text import dump, single
from load.upstreams.sdcpp.orders import Order


def infotext(order: Order, shop: Shop, seed: int) -> str:
    """The whole text, which repeats prompt, seed and settings."""
    negative = f"Negative prompt: {order.negative_prompt}\n" if order.negative_prompt else ""
    return f"{order.prompt}\n{negative}{', '.join(_facts(order, shop, seed))}"


def _facts(order: Order, shop: Shop, seed: int) -> list[str]:
    facts = [
        f"Steps: {order.steps}",
        f"CFG scale: {order.txt_cfg:.6f}",
        "Guidance: 3.500000",
        "Eta: inf",
        f"Seed: {seed}",
        f"Size: {order.resolved_width}x{order.resolved_height}",
        f"Model: {shop.model}",
        "RNG: cuda",
        f"Sampler: {order.sampler}" + (f" {order.scheduler}" if order.scheduler else ""),
    ]
    if order.clip_skip != -1:
        facts.append(f"Clip skip: {order.clip_skip}")
    if order.hires.enabled:
        facts += _hires_facts(order)
    return [*facts, "Version: stable-diffusion.cpp", f"SDCPP: {dump(_settings(order, shop, seed))}"]


def _hires_facts(order: Order) -> list[str]:
    hires = order.hires
    return [
        f"Hires upscale: {hires.upscaler}",
        f"Hires scale: {hires.scale:.6f}",
        f"Hires resize: {hires.width}x{hires.height}",
        f"Hires steps: {hires.steps}",
        f"Denoising strength: {hires.strength:.6f}",
    ]


def _settings(order: Order, shop: Shop, seed: int) -> dict[str, object]:
    settings: dict[str, object] = {
        "auto_resize_ref_image": True,
        "clip_skip": order.clip_skip,
        "control_strength": single(order.control_strength),
        "generator": {"commit": "unknown", "name": "stable-diffusion.cpp", "version": "unknown"},
        "height": order.resolved_height,
        "increase_ref_index": False,
        "ip_adapter_strength": 1.0,
        "mode": "img_gen",
        "models": {"model": shop.model},
        "prompt": {"negative": order.negative_prompt, "positive": order.prompt},
        "rng": "cuda",
        "sampling": _sampling(order),
        "schema": "sdcpp.image.params/v1",
        "seed": seed,
        "strength": single(order.strength),
        "width": order.resolved_width,
    }
    if order.loras:
        settings["loras"] = [
            {"is_high_noise": False, "multiplier": single(weight), "name": PurePosixPath(path).name}
            for path, weight in sorted(order.loras.items())
        ]
    return settings


def _sampling(order: Order) -> dict[str, object]:
    sampling: dict[str, object] = {
        "custom_sigmas": [],
        "eta": None,
        "extra_sample_args": "",
        "flow_shift": None,
        "guidance": {
            "distilled_guidance": 3.5,
            "img_cfg": None,
            "slg": {"end": single(0.2), "layers": [7, 8, 9], "scale": 0.0, "start": single(0.01)},
            "txt_cfg": single(order.txt_cfg),
        },
        "shifted_timestep": order.shifted_timestep,
        "steps": order.steps,
    }
    if order.sampler != "NONE":
        sampling["method"] = order.sampler
    if order.scheduler is not None:
        sampling["scheduler"] = order.scheduler
    return sampling
