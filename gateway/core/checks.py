"""What a model refuses, by name: the kind of work, the input images, the params."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import UNSET

from gateway.core.models import Model
from gateway.core.normal import InputImage
from gateway.core.params import CONTROLS, TASKS, Expand, Params, WeightedPrompt, split_prompts
from protocol.errors import ClientFault

_OPTIONS: Final = ("weight", "start", "end", "preprocessor")
"""How a client may say that an input image is used."""


def check(task: str, params: Params, inputs: Sequence[InputImage], model: Model) -> None:
    """Raise `ClientFault` for everything in a request that the model cannot do, but for sizes, numbers and names."""
    _check_task(task, model)
    _check_inputs(task, inputs, model)
    _check_named(task, params, inputs, model)
    _check_prompts(task, params, model)


def _check_task(task: str, model: Model) -> None:
    if task not in model.tasks or task not in TASKS:
        allowed = sorted(model.tasks)
        raise ClientFault(
            "task_not_supported",
            f"{model.id} cannot do this task",
            details={"path": "task", "allowed": allowed},
        )


def _check_inputs(task: str, inputs: Sequence[InputImage], model: Model) -> None:
    limits = {"control": model.max_controls, "reference": model.max_references}
    counts = Counter("control" if image.role in CONTROLS else image.role for image in inputs)
    roles = TASKS[task].roles
    for role, (least, at_most) in roles.items():
        most = min(at_most, limits.get(role, at_most))
        if not least <= counts.pop(role, 0) <= most:
            raise _bad_inputs(f"{task} takes {_count(least, most)} of role {role}", roles)
    if counts:
        raise _bad_inputs(f"{task} takes no {' or '.join(sorted(counts))}", roles)
    given = {image.role for image in inputs}
    if "mask" in given and "init" in roles and "init" not in given:
        raise _bad_inputs("a mask needs an init image", roles)
    for place, image in enumerate(inputs):
        _check_options(image, f"inputs[{place}]")
        _check_bounds(image, model, f"inputs[{place}]")
        if image.role in CONTROLS:
            _check_control(image, model, f"inputs[{place}]")


def _check_options(image: InputImage, path: str) -> None:
    """What only a control or a reference can use would be dropped in silence elsewhere."""
    idle = {"init": _OPTIONS, "mask": _OPTIONS, "reference": ("preprocessor",)}.get(image.role, ())
    for name in idle:
        if getattr(image, name) is not None:
            message = f"{name} has no effect on an input image of role {image.role}"
            raise ClientFault("invalid_param", message, details={"path": f"{path}.{name}"})
    if image.start is not None and image.end is not None and image.start > image.end:
        raise ClientFault("invalid_param", "an input image ends before it starts", details={"path": f"{path}.end"})


def _check_bounds(image: InputImage, model: Model, path: str) -> None:
    role = "control" if image.role in CONTROLS else image.role
    for name, (low, high) in model.bounds.get(role, {}).items():
        value = getattr(image, name)
        if value is not None and not low <= value <= high:
            span = f"{low:g}" if low == high else f"{low:g} to {high:g}"
            message = f"{name} of an input image of role {image.role} must be {span}"
            details = {"path": f"{path}.{name}", "allowed": f"number >= {low:g} <= {high:g}"}
            raise ClientFault("invalid_param", message, details=details)


def _check_control(image: InputImage, model: Model, path: str) -> None:
    for value, name, allowed in (
        (image.role, "role", model.controls),
        (image.preprocessor, "preprocessor", model.preprocessors),
    ):
        if value is not None and value not in allowed:
            message = f"the model has no {name} {value} for control images"
            raise ClientFault("invalid_param", message, details={"path": f"{path}.{name}", "allowed": list(allowed)})


def _count(least: int, most: int) -> str:
    return f"{least} input image" if least == most == 1 else f"{least} to {most} input images"


def _bad_inputs(message: str, roles: Mapping[str, tuple[int, int]]) -> ClientFault:
    return ClientFault("invalid_param", message, details={"path": "inputs", "allowed": sorted(roles)})


def _check_named(task: str, params: Params, inputs: Sequence[InputImage], model: Model) -> None:
    allowed = model.effects(task, {image.role for image in inputs}) | {"adjust"}
    if "prompt" in allowed:
        allowed |= {"prompts"}
    named = [name for name in params.__struct_fields__ if getattr(params, name) is not UNSET]
    for name in named:
        if name not in allowed:
            beside = " with these input images" if name in model.tasks[task] else ""
            raise ClientFault(
                "invalid_param",
                f"{name} has no effect in {task} of {model.id}{beside}",
                details={"path": f"params.{name}", "allowed": sorted(allowed)},
            )
    _check_needs(task, params)
    if params.strength is not UNSET and not any(image.role == "init" for image in inputs):
        raise ClientFault("invalid_param", "strength needs an init image", details={"path": "params.strength"})


def _check_needs(task: str, params: Params) -> None:
    for name in sorted(TASKS[task].needs):
        given = params.prompts if name == "prompt" and params.prompt is UNSET else getattr(params, name)
        if given is UNSET:
            raise ClientFault("invalid_param", f"{task} needs {name}", details={"path": f"params.{name}"})
    if params.expand is not UNSET and params.expand == Expand():
        raise ClientFault("invalid_param", "expand has no side that grows", details={"path": "params.expand"})
    if params.search is not UNSET and not params.search.strip():
        raise ClientFault("invalid_param", "search is empty", details={"path": "params.search"})
    # Both say how large the result is, and only one would be heard.
    for name in ("expand", "scale"):
        if getattr(params, name) is not UNSET and (params.width is not UNSET or params.height is not UNSET):
            raise ClientFault("invalid_param", f"give {name}, or width and height", details={"path": f"params.{name}"})


def parts_of(params: Params) -> tuple[WeightedPrompt, ...]:
    """The parts of the prompt with their weights, the negative prompt among them; none if no weights were given."""
    if params.prompts is UNSET:
        return ()
    if params.prompt is not UNSET:
        raise ClientFault("invalid_param", "give prompt or prompts, not both", details={"path": "params.prompts"})
    negative = params.negative_prompt or ""
    return (*params.prompts, WeightedPrompt(negative, -1.0)) if negative.strip() else tuple(params.prompts)


def prompts_of(params: Params) -> tuple[str, str]:
    """The prompt and the negative prompt as text."""
    parts = parts_of(params)
    return split_prompts(parts) if parts else (params.prompt or "", params.negative_prompt or "")


def _check_prompts(task: str, params: Params, model: Model) -> None:
    parts = parts_of(params)
    _check_parts(task, parts, model)
    prompt, negative = prompts_of(params)
    names = ("prompts", "prompts") if parts else ("prompt", "negative_prompt")
    for name, text in (*zip(names, (prompt, negative), strict=True), ("search", params.search or "")):
        if len(text) > model.max_prompt:
            raise ClientFault(
                "prompt_too_long",
                f"{name} has at most {model.max_prompt} characters, not {len(text)}",
                details={"path": f"params.{name}", "max_length": model.max_prompt},
            )
    says_something = any(part.weight > 0 for part in parts) if parts else prompt.strip()
    if "prompt" in TASKS[task].needs and not says_something:
        raise ClientFault("invalid_param", "prompt is empty", details={"path": f"params.{names[0]}"})


def _check_parts(task: str, parts: Sequence[WeightedPrompt], model: Model) -> None:
    for place, part in enumerate(parts):
        path = f"params.prompts[{place}]"
        if not part.text.strip():
            raise ClientFault("invalid_param", "a part of the prompt is empty", details={"path": f"{path}.text"})
        if part.weight < 0 and "negative_prompt" not in model.tasks[task]:
            message = f"a negative prompt has no effect in {task} of {model.id}"
            raise ClientFault("invalid_param", message, details={"path": f"{path}.weight", "min": 0})
