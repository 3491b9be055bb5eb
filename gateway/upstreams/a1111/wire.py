"""What our words and those of the WebUI family mean to each other, without I/O.

`to_vendor` asks of the first API, `to_job` of SD.Next's second; `from_vendor` takes the pictures, `refusal` and
`job_failure` tell what any other answer means. `prepared` makes the inputs what the server takes.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import msgspec
import pybase64
from PIL import Image

from gateway.core.reports import ImageMade, Outcome, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.a1111.models import Offer, control_model, sampler_of, upscaler_of
from gateway.upstreams.failures import COMMON, MOST_ERROR_BYTES, Failure, Told, fault_of, find
from gateway.upstreams.pictures import (
    Wanted,
    as_png,
    decode_base64,
    facts_of,
    needs_preparing,
    opened,
    picture_of,
    prepare,
    unusable,
)

_WANTED: Final = Wanted(frozenset({"png", "jpeg", "webp"}))
_AS_IT_IS: Final = Wanted(frozenset({"png", "jpeg", "webp"}), sized=False)
_SEEDS: Final = 2**32
_ORIGINAL, _NOISE = 1, 2
"""What lies under a mask before the work: the picture, or noise."""
_JOB_TASKS: Final = frozenset({"txt2img", "img2img", "inpaint"})

# ---------------------------------------------------------------------------------------------------------- the inputs


def needs_pixels(order: CallOrder) -> bool:
    """Whether `prepared` must decode pixels; raises `UpstreamFault` for an input that can't be used."""
    if order.request.task == "outpaint":
        return True
    return needs_preparing(order, _wanted(order)) or _mask_has_alpha(order)


def prepared(order: CallOrder) -> CallOrder:
    """Return the order with its inputs as the server takes them. Decodes pixels."""
    if order.request.task == "outpaint":
        return replace(order, inputs=_canvas(order))
    flat = {**order.inputs}
    if _mask_has_alpha(order):
        # The server would take a mask's alpha for the mask itself; a mask is its grey values.
        flat["mask"] = as_png(opened("mask", order.inputs["mask"]).convert("L"))
    return prepare(replace(order, inputs=flat), _wanted(order))


def _wanted(order: CallOrder) -> Wanted:
    return _AS_IT_IS if order.request.task == "upscale" else _WANTED


def _mask_has_alpha(order: CallOrder) -> bool:
    mask = order.inputs.get("mask")
    return mask is not None and facts_of("mask", mask).has_alpha


def _canvas(order: CallOrder) -> dict[str, bytes]:
    """The grown picture with the init image in its place, and a mask that is white where there was nothing."""
    request = order.request
    expand = request.expand
    assert expand is not None, "outpaint needs expand"
    init = opened("init", order.inputs["init"]).convert("RGB")
    grown = (init.width + expand.left + expand.right, init.height + expand.up + expand.down)
    # Beneath lies the stretched picture: where the new part meets the old one, its colours are about right.
    canvas = init.resize(grown, Image.Resampling.BILINEAR)
    canvas.paste(init, (expand.left, expand.up))
    mask = Image.new("L", grown, 255)
    mask.paste(0, (expand.left, expand.up, expand.left + init.width, expand.up + init.height))
    size = (request.width, request.height)
    if grown != size:
        canvas = canvas.resize(size, Image.Resampling.LANCZOS)
        mask = mask.resize(size, Image.Resampling.NEAREST)
    return {"init": as_png(canvas), "mask": as_png(mask)}


# ------------------------------------------------------------------------------------------------------- to the vendor


def to_vendor(order: CallOrder, offer: Offer, upscaler: str = "") -> tuple[str, bytes]:
    """Return the path and the body of a request of the first API; the inputs must be `prepared`."""
    if order.request.task == "upscale":
        return "/sdapi/v1/extra-single-image", msgspec.json.encode(_upscale(order, offer, upscaler))
    body = _common(order) | _first_api(order)
    if order.request.controls:
        units = [_unit(order, number, offer) for number in range(len(order.request.controls))]
        body["alwayson_scripts"] = {"controlnet": {"args": units}}
    if "init" not in order.inputs:
        return "/sdapi/v1/txt2img", msgspec.json.encode(body)
    return "/sdapi/v1/img2img", msgspec.json.encode(body | _init(order))


def task_id(order: CallOrder) -> str:
    """Return the id that the server is to know a call by."""
    return order.id.lower()


def _common(order: CallOrder) -> dict[str, Any]:
    request = order.request
    fields: dict[str, Any] = {
        "prompt": _prompt(order),
        "negative_prompt": request.negative_prompt,
        "seed": order.seed % _SEEDS,
        "batch_size": order.count,
        "steps": request.steps,
        "cfg_scale": request.guidance,
        "width": request.width,
        "height": request.height,
        # For this request alone: the server's own options are everybody's, and lasting.
        "override_settings": {"sd_model_checkpoint": order.model.vendor_model},
    }
    if request.style is not None:
        fields["styles"] = [request.style]
    if request.sampler is not None:
        fields["sampler_name"] = sampler_of(request.sampler)
    if request.strength is not None:
        fields["denoising_strength"] = request.strength
    return fields


