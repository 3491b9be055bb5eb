"""From the web UI's requests to wishes, without I/O."""

import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.edges.compat.a1111.fields import Common, Extras, ImageToImage, TextToImage
from gateway.edges.compat.a1111.tables import ALIASES, HINTS, SAMPLERS, SCHEDULERS
from gateway.edges.compat.dialect import Sent, Wish
from protocol.errors import ClientFault

CHECKPOINT: Final = "sd_model_checkpoint"
FORMAT: Final = "samples_format"
_STRENGTH: Final = 0.75
_HASH: Final = re.compile(r"\s*\[[0-9a-fA-F]+\]$")
_TAG: Final = re.compile(r"<lora:([^:<>\n]+)(?::([^<>\n]*))?>")
_OWN: Final = frozenset({"", "automatic", "default", "none", "use same sampler", "use same scheduler"})
"""Names of samplers and schedulers that leave the choice to the model."""
_OURS: Final = {
    **{label.casefold(): ours for ours, label in SAMPLERS.items()},
    **{f"k_{name}": ours for name, ours in ALIASES.items()},
    **{f"k_{ours}": ours for ours in SAMPLERS},
    **ALIASES,
}
_LABELS: Final = {label.casefold(): name for name, label in SCHEDULERS.items()}


def text_to_image(asked: TextToImage, model: str | None, controls: Sequence[Sent], told: dict[str, Any]) -> Wish:
    """Return what a `txt2img` asks for; `told` are fields that are named as ignored. Raises `ClientFault`."""
    params = {**_common(asked), "width": asked.width, "height": asked.height, **told}
    task = "controlnet" if controls else "txt2img"
    return Wish(task, params, model, tuple(controls), HINTS | told.keys())


def image_to_image(
    asked: ImageToImage,
    model: str | None,
    init: bytes,
    mask: bytes | None,
    controls: Sequence[Sent],
    told: dict[str, Any],
) -> Wish:
    """Return what an `img2img` asks for; `mask` is white where the picture changes. Raises `ClientFault`."""
    sent = [Sent("init", init, "init_images")]
    task = "controlnet" if controls else "img2img"
    size = {"width": asked.width, "height": asked.height}
    if mask is not None:
        sent.append(Sent("mask", mask, "mask"))
        task = "controlnet" if controls else "inpaint"
        if asked.inpaint_full_res is not False:
            size = {}  # the web UI paints the masked area in this size, and answers in the init picture's
    params = {**_common(asked), **size, "strength": asked.denoising_strength, **told}
    return Wish(task, params, model, (*sent, *controls), HINTS | told.keys(), {"strength": _STRENGTH})


def enlarge(asked: Extras, upscaler: str, image: bytes) -> Wish:
    """Return what an `extra-single-image` asks for; the upscaler is a model. Raises `ClientFault`."""
    params: dict[str, Any] = {"scale": 2.0 if asked.upscaling_resize is None else asked.upscaling_resize}
    if asked.resize_mode == 1:
        if asked.upscaling_crop is False:
            message = "only true has an effect here: the picture is made as large as asked for"
            raise ClientFault("invalid_param", message, details={"path": "upscaling_crop"})
        params = {"width": asked.upscaling_resize_w or 512, "height": asked.upscaling_resize_h or 512}
    return Wish("upscale", params, upscaler, (Sent("init", image, "image"),))


def _common(asked: Common) -> dict[str, Any]:
    prompt, loras = read_prompt(asked.prompt or "")
    sampler, scheduler = read_sampler(asked.sampler_name or asked.sampler_index, asked.scheduler)
    styles = asked.styles or []
    if len(styles) > 1:
        raise ClientFault("invalid_param", "one style at most", details={"path": "styles"})
    return {
        "prompt": prompt,
        "negative_prompt": asked.negative_prompt or None,
        "loras": None if asked.disable_extra_networks or not loras else loras,
        "style": styles[0] if styles else None,
        "seed": None if asked.seed in (None, -1) else asked.seed,
        "n": _count(asked),
        "steps": asked.steps,
        "guidance": asked.cfg_scale,
        "sampler": sampler,
        "scheduler": scheduler,
        "tiling": asked.tiling or None,
    }


def _count(asked: Common) -> int | None:
    """How many pictures; the web UI makes them in rounds, and here they are one job."""
    if asked.batch_size is None and asked.n_iter is None:
        return None
    return (asked.batch_size or 1) * (asked.n_iter or 1)


def read_prompt(text: str) -> tuple[str, list[dict[str, Any]]]:
    """Return a prompt without its `<lora:name:weight>`, and these. Raises `ClientFault`."""
    loras = [_lora(*found) for found in _TAG.findall(text)]
    return (_TAG.sub("", text).strip(), loras) if loras else (text, [])


def _lora(name: str, weights: str) -> dict[str, Any]:
    """The web UI takes more than one weight, which a request here has no words for; the first counts."""
    first = weights.partition(":")[0].strip()
    try:
        return {"name": name.strip(), "weight": float(first) if first else 1.0}
    except ValueError:
        raise ClientFault("invalid_param", "a LoRA's weight is a number", details={"path": "prompt"}) from None


def read_sampler(sampler: str | None, scheduler: str | None) -> tuple[str | None, str | None]:
    """Return our names of a sampler and a scheduler; old names of samplers have the scheduler behind them."""
    found = _scheduler(scheduler)
    name = (sampler or "").strip()
    if name.casefold() in _OWN:
        return None, found
    if name.casefold() not in _OURS:
        first, _, last = name.rpartition(" ")
        if first.casefold() in _OURS and last.casefold() in _LABELS:
            return _OURS[first.casefold()], found or _scheduler(last)
    return _OURS.get(name.casefold(), name), found


def _scheduler(name: str | None) -> str | None:
    plain = (name or "").strip()
    return None if plain.casefold() in _OWN else _LABELS.get(plain.casefold(), plain)


def checkpoint_of(settings: dict[str, Any] | None) -> str | None:
    """Return the checkpoint that settings name, without the hash that titles have behind them."""
    named = (settings or {}).get(CHECKPOINT)
    if named is not None and not isinstance(named, str):
        raise ClientFault("invalid_param", f"{CHECKPOINT} is a text", details={"path": "override_settings"})
    return _HASH.sub("", named).strip() or None if named else None


def format_of(settings: dict[str, Any] | None) -> str:
    """Return the format in which settings want the pictures."""
    wanted = str((settings or {}).get(FORMAT) or "png").lower()
    found = {"png": "png", "jpg": "jpeg", "jpeg": "jpeg", "webp": "webp"}.get(wanted)
    if found is None:
        message = f"{FORMAT} is png, jpg or webp"
        raise ClientFault("invalid_param", message, details={"path": "override_settings"})
    return found


def other_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """Return whether there are settings that are ignored, as a field that is named so."""
    return {"override_settings": True} if (settings or {}).keys() - {CHECKPOINT, FORMAT} else {}
