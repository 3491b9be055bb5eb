"""ControlNet units, as its extension takes them in `alwayson_scripts`, without I/O."""

from dataclasses import dataclass
from typing import Any, Final

from gateway.core.params import MAX_CONTROLS
from gateway.edges.compat.a1111.fields import means_something
from gateway.edges.compat.a1111.tables import CONTROLS
from protocol.errors import ClientFault

PATH: Final = "alwayson_scripts.controlnet"
_ALIASES: Final = {"guidance": "guidance_end", "lowvram": "low_vram", "input_image": "image"}
_BALANCED: Final = ("Balanced", 0, None)
_EFFECT: Final = frozenset({"enabled", "module", "model", "weight", "image", "guidance_start", "guidance_end"})
_REFUSED: Final = ("mask", "mask_image", "effective_region_mask", "ipadapter_input", "advanced_weighting")
_IDLE: Final = frozenset({"control_mode", "low_vram", "save_detected_map", "hr_option", "inpaint_crop_input_image"})
"""What changes nothing about the picture that is sent back: detected maps never are."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit that counts."""

    kind: str
    image: str | None
    """Base64; `None` = the init picture."""
    module: str | None
    weight: float | None
    start: float | None
    end: float | None
    has_idle: bool
    """Whether it says something that is ignored."""


def read_units(scripts: dict[str, Any] | None) -> list[Unit]:
    """Return the units of a request. Raises `ClientFault`, also for every script but ControlNet."""
    units: list[Unit] = []
    for name, script in (scripts or {}).items():
        given = script.get("args") if isinstance(script, dict) else None
        if name.casefold() == "controlnet" and isinstance(given, list):
            units += [_unit(one) for one in given if _counts(one)]
        elif given not in (None, [], [False]):
            # The name is not repeated: it is the client's, and as long as it likes.
            raise ClientFault("invalid_param", "always on script not found", details={"path": "alwayson_scripts"})
    if len(units) > MAX_CONTROLS:
        raise ClientFault("invalid_param", f"at most {MAX_CONTROLS} units", details={"path": PATH})
    return units


def _counts(unit: object) -> bool:
    """A unit that does not say whether it is enabled was hardly sent to be left out, though newer extensions do."""
    return isinstance(unit, dict) and unit.get("enabled") is not False


def _unit(given: dict[str, Any]) -> Unit:
    unit = {_ALIASES.get(name, name): value for name, value in given.items()}
    for name in _REFUSED:
        if means_something(unit.get(name), None):
            raise _wrong(name, f"{name} has no effect here")
    if unit.get("control_mode") not in _BALANCED:
        raise _wrong("control_mode", "only Balanced has an effect here")
    model, module = _text(unit, "model"), _text(unit, "module")
    return Unit(
        _kind(model, module),
        _image(unit.get("image")),
        None if module is None else "none" if module.casefold() == "none" else module,
        _number(unit, "weight"),
        _number(unit, "guidance_start"),
        _number(unit, "guidance_end"),
        has_idle=any(means_something(unit[name], -1) for name in unit.keys() - _EFFECT - _IDLE),
    )


def _kind(model: str | None, module: str | None) -> str:
    """The kind of control image, from the name of the model, or else of what is made of the picture."""
    for name in (model, module):
        found = next((kind for word, kind in CONTROLS if word in (name or "").casefold()), None)
        if found is not None:
            return found
    raise _wrong("model", "the model's name must tell the kind of control image: see /controlnet/model_list")


def _image(given: object) -> str | None:
    """A picture comes bare, with a mask beside it, or as the first of a list."""
    if isinstance(given, list):
        given = given[0] if given else None
    if isinstance(given, dict):
        if means_something(given.get("mask"), None):
            raise _wrong("image", "a mask beside the image has no effect here")
        given = given.get("image")
    if given is not None and not isinstance(given, str):
        raise _wrong("image", "Expected str")
    return given or None


def _text(unit: dict[str, Any], name: str) -> str | None:
    value = unit.get(name)
    if value is not None and not isinstance(value, str):
        raise _wrong(name, "Expected str")
    return value


def _number(unit: dict[str, Any], name: str) -> float | None:
    value = unit.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, "Expected float")
    return float(value)


def _wrong(name: str, message: str) -> ClientFault:
    return ClientFault("invalid_param", message, details={"path": f"{PATH}.{name}"})
