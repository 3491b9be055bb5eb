"""What a request asks for.

Pure: a body in, an `Order` or a `Refusal` out. The codes of the errors are the vendor's where they are known;
which fault takes which code is in part our reading (see PROVENANCE.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass, replace
from typing import Literal, cast

from load.upstreams.openai_images.fields import Fields, read_fields, refuse
from load.upstreams.openai_images.models import Model, Size
from load.upstreams.openai_images.profiles import Operation, Profile
from load.upstreams.openai_images.refusals import Refusal
from load.upstreams.pictures import MaskSource, PictureError, measure

OutputFormat = Literal["png", "jpeg", "webp"]
Form = Literal["url", "b64_json", "file"]

MAX_IMAGES = 16
MAX_IMAGE_BYTES = 50 * 1024 * 1024
MAX_SMALL_FILE_BYTES = 4 * 1024 * 1024
"""For masks, and for everything that is given to dall-e-2."""
MAX_PARTIALS = 3
MAX_SEED = (1 << 63) - 1
KEEP = {"low": 0.25, None: 0.5, "high": 0.75}
"""Share of the upload that stays, by `input_fidelity`, where no mask says what stays."""
IMAGE_TYPES = frozenset({"image/png", "image/jpeg", "image/webp"})
_UNUSED = ("user", "prompt_rewriter")


@dataclass(frozen=True, slots=True)
class Order:
    """A valid request."""

    operation: Operation
    model: Model
    size: Size
    prompt: str = ""
    wish: str = ""
    """What decides the colour together with the seed: the prompt, a negative one, and further uploads."""
    n: int = 1
    seed: int | None = None
    steps: int = 0
    quality: str = "medium"
    background: Literal["opaque", "transparent"] = "opaque"
    output_format: OutputFormat = "png"
    compression: int = 100
    form: Form = "b64_json"
    stream: bool = False
    partials: int = 0
    keep: float = 0.0
    image: bytes = b""
    images: int = 0
    mask: bytes | None = None
    mask_source: MaskSource | None = None
    safety_identifier: str | None = None
    unknown_fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Uploads:
    images: tuple[bytes, ...] = ()
    size: Size = (0, 0)
    mask: bytes | None = None
    mask_source: MaskSource | None = None
    keep: float = 0.0

    @property
    def further(self) -> str:
        return "".join(f"\n{hashlib.sha256(image).hexdigest()}" for image in self.images[1:])


def read_order(operation: Operation, profile: Profile, models: dict[str, Model], fields: Fields) -> Order:
    """The order that a request's values make; raises `Refusal` for the first thing wrong with them."""
    model = _model(operation, profile, models, fields)
    prompt = "" if operation == "variations" else _prompt(model, fields)
    uploads = _Uploads() if operation == "generations" else _uploads(operation, profile, model, fields)
    order = Order(
        operation=operation,
        model=model,
        size=_size(profile, model, uploads, fields),
        prompt=prompt,
        wish=_wish(profile, prompt, fields) + uploads.further,
        n=fields.integer("n", 1, model.most_images) or 1,
        seed=fields.integer("seed", -1, MAX_SEED) if "seed" in profile.extras else None,
        steps=_steps(profile, fields),
        quality=_quality(model, fields),
        background=_background(model, fields),
        output_format=_output_format(profile, model, fields),
        compression=_compression(fields),
        form=_form(profile, model, fields),
        keep=uploads.keep,
        image=uploads.images[0] if uploads.images else b"",
        images=len(uploads.images),
        mask=uploads.mask,
        mask_source=uploads.mask_source,
        safety_identifier=fields.text("safety_identifier") or fields.text("user"),
    )
    return _last_checks(order, profile, fields)


def fields_of(operation: Operation, content_type: str, body: bytes) -> Fields:
    """The values of a body; a form for a generation is refused, as is JSON for a variation."""
    fields = read_fields(content_type, body)
    if (operation == "generations" and fields.textual) or (operation == "variations" and not fields.textual):
        refuse("unsupported_content_type", "Unsupported content type for this endpoint.")
    return fields


def _model(operation: Operation, profile: Profile, models: dict[str, Model], fields: Fields) -> Model:
    default = "dall-e-2" if operation == "variations" else profile.default_model
    name = fields.text("model") or default
    if not profile.strict and name not in models:
        # A server of one model takes any name for it.
        return models.get(profile.default_model) or next(iter(models.values()))
    if name not in models:
        known = {model.id for model in profile.models}
        if name in known:
            raise Refusal(404, "model_not_found", f"The model '{name}' does not exist or you do not have access to it.")
        refuse("invalid_value", f"Invalid value: '{name}'.", "model")
    model = models[name]
    if operation == "variations" and model.family == "gpt":
        refuse("invalid_value", "Variations are made by 'dall-e-2' only.", "model")
    if operation != "generations" and model.family == "dall-e-3":
        refuse("invalid_value", f"'{name}' can't do this.", "model")
    return model


