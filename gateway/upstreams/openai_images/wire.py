"""What our words and those of the OpenAI Images API mean to each other, without I/O.

`to_vendor` asks, `pictures_in` and `read_event` take what comes, `refusal` and `trouble` tell what anything else means.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec
from yarl import URL

from gateway.core.images import measure
from gateway.core.params import split_prompts
from gateway.core.reports import Outcome, Picture, UpstreamFault
from gateway.core.secret import Secret
from gateway.ports import CallOrder
from gateway.upstreams.failures import COMMON, Failure, Told, fault_of, find
from gateway.upstreams.multipart import Part
from gateway.upstreams.openai_images.models import Way
from gateway.upstreams.pictures import decode_base64, picture_of, unusable

# ------------------------------------------------------------------------------------------------------- to the vendor

_NEGATIVE: Final = "\n\nDo not show: "
_ONLY: Final = {
    "moderation": "images/generations",
    "style": "images/generations",
    "input_fidelity": "images/edits",
}
"""Fields that only one of the two paths knows."""
_MOST_IMAGE: Final = 50 * 1024 * 1024
_MOST_SMALL: Final = 4 * 1024 * 1024
"""Bytes of a mask, and of everything that dall-e-2 is given."""


def asks_for_stream(order: CallOrder, way: Way) -> bool:
    """Whether a call is made as a stream: the vendor streams single pictures only."""
    return way.streams and order.count == 1


def to_vendor(order: CallOrder, way: Way) -> tuple[str, dict[str, object] | list[Part]]:
    """Return the path and the body: an object to send as JSON, or the parts to send as multipart.

    The input images must be ones that the vendor takes: see `openai_images_inputs.prepared`.
    """
    path = "images/edits" if order.inputs else "images/generations"
    fields = {name: value for name, value in _fields(order, way).items() if _ONLY.get(name, path) == path}
    if not order.inputs:
        return f"/{path}", fields
    return f"/{path}", [*_files(order, way), *(Part(name, _text(value)) for name, value in fields.items())]


def _fields(order: CallOrder, way: Way) -> dict[str, object]:
    request, speech = order.request, way.dialect
    _, negative = prompts(order)
    fields: dict[str, object] = {
        "model": order.model.vendor_model,
        "prompt": written_prompt(order, way),
        "n": order.count,
        "size": f"{request.width}x{request.height}",
        **way.fields,
    }
    if way.asks_for_inline:
        fields["response_format"] = "b64_json"
    if asks_for_stream(order, way):
        fields |= {"stream": True, "partial_images": way.partials}
    if speech.negative == "field" and negative:
        fields["negative_prompt"] = negative
    if speech.seed:
        fields["seed"] = order.seed
    if speech.steps:
        fields[speech.steps] = request.steps
    if way.sends_guidance:
        fields[speech.guidance] = request.guidance
    if request.style is not None:
        fields["style"] = request.style
    if request.background != "auto":
        fields["background"] = request.background
    return fields


def written_prompt(order: CallOrder, way: Way) -> str:
    """Return the prompt as it is sent, with the negative one in it where that has no field of its own."""
    prompt, negative = prompts(order)
    match way.dialect.negative:
        case "bar":
            # A bar in the client's own words would turn what follows into its opposite.
            prompt, negative = prompt.replace("|", " "), negative.replace("|", " ")
            return f"{prompt}|{negative}" if negative else prompt
        case "text":
            return f"{prompt}{_NEGATIVE}{negative}" if negative else prompt
        case "field":
            return prompt


def prompts(order: CallOrder) -> tuple[str, str]:
    """Return the prompt and the negative prompt without weights: none of these servers reads any."""
    request = order.request
    if not request.prompts:
        return request.prompt, request.negative_prompt
    _, weighted = split_prompts(request.prompts)
    more = request.negative_prompt.removeprefix(weighted).removeprefix(", ")
    negative = [part.text for part in request.prompts if part.weight < 0]
    return (
        ", ".join(part.text for part in request.prompts if part.weight > 0),
        ", ".join(filter(None, [*negative, more])),
    )


def _text(value: object) -> bytes:
    return (str(value).lower() if isinstance(value, bool) else str(value)).encode()


def _files(order: CallOrder, way: Way) -> list[Part]:
    slots = [slot for slot in order.inputs if slot != "mask"]
    name = "image" if len(slots) == 1 else "image[]"
    files = [_file(name, slot, order.inputs[slot]) for slot in slots]
    if "mask" in order.inputs:
        files.append(_file("mask_image" if way.dialect.mask == "white" else "mask", "mask", order.inputs["mask"]))
    return files


def _file(name: str, slot: str, content: bytes) -> Part:
    kind = measure(content).format
    return Part(name, content, f"image/{kind}", f"{slot}.{kind}")


def check(order: CallOrder, way: Way) -> None:
    """Raise `UpstreamFault` for what the model's description can't say and the vendor would refuse or ignore."""
    if "mask" in order.inputs and way.dialect.mask == "none":
        message = "a mask has no effect here"
        raise UpstreamFault(Outcome.FAILED, "invalid_param", message, details={"path": "inputs", "role": "mask"})
    length, most = len(written_prompt(order, way)), order.model.max_prompt
    if length > most:
        raise UpstreamFault(
            Outcome.FAILED,
            "prompt_too_long",
            f"prompt and negative prompt have at most {most} characters together, not {length}",
            details={"path": "params.prompt", "max_length": most},
        )


def check_files(order: CallOrder, way: Way) -> None:
    """Raise `UpstreamFault` for input images, as they would be sent, of more bytes than the vendor takes."""
    for slot, content in order.inputs.items():
        most = _MOST_SMALL if slot == "mask" or way.family.square else _MOST_IMAGE
        if len(content) >= most:
            message = f"an input image has less than {most} bytes here, as it is sent"
            raise UpstreamFault(
                Outcome.FAILED, "payload_too_large", message, details={"path": "inputs", "role": slot, "max": most}
            )


# ----------------------------------------------------------------------------------------------------- from the vendor

_NULL: Final = msgspec.Raw(b"null")


class _Item(msgspec.Struct, frozen=True):
    b64_json: msgspec.Raw = _NULL
    url: str | None = None


class _Reply(msgspec.Struct, frozen=True):
    data: list[_Item] | None = None
    error: msgspec.Raw = _NULL


class _Event(msgspec.Struct, frozen=True):
    type: str = ""
    b64_json: msgspec.Raw = _NULL
    url: str | None = None
    partial_image_index: int | None = None
    error: msgspec.Raw = _NULL


# `Raw` leaves the pictures where they lie: they are checked and decoded once, straight from the answer's bytes.
_REPLY: Final = msgspec.json.Decoder(_Reply)
_EVENT: Final = msgspec.json.Decoder(_Event)

Found = Picture | str
"""A picture, or the address where it lies."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A partial picture: number `index` of those that were asked for, from 0 on."""

    picture: Picture
    index: int | None


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished picture."""

    found: Found


@dataclass(frozen=True, slots=True)
class Trouble:
    """The vendor breaks off."""

    told: Told


@dataclass(frozen=True, slots=True)
class Ended:
    """The vendor says that this was all."""


Event = Partial | Finished | Trouble | Ended


def pictures_in(body: bytes, count: int) -> list[Found] | Told:
    """Return the pictures of a plain answer with status 200, or what it tells in their place.

    Raises `UpstreamFault` `invalid_output` if it is not whole.
    """
    try:
        reply = _REPLY.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unusable("the answer is not the JSON that the vendor documents") from None
    if reply.error != _NULL:
        return told_in(body)
    items = reply.data or []
    if len(items) < count:
        raise unusable(f"{len(items)} pictures came instead of {count}")
    return [_found(item) for item in items[:count]]


def _found(item: _Item | _Event) -> Found:
    content = decode_base64(item.b64_json)
    if content:
        return picture_of(content)
    if item.url is None:
        raise unusable("a picture is missing")
    if item.url.startswith("data:"):
        return picture_of(decode_base64(msgspec.json.encode(item.url)))
    return item.url


def read_event(name: str, data: bytes) -> Event | None:
    """Return what an event of a stream says, `None` if that is nothing to us.

    Raises `UpstreamFault` `invalid_output` if a finished picture is no good; a partial one is left out then.
    """
    if data.strip() == b"[DONE]":
        return Ended()
    try:
        event = _EVENT.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        if name == "error":
            return Trouble(told_in(data))
        if name.endswith(".completed"):
            raise unusable("an event is not the JSON that the vendor documents") from None
        return None
    kind = name or event.type
    if kind == "error" or event.error != _NULL or kind.endswith(".failed"):
        return Trouble(told_in(data))
    if kind.endswith(".completed"):
        return Finished(_found(event))
    return _partial(event) if kind.endswith(".partial_image") else None


def _partial(event: _Event) -> Partial | None:
    try:
        return Partial(picture_of(decode_base64(event.b64_json)), event.partial_image_index)
    except UpstreamFault:
        return None


def result_url(told: str, base_url: str, hosts: Collection[tuple[str, int | None]]) -> str | None:
    """Return the whole address of a picture if it may be fetched; `None` if nobody configured its host.

    Configured are the server's own origin, and `hosts`: names, each with a port or `None` for any. From a
    server that is spoken to over TLS no address without is taken.
    """
    try:
        base = URL(base_url)
        url = base.join(URL(told))
        is_own = url.origin() == base.origin()
        port = url.port
    except ValueError:
        return None
    if url.scheme not in {"https", base.scheme} or url.user is not None or url.password is not None:
        return None
    is_listed = (url.host, None) in hosts or (url.host, port) in hosts
    return str(url.with_fragment(None)) if is_own or is_listed else None


# --------------------------------------------------------------------------------------------------- what went wrong

_QUOTA: Final = Failure(Outcome.FAILED, "upstream_error", "the account's quota is used up", credential=True)
_FILTERED: Final = Failure(Outcome.FAILED, "content_filtered", "the vendor refuses the prompt or its picture")
_PROXY: Final = COMMON[504]
_FAILURES: Final[dict[int | str, Failure]] = {
    **COMMON,
    # Of the network before the vendor: its proxy lost the answer, or did not wait for it.
    **dict.fromkeys((520, 522, 524), _PROXY),
    "moderation_blocked": _FILTERED,
    "content_policy_violation": _FILTERED,
    "contentFilter": _FILTERED,
    "insufficient_quota": _QUOTA,
    "billing_hard_limit_reached": _QUOTA,
    "invalid_api_key": COMMON[401],
    "rate_limit_exceeded": COMMON[429],
    "slow_down": COMMON[429],
    "model_not_found": Failure(Outcome.FAILED, "model_not_found", "the vendor does not have this model"),
}
_NAMED: Final = frozenset({400, 401, 403, 404, 429, 503})
_STATUS: Final = {
    "moderation_blocked": 400,
    "content_policy_violation": 400,
    "contentFilter": 400,
    "invalid_request_error": 400,
    "image_generation_user_error": 400,
    "billing_hard_limit_reached": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "insufficient_quota": 429,
    "rate_limit_exceeded": 429,
    "slow_down": 503,
}
"""The status with which an error comes that is told with status 200; any other is as good as 500."""


class _Error(msgspec.Struct, frozen=True):
    message: str | None = None
    type: str | None = None
    code: str | int | None = None


class _Refusal(msgspec.Struct, frozen=True):
    """OpenAI's and LocalAI's form, FastAPI's, and that of a proxy that has but words."""

    error: _Error | str | None = None
    detail: msgspec.Raw = _NULL
    message: str = ""


