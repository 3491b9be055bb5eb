"""From a client's `params` to the normal form: bounds, defaults, and refusals by name.

The normal form is what is kept in the ledger, fingerprinted and given to adapters: every value is explicit, also the
seed, so that a picture can be made again. Two hashes leave here. `body_hash` covers what the client wrote (that is what
an idempotency ref stands for); `fingerprint` covers the normal form (what a cache or a twin compares).
"""

import hashlib
import random
from collections.abc import Sequence
from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from gateway.core.models import Model
from protocol.codec import MAX_PARAMS, decode_fields
from protocol.errors import ClientFault
from protocol.messages import Submit

T = TypeVar("T")

TASK_ROLES: Final[dict[str, tuple[str, ...]]] = {
    "txt2img": (),
    "img2img": ("init",),
    "inpaint": ("init", "mask"),
}
"""The input images that each task needs, each exactly once."""

_LARGEST_SEED: Final = 4_294_967_294
"""The smallest of the vendors' seed ranges, so that one seed means something everywhere (upstreams.md 11.1)."""


class Params(Struct, frozen=True, forbid_unknown_fields=True):
    """The base names inside `params`; anything else is refused by name."""

    prompt: str
    negative_prompt: str | UnsetType = UNSET
    width: Annotated[int, Meta(ge=1, le=16384)] | UnsetType = UNSET
    height: Annotated[int, Meta(ge=1, le=16384)] | UnsetType = UNSET
    steps: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    guidance: Annotated[float, Meta(ge=0, le=100)] | UnsetType = UNSET
    sampler: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    scheduler: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=0, lt=2**53)] | UnsetType = UNSET
    n: Annotated[int, Meta(ge=1, le=64)] | UnsetType = UNSET
    strength: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    style: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET


class InputImage(Struct, frozen=True):
    """An input image that is in the store: its role, its content hash, and its edges in pixels."""

    role: str
    asset: str
    width: int
    height: int


class Request(Struct, frozen=True):
    """The normal form: one picture request with nothing left open. Edges in pixels, `strength` 1 ignores the init."""

    task: str
    model: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    n: int
    strength: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    style: str | None = None
    inputs: tuple[InputImage, ...] = ()

    def input(self, role: str) -> InputImage | None:
        """The input image of that role, if there is one."""
        return next((image for image in self.inputs if image.role == role), None)


def decode_params(raw: bytes | msgspec.Raw) -> Params:
    """Return the typed params; `ClientFault` names the wrong field, `payload_too_large` over 32 KiB."""
    if len(bytes(raw)) > MAX_PARAMS:
        raise ClientFault("payload_too_large", f"params has at most {MAX_PARAMS} bytes", details={"path": "params"})
    return decode_fields(raw, Params, "params")


def normalise(task: str, params: Params, inputs: Sequence[InputImage], model: Model, chance: random.Random) -> Request:
    """Return the normal form of what the client asked of `model`, with a seed from `chance` if it named none.

    Raises `ClientFault` for everything the model cannot do; nothing is clamped silently.
    """
    _check_task(task, model)
    _check_inputs(task, inputs)
    _check_named(params, model)
    _check_prompts(params, model)
    init = next((image for image in inputs if image.role == "init"), None)
    width, height = _size(params, init, model)
    model.sizes.check(width, height)
    return Request(
        task=task,
        model=model.id,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt or "",
        width=width,
        height=height,
        steps=_bounded("steps", params.steps, model.default_steps, *model.steps),
        guidance=float(model.default_guidance if params.guidance is UNSET else params.guidance),
        seed=chance.randint(1, _LARGEST_SEED) if params.seed is UNSET else params.seed,
        n=_bounded("n", params.n, 1, 1, model.max_n),
        strength=_strength(params, init),
        sampler=_listed("sampler", "sampler_not_supported", params.sampler, model.samplers),
        scheduler=_listed("scheduler", "invalid_param", params.scheduler, model.schedulers),
        style=_listed("style", "invalid_param", params.style, model.styles),
        inputs=tuple(sorted(inputs, key=lambda image: image.role)),
    )


