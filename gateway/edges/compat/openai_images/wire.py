"""OpenAI's Images API without I/O: from its requests to wishes, and from what went wrong to its errors."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, NoReturn

from msgspec import Meta, Struct

from gateway.core.models import Model
from gateway.edges.compat.dialect import Sent, Trouble, Wish
from gateway.edges.compat.openai_images.tables import (
    ERRORS,
    FIDELITIES,
    FIELDS,
    MAX_IMAGES,
    MODELS_WITH_URLS,
    QUALITIES,
    SENTENCES,
    TASKS,
)
from protocol.errors import ClientFault

Format = Literal["png", "jpeg", "webp"]
_SIZE: Final = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})\Z")
_NAME: Final = re.compile(r"field (\w{1,64})\Z")


class Common(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What generations and edits have in common; the vendor refuses a name that it does not know."""

    prompt: Annotated[str, Meta(min_length=1, max_length=32_000)]
    model: Annotated[str, Meta(max_length=200)] | None = None
    n: Annotated[int, Meta(ge=1, le=10)] | None = None
    size: Annotated[str, Meta(max_length=32)] | None = None
    quality: Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"] | None = None
    background: Literal["auto", "opaque", "transparent"] | None = None
    output_format: Format | None = None
    output_compression: Annotated[int, Meta(ge=0, le=100)] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    moderation: Literal["auto", "low"] | None = None
    """Checked and ignored: what may be shown is the gateway's own rule, not the client's."""
    user: Annotated[str, Meta(max_length=512)] | None = None
    """Ignored: who asks is known by the key."""
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None
    """Ignored as `user`."""
    stream: bool | None = None
    partial_images: Annotated[int, Meta(ge=0, le=3)] | None = None


class Generation(Common, frozen=True, kw_only=True):
    """The body of `generations`."""

    style: Literal["natural", "vivid"] | None = None


class EditForm(Common, frozen=True, kw_only=True):
    """The fields of an `edits` form beside its pictures."""

    input_fidelity: Literal["high", "low"] | None = None


class Reference(Struct, frozen=True, forbid_unknown_fields=True):
    """A picture in a JSON body; only `data:` addresses are read, for a gateway fetches nothing that clients name."""

    image_url: str | None = None
    file_id: str | None = None


class EditJson(EditForm, frozen=True, kw_only=True):
    """The JSON body of `edits`."""

    images: Annotated[list[Reference], Meta(min_length=1, max_length=MAX_IMAGES)]
    mask: Reference | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the pictures of an answer are like."""

    format: Format = "png"
    compression: int = 100
    """Quality of JPEG and WebP, in percent."""
    as_url: bool = False
    quality: str = "auto"
    background: str = "opaque"


@dataclass(frozen=True, slots=True)
class Wished:
    """A request, read: the job, what the model has no use for, and the answer's shape."""

    wish: Wish
    ignored: tuple[str, ...]
    shape: Shape


# ----------------------------------------------------------------------------------------------------------- requests


def tasks_of(images: int, *, has_mask: bool) -> tuple[str, ...]:
    """Return what an edit may be, best first."""
    return TASKS.get((images > 1, has_mask), ("reference",))


def check(asked: Common) -> None:
    """Raise `ClientFault` where fields contradict each other."""
    if asked.stream and (asked.n or 1) > 1:
        refuse("streaming is only supported with n=1", "stream")
    if asked.stream and _is_url(asked):
        refuse("a stream has its pictures in base64", "response_format")
    if asked.partial_images and not asked.stream:
        refuse("partial images need stream=true", "partial_images")
    if asked.background == "transparent" and asked.output_format == "jpeg":
        refuse("a transparent background needs png or webp", "output_format")


def refuse(message: str, path: str, code: str = "invalid_param") -> NoReturn:
    """Raise the refusal of a field."""
    raise ClientFault(code, message, details={"path": path})


