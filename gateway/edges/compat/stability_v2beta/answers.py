"""Stability AI's v2beta: its answers, made of results and of what went wrong. No I/O."""

from typing import Any, Final

import msgspec

from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.dialect import Piece, Trouble
from gateway.edges.compat.stability_both import finish_reason
from gateway.edges.compat.stability_v2beta.fields import Format
from gateway.edges.compat.stability_v2beta.tables import ERRORS, FIELDS

_FORMATS: Final[dict[str, Format]] = {"jpeg": "jpeg", "webp": "webp"}
"""What may stand behind a job in an id."""
_MISSES: Final = "missing required field"


def picture_body(piece: Piece, content: bytes) -> bytes:
    """Return a picture in JSON; `content` is what is shown of it."""
    return msgspec.json.encode(
        {"image": encode_picture(content), "finish_reason": finish_reason(piece), "seed": piece.seed}
    )


def id_of(job: str, format: Format) -> str:
    """Return the id that a picture is asked for by: it tells the format, which a job does not know."""
    return job if format == "png" else f"{job}.{format}"


def read_id(id: str) -> tuple[str, Format]:
    """Return the job and the format of an id."""
    job, _, ending = id.partition(".")
    return (job, _FORMATS[ending]) if ending in _FORMATS else (id, "png")


def unfinished(id: str) -> dict[str, Any]:
    """Return what is told of a picture that is not there yet."""
    return {"id": id, "status": "in-progress"}


def error(trouble: Trouble, reference: str) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal; `id` is what finds it in the log."""
    status, name = ERRORS[trouble.code]
    if "max_input_pixels" in trouble.details:
        status, name = ERRORS["invalid_param"]
    field = _field(trouble.path)
    message = "is required" if field and _MISSES in trouble.message else trouble.message
    return status, {"id": reference, "name": name, "errors": [f"{field}: {message}" if field else message]}


def _field(path: str) -> str:
    """Our name of what is wrong as the vendor has it; empty for what its forms have no field for."""
    name = path.removeprefix("params.").partition("[")[0].partition(".")[0]
    return "" if name in ("task", "id") else FIELDS.get(name, name)
