"""What our words and those of Stability AI's REST v1 mean to each other, without I/O.

`to_vendor` asks, `from_vendor` takes the pictures, `refusal` tells what any other answer means.
"""

import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import quote

import msgspec
import pybase64
from PIL import Image

from gateway.core.images import ImageFacts, ImageFault, measure
from gateway.core.reports import ImageMade, Outcome, Picture, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.http import retry_after_seconds
from gateway.upstreams.stability_v1_models import PATHS, SAMPLERS

MOST_ERROR_BYTES: Final = 64 * 1024
"""How much of a refusal's body is read, and told."""
_LARGEST_SEED: Final = 4_294_967_295
_MOST_GUIDANCE: Final = 35
_MOST_INPUT_PIXELS: Final = 16_777_216
"""What an input image may have before we decode it: the protocol's own limit."""
_MOST_OUTPUT_PIXELS: Final = 16_777_216
_MOST_MESSAGE: Final = 500

# ------------------------------------------------------------------------------------------------------- to the vendor


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a multipart body; `media_type` makes it a file."""

    name: str
    content: bytes
    media_type: str | None = None


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


def encode_multipart(parts: list[Part], boundary: str) -> tuple[bytes, str]:
    """Return the body and its content type; `boundary` must be one that nobody could foresee and put in an image."""
    pieces: list[bytes] = []
    for part in parts:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{part.name}"'
        if part.media_type is not None:
            suffix = part.media_type.partition("/")[2]
            head += f'; filename="{part.name}.{suffix}"\r\nContent-Type: {part.media_type}'
        pieces += [head.encode(), b"\r\n\r\n", part.content, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def check(order: CallOrder) -> None:
    """Raise `UpstreamFault` for what the model's description can't say and the vendor would refuse."""
    if order.request.guidance > _MOST_GUIDANCE:
        raise UpstreamFault(
            Outcome.FAILED,
            "invalid_param",
            f"guidance is at most {_MOST_GUIDANCE} here",
            details={"path": "params.guidance", "max": _MOST_GUIDANCE},
        )


def needs_preparing(order: CallOrder) -> bool:
    """Whether an input must be converted before the vendor takes it; raises `UpstreamFault` if it can't be used."""
    fitting = [_fits(order, _facts(role, content)) for role, content in order.inputs.items()]
    return not all(fitting)


def prepare(order: CallOrder) -> CallOrder:
    """Return the order with its inputs as the vendor takes them: PNG or JPEG, all of the request's size.

    There, the output's size is the init image's, and a mask must have the same. Decodes pixels: call it in a thread.
    """
    inputs = {role: _converted(order, role, content) for role, content in order.inputs.items()}
    return replace(order, inputs=inputs)


def _facts(role: str, content: bytes) -> ImageFacts:
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise _bad_input(role, fault.code, fault.message) from None
    if facts.width * facts.height > _MOST_INPUT_PIXELS:
        raise _bad_input(role, "payload_too_large", f"an input image has at most {_MOST_INPUT_PIXELS} pixels")
    return facts


def _bad_input(role: str, code: str, message: str) -> UpstreamFault:
    return UpstreamFault(Outcome.FAILED, code, message, details={"path": "inputs", "role": role})


def _fits(order: CallOrder, facts: ImageFacts) -> bool:
    size = (order.request.width, order.request.height)
    return facts.format != "webp" and (facts.width, facts.height) == size


def _converted(order: CallOrder, role: str, content: bytes) -> bytes:
    facts = _facts(role, content)
    if _fits(order, facts):
        return content
    # A mask is as good as its grey values; an init image keeps its alpha.
    mode = "L" if role == "mask" else "RGBA" if facts.has_alpha else "RGB"
    made = io.BytesIO()
    try:
        with Image.open(io.BytesIO(content), formats=[facts.format.upper()]) as opened:
            picture = opened.convert(mode)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise _bad_input(role, "image_decode_failed", "the image is broken") from error
    picture.resize((order.request.width, order.request.height), Image.Resampling.LANCZOS).save(made, "PNG")
    return made.getvalue()


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


def unusable(message: str) -> UpstreamFault:
    """Return the fault of an answer that is charged and no good."""
    return UpstreamFault(Outcome.FAILED, "invalid_output", message, charged=True)


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
    content = _decoded(artifact.base64)
    seed = _vendor_seed(order.seed) + index if artifact.seed is None else artifact.seed
    if is_filtered and not content:
        held_back = Picture(b"", "png", order.request.width, order.request.height)
        return ImageMade(held_back, index, seed, filtered=True)
    return ImageMade(_picture(content), index, seed, filtered=is_filtered)


