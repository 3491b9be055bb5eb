"""What our words and those of Stability AI's REST v1 mean to each other, without I/O.

`to_vendor` asks, `from_vendor` takes the pictures, `refusal` tells what any other answer means.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.core.images import measure
from gateway.core.reports import ImageMade, Outcome, Picture, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.failures import COMMON, MOST_ERROR_BYTES, Failure, Told, fault_of, find
from gateway.upstreams.multipart import Part
from gateway.upstreams.pictures import Wanted, decode_base64, picture_of, unusable
from gateway.upstreams.stability_v1.models import PATHS, SAMPLERS
from protocol.messages import ImageFormat

WANTED: Final = Wanted(frozenset({"png", "jpeg"}))
"""There, the output's size is the init image's, and a mask must have the same."""
_PNG: Final[frozenset[ImageFormat]] = frozenset({"png"})
_LARGEST_SEED: Final = 4_294_967_295

# ------------------------------------------------------------------------------------------------------- to the vendor


def to_vendor(order: CallOrder) -> tuple[str, dict[str, object] | list[Part]]:
    """Return the path and the body: an object to send as JSON, or the parts to send as multipart.

    The input images must be ones that the vendor takes, of the request's size: see `prepare`.
    """
    request = order.request
    path = f"/v1/generation/{quote(order.model.vendor_model, safe='')}/{PATHS[request.task]}"
    if request.task == "txt2img":
        return path, {
            **_common(order),
            "text_prompts": _prompts(order),
            "width": request.width,
            "height": request.height,
        }
    return path, [*_files(order), *_fields(order)]


def _common(order: CallOrder) -> dict[str, object]:
    request = order.request
    fields: dict[str, object] = {
        "cfg_scale": request.guidance,
        "samples": order.count,
        "seed": _vendor_seed(order.seed),
        "steps": request.steps,
    }
    if request.sampler is not None:
        fields["sampler"] = SAMPLERS[request.sampler]
    if request.style is not None:
        fields["style_preset"] = request.style
    return fields


def _vendor_seed(seed: int) -> int:
    # 0 would be "random" there, and more than 32 bits an error.
    return seed if 0 < seed <= _LARGEST_SEED else seed % _LARGEST_SEED + 1


def _prompts(order: CallOrder) -> list[dict[str, object]]:
    weighted = order.request.prompts
    if weighted:
        return [{"text": part.text, "weight": part.weight} for part in weighted]
    prompts: list[dict[str, object]] = [{"text": order.request.prompt, "weight": 1}]
    if order.request.negative_prompt:
        prompts.append({"text": order.request.negative_prompt, "weight": -1})
    return prompts


def _files(order: CallOrder) -> list[Part]:
    init = _file("init_image", order.inputs["init"])
    if order.request.task == "inpaint":
        return [init, _file("mask_image", order.inputs["mask"]), Part("mask_source", b"MASK_IMAGE_WHITE")]
    strength = order.request.strength
    assert strength is not None, "the normal form gives every init image a strength"
    # Theirs is how much of the init image to keep. Masking has no such field.
    kept = f"{1 - strength:.6g}"
    return [init, Part("init_image_mode", b"IMAGE_STRENGTH"), Part("image_strength", kept.encode())]


def _file(name: str, content: bytes) -> Part:
    return Part(name, content, f"image/{measure(content).format}")


def _fields(order: CallOrder) -> list[Part]:
    parts = [Part(name, str(value).encode()) for name, value in _common(order).items()]
    for number, prompt in enumerate(_prompts(order)):
        for name, value in prompt.items():
            parts.append(Part(f"text_prompts[{number}][{name}]", str(value).encode()))
    return parts


# ----------------------------------------------------------------------------------------------------- from the vendor


class _Artifact(msgspec.Struct, frozen=True):
    base64: msgspec.Raw = msgspec.Raw(b'""')
    seed: int | None = None
    finish_reason: str = msgspec.field(name="finishReason", default="SUCCESS")


class _Flat(msgspec.Struct, frozen=True):
    artifacts: list[_Artifact]


class _Nested(msgspec.Struct, frozen=True):
    artifacts: list[list[_Artifact]]


# `Raw` leaves the pictures where they lie: they are checked and decoded once, straight from the answer's bytes.
_FLAT: Final = msgspec.json.Decoder(_Flat)
_NESTED: Final = msgspec.json.Decoder(_Nested)


def from_vendor(order: CallOrder, body: bytes) -> list[ImageMade]:
    """Return the pictures of an answer with status 200; raise `UpstreamFault` `invalid_output` if it is not whole."""
    artifacts = _artifacts(body)
    if len(artifacts) < order.count:
        raise unusable(f"{len(artifacts)} pictures came instead of {order.count}")
    return [_made(order, index, artifact) for index, artifact in enumerate(artifacts[: order.count])]


def _artifacts(body: bytes) -> list[_Artifact]:
    # The specification's example has a list within the list, the vendor's sample code reads a flat one.
    try:
        return _FLAT.decode(body).artifacts
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    try:
        return [artifact for batch in _NESTED.decode(body).artifacts for artifact in batch]
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unusable("the answer is not the JSON that the vendor documents") from None


def _made(order: CallOrder, index: int, artifact: _Artifact) -> ImageMade:
    is_filtered = artifact.finish_reason == "CONTENT_FILTERED"
    if artifact.finish_reason not in ("SUCCESS", "CONTENT_FILTERED"):
        raise unusable("the vendor failed to make a picture")
    content = decode_base64(artifact.base64)
    seed = _vendor_seed(order.seed) + index if artifact.seed is None else artifact.seed
    if is_filtered and not content:
        held_back = Picture(b"", "png", order.request.width, order.request.height)
        return ImageMade(held_back, index, seed, filtered=True)
    return ImageMade(picture_of(content, _PNG), index, seed, filtered=is_filtered)


# ------------------------------------------------------------------------------------------------------------ failures


_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    "invalid_prompts": Failure(Outcome.FAILED, "content_filtered", "the vendor refuses the prompt"),
}


class _VendorError(msgspec.Struct, frozen=True):
    name: str = ""
    message: str = ""


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told = _told(body)
    row = find(_FAILURES, status, told.name, named=(400,))
    return fault_of(row, told, status=status, headers=headers, secret=secret, upstream=upstream)


def _told(body: bytes) -> Told:
    try:
        error = msgspec.json.decode(body, type=_VendorError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Told(message=body[:MOST_ERROR_BYTES].decode("utf-8", "replace"))
    return Told(error.name, error.message)
