"""From a client's `params` to the normal form: bounds, defaults, and refusals by name.

The normal form is what is kept in the ledger, fingerprinted and given to adapters: every value is explicit, also the
seed, so that a picture can be made again. Two hashes leave here. `body_hash` covers what the client wrote (that is what
an idempotency ref stands for); `fingerprint` covers the normal form (what a cache or a twin compares).
"""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, UnsetType, structs

from gateway.core.checks import check, parts_of, prompts_of
from gateway.core.models import Model, Sizes
from gateway.core.normal import InputImage, Note, Request
from gateway.core.params import CONTROLS, TASKS, Lora, Params
from protocol.errors import ClientFault
from protocol.messages import Submit

T = TypeVar("T")
N = TypeVar("N", int, float)
_KINDS: Final[Mapping[type, str]] = {int: "integer", float: "number"}
"""What a refusal calls a number."""
_LARGEST_SEED: Final = 4_294_967_294
"""The smallest of the vendors' seed ranges, so that one seed means something everywhere (upstreams.md 11.1)."""
_DEFAULT_STRENGTH: Final = 0.65
_DEFAULT_SCALE: Final = 2.0


def normalise(task: str, params: Params, inputs: Sequence[InputImage], model: Model, chance: random.Random) -> Request:
    """Return the normal form of what the client asked of `model`, with a seed from `chance` if it named none.

    Raises `ClientFault` for everything the model cannot do. With `adjust` sizes, numbers and names are brought to the
    nearest that it can, and the request's notes say so; nothing is clamped silently.
    """
    check(task, params, inputs, model)
    prompt, negative = prompts_of(params)
    init = next((image for image in inputs if image.role == "init"), None)
    fit = Fit(adjusts=params.adjust)
    width, height = fit.size(_size(task, params, init, model), model.sizes_of(task))
    return Request(
        task=task,
        model=model.id,
        prompt=prompt,
        negative_prompt=negative,
        width=width,
        height=height,
        steps=fit.number("steps", params.steps, model.default_steps, *model.steps),
        guidance=float(fit.number("guidance", params.guidance, model.default_guidance, *model.guidance)),
        seed=chance.randint(1, _LARGEST_SEED) if params.seed is UNSET else params.seed,
        n=fit.number("n", params.n, 1, 1, model.max_n),
        strength=_strength(task, params, init),
        sampler=fit.name("sampler", "sampler_not_supported", params.sampler, model.samplers),
        scheduler=fit.name("scheduler", "invalid_param", params.scheduler, model.schedulers),
        style=fit.name("style", "invalid_param", params.style, model.styles),
        inputs=_slotted(inputs, model),
        prompts=parts_of(params),
        loras=_loras(params, model),
        expand=_told(params.expand),
        search=_told(params.search),
        tiling=params.tiling is True,
        background=fit.name("background", "invalid_param", params.background, model.backgrounds) or "auto",
        notes=tuple(fit.notes),
    )


def fingerprint(request: Request) -> str:
    """Return the SHA-256 of the normal form, as hexadecimal digits.

    What was changed on the way there and who else could do it are left out: the picture does not depend on them.
    """
    asked = structs.replace(request, notes=(), alternatives=())
    return hashlib.sha256(msgspec.json.encode(asked, order="deterministic")).hexdigest()


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


