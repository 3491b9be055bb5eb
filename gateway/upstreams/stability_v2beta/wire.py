"""What our words and those of Stability AI's v2beta stable-image mean to each other, without I/O.

`check` refuses what the vendor would, `to_vendor` asks, `handle_of` and `from_vendor` read what came; `refusal` tells
what any other answer to an order means, and `result_fault` one to a poll for its result.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import msgspec

from gateway.core.images import ImageFacts
from gateway.core.normal import Request
from gateway.core.params import Expand
from gateway.core.reports import ImageMade, Outcome, Picture, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.failures import COMMON, MOST_ERROR_BYTES, Failure, Told, fault_of, find
from gateway.upstreams.multipart import Part
from gateway.upstreams.pictures import MOST_PIXELS, Wanted, facts_of, picture_of, unusable
from gateway.upstreams.stability_v2beta.models import (
    MOST_EXPAND,
    MOST_PROMPT,
    SERVICES,
    Bounds,
    Service,
    ratio_of,
    service_of,
)

_FORMATS: Final = Wanted(frozenset({"png", "jpeg", "webp"}), sized=False)
_SIZED: Final = replace(_FORMATS, sized=True)
_LIKE_REQUEST: Final = frozenset({"img2img", "inpaint", "search_replace", "remove_background"})
"""Tasks whose result has the init image's size, which therefore must be the request's."""
_LARGEST_SEED: Final = 4_294_967_294
_MOST_HANDLE: Final = 256
_ENDS: Final[Mapping[str, bytes]] = {"png": b"IEND", "jpeg": b"\xff\xd9"}
"""What the last chunk or marker of a file is; a WebP says at its head how long it is."""
_MOST_TRAILER: Final = 4096
_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def wanted(order: CallOrder) -> Wanted:
    """Return how the vendor takes an order's input images."""
    return _SIZED if order.request.task in _LIKE_REQUEST else _FORMATS


def service(order: CallOrder) -> Service:
    """Return the service that does an order."""
    return SERVICES[service_of(order.model.vendor_model, order.request)]


# ------------------------------------------------------------------------------------------------------------- refused


def check(order: CallOrder) -> None:
    """Raise `UpstreamFault` for what the model's description can't say and the vendor would refuse.

    The input images must be ones that the vendor takes: see `wanted`.
    """
    request, one = order.request, service(order)
    prompt, negative = prompts_of(request)
    for name, text in (("prompt", prompt), ("negative_prompt", negative), ("search", request.search or "")):
        if len(text) > MOST_PROMPT:
            raise _refused(f"{name} has at most {MOST_PROMPT} characters", f"params.{name}", "prompt_too_long")
    if negative and "negative_prompt" not in one.fields:
        raise _refused(f"{request.task} takes nothing negative here", "params.negative_prompt")
    if request.style is not None and "style" not in one.fields:
        raise _refused("style has no effect with this kind of upscale", "params.style")
    _check_control(order)
    for slot, content in order.inputs.items():
        if slot != "mask":
            facts = facts_of(slot, content)
            _check_picture(slot, facts, one.image)
            _check_growth(request.expand, facts)


def _check_control(order: CallOrder) -> None:
    request = order.request
    if request.task not in ("controlnet", "reference"):
        return
    taken = (*request.controls, *request.references)
    if len(request.inputs) > len(taken):
        raise _refused(f"{request.task} takes neither init nor mask here")
    (image,) = taken
    if image.role in ("sketch", "structure") and (request.width, request.height) not in (
        order.model.default_size,
        order.model.sizes_of(request.task).nearest(image.width, image.height),
    ):
        raise _refused(f"with {image.role} the picture has the control image's size", "params.width")


def _check_growth(expand: Expand | None, facts: ImageFacts) -> None:
    if expand is None:
        return
    if max(expand.left, expand.right, expand.up, expand.down) > MOST_EXPAND:
        raise _refused(f"a side grows by at most {MOST_EXPAND} pixels here", "params.expand")
    grown = (facts.width + expand.left + expand.right) * (facts.height + expand.up + expand.down)
    if grown > MOST_PIXELS:
        raise _refused(f"the picture grows to at most {MOST_PIXELS} pixels", "params.expand")


def _check_picture(slot: str, facts: ImageFacts, bounds: Bounds) -> None:
    short, long = sorted((facts.width, facts.height))
    problems = {
        f"edges of at least {bounds.least_edge}": short < bounds.least_edge,
        f"edges of at most {bounds.most_edge}": bounds.most_edge is not None and long > bounds.most_edge,
        f"{bounds.least_pixels} to {bounds.most_pixels} pixels": (
            not bounds.least_pixels <= short * long <= bounds.most_pixels
        ),
        f"edges of 1:{bounds.widest} at most": bounds.widest is not None and long > bounds.widest * short,
    }
    for rule, is_broken in problems.items():
        if is_broken:
            raise _refused(f"the input image {slot} must have {rule} here, not {facts.width}x{facts.height}")