def _first_api(order: CallOrder) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "n_iter": 1,
        "override_settings_restore_afterwards": True,
        "force_task_id": task_id(order),
        "send_images": True,
        "save_images": False,
        "do_not_save_samples": True,
        "do_not_save_grid": True,
    }
    if order.request.scheduler is not None:
        fields["scheduler"] = order.request.scheduler
    if order.request.tiling:
        fields["tiling"] = True
    return fields


def _prompt(order: CallOrder) -> str:
    tags = [f"<lora:{lora.name}:{lora.weight:g}>" for lora in order.request.loras]
    return " ".join([order.request.prompt, *tags])


def _init(order: CallOrder) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "init_images": [_coded(order.inputs["init"])],
        "resize_mode": 0,
        "include_init_images": False,
    }
    is_outpaint = order.request.task == "outpaint"
    if is_outpaint:
        fields["denoising_strength"] = 1.0
    if "mask" in order.inputs:
        fields |= {
            "mask": _coded(order.inputs["mask"]),
            "mask_blur": 0,
            "inpainting_mask_invert": 0,
            "inpaint_full_res": False,
            "inpainting_fill": _NOISE if is_outpaint else _ORIGINAL,
        }
    return fields


def _unit(order: CallOrder, number: int, offer: Offer) -> dict[str, Any]:
    image = order.request.controls[number]
    model = control_model(image.role, offer.control_models, order.model.vendor_model)
    if model is None:
        raise UpstreamFault(Outcome.FAILED, "adapter_not_found", f"the server has no ControlNet model for {image.role}")
    return {
        # A unit that does not say so is left out without a word.
        "enabled": True,
        "module": image.preprocessor or "none",
        "model": model,
        "image": _coded(order.inputs[image.slot or image.role]),
        "weight": 1.0 if image.weight is None else image.weight,
        "guidance_start": image.start or 0.0,
        "guidance_end": 1.0 if image.end is None else image.end,
        "pixel_perfect": True,
        "save_detected_map": False,
    }


def _upscale(order: CallOrder, offer: Offer, wanted: str) -> dict[str, Any]:
    upscaler = upscaler_of(offer, wanted)
    if upscaler is None:
        raise UpstreamFault(Outcome.FAILED, "task_not_supported", "the server has no upscaler")
    init = facts_of("init", order.inputs["init"])
    width, height = order.request.width, order.request.height
    fields: dict[str, Any] = {"upscaler_1": upscaler, "image": _coded(order.inputs["init"])}
    factor = max(width / init.width, height / init.height)
    if min(int(init.width * factor) - width, int(init.height * factor) - height) < 0:
        # The server rounds down in floating point, and would fill up the lost 8 pixels with black.
        return fields | {"resize_mode": 0, "upscaling_resize": factor + 1e-6}
    return fields | {
        "resize_mode": 1,
        "upscaling_resize_w": width,
        "upscaling_resize_h": height,
        "upscaling_crop": True,
    }


def _coded(content: bytes) -> str:
    return pybase64.b64encode_as_string(content)


def suits_job(order: CallOrder) -> bool:
    """Whether SD.Next's second API can be asked for all of it: it knows no noise under a mask, scheduler or tiling."""
    request = order.request
    return request.task in _JOB_TASKS and request.scheduler is None and not request.tiling


def to_job(order: CallOrder) -> bytes:
    """Return the body of a job of SD.Next's second API; the inputs must be `prepared`."""
    job = {"type": "generate", "batch_count": 1, **_common(order)}
    if "init" in order.inputs:
        job["inits"] = [_coded(order.inputs["init"])]
    if "mask" in order.inputs:
        job["mask"] = _coded(order.inputs["mask"])
    return msgspec.json.encode(job)


# ----------------------------------------------------------------------------------------------------- from the vendor


class _Pictures(msgspec.Struct, frozen=True):
    images: list[msgspec.Raw] | None = None
    info: str | None = None


class _Enlarged(msgspec.Struct, frozen=True):
    image: msgspec.Raw


class _Info(msgspec.Struct, frozen=True):
    all_seeds: list[int] = []
    index_of_first_image: int = 0


_PICTURES: Final = msgspec.json.Decoder(_Pictures)
_ENLARGED: Final = msgspec.json.Decoder(_Enlarged)
_INFO: Final = msgspec.json.Decoder(_Info)