class _Detail(msgspec.Struct, frozen=True):
    msg: str = ""


def told_in(body: bytes) -> Told:
    """Return what an error's body says of itself; it may be cut short or missing."""
    try:
        refusal = msgspec.json.decode(body, type=_Refusal)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Told(message=short_message(body[:2000].decode("utf-8", "replace")))
    error = refusal.error
    if isinstance(error, _Error):
        name = error.code if isinstance(error.code, str) and error.code else error.type or ""
        return Told(name, short_message(error.message or ""))
    return Told(message=short_message(error or _detail(refusal.detail) or refusal.message))


def _detail(raw: msgspec.Raw) -> str:
    try:
        detail = msgspec.json.decode(raw, type=list[_Detail] | str | None)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return "; ".join(each.msg for each in detail) if isinstance(detail, list) else detail or ""


_PATH: Final = re.compile(r"file:\S+|(?<![\w/:.])(?:[A-Za-z]:)?[\\/][\w.+-]+(?:[\\/][\w.+-]+)+")


def short_message(text: str) -> str:
    """Return a server's words without what only its owner should see: tracebacks, values, paths."""
    if text.lstrip().startswith("<"):
        return ""  # a proxy's page
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        lines = lines[-1:]
    first = lines[0] if lines else ""
    return _PATH.sub("***", first.partition("tensor(")[0])