def _refused(message: str, path: str = "inputs", code: str = "invalid_param") -> UpstreamFault:
    return UpstreamFault(Outcome.FAILED, code, message, details={"path": path})


# ------------------------------------------------------------------------------------------------------- to the vendor


def to_vendor(order: CallOrder) -> tuple[str, list[Part]]:
    """Return the path and the parts of the form; the order must have passed `check`."""
    one = service(order)
    fields = {**_words(order, one), **_MEANT.get(order.request.task, _nothing)(order, one)}
    files = [_file(order, slot) for slot in order.inputs]
    return f"/v2beta/stable-image/{one.path}", [*files, *(Part(name, _text(fields[name])) for name in fields)]


def _file(order: CallOrder, slot: str) -> Part:
    content = order.inputs[slot]
    return Part("mask" if slot == "mask" else "image", content, f"image/{facts_of(slot, content).format}")


def _text(value: object) -> bytes:
    return f"{value:.6g}".encode() if isinstance(value, float) else str(value).encode()


def _words(order: CallOrder, one: Service) -> dict[str, object]:
    prompt, negative = prompts_of(order.request)
    fields = {"prompt": prompt, "negative_prompt": negative, "seed": _vendor_seed(order.seed)}
    told: dict[str, object] = {name: value for name, value in fields.items() if name in one.fields and value}
    if order.request.style is not None:
        told["style_preset"] = order.request.style
    return {**told, "output_format": "png"}


def _vendor_seed(seed: int) -> int:
    # 0 would be "random" there, and a larger one an error. The pictures of a job have seeds in a row; folded like this,
    # no two of them become one.
    return (seed - 1) % _LARGEST_SEED + 1


def _nothing(_order: CallOrder, _service: Service) -> dict[str, object]:
    return {}


def _drawn(order: CallOrder, one: Service) -> dict[str, object]:
    return {"aspect_ratio": _ratio(order), **_engine(order, one)}


def _redrawn(order: CallOrder, one: Service) -> dict[str, object]:
    strength = {"strength": order.request.strength}
    if one.engine is None:
        return {**strength, "aspect_ratio": _ratio(order)}
    # There, the ratio is refused beside an image.
    return {**strength, "mode": "image-to-image", **_engine(order, one)}


def _engine(order: CallOrder, one: Service) -> dict[str, object]:
    return {} if one.engine is None else {"model": one.engine, "cfg_scale": order.request.guidance}


def _grown(order: CallOrder, _: Service) -> dict[str, object]:
    expand = order.request.expand
    assert expand is not None, "outpaint needs expand"
    return msgspec.structs.asdict(expand)


def _controlled(order: CallOrder, _: Service) -> dict[str, object]:
    (image,) = order.request.controls
    if image.role != "style":
        return {"control_strength": image.weight}
    return {"fidelity": image.weight, "aspect_ratio": _ratio(order)}


def _referred(order: CallOrder, _: Service) -> dict[str, object]:
    (image,) = order.request.references
    # Without a word of the client's the vendor's own default counts, which is half.
    weight = {} if image.weight is None else {"fidelity": image.weight}
    return {**weight, "aspect_ratio": _ratio(order)}


def _ratio(order: CallOrder) -> str:
    return ratio_of(order.request.width, order.request.height)


_MEANT: Final[Mapping[str, Callable[[CallOrder, Service], dict[str, object]]]] = {
    "txt2img": _drawn,
    "img2img": _redrawn,
    "outpaint": _grown,
    "controlnet": _controlled,
    "reference": _referred,
    "search_replace": lambda order, _: {"search_prompt": order.request.search},
}
"""Task -> the fields that only it has."""


def prompts_of(request: Request) -> tuple[str, str]:
    """Return the prompt and the negative prompt, weighted parts as `(text:weight)` with no weight above 1.

    On each side all weights are divided by the largest of it if that is above 1: there, nothing can count more than 1,
    and what counts is how they compare.
    """
    parts = request.prompts
    if not parts:
        return request.prompt, request.negative_prompt
    prompt = _side([(part.text, part.weight) for part in parts if part.weight >= 0])
    negative = _side([(part.text, -part.weight) for part in parts if part.weight < 0])
    return prompt, negative