def from_vendor(order: CallOrder, body: bytes) -> list[ImageMade]:
    """Return the pictures of an answer with status 200; raise `UpstreamFault` `invalid_output` if it is not whole."""
    try:
        if order.request.task == "upscale":
            return [ImageMade(picture_of(decode_base64(_ENLARGED.decode(body).image)), 0, order.seed)]
        return _made(order, _PICTURES.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unusable("the answer is not the JSON that the server documents", charged=False) from None
    except UpstreamFault as fault:
        fault.charged = False
        raise


def _made(order: CallOrder, answer: _Pictures) -> list[ImageMade]:
    info = _info(answer.info)
    coded = answer.images or []
    # A grid may come before the pictures, detected maps of ControlNet after them.
    first = info.index_of_first_image if 0 <= info.index_of_first_image <= len(coded) - order.count else 0
    ours = coded[first : first + order.count]
    if len(ours) < order.count:
        raise unusable(f"{len(ours)} pictures came instead of {order.count}")
    return [
        ImageMade(picture_of(decode_base64(one)), index, _seed(order, info, index)) for index, one in enumerate(ours)
    ]


def _info(text: str | None) -> _Info:
    try:
        return _INFO.decode(text or "{}")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _Info()


def _seed(order: CallOrder, info: _Info, index: int) -> int:
    return info.all_seeds[index] if index < len(info.all_seeds) else order.seed % _SEEDS + index


# ------------------------------------------------------------------------------------------------------------ failures

_OUT_OF_MEMORY: Final = Failure(Outcome.FAILED, "out_of_memory", "the server's memory is too small for this picture")
_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    "OutOfMemoryError": _OUT_OF_MEMORY,
    "sampler": Failure(Outcome.FAILED, "sampler_not_supported", "the server has no such sampler"),
    "2xx": Failure(Outcome.FAILED, "invalid_output", "the server answered without pictures"),
}
_NAMED: Final = (400, 404, 422, 500)
_NO_MEMORY: Final = re.compile(r"out of memory|not enough memory|can't allocate memory", re.IGNORECASE)
_PATH: Final = re.compile(
    r"""(?<![\w/\\])(?:[A-Za-z]:|~)?[\\/](?=\S)[^'",;()]*|\b[\w.\-]+(?:[\\/][\w.\-]+){2,}""",
)
"""An absolute path, with all that may still belong to it, or a relative one of three parts."""
_TENSOR: Final = re.compile(r"tensor\(.*|array\(.*|\[\[.*", re.IGNORECASE)
_MOST_WORDS: Final = 300
_MOST_READ: Final = 8192
_MOST_LINE: Final = 1000
"""The search for paths takes time by the square of this."""


class _VendorError(msgspec.Struct, frozen=True):
    error: str | None = None
    detail: Any = None
    message: str | None = None
    errors: Any = None


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str, order: CallOrder | None = None
) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    name, message = _words(body)
    return _fault(status, headers, _told(name, message, secret), secret, upstream, order)


def job_failure(error: str, secret: Secret, upstream: str, order: CallOrder) -> UpstreamFault:
    """Return the fault that a failed job of SD.Next's is; its text is `class: message`."""
    if error == "Server restarted":
        return UpstreamFault(Outcome.GONE, "worker_lost", "the server was restarted while it worked")
    name, colon, message = error.partition(": ")
    return _fault(500, {}, _told(name if colon else "", message or error, secret), secret, upstream, order)


def _fault(
    status: int, headers: Mapping[str, str], told: Told, secret: Secret, upstream: str, order: CallOrder | None
) -> UpstreamFault:
    row = find(_FAILURES, status, told.name, named=_NAMED)
    more = {}
    if row is _OUT_OF_MEMORY and order is not None:
        edges = (order.request.width, order.request.height)
        width, height = (max(64, edge // 16 * 8) for edge in edges)
        more = {"suggest": {"width": width, "height": height}}
    return fault_of(row, told, status=status, headers=headers, secret=secret, upstream=upstream, **more)


def _words(body: bytes) -> tuple[str, str]:
    """The name and the message in an error's body, as the server wrote them."""
    try:
        error = msgspec.json.decode(body, type=_VendorError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return "", body[:MOST_ERROR_BYTES].decode("utf-8", "replace")
    words = [error.message, _listed(error.detail), _listed(error.errors)]
    return error.error or "", next((one for one in words if one), "")


def _told(name: str, message: str, secret: Secret) -> Told:
    short = name.rpartition(".")[2]
    # Redacted before it is cut, so that no half of a secret is left.
    told = plain(secret.redact(message))
    if short == "OutOfMemoryError" or (short.endswith("Error") and _NO_MEMORY.search(message)):
        return Told("OutOfMemoryError", told)
    if "sampler not found" in message.casefold():
        return Told("sampler", told)
    return Told("" if short == "HTTPException" else plain(secret.redact(short)), told)


def _listed(detail: object) -> str:
    """A detail as words: a sentence as it is, a list of what is wrong without the values that were."""
    if isinstance(detail, str):
        return detail
    if not isinstance(detail, list):
        return ""
    problems = [one for one in detail[:3] if isinstance(one, dict)]
    return "; ".join(f"{_place(one.get('loc'))}: {one.get('msg', '')}" for one in problems)


def _place(loc: object) -> str:
    return ".".join(str(part) for part in loc) if isinstance(loc, list) else "?"


def plain(text: str) -> str:
    """Return a server's words without what is nobody's business: paths, numbers of tensors, lines of a traceback."""
    lines = [line.strip() for line in text[:_MOST_READ].splitlines() if line.strip()]
    if not lines:
        return ""
    told = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    return _TENSOR.sub("...", _PATH.sub("...", told[:_MOST_LINE]))[:_MOST_WORDS]
