"""The ControlNet extension: units in a request, and its own paths."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from load.upstreams.a1111 import images
from load.upstreams.a1111.errors import Json, Raised, Refused

MODULES = ("none", "canny", "depth_midas", "openpose", "lineart_standard", "softedge_hed", "tile_resample")
MODELS = ("control_v11p_sd15_canny [d14c016b]", "control_v11f1p_sd15_depth [cfd03158]")
MAX_UNITS = 3

_ALIASES = {"guidance": "guidance_end", "lowvram": "low_vram", "input_image": "image"}


def enabled_units(scripts: Mapping[str, object]) -> list[dict[str, Any]]:
    """The units that say they are enabled; all others are left out without a word, as by the extension."""
    for name, script in scripts.items():
        if name.lower() == "controlnet" and isinstance(script, dict):
            arguments = script.get("args", [])
            units = arguments if isinstance(arguments, list) else []
            return [_unaliased(unit) for unit in units if isinstance(unit, dict) and unit.get("enabled") is True]
    return []


def control(unit: Mapping[str, Any], init: Image.Image | None) -> images.Control:
    """What a unit does to the picture; raises for names it does not know."""
    module, model = str(unit.get("module", "none")), str(unit.get("model", "None"))
    if module.lower() not in MODULES:
        raise Raised("ValueError", f"Unsupported module: {module}")
    if model != "None" and model not in MODELS:
        raise Raised("ValueError", f"Unknown ControlNet model: {model}")
    start, end = _number(unit, "guidance_start", 0.0), _number(unit, "guidance_end", 1.0)
    if not 0 <= start <= end <= 1:
        raise Raised("ValueError", f"guidance_start {start} must be <= guidance_end {end}")
    picture = _picture(unit, init)
    return images.Control(picture, _number(unit, "weight", 1.0), unit.get("save_detected_map", True) is not False)


def _unaliased(unit: Mapping[str, Any]) -> dict[str, Any]:
    return {_ALIASES.get(name, name): value for name, value in unit.items()}


def _number(unit: Mapping[str, Any], name: str, default: float) -> float:
    value = unit.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Raised("ValidationError", f"{name}: value is not a valid float")
    return float(value)


def _picture(unit: Mapping[str, Any], init: Image.Image | None) -> Image.Image:
    given = unit.get("image")
    while isinstance(given, dict | list) and given:
        given = given.get("image") if isinstance(given, dict) else given[0]
    if given:
        return images.decode(given)
    if init is None:
        raise Raised("ValueError", "controlnet is enabled but no input image is given")
    return init


def listing(path: str) -> Json | None:
    """What a GET path of the extension tells; None for an unknown one."""
    match path:
        case "version":
            return {"version": 3}
        case "model_list":
            return {"model_list": list(MODELS)}
        case "module_list":
            detail: Json = {"model_free": False, "sliders": []}
            return {"module_list": list(MODULES), "module_detail": dict.fromkeys(MODULES, detail)}
        case "control_types":
            every = {"module_list": list(MODULES), "model_list": ["None", *MODELS]}
            return {"control_types": {"All": {**every, "default_option": "none", "default_model": "None"}}}
        case "settings":
            return {"control_net_unit_count": MAX_UNITS}
    return None


def detect(asked: Mapping[str, Any]) -> Json:
    """The answer of the detector: the pictures as they came."""
    if asked["controlnet_module"] not in MODULES:
        raise Refused(422, "Module not available")
    if not asked["controlnet_input_images"]:
        raise Refused(422, "No image selected")
    for given in asked["controlnet_input_images"]:
        images.decode(given)
    return {"images": asked["controlnet_input_images"], "info": "Success"}
