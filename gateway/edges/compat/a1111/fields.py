"""What the bodies of the web UI's API have in them, and what becomes of each field here.

Types are taken as leniently as the web UI takes them ("10" is a number), `null` is a field that was not given, and
names that stand nowhere are ignored.
"""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct

from protocol.errors import ClientFault

Treatment = Literal["effect", "told", "idle", "refused"]
_Seed = Annotated[int, Meta(ge=-1, lt=2**53)]
_Count = Annotated[int, Meta(ge=1, le=64)]

COMMON: Final[dict[str, tuple[Treatment, Any]]] = {
    "prompt": ("effect", ""),
    "negative_prompt": ("effect", ""),
    "styles": ("effect", None),
    "seed": ("effect", -1),
    "subseed": ("idle", -1),
    "subseed_strength": ("refused", 0),
    "seed_resize_from_h": ("refused", -1),
    "seed_resize_from_w": ("refused", -1),
    "sampler_name": ("effect", None),
    "scheduler": ("effect", None),
    "batch_size": ("effect", 1),
    "n_iter": ("effect", 1),
    "steps": ("effect", 50),
    "cfg_scale": ("effect", 7.0),
    "distilled_cfg_scale": ("told", 3.5),
    "width": ("effect", 512),
    "height": ("effect", 512),
    "restore_faces": ("refused", None),
    "tiling": ("effect", None),
    "do_not_save_samples": ("idle", False),
    "do_not_save_grid": ("idle", False),
    "eta": ("told", None),
    "denoising_strength": ("effect", None),
    "s_min_uncond": ("told", None),
    "s_churn": ("told", None),
    "s_tmax": ("told", None),
    "s_tmin": ("told", None),
    "s_noise": ("told", None),
    "override_settings": ("effect", None),
    "override_settings_restore_afterwards": ("idle", True),
    "refiner_checkpoint": ("refused", None),
    "refiner_switch_at": ("idle", None),
    "disable_extra_networks": ("effect", False),
    "firstpass_image": ("refused", None),
    "comments": ("idle", None),
}
"""Field -> what becomes of it, and the web UI's default, which an answer repeats.

`effect`: it does what it says. `told`: it is ignored and named in `X-Ignored`. `idle`: it changes nothing there either,
or nothing without another that is refused here. `refused`: a value that would change the picture is refused.
"""
TXT2IMG: Final[dict[str, tuple[Treatment, Any]]] = {
    "enable_hr": ("refused", False),
    "firstphase_width": ("idle", 0),
    "firstphase_height": ("idle", 0),
    "hr_scale": ("idle", 2.0),
    "hr_upscaler": ("idle", None),
    "hr_second_pass_steps": ("idle", 0),
    "hr_resize_x": ("idle", 0),
    "hr_resize_y": ("idle", 0),
    "hr_checkpoint_name": ("idle", None),
    "hr_additional_modules": ("idle", None),
    "hr_sampler_name": ("idle", None),
    "hr_scheduler": ("idle", None),
    "hr_prompt": ("idle", ""),
    "hr_negative_prompt": ("idle", ""),
    "hr_cfg": ("idle", 1.0),
    "hr_distilled_cfg": ("idle", 3.5),
}
IMG2IMG: Final[dict[str, tuple[Treatment, Any]]] = {
    "init_images": ("effect", None),
    "resize_mode": ("told", 0),
    "image_cfg_scale": ("idle", None),
    "mask": ("effect", None),
    "mask_blur_x": ("told", 4),
    "mask_blur_y": ("told", 4),
    "mask_blur": ("told", None),
    "mask_round": ("idle", True),
    "inpainting_fill": ("told", 0),
    "inpaint_full_res": ("effect", True),
    "inpaint_full_res_padding": ("told", 0),
    "inpainting_mask_invert": ("effect", 0),
    "initial_noise_multiplier": ("told", None),
    "latent_mask": ("refused", None),
    "force_task_id": ("idle", None),
    "hr_distilled_cfg": ("idle", 3.5),
    "sampler_index": ("effect", "Euler"),
    "include_init_images": ("told", False),
}
LAST: Final[dict[str, tuple[Treatment, Any]]] = {
    "force_task_id": ("idle", None),
    "sampler_index": ("effect", "Euler"),
    "script_name": ("refused", None),
    "script_args": ("idle", []),
    "send_images": ("effect", True),
    "save_images": ("idle", False),
    "alwayson_scripts": ("effect", {}),
    "infotext": ("refused", None),
}
EXTRAS: Final[dict[str, tuple[Treatment, Any]]] = {
    "resize_mode": ("effect", 0),
    "show_extras_results": ("idle", True),
    "gfpgan_visibility": ("refused", 0),
    "codeformer_visibility": ("refused", 0),
    "codeformer_weight": ("idle", 0),
    "upscaling_resize": ("effect", 2),
    "upscaling_resize_w": ("effect", 512),
    "upscaling_resize_h": ("effect", 512),
    "upscaling_crop": ("effect", True),
    "upscaler_1": ("effect", "None"),
    "upscaler_2": ("idle", "None"),
    "extras_upscaler_2_visibility": ("refused", 0),
    "upscale_first": ("idle", False),
    "image": ("effect", ""),
}
WITH_PICTURES: Final = frozenset({"image", "init_images", "mask", "alwayson_scripts"})
"""Fields that may be large, and are not repeated."""
MOST_WORDS: Final = 65_536
"""Letters, digits and values of all other fields together: an answer repeats them, and waits with them for its job."""
TABLES: Final = {"txt2img": COMMON | TXT2IMG | LAST, "img2img": COMMON | IMG2IMG | LAST}
"""All fields of a generation, in the order in which an answer repeats them."""