def fingerprint(request: Request) -> str:
    """Return the SHA-256 of the normal form, as hexadecimal digits."""
    return hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()


def body_hash(submit: Submit, inputs: Sequence[InputImage]) -> str:
    """Return the SHA-256 of the submit's canonical body: uploads as their hash, delivery fields left out."""
    body = {
        "task": submit.task,
        "model": _told(submit.model),
        "params": msgspec.json.decode(submit.params),
        "inputs": [(image.role, image.asset) for image in inputs],
        "options": [
            (_told(one.weight), _told(one.start), _told(one.end), _told(one.preprocessor)) for one in submit.inputs
        ],
        "priority": submit.priority,
        "max_cost_micros": _told(submit.max_cost_micros),
        "deadline_ms": _told(submit.deadline_ms),
        "on_disconnect": submit.on_disconnect,
    }
    return hashlib.sha256(msgspec.json.encode(body, order="deterministic")).hexdigest()


def _told(value: T | UnsetType) -> T | None:
    return None if value is UNSET else value


def _check_task(task: str, model: Model) -> None:
    if task not in model.tasks or task not in TASK_ROLES:
        allowed = sorted(model.tasks)
        raise ClientFault(
            "task_not_supported",
            f"{model.id} cannot do this task",
            details={"path": "task", "allowed": allowed},
        )


def _check_inputs(task: str, inputs: Sequence[InputImage]) -> None:
    roles = sorted(image.role for image in inputs)
    needed = TASK_ROLES[task]
    if roles != sorted(needed):
        message = f"{task} takes {' and '.join(needed) or 'no input images'}, each once"
        raise ClientFault("invalid_param", message, details={"path": "inputs", "allowed": list(needed)})


def _check_named(params: Params, model: Model) -> None:
    for name in params.__struct_fields__:
        if getattr(params, name) is not UNSET and name not in model.params:
            allowed = sorted(model.params)
            raise ClientFault(
                "invalid_param",
                f"{model.id} has no {name}",
                details={"path": f"params.{name}", "allowed": allowed},
            )


def _check_prompts(params: Params, model: Model) -> None:
    for name in ("prompt", "negative_prompt"):
        text = getattr(params, name) or ""
        if len(text) > model.max_prompt:
            raise ClientFault(
                "prompt_too_long",
                f"{name} has at most {model.max_prompt} characters, not {len(text)}",
                details={"path": f"params.{name}", "max_length": model.max_prompt},
            )
    if not params.prompt.strip():
        raise ClientFault("invalid_param", "prompt is empty", details={"path": "params.prompt"})


def _size(params: Params, init: InputImage | None, model: Model) -> tuple[int, int]:
    """The asked size; else the init image's, else the model's default."""
    fallback = model.default_size if init is None else (init.width, init.height)
    return params.width or fallback[0], params.height or fallback[1]


def _strength(params: Params, init: InputImage | None) -> float | None:
    if init is None:
        if params.strength is not UNSET:
            raise ClientFault("invalid_param", "strength needs an init image", details={"path": "params.strength"})
        return None
    return 0.65 if params.strength is UNSET else params.strength


def _bounded(name: str, value: int | UnsetType, default: int, low: int, high: int) -> int:
    if value is UNSET:
        return default
    if not low <= value <= high:
        raise ClientFault(
            "invalid_param",
            f"{name} must be {low} to {high}",
            details={"path": f"params.{name}", "allowed": f"integer >= {low} <= {high}"},
        )
    return value


def _listed(name: str, code: str, value: str | UnsetType, allowed: tuple[str, ...]) -> str | None:
    if value is UNSET:
        return None
    if value not in allowed:
        raise ClientFault(
            code,
            f"the model has no {name} of that name",
            details={"path": f"params.{name}", "allowed": list(allowed)},
        )
    return value