def refusal(status: int, headers: Mapping[str, str], body: bytes, secret: Secret, upstream: str) -> UpstreamFault:
    """Return the fault that an answer with another status than 200 is; `body` may be cut short or missing."""
    told = told_in(body)
    row = find(_FAILURES, status, told.name, _NAMED)
    fault = fault_of(row, told, status=status, headers=headers, secret=secret, upstream=upstream)
    if fault.outcome is Outcome.REFUSED:
        milliseconds = headers.get("retry-after-ms", "").strip()
        if milliseconds.isascii() and milliseconds.isdigit():
            fault.retry_after_seconds = min(float(milliseconds[:20]) / 1000, 1e12)
    return fault


def trouble(told: Told, secret: Secret, upstream: str, *, worked: bool) -> UpstreamFault:
    """Return the fault that an error is which came with status 200; `worked` whether part of a picture had come."""
    status = _STATUS.get(told.name, 500)
    row = find(_FAILURES, status, told.name, _NAMED)
    more = {"stage": "output"} if worked and row.code == "content_filtered" else {}
    fault = fault_of(row, told, status=status, headers={}, secret=secret, upstream=upstream, **more)
    if worked and fault.outcome is not Outcome.FAILED:
        # No refusal any more: what was begun is lost, and it may not be begun again as if it had cost nothing.
        fault.outcome, fault.code, fault.message = Outcome.FAILED, "upstream_error", "the vendor broke off its work"
        fault.locked_out = False
    return fault


def cut_short(upstream: str) -> UpstreamFault:
    """Return the fault of a stream that ended in good order before the finished picture came.

    Proxies end theirs like that when they lose the vendor's: what became of the work nobody knows.
    """
    message = "the vendor's stream ended before the picture"
    return UpstreamFault(Outcome.UNKNOWN, "outcome_unknown", message, details={"upstream": upstream})