class Common(Struct, frozen=True, kw_only=True):
    """What has an effect in both generations."""

    prompt: str | None = None
    negative_prompt: str | None = None
    styles: list[str] | None = None
    seed: _Seed | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str | None = None
    batch_size: _Count | None = None
    n_iter: _Count | None = None
    steps: int | None = None
    cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    tiling: bool | None = None
    denoising_strength: Annotated[float, Meta(ge=0, le=1)] | None = None
    override_settings: dict[str, Any] | None = None
    disable_extra_networks: bool | None = None
    send_images: bool | None = None
    alwayson_scripts: dict[str, Any] | None = None


class TextToImage(Common, frozen=True, kw_only=True):
    """The body of `txt2img`."""


class ImageToImage(Common, frozen=True, kw_only=True):
    """The body of `img2img`."""

    init_images: list[str] | None = None
    mask: str | None = None
    inpaint_full_res: bool | None = None
    inpainting_mask_invert: int | None = None


class Extras(Struct, frozen=True, kw_only=True):
    """The body of `extra-single-image`."""

    resize_mode: Literal[0, 1] | None = None
    upscaling_resize: Annotated[float, Meta(ge=1, le=8)] | None = None
    upscaling_resize_w: int | None = None
    upscaling_resize_h: int | None = None
    upscaling_crop: bool | None = None
    upscaler_1: str | None = None
    image: str | None = None


def means_something(value: object, default: object) -> bool:
    """Whether a value asks for something: other than the default, and than nothing in one of its many spellings."""
    return value != default and value not in (None, False, 0, "", "None", [], {})


def refuse(fields: dict[str, Any], table: dict[str, tuple[Treatment, Any]]) -> None:
    """Raise `ClientFault` for the first field that asks for what nothing here can do."""
    for name, value in fields.items():
        treatment, default = table.get(name, ("idle", None))
        if treatment == "refused" and means_something(value, default):
            raise ClientFault("invalid_param", f"{name} has no effect here", details={"path": name})


def bound(fields: dict[str, Any], table: dict[str, tuple[Treatment, Any]]) -> None:
    """Raise `ClientFault` if the fields that say something beside the pictures are large."""
    words = [value for name, value in fields.items() if name in table and name not in WITH_PICTURES]
    if _is_over(words, MOST_WORDS):
        message = f"the fields beside the pictures have at most {MOST_WORDS} characters"
        raise ClientFault("payload_too_large", message, details={"path": "body"})


def _is_over(value: object, most: int) -> bool:
    """Whether a JSON value has more letters, digits and values than that; no more of it is looked at."""
    unseen = [value]
    while unseen and most >= 0:
        one = unseen.pop()
        if isinstance(one, str | list | dict):
            most -= len(one)
        if isinstance(one, int):
            most -= one.bit_length() // 3
        if isinstance(one, list | dict) and most >= 0:
            unseen += [*one, *one.values()] if isinstance(one, dict) else one
    return most < 0


def told(fields: dict[str, Any], table: dict[str, tuple[Treatment, Any]]) -> dict[str, Any]:
    """Return the fields that ask for something and are ignored."""
    return {
        name: value
        for name, value in fields.items()
        if (row := table.get(name)) is not None and row[0] == "told" and means_something(value, row[1])
    }
