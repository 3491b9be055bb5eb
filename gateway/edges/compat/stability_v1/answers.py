"""Stability AI's REST v1: its answers, made of results and of what went wrong. No I/O."""

from typing import Any

import msgspec

from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.dialect import Result, Trouble
from gateway.edges.compat.stability_both import finish_reason
from gateway.edges.compat.stability_v1.tables import ERRORS, FIELDS, NAMED, WHOLE


def artifacts(result: Result, contents: list[bytes]) -> list[dict[str, Any]]:
    """Return the pictures as the vendor lists them; `contents` has a PNG for each piece."""
    return [
        {
            "base64": encode_picture(content),
            "seed": piece.seed,
            "finishReason": finish_reason(piece),
            "finish_reason": finish_reason(piece),
            "id": result.job,
        }
        for piece, content in zip(result.pieces, contents, strict=True)
    ]


def error(trouble: Trouble, reference: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal; `id` is what finds it in the log."""
    status, name = ERRORS[trouble.code]
    field = _field(trouble.path)
    first = field.partition("[")[0].partition(".")[0]
    if trouble.code == "payload_too_large" and field not in WHOLE:
        status, name = 400, "invalid_image_dimensions" if "max_input_pixels" in trouble.details else "invalid_file_size"
    elif trouble.code == "invalid_param":
        name = NAMED.get(first, name)
    elif trouble.code == "resolution_not_supported" and {"max_pixels", "min_pixels"} & trouble.details.keys():
        name = "invalid_pixel_count"
    elif trouble.code == "resolution_not_supported" and first.endswith("image"):
        name = "invalid_image_dimensions"
    message = f"{field}: {trouble.message}" if field and status == 400 else trouble.message
    return status, {"id": reference, "name": name, "message": message}


def _field(path: str) -> str:
    """Our name of what is wrong as the vendor has it."""
    bare = path.removeprefix("params.")
    name = bare.partition("[")[0].partition(".")[0]
    return FIELDS.get(name, name) + bare[len(name) :]


def encoded(body: Any) -> bytes:
    """Return a body as JSON."""
    return msgspec.json.encode(body)