def _decoded(raw: msgspec.Raw) -> bytes:
    view = memoryview(raw)
    if bytes(view[:5]) == b"null":
        return b""
    if view[0] != ord('"'):
        raise unusable("a picture is not base64")
    try:
        return pybase64.b64decode(view[1:-1], validate=True)
    except (binascii.Error, ValueError):
        pass
    try:
        # JSON may write "/" as "\/"; nobody is known to, so this comes second.
        return pybase64.b64decode(msgspec.json.decode(raw, type=str), validate=True)
    except (binascii.Error, ValueError):
        raise unusable("a picture is not base64") from None


def _picture(content: bytes) -> Picture:
    try:
        facts = measure(content)
    except ImageFault as fault:
        raise unusable(fault.message) from None
    if facts.format != "png" or facts.width * facts.height > _MOST_OUTPUT_PIXELS:
        raise unusable(f"a picture is {facts.format} of {facts.width}x{facts.height}")
    return Picture(content, facts.format, facts.width, facts.height)


# ------------------------------------------------------------------------------------------------------------ failures


@dataclass(frozen=True, slots=True)
class _Failure:
    """What a status means, and what the client is told."""

    outcome: Outcome
    code: str
    message: str
    retryable: bool = False
    locked_out: bool = False
    credential: bool = False
    charged: bool = False


_F = _Failure
_FAILURES: Final[dict[int | str, _Failure]] = {
    401: _F(Outcome.FAILED, "upstream_error", "the vendor does not accept our credential", credential=True),
    403: _F(Outcome.FAILED, "upstream_error", "the vendor does not allow this to our credential", credential=True),
    429: _F(Outcome.REFUSED, "model_unavailable", "the vendor's rate limit is used up", True, locked_out=True),
    500: _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    503: _F(Outcome.REFUSED, "model_unavailable", "the vendor is out of service", retryable=True),
    # A proxy speaks, not the vendor: what stood behind it may have worked on, and the bill comes.
    502: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's lost the answer"),
    504: _F(Outcome.UNKNOWN, "outcome_unknown", "a proxy of the vendor's did not wait for the answer"),
    "invalid_prompts": _F(Outcome.FAILED, "content_filtered", "the vendor refuses the prompt"),
    "2xx": _F(Outcome.FAILED, "invalid_output", "the vendor answered without pictures", charged=True),
    "3xx": _F(Outcome.FAILED, "upstream_error", "the vendor's address has moved"),
    "4xx": _F(Outcome.FAILED, "upstream_error", "the vendor does not accept the request"),
    "5xx": _F(Outcome.FAILED, "upstream_error", "the vendor failed", retryable=True),
    "odd": _F(Outcome.FAILED, "upstream_error", "the vendor's answer is no HTTP that we know"),
}
"""By status; by the vendor's own name for a 400; by the status's class. The first that is there counts."""


class _VendorError(msgspec.Struct, frozen=True):
    name: str = ""
    message: str = ""


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told = _vendor_error(body)
    row = _row(status, told.name)
    # Their words may repeat what we sent, our key included; redacted before it is cut, so that no half of it is left.
    details: dict[str, object] = {
        "upstream": upstream,
        "status": status,
        "retryable": row.retryable,
        "vendor_code": secret.redact(told.name)[:100],
        "vendor_message": secret.redact(told.message)[:_MOST_MESSAGE],
    }
    if row.code == "content_filtered":
        details["stage"] = "prompt"
    return UpstreamFault(
        row.outcome,
        row.code,
        row.message,
        retry_after_seconds=retry_after_seconds(headers) if row.outcome is Outcome.REFUSED else None,
        locked_out=row.locked_out,
        credential=row.credential,
        charged=row.charged,
        details=details,
    )


def _row(status: int, name: str) -> _Failure:
    named = name if status == 400 else ""
    return _FAILURES.get(status) or _FAILURES.get(named) or _FAILURES.get(f"{status // 100}xx") or _FAILURES["odd"]


def _vendor_error(body: bytes) -> _VendorError:
    try:
        return msgspec.json.decode(body, type=_VendorError)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _VendorError(message=body[:MOST_ERROR_BYTES].decode("utf-8", "replace"))
