"""What the server tells of itself: capabilities, defaults and the model lists of its three dialects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from types import MappingProxyType

from load.upstreams.sdcpp.json_text import single

SAMPLERS = (
    "euler",
    "euler_a",
    "heun",
    "dpm2",
    "dpm++2s_a",
    "dpm++2m",
    "dpm++2mv2",
    "ipndm",
    "ipndm_v",
    "lcm",
    "ddim_trailing",
    "tcd",
    "res_multistep",
    "res_2s",
    "er_sde",
    "euler_cfg_pp",
    "euler_a_cfg_pp",
    "euler_ge",
    "dpm++2m_sde",
    "dpm++2m_sde_bt",
    "lms",
)
SCHEDULERS = (
    "discrete",
    "normal",
    "karras",
    "exponential",
    "ays",
    "gits",
    "sgm_uniform",
    "simple",
    "smoothstep",
    "kl_optimal",
    "lcm",
    "bong_tangent",
    "ltx2",
    "logit_normal",
    "flux2",
    "flux",
    "beta",
)
LATENT_MODES = (
    "Latent",
    "Latent (nearest)",
    "Latent (nearest-exact)",
    "Latent (antialiased)",
    "Latent (bicubic)",
    "Latent (bicubic antialiased)",
)
UPSCALERS = ("None", "Lanczos", "Nearest")

MAX_BATCH = 8
MAX_STEPS = 100
FALLBACK_SIDE = 512
"""What a side becomes that is not positive."""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the server was started with, used for whatever a request leaves out."""

    width: int = -1
    """Not positive: not given at the start; then 512, or the size of a picture that was sent."""
    height: int = -1
    steps: int = 20
    txt_cfg: float = 7.0
    seed: int = 42
    strength: float = 0.75
    control_strength: float = 0.9


@dataclass(frozen=True, slots=True)
class Shop:
    """One server's model and settings."""

    model: str = "tiny-sd1.safetensors"
    folder: str = "/models"
    loras: tuple[str, ...] = ("tiny-sd1.safetensors",)
    """Paths inside the folder of LoRAs; other paths are refused."""
    defaults: Defaults = Defaults()
    webp: bool = False
    """Whether the server was built with WebP."""
    multiple: int = 64
    """Both sides are rounded up to a multiple of this: 64 for SD 1, 2 and XL, 8 or 16 for newer families."""
    max_pixels: int = 4096 * 4096
    """A larger picture fails, as it does for want of memory."""
    max_pending: int = 64

    @property
    def stem(self) -> str:
        return PurePosixPath(self.model).stem

    @property
    def formats(self) -> tuple[str, ...]:
        return ("png", "jpeg", "webp") if self.webp else ("png", "jpeg")


_FEATURES: Mapping[str, bool] = MappingProxyType(
    {
        "cache": True,
        "cancel_generating": False,
        "cancel_queued": True,
        "control_image": True,
        "hires": True,
        "init_image": True,
        "ip_adapter_image": True,
        "lora": True,
        "mask_image": True,
        "ref_images": True,
        "vae_tiling": True,
    }
)


def capabilities(shop: Shop) -> dict[str, object]:
    """The answer of `/sdcpp/v1/capabilities`; what is told by mode is told once more at the top."""
    formats = list(shop.formats)
    defaults = _defaults(shop.defaults)
    return {
        "current_mode": "img_gen",
        "supported_modes": ["img_gen"],
        "defaults": defaults,
        "defaults_by_mode": {"img_gen": defaults},
        "features": dict(_FEATURES),
        "features_by_mode": {"img_gen": dict(_FEATURES)},
        "output_formats": formats,
        "output_formats_by_mode": {"img_gen": formats},
        "limits": _limits(shop),
        "loras": loras(shop),
        "model": {"name": shop.model, "stem": shop.stem, "path": f"{shop.folder}/{shop.model}"},
        "samplers": list(SAMPLERS),
        "schedulers": list(SCHEDULERS),
        "upscalers": [{"name": name} for name in (*UPSCALERS, *LATENT_MODES)],
    }