def _prompt(model: Model, fields: Fields) -> str:
    prompt = fields.text("prompt")
    if not prompt:
        refuse("missing_required_parameter", "Missing required parameter: 'prompt'.", "prompt")
    if len(prompt) > model.prompt_limit:
        refuse("string_above_max_length", f"'prompt' may have {model.prompt_limit} characters at most.", "prompt")
    return prompt


def _wish(profile: Profile, prompt: str, fields: Fields) -> str:
    negative = fields.text("negative_prompt") if "negative_prompt" in profile.extras else None
    if profile.negative_bar:
        prompt, _, negative = prompt.partition("|")
    return wish_of(prompt, negative)


def wish_of(prompt: str, negative: str | None = None) -> str:
    """The text that decides the colour of a picture made from these prompts."""
    return f"{prompt}\nnot: {negative}" if negative else prompt


def _size(profile: Profile, model: Model, uploads: _Uploads, fields: Fields) -> Size:
    text = fields.text("size") or "auto"
    if text == "auto":
        if uploads.images and model.family in ("gpt", "local"):
            return model.nearest(uploads.size)
        return profile.default_size if model.family == "local" else (1024, 1024)
    size = _parsed_size(text)
    if size is None:
        if profile.errors == "localai":
            # It falls back to its default without a word.
            return profile.default_size
        refuse("invalid_value", f"Invalid size format: '{text}'. Expected format: 'WIDTHxHEIGHT'.", "size")
    fault = model.size_fault(size)
    if fault is not None:
        refuse("invalid_value", f"Invalid value: '{text}'. {fault}", "size")
    return size


def _parsed_size(text: str) -> Size | None:
    width, _, height = text.partition("x")
    if not all(side.isascii() and side.isdecimal() and 0 < len(side) <= 6 and int(side) for side in (width, height)):
        return None
    return int(width), int(height)


def _steps(profile: Profile, fields: Fields) -> int:
    if profile.steps_field not in profile.extras:
        return profile.default_steps
    return fields.integer(profile.steps_field, 0, 1000) or profile.default_steps


def _quality(model: Model, fields: Fields) -> str:
    if model.family == "local":
        fields.get("quality")
        return "auto"
    word = fields.choice("quality", model.qualities)
    if model.family != "gpt":
        return word or "standard"
    return "medium" if word in (None, "auto") else str(word)


def _background(model: Model, fields: Fields) -> Literal["opaque", "transparent"]:
    word = fields.choice("background", ("transparent", "opaque", "auto"))
    if word == "transparent" and model.family != "local" and not model.transparent:
        refuse("invalid_value", "Transparent background is not supported for this model.", "background")
    return "transparent" if word == "transparent" else "opaque"


def _output_format(profile: Profile, model: Model, fields: Fields) -> OutputFormat:
    if model.family.startswith("dall-e"):
        return "png"
    word = fields.choice("output_format", ("png", "jpeg", "webp", *(("jpg",) if model.family == "local" else ())))
    return cast("OutputFormat", {"jpg": "jpeg", None: profile.output_format}.get(word, word))


def _compression(fields: Fields) -> int:
    value = fields.integer("output_compression", 0, 100)
    return 100 if value is None else value


def _form(profile: Profile, model: Model, fields: Fields) -> Form:
    if model.family == "gpt":
        if profile.strict and "response_format" in fields.values:
            refuse("unknown_parameter", "Unknown parameter: 'response_format'.", "response_format")
        fields.get("response_format")
        return "b64_json"
    default = "url" if model.family.startswith("dall-e") else profile.default_form
    return cast("Form", fields.choice("response_format", profile.forms) or default)


def _uploads(operation: Operation, profile: Profile, model: Model, fields: Fields) -> _Uploads:
    images = fields.uploads("image") or _referenced(fields)
    if not images:
        refuse("missing_required_parameter", "Missing required parameter: 'image'.", "image")
    most = MAX_IMAGES if model.family in ("gpt", "local") else 1
    if len(images) > most:
        refuse("array_above_max_length", f"Expected at most {most} images.", "image")
    limit = MAX_IMAGE_BYTES if model.family in ("gpt", "local") else MAX_SMALL_FILE_BYTES
    size, *_ = [_measured(image, limit, "image") for image in images]
    if model.family == "dall-e-2" and size[0] != size[1]:
        refuse("invalid_image_format", "The image must be square.", "image")
    mask, source = _mask(operation, profile, model, size, fields)
    keep = 0.0 if mask is not None else KEEP[_fidelity(model, fields)]
    return _Uploads(tuple(images), size, mask, source, keep)


