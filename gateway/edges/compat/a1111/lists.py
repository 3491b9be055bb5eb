"""What there is to choose from, as the web UI lists it, without I/O."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from gateway.core.models import Model
from gateway.edges.compat.a1111.answers import sampler_label
from gateway.edges.compat.a1111.tables import ALIASES, SCHEDULERS
from gateway.edges.compat.a1111.wire import CHECKPOINT, FORMAT

_GENERATIONS: Final = frozenset({"txt2img", "img2img", "inpaint", "controlnet"})
_EMPTY: Final = ("hypernetworks", "face-restorers", "realesrgan-models", "sd-vae", "latent-upscale-modes")
"""Lists of what nothing here has."""
_UNITS: Final = 3
Models = Mapping[str, Model]


def listing(name: str, models: Models, first: str | None) -> Any:
    """Return a list by the last part of its path; what the model `first` has comes first."""
    ordered = sorted(models.values(), key=lambda model: model.id != first)
    if name in _EMPTY:
        return []
    return _LISTS[name](ordered)


def options(checkpoint: str | None) -> dict[str, Any]:
    """Return the settings, of which a caller may change the checkpoint."""
    return {
        CHECKPOINT: checkpoint,
        FORMAT: "png",
        "sd_checkpoint_hash": None,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_save": False,
        "grid_save": False,
        "return_grid": False,
        "live_previews_enable": True,
        "live_previews_image_format": "png",
        "show_progress_every_n_steps": 1,
        "show_progress_grid": False,
        "show_progress_type": "Approx NN",
        "api_enable_requests": False,
        "api_forbid_local_requests": True,
        "control_net_unit_count": _UNITS,
    }


def _sd_models(models: list[Model]) -> list[dict[str, Any]]:
    return [
        {
            "title": model.id,
            "model_name": model.id,
            "hash": None,
            "sha256": None,
            "filename": model.id,
            "config": None,
        }
        for model in models
        if model.tasks.keys() & _GENERATIONS
    ]


def _samplers(models: list[Model]) -> list[dict[str, Any]]:
    """Clients want one at least: `Default` is the model's own."""
    names = _distinct(name for model in models for name in model.samplers)
    return [
        {
            "name": sampler_label(name),
            "aliases": [f"k_{one}" for one in (name, *(other for other, ours in ALIASES.items() if ours == name))],
            "options": {},
        }
        for name in names
    ] or [{"name": sampler_label(None), "aliases": [], "options": {}}]


def _schedulers(models: list[Model]) -> list[dict[str, Any]]:
    names = _distinct(("automatic", *(name for model in models for name in model.schedulers)))
    return [
        {
            "name": name,
            "label": SCHEDULERS.get(name, name),
            "aliases": None,
            "default_rho": -1.0,
            "need_inner_model": False,
        }
        for name in names
    ]


def _styles(models: list[Model]) -> list[dict[str, Any]]:
    """The words behind a style are the upstream's; clients leave out styles without any, so here is a note."""
    names = _distinct(name for model in models for name in model.styles)
    return [{"name": name, "prompt": name, "negative_prompt": ""} for name in names]


def _loras(models: list[Model]) -> list[dict[str, Any]]:
    names = _distinct(name for model in models for name in model.loras)
    return [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]


def _upscalers(models: list[Model]) -> list[dict[str, Any]]:
    return [
        {"name": model.id, "model_name": model.id, "model_path": None, "model_url": None, "scale": 4.0}
        for model in models
        if "upscale" in model.tasks
    ]


def _scripts(models: list[Model]) -> dict[str, list[str]]:
    """Clients look for the second name to learn whether units can be sent."""
    names = ["controlnet", "controlnet m2m"] if _kinds(models) else []
    return {"txt2img": names, "img2img": names}


def _script_info(models: list[Model]) -> list[dict[str, Any]]:
    return [
        {"name": "controlnet", "is_alwayson": True, "is_img2img": is_img2img, "args": []}
        for is_img2img in (False, True)
        if _kinds(models)
    ]


def _control_models(models: list[Model]) -> dict[str, Any]:
    return {"model_list": [f"control_{kind}" for kind in _kinds(models)]}


def _control_modules(models: list[Model]) -> dict[str, Any]:
    names = _distinct(("none", *(name for model in models if model.controls for name in model.preprocessors)))
    return {"module_list": names, "module_detail": {name: {"model_free": False, "sliders": []} for name in names}}


def _control_types(models: list[Model]) -> dict[str, Any]:
    modules, names = _control_modules(models)["module_list"], ["None", *_control_models(models)["model_list"]]
    every = {"module_list": modules, "model_list": names, "default_option": "none", "default_model": "None"}
    return {"control_types": {"All": every}}


def _kinds(models: list[Model]) -> list[str]:
    return _distinct(kind for model in models for kind in model.controls)


def _distinct(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


_LISTS: Final[dict[str, Any]] = {
    "sd-models": _sd_models,
    "samplers": _samplers,
    "schedulers": _schedulers,
    "prompt-styles": _styles,
    "loras": _loras,
    "upscalers": _upscalers,
    "scripts": _scripts,
    "script-info": _script_info,
    "embeddings": lambda _: {"loaded": {}, "skipped": {}},
    "cmd-flags": lambda _: {"api": True, "nowebui": True},
    "memory": lambda _: {"ram": {"error": "unavailable"}, "cuda": {"error": "unavailable"}},
    "controlnet/model_list": _control_models,
    "controlnet/module_list": _control_modules,
    "controlnet/control_types": _control_types,
    "controlnet/settings": lambda _: {"control_net_unit_count": _UNITS},
    "controlnet/version": lambda _: {"version": 3},
}
NAMES: Final = (*_EMPTY, *_LISTS)
"""Every list there is; those of ControlNet stand beside the API and not under it."""
