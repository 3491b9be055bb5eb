"""Reading bodies: which fields there are, their types and defaults, and what is wrong with a value.

Values are taken as leniently as the server's validation takes them: "10" is an integer, 1 is true, 7 becomes
7.0 where a number is asked for. A default is passed on as it stands. null stands for the default.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from load.upstreams.a1111.errors import Flavour, Invalid, Problem

Value = Any
"""A JSON value; the tables below say of which type."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a body."""

    name: str
    kind: str
    default: object = None
    required: bool = False


def _table(text: str) -> tuple[Field, ...]:
    return tuple(_field(line.split()) for line in text.strip().splitlines())


def _field(words: list[str]) -> Field:
    name, kind, default = words[0], words[1], words[2:]
    if default == ["required"]:
        return Field(name, kind, required=True)
    return Field(name, kind, json.loads(" ".join(default)) if default else None)


# In the order in which an answer repeats them; a line is the name, the type and the default (none: null).
_COMMON = _table("""
prompt str ""
negative_prompt str ""
styles list
seed int -1
subseed int -1
subseed_strength float 0
seed_resize_from_h int -1
seed_resize_from_w int -1
sampler_name str
scheduler str
batch_size int 1
n_iter int 1
steps int 50
cfg_scale float 7.0
distilled_cfg_scale float 3.5
width int 512
height int 512
restore_faces bool
tiling bool
do_not_save_samples bool false
do_not_save_grid bool false
eta float
denoising_strength float
s_min_uncond float
s_churn float
s_tmax float
s_tmin float
s_noise float
override_settings dict
override_settings_restore_afterwards bool true
refiner_checkpoint str
refiner_switch_at float
disable_extra_networks bool false
firstpass_image str
comments dict
""")
_TXT2IMG = _table("""
enable_hr bool false
firstphase_width int 0
firstphase_height int 0
hr_scale float 2.0
hr_upscaler str
hr_second_pass_steps int 0
hr_resize_x int 0
hr_resize_y int 0
hr_checkpoint_name str
hr_additional_modules list
hr_sampler_name str
hr_scheduler str
hr_prompt str ""
hr_negative_prompt str ""
hr_cfg float 1.0
hr_distilled_cfg float 3.5
force_task_id str
sampler_index str "Euler"
""")
_IMG2IMG = _table("""
init_images list
resize_mode int 0
image_cfg_scale float
mask str
mask_blur_x int 4
mask_blur_y int 4
mask_blur int
mask_round bool true
inpainting_fill int 0
inpaint_full_res bool true
inpaint_full_res_padding int 0
inpainting_mask_invert int 0
initial_noise_multiplier float
latent_mask str
force_task_id str
hr_distilled_cfg float 3.5
sampler_index str "Euler"
include_init_images bool false
""")
_OUTPUT = _table("""
script_name str
script_args list []
send_images bool true
save_images bool false
alwayson_scripts dict {}
infotext str
""")
_FORGE_ONLY = {"distilled_cfg_scale", "hr_additional_modules", "hr_cfg", "hr_distilled_cfg"}
_IMG2IMG_STRENGTH = 0.75

EXTRAS = _table("""
resize_mode int 0
show_extras_results bool true
gfpgan_visibility float 0
codeformer_visibility float 0
codeformer_weight float 0
upscaling_resize float 2
upscaling_resize_w int 512
upscaling_resize_h int 512
upscaling_crop bool true
upscaler_1 str "None"
upscaler_2 str "None"
extras_upscaler_2_visibility float 0
upscale_first bool false
image str ""
""")
PNG_INFO = _table("image str required")
PROGRESS = _table("""
id_task str
id_live_preview int -1
live_preview bool true
""")
DETECT = _table("""
controlnet_module str "none"
controlnet_input_images list []
controlnet_processor_res int -1
controlnet_threshold_a float -1
controlnet_threshold_b float -1
controlnet_masks list []
low_vram bool false
""")
JOB = _table("""
prompt str ""
negative_prompt str ""
steps int 20
width int 512
height int 512
cfg_scale float 7.0
seed int -1
batch_size int 1
batch_count int 1
sampler_name str "Default"
denoising_strength float 0.5
inputs list
inits list
mask str
control list
""")


def generation_fields(operation: str, flavour: Flavour) -> tuple[Field, ...]:
    """The fields of txt2img or img2img."""
    if operation == "txt2img":
        fields = _COMMON + _TXT2IMG + _OUTPUT
    else:
        strength = Field("denoising_strength", "float", _IMG2IMG_STRENGTH)
        fields = tuple(strength if item.name == strength.name else item for item in _COMMON) + _IMG2IMG + _OUTPUT
    return fields if flavour == "forge" else tuple(item for item in fields if item.name not in _FORGE_ONLY)