def _fidelity(model: Model, fields: Fields) -> str | None:
    word = fields.choice("input_fidelity", ("high", "low"))
    if word is not None and model.family == "gpt" and word not in model.fidelities:
        refuse("invalid_value", f"'{model.id}' does not support this.", "input_fidelity")
    return word


def _mask(
    operation: Operation, profile: Profile, model: Model, size: Size, fields: Fields
) -> tuple[bytes | None, MaskSource | None]:
    name = "mask_image" if profile.white_mask else "mask"
    given = fields.uploads(name) or _referenced_mask(fields)
    if profile.ignores_mask or operation == "variations":
        return None, None
    if not given:
        return None, "INIT_IMAGE_ALPHA" if model.family == "dall-e-2" else None
    mask = given[0]
    if _measured(mask, MAX_SMALL_FILE_BYTES, name) != size:
        refuse("invalid_image_format", "The mask must have the size of the first image.", name)
    if profile.white_mask:
        return mask, "MASK_IMAGE_WHITE"
    if measure(mask)[0] != "image/png" or not _has_alpha(mask):
        refuse("invalid_image_format", "Invalid mask image format - mask image missing alpha channel.", name)
    return mask, "INIT_IMAGE_ALPHA"


def _has_alpha(png: bytes) -> bool:
    # Byte 25 of a PNG is its colour type, whose third bit stands for alpha; palettes bring theirs as a chunk.
    return bool(png[25] & 4) or b"tRNS" in png[:4096]


def _measured(image: bytes, limit: int, name: str) -> Size:
    if not 0 < len(image) < limit:
        refuse("image_too_large", f"'{name}' must have less than {limit} bytes.", name)
    try:
        mime, width, height = measure(image)
    except PictureError:
        mime, width, height = "", 0, 0
    if mime not in IMAGE_TYPES:
        refuse("unsupported_file_mimetype", f"Unsupported file for '{name}': must be PNG, JPEG or WebP.", name)
    return width, height


def _referenced(fields: Fields) -> list[bytes]:
    items = fields.get("images")
    if items is not None and not isinstance(items, list):
        refuse("invalid_type", "Invalid type for 'images': expected an array.", "images")
    return [_inline(item, "images") for item in items or ()]


def _referenced_mask(fields: Fields) -> list[bytes]:
    item = fields.get("mask")
    return [] if item is None else [_inline(item, "mask")]


def _inline(item: object, name: str) -> bytes:
    """The bytes of an image given in JSON as a data URL; the stand-in fetches nothing and keeps no files."""
    url = item.get("image_url") if isinstance(item, dict) else None
    if not isinstance(url, str) or not url.startswith("data:"):
        refuse("invalid_value", f"'{name}': the stand-in takes data URLs only.", name)
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        refuse("invalid_base64", f"'{name}': not base64.", name)


def _last_checks(order: Order, profile: Profile, fields: Fields) -> Order:
    stream = fields.boolean("stream")
    partials = fields.integer("partial_images", 0, MAX_PARTIALS) or 0
    fields.choice("moderation", ("low", "auto"))
    fields.choice("style", ("vivid", "natural"))
    for name in (*_UNUSED, *profile.extras):
        fields.get(name)
    unknown = fields.unknown()
    if profile.strict and unknown:
        refuse("unknown_parameter", f"Unknown parameter: '{unknown[0]}'.", unknown[0])
    if order.background == "transparent" and order.output_format == "jpeg":
        refuse("invalid_value", "Transparent background needs the output format png or webp.", "output_format")
    if stream and profile.strict:
        _check_stream(order)
    if stream and profile.errors == "fastapi" and order.operation == "edits":
        refuse(None, "Streaming is not supported by this pipeline.", "stream")
    streams = stream and profile.streams
    return replace(
        order, stream=streams, partials=partials if streams and profile.partials else 0, unknown_fields=unknown
    )


def _check_stream(order: Order) -> None:
    if order.model.family != "gpt":
        refuse("invalid_value", f"'{order.model.id}' does not stream.", "stream")
    if order.n > 1:
        refuse("invalid_value", "Streaming is only supported with n=1.", "stream")