class Fit:
    """Checks values against what a model can do, and brings them to the nearest it can if the client allows that."""

    def __init__(self, *, adjusts: bool) -> None:
        self._adjusts = adjusts
        self.notes: list[Note] = []

    def size(self, asked: tuple[int, int], sizes: Sizes) -> tuple[int, int]:
        """Return an allowed size. Raises `ClientFault` `resolution_not_supported`."""
        try:
            sizes.check(*asked)
        except ClientFault:
            if not self._adjusts:
                raise
            nearest = sizes.nearest(*asked)
            self._note("param_clamped", f"size {asked[0]}x{asked[1]} became {nearest[0]}x{nearest[1]}")
            return nearest
        return asked

    def number(self, name: str, value: N | UnsetType, default: N, low: N, high: N) -> N:
        """Return a number from `low` to `high`. Raises `ClientFault` `invalid_param`."""
        if value is UNSET:
            return default
        if low <= value <= high:
            return value
        if not self._adjusts:
            raise ClientFault(
                "invalid_param",
                f"{name} must be {low:g} to {high:g}",
                details={"path": f"params.{name}", "allowed": f"{_KINDS[type(value)]} >= {low:g} <= {high:g}"},
            )
        nearest = min(max(value, low), high)
        self._note("param_clamped", f"{name} {value:g} became {nearest:g}")
        return nearest

    def name(self, name: str, code: str, value: str | UnsetType, allowed: tuple[str, ...]) -> str | None:
        """Return one of the `allowed` names, or none for the model's own choice. Raises `ClientFault` of `code`."""
        if value is UNSET or value in allowed:
            return None if value is UNSET else value
        if not self._adjusts:
            raise ClientFault(
                code,
                f"the model has no {name} of that name",
                details={"path": f"params.{name}", "allowed": list(allowed)},
            )
        self._note(f"{name}_fallback", f"the model has no {name} of that name; it takes its own")
        return None

    def _note(self, code: str, message: str) -> None:
        self.notes.append(Note(code, message))


def _size(task: str, params: Params, init: InputImage | None, model: Model) -> tuple[int, int]:
    """The result's size: what follows from the init image, the asked one, or the model's default."""
    if init is None:
        return params.width or model.default_size[0], params.height or model.default_size[1]
    if task == "outpaint" and params.expand is not UNSET:
        grown = params.expand
        return init.width + grown.left + grown.right, init.height + grown.up + grown.down
    if task == "upscale":
        return _upscaled(params, init)
    return params.width or init.width, params.height or init.height


def _upscaled(params: Params, init: InputImage) -> tuple[int, int]:
    """The size after an upscale, in the init's shape: from `scale`, one edge, or both."""
    if params.width and params.height:
        return params.width, params.height
    scale = params.scale or _DEFAULT_SCALE
    if params.width:
        scale = params.width / init.width
    elif params.height:
        scale = params.height / init.height
    return max(1, round(init.width * scale)), max(1, round(init.height * scale))


def _strength(task: str, params: Params, init: InputImage | None) -> float | None:
    if params.strength is not UNSET:
        return params.strength
    return _DEFAULT_STRENGTH if init is not None and TASKS[task].uses_strength else None


def _slotted(inputs: Sequence[InputImage], model: Model) -> tuple[InputImage, ...]:
    """The input images by role, those of one role in the client's order, each with a slot of its own."""
    seen: Counter[str] = Counter()
    slotted = []
    for image in sorted(inputs, key=lambda image: image.role):
        seen[image.role] += 1
        slot = image.role if seen[image.role] == 1 else f"{image.role}-{seen[image.role]}"
        whole = _control(image, model) if image.role in CONTROLS else image
        slotted.append(structs.replace(whole, slot=slot))
    return tuple(slotted)


def _control(image: InputImage, model: Model) -> InputImage:
    return structs.replace(
        image,
        weight=1.0 if image.weight is None else image.weight,
        start=image.start or 0.0,
        end=1.0 if image.end is None else image.end,
        preprocessor=image.preprocessor or model.preprocessors[0],
    )


def _loras(params: Params, model: Model) -> tuple[Lora, ...]:
    if params.loras is UNSET:
        return ()
    seen: set[str] = set()
    for place, lora in enumerate(params.loras):
        if lora.name in seen:
            details = {"path": f"params.loras[{place}].name"}
            raise ClientFault("invalid_param", "a LoRA of that name stands there already", details=details)
        seen.add(lora.name)
        if lora.name not in model.loras:
            raise ClientFault(
                "invalid_param",
                "the model has no LoRA of that name",
                details={"path": f"params.loras[{place}].name", "allowed": list(model.loras[:64])},
            )
    return tuple(params.loras)