def _side(parts: Sequence[tuple[str, float]]) -> str:
    largest = max([1.0, *(weight for _, weight in parts)])
    return ", ".join(_weighted(text, round(weight / largest, 4)) for text, weight in parts)


def _weighted(text: str, weight: float) -> str:
    return text if weight == 1 else f"({text}:{weight:g})"


# ----------------------------------------------------------------------------------------------------- from the vendor


class _Taken(msgspec.Struct, frozen=True):
    id: str


def handle_of(body: bytes) -> str:
    """Return the id that an order of an asynchronous service was answered with; raises `UpstreamFault`."""
    try:
        handle = msgspec.json.decode(body, type=_Taken).id
    except _NOT_JSON:
        handle = ""
    if not 0 < len(handle) <= _MOST_HANDLE:
        # Taken and charged, but nobody can ask for it.
        raise unusable("the vendor took the order and told no id")
    return handle


def from_vendor(order: CallOrder, headers: Mapping[str, str], body: bytes) -> ImageMade:
    """Return the picture of an answer with status 200; raise `UpstreamFault` `invalid_output` if it is none."""
    reason = headers.get("finish-reason", "SUCCESS")
    if reason not in ("SUCCESS", "CONTENT_FILTERED"):
        raise unusable("the vendor failed to make a picture")
    seed, is_filtered = _seed(order, headers), reason == "CONTENT_FILTERED"
    if is_filtered and not body:
        held_back = Picture(b"", "png", order.request.width, order.request.height)
        return ImageMade(held_back, 0, seed, filtered=True)
    picture = picture_of(body)
    if not _has_end(picture):
        raise unusable("the picture ends too early")
    return ImageMade(picture, 0, seed, filtered=is_filtered)


def _has_end(picture: Picture) -> bool:
    """Whether a file has what it must end with, be it with something after it: here no JSON holds it together."""
    end = _ENDS.get(picture.format, b"")
    return end in picture.content[-_MOST_TRAILER:]


def _seed(order: CallOrder, headers: Mapping[str, str]) -> int:
    told = headers.get("seed", "")
    if told.isascii() and told.isdigit() and len(told) <= 10 and int(told) > 0:
        return int(told)
    return _vendor_seed(order.seed)


# ------------------------------------------------------------------------------------------------------------ failures

_F = Failure
_FILTERED: Final = _F(Outcome.FAILED, "content_filtered", "the vendor refuses the content")
_NAMELESS: Final = "403 without a name"
_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    413: _F(Outcome.FAILED, "payload_too_large", "the request is too large for the vendor"),
    "content_moderation": _FILTERED,
    "public_figure": _FILTERED,
    "invalid_language": _F(Outcome.FAILED, "invalid_param", "the vendor takes English prompts only"),
    # Moderation is all that a 403 is documented to be here: one that does not say must not put the account out.
    _NAMELESS: _F(Outcome.FAILED, "upstream_error", "the vendor refuses the request and does not say why"),
}
_NAMED: Final = frozenset({400, 403, 422})
"""Statuses under which the error's name counts."""


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told = _told(body)
    name = told.name or (_NAMELESS if status == 403 else "")
    row = find(_FAILURES, status, name, _NAMED)
    return fault_of(row, told, status=status, headers=headers, secret=secret, upstream=upstream)


def _told(body: bytes) -> Told:
    try:
        error: Any = msgspec.json.decode(body)
    except _NOT_JSON:
        error = None
    if not isinstance(error, dict):
        return Told(message=body[:MOST_ERROR_BYTES].decode("utf-8", "replace"))
    # A list in v2beta; the account's paths are v1's, with one message.
    errors = error.get("errors") or [error.get("message") or ""]
    messages = errors if isinstance(errors, list) else [errors]
    return Told(str(error.get("name") or ""), "; ".join(str(message) for message in messages))


def result_fault(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that a poll for a result was answered with: `UNKNOWN` where another poll may tell more.

    The vendor has taken the order by then, and charged it. So nothing here is `REFUSED`, `GONE` or about the
    credential, after which the work would be begun, and charged, again.
    """
    found = refusal(status, headers, body, secret, upstream)
    if status == 404:
        # Unknown, kept for longer than 24 hours, or another key's: it would be told so for ever.
        lost = "the vendor took the order and no longer knows of its result"
        return UpstreamFault(Outcome.FAILED, "outcome_unknown", lost, charged=True, details=found.details)
    if found.code == "content_filtered":
        return found
    silent = "the vendor took the order and does not tell its result"
    return UpstreamFault(
        Outcome.UNKNOWN, "outcome_unknown", silent, found.retry_after_seconds, found.locked_out, details=found.details
    )