def _limits(shop: Shop) -> dict[str, int]:
    # Told, and not enforced: the server takes any size.
    sides = {"min_width": 64, "max_width": 4096, "min_height": 64, "max_height": 4096}
    return {**sides, "max_batch_count": MAX_BATCH, "max_queue_size": shop.max_pending}


def _defaults(given: Defaults) -> dict[str, object]:
    return {
        "auto_resize_ref_image": True,
        "batch_count": 1,
        "cache_mode": "",
        "cache_option": "",
        "clip_skip": -1,
        "control_strength": single(given.control_strength),
        "height": given.height if given.height > 0 else FALLBACK_SIDE,
        "hires": {
            "custom_sigmas": [],
            "denoising_strength": single(0.7),
            "enabled": False,
            "scale": 2.0,
            "steps": 0,
            "target_height": 0,
            "target_width": 0,
            "upscale_tile_size": 128,
            "upscaler": "Latent",
        },
        "increase_ref_index": False,
        "ip_adapter_strength": 1.0,
        "negative_prompt": "",
        "output_compression": 100,
        "output_format": "png",
        "prompt": "",
        "qwen_image_layers": 3,
        "sample_params": {
            "eta": None,
            "flow_shift": None,
            "guidance": {
                "distilled_guidance": 3.5,
                "img_cfg": None,
                "slg": {"layer_end": single(0.2), "layer_start": single(0.01), "layers": [7, 8, 9], "scale": 0.0},
                "txt_cfg": single(given.txt_cfg),
            },
            "sample_method": "default",
            "sample_steps": given.steps,
            "scheduler": "default",
            "shifted_timestep": 0,
        },
        "scm_mask": "",
        "scm_policy_dynamic": True,
        "seed": given.seed,
        "strength": single(given.strength),
        "vae_tiling_params": {
            "enabled": False,
            "extra_tiling_args": "",
            "rel_size_x": 0.0,
            "rel_size_y": 0.0,
            "target_overlap": 0.5,
            "temporal_tiling": False,
            "tile_size_x": 0,
            "tile_size_y": 0,
        },
        "width": given.width if given.width > 0 else FALLBACK_SIDE,
    }


def loras(shop: Shop) -> list[dict[str, str]]:
    """The LoRAs in the form the native and the WebUI dialect share."""
    return [{"name": PurePosixPath(path).stem, "path": path} for path in shop.loras]


def openai_models() -> dict[str, object]:
    """The answer of `/v1/models`."""
    return {"data": [{"id": "sd-cpp-local", "object": "model", "owned_by": "local"}]}


def webui_options(shop: Shop) -> dict[str, object]:
    """The answer of `/sdapi/v1/options`."""
    return {"samples_format": "png", "sd_model_checkpoint": shop.stem}


def webui_models(shop: Shop) -> list[dict[str, object]]:
    """The answer of `/sdapi/v1/sd-models`; both hashes are the server's own placeholders."""
    return [
        {
            "config": None,
            "filename": shop.model,
            "hash": "8" * 10,
            "model_name": shop.stem,
            "sha256": "8" * 64,
            "title": shop.stem,
        }
    ]


def webui_samplers() -> list[dict[str, object]]:
    """The answer of `/sdapi/v1/samplers`."""
    return [{"aliases": [name], "name": name, "options": {}} for name in ("default", *SAMPLERS)]


def webui_schedulers() -> list[dict[str, object]]:
    """The answer of `/sdapi/v1/schedulers`."""
    return [{"label": name, "name": name} for name in ("default", *SCHEDULERS)]


def webui_upscalers() -> list[dict[str, object]]:
    """The answer of `/sdapi/v1/upscalers`."""
    return [{"model_name": None, "model_path": None, "model_url": None, "name": name, "scale": 4} for name in UPSCALERS]


def webui_latent_modes() -> list[dict[str, object]]:
    """The answer of `/sdapi/v1/latent-upscale-modes`."""
    return [{"name": name} for name in LATENT_MODES]
