"""What the web UI answers, without I/O: pictures with their `info`, and errors."""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from gateway.core.normal import Request
from gateway.edges.compat.a1111.fields import TABLES, WITH_PICTURES
from gateway.edges.compat.a1111.tables import ERRORS, NAMES, SAID, SAMPLERS, SCHEDULERS, TYPES
from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.dialect import Result, Trouble

_PART: Final = re.compile(r"[^.\[\]]+")


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a generation's request its answer needs."""

    parameters: dict[str, Any] = field(default_factory=dict)
    format: str = "png"
    batch_size: int = 1
    send_images: bool = True


def parameters_of(operation: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Return the request with the web UI's defaults for what it left out, and without pictures."""
    table = TABLES[operation]
    told = {name: fields.get(name, default) for name, (_, default) in table.items()}
    return {name: table[name][1] if name in WITH_PICTURES else value for name, value in told.items()}


def pictures(result: Result, contents: list[bytes], asked: Asked) -> bytes:
    """Return the body that a generation is answered with; `contents` has a picture for each piece."""
    images = [encode_picture(content) for content in contents] if asked.send_images else []
    return msgspec.json.encode({"images": images, "parameters": asked.parameters, "info": info_of(result, asked)})


def unfinished(content: bytes | None) -> bytes:
    """Return the body that an interrupted generation is answered with: what there was of its picture."""
    images = [] if content is None else [encode_picture(content)]
    return msgspec.json.encode({"images": images, "parameters": {}, "info": "{}"})


def enlarged(content: bytes) -> bytes:
    """Return the body that an enlarged picture is answered with."""
    return msgspec.json.encode({"html_info": "", "image": encode_picture(content)})


def info_of(result: Result, asked: Asked) -> str:
    """Return the `info` of an answer: JSON in a text."""
    request, seeds = result.request, [piece.seed for piece in result.pieces]
    filtered = [str(piece.index + 1) for piece in result.pieces if piece.content is None]
    more = {"Content filtered": ", ".join(filtered)} if filtered else {}
    if request.scheduler is not None:
        more["Schedule type"] = SCHEDULERS.get(request.scheduler, request.scheduler)
    told = {
        "prompt": request.prompt,
        "all_prompts": [request.prompt] * request.n,
        "negative_prompt": request.negative_prompt,
        "all_negative_prompts": [request.negative_prompt] * request.n,
        "seed": seeds[0],
        "all_seeds": seeds,
        "subseed": seeds[0],
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": request.width,
        "height": request.height,
        "sampler_name": sampler_label(request.sampler),
        "cfg_scale": request.guidance,
        "steps": request.steps,
        "batch_size": asked.batch_size,
        "restore_faces": None,
        "face_restoration_model": None,
        "sd_model_name": request.model,
        "sd_model_hash": None,
        "sd_vae_name": None,
        "sd_vae_hash": None,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": request.strength,
        "extra_generation_params": more,
        "index_of_first_image": 0,
        "infotexts": [_infotext(request, seed, more) for seed in seeds],
        "styles": [] if request.style is None else [request.style],
        "job_timestamp": timestamp(result.created_ms),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": False,
        "version": "",
    }
    return msgspec.json.encode(told).decode()


def sampler_label(name: str | None) -> str:
    """Return what the web UI calls one of our samplers."""
    return "Default" if name is None else SAMPLERS.get(name, name)


def timestamp(time_ms: int) -> str:
    """Return a time as the web UI writes it."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y%m%d%H%M%S}"


def _infotext(request: Request, seed: int, more: dict[str, str]) -> str:
    facts = {
        "Steps": request.steps,
        "Sampler": sampler_label(request.sampler),
        "CFG scale": request.guidance,
        "Seed": seed,
        "Size": f"{request.width}x{request.height}",
        "Model": request.model,
        **more,
    }
    if request.strength is not None:
        facts["Denoising strength"] = request.strength
    negative = [f"Negative prompt: {request.negative_prompt}"] if request.negative_prompt else []
    return "\n".join([request.prompt, *negative, ", ".join(f"{name}: {value}" for name, value in facts.items())])


# -------------------------------------------------------------------------------------------------------------- errors


def error(trouble: Trouble) -> tuple[int, dict[str, Any]]:
    """Return the status and the body of a refusal."""
    status, name = ERRORS[trouble.code]
    message = SAID.get(trouble.code, trouble.message)
    if status >= 500:
        return status, {"error": name, "detail": "", "body": "", "errors": message}
    if not name:
        return status, {"detail": message}
    if trouble.code == "bad_request" and trouble.path == "body":
        name, message = "json_invalid", "JSON decode error"
    kind = next((kind for start, kind in TYPES.items() if message.startswith(start)), name)
    return status, {"detail": [{"type": kind, "loc": ["body", *_place(trouble.path)], "msg": message}]}


def _place(path: str) -> list[str | int]:
    """Our name of what is wrong as the web UI's framework has it: a list of names and places."""
    parts = _PART.findall(path.removeprefix("params."))
    if not parts or parts == ["body"]:
        return []
    parts[0] = NAMES.get(parts[0], parts[0])
    return [int(part) if part.isdigit() else part for part in parts]