def parse(body: bytes, content_type: str) -> object:
    """The body as JSON, None if there is none; raises `Invalid` for broken JSON."""
    if not body:
        return None
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not kind.endswith("+json"):
        return body.decode(errors="replace")
    try:
        return cast("object", json.loads(body))
    except json.JSONDecodeError as error:
        problem = Problem("json_invalid", ("body", error.pos), "JSON decode error", {}, {"error": error.msg})
        raise Invalid([problem]) from error
    except (UnicodeDecodeError, RecursionError) as error:
        problem = Problem("json_invalid", ("body", 0), "JSON decode error", {}, {"error": "not JSON"})
        raise Invalid([problem]) from error


def read(fields: tuple[Field, ...], body: object) -> dict[str, Value]:
    """All fields with their values, in the table's order; raises `Invalid` with all that is wrong."""
    values = as_object(body)
    problems: list[Problem] = []
    found: dict[str, Value] = {}
    for item in fields:
        try:
            found[item.name] = _value(item, values)
        except Invalid as invalid:
            problems += invalid.problems
    if problems:
        raise Invalid(problems)
    return found


def as_object(body: object) -> Mapping[str, object]:
    """The body as an object; raises `Invalid` for none and for anything else."""
    if body is None:
        raise Invalid([Problem("missing", ("body",), "Field required")])
    if not isinstance(body, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise Invalid([Problem("model_attributes_type", ("body",), message, body)])
    return body


def unknown(fields: tuple[Field, ...], body: object) -> tuple[str, ...]:
    """The names that were sent and stand in no table."""
    known = {item.name for item in fields}
    return tuple(sorted(set(body) - known)) if isinstance(body, dict) else ()


def _value(item: Field, values: Mapping[str, object]) -> Value:
    given = values.get(item.name)
    if given is None:
        if item.required:
            raise Invalid([Problem("missing", ("body", item.name), "Field required", dict(values))])
        return item.default
    for kind, message in _READERS[item.kind](given):
        if message:
            raise Invalid([Problem(kind, ("body", item.name), message, given)])
    return _cast(item.kind, given)


def _cast(kind: str, given: Value) -> Value:
    match kind:
        case "int":
            return int(given)
        case "float":
            return float(given)
        case "bool":
            return given if isinstance(given, bool) else str(given).lower() in _TRUE
        case _:
            return given


_TRUE = {"true", "1", "1.0", "on", "yes", "y", "t"}
_FALSE = {"false", "0", "0.0", "off", "no", "n", "f"}
_Complaints = Iterator[tuple[str, str]]


def _int(given: Value) -> _Complaints:
    if isinstance(given, str):
        try:
            int(given)
        except ValueError:
            yield "int_parsing", "Input should be a valid integer, unable to parse string as an integer"
    elif isinstance(given, float):
        if not given.is_integer():
            yield "int_from_float", "Input should be a valid integer, got a number with a fractional part"
    elif not isinstance(given, int):
        yield "int_type", "Input should be a valid integer"


def _float(given: Value) -> _Complaints:
    if isinstance(given, str):
        try:
            float(given)
        except ValueError:
            yield "float_parsing", "Input should be a valid number, unable to parse string as a number"
    elif not isinstance(given, int | float) or not _fits_float(given):
        yield "float_type", "Input should be a valid number"


def _fits_float(given: float) -> bool:
    # An integer too long for a float would raise.
    return abs(given) < 1e300 and math.isfinite(given)


def _bool(given: Value) -> _Complaints:
    if isinstance(given, str | int | float):
        if str(given).lower() not in _TRUE | _FALSE:
            yield "bool_parsing", "Input should be a valid boolean, unable to interpret input"
    else:
        yield "bool_type", "Input should be a valid boolean"


def _of(type_: type, kind: str, noun: str) -> Any:
    def complain(given: Value) -> _Complaints:
        if not isinstance(given, type_):
            yield kind, f"Input should be a valid {noun}"

    return complain


_READERS: Mapping[str, Any] = {
    "int": _int,
    "float": _float,
    "bool": _bool,
    "str": _of(str, "string_type", "string"),
    "list": _of(list, "list_type", "list"),
    "dict": _of(dict, "dict_type", "dictionary"),
}