def wished(
    asked: Generation | EditForm,
    task: str,
    model: Model | None,
    sent: tuple[Sent, ...] = (),
    first: tuple[int, int] | None = None,
) -> Wished:
    """Return what a request asks for. Raises `ClientFault`.

    `model` does the task; `None` where nothing does, which admission says. `first` is the size of the first picture.
    """
    width, height = _size(asked, task, model, first)
    known = frozenset[str]() if model is None else model.effects(task, {one.role for one in sent})
    hints, ignored = _hints(asked, known, model)
    params = {"prompt": asked.prompt, "n": asked.n, "width": width, "height": height, **hints}
    shape = Shape(
        format=asked.output_format or "png",
        compression=100 if asked.output_compression is None else asked.output_compression,
        as_url=_is_url(asked),
        quality=_QUALITY_TOLD.get(asked.quality, asked.quality or "medium"),
        background=hints.get("background", "opaque"),
    )
    return Wished(Wish(task, params, asked.model or None, sent), ignored, shape)


def _is_url(asked: Common) -> bool:
    if asked.response_format is None:
        return not asked.stream and (asked.model or "").startswith(MODELS_WITH_URLS)
    return asked.response_format == "url"


def _size(
    asked: Common, task: str, model: Model | None, first: tuple[int, int] | None
) -> tuple[int | None, int | None]:
    """The asked edges; where they are left to us, the model's own, or those nearest to the first picture's."""
    if asked.size not in (None, "", "auto"):
        found = _SIZE.match(asked.size or "")
        if found is None:
            refuse("must be WIDTHxHEIGHT or auto", "size")
        return int(found[1]), int(found[2])
    if first is None or model is None:
        return None, None
    sizes = model.sizes_of(task)
    try:
        sizes.check(*first)
    except ClientFault:
        return sizes.nearest(*first)
    return first


def _hints(
    asked: Generation | EditForm, known: frozenset[str], model: Model | None
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What has an effect if the model can make something of it, in our words; and the names of what it cannot."""
    hints: dict[str, Any] = {}
    ignored = []
    for name, param, value in _wishes(asked, model):
        if param in known and not (param == "style" and model is not None and value not in model.styles):
            hints[param] = value
        else:
            ignored.append(name)
    return hints, tuple(ignored)


def _wishes(asked: Generation | EditForm, model: Model | None) -> list[tuple[str, str, Any]]:
    """Each hint that was given: the vendor's name, ours, and the value."""
    factor = QUALITIES.get(asked.quality or "")
    steps = None
    if factor is not None and model is not None:
        steps = min(max(round(model.default_steps * factor), model.steps[0]), model.steps[1])
    fidelity = asked.input_fidelity if isinstance(asked, EditForm) else None
    given = [
        ("quality", "steps", steps),
        ("style", "style", asked.style if isinstance(asked, Generation) else None),
        ("background", "background", None if asked.background == "auto" else asked.background),
        ("input_fidelity", "strength", None if fidelity is None else FIDELITIES[fidelity]),
    ]
    return [wish for wish in given if wish[2] is not None]


_QUALITY_TOLD: Final[dict[str | None, str]] = {"auto": "medium", "standard": "medium", "hd": "high"}


# ----------------------------------------------------------------------------------------------------------- answers

USAGE: Final = {
    "input_tokens": 0,
    "input_tokens_details": {"image_tokens": 0, "text_tokens": 0},
    "output_tokens": 0,
    "total_tokens": 0,
}
"""Nothing here is counted in tokens; clients read the field."""


def described(shape: Shape, width: int, height: int) -> dict[str, Any]:
    """Return what an answer or an event says of its pictures."""
    return {
        "size": f"{width}x{height}",
        "quality": shape.quality,
        "background": shape.background,
        "output_format": shape.format,
    }


def error(trouble: Trouble, filtered: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal; `filtered` is the code where a filter held pictures back."""
    status, kind, code = ERRORS[trouble.code]
    param = _param(trouble)
    if trouble.code == "payload_too_large" and param is not None:
        status, code = 400, "image_too_large"
    elif trouble.code == "invalid_param":
        code = next((name for words, name in SENTENCES if words in trouble.message), code)
    elif trouble.code == "content_filtered":
        code = filtered
    elif trouble.code == "unauthorized" and trouble.details.get("reason") == "missing":
        code = None
    return status, {"error": {"message": trouble.message, "type": kind, "param": param, "code": code}}


def _param(trouble: Trouble) -> str | None:
    """Our name of what is wrong as the vendor has it."""
    bare = trouble.path.removeprefix("params.")
    if bare in ("", "body", "params"):  # a form's reader does not say which field it misses but in its sentence
        found = _NAME.search(trouble.message)
        return found[1] if found else None
    name = bare.partition("[")[0].partition(".")[0]
    return FIELDS.get(name, name) + bare[len(name) :]
