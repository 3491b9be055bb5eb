from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import structs

from gateway.core.checks import check, parts_of, prompts_of
from gateway.core.models import AS_IT_IS
from gateway.core.normal import InputImage
from gateway.core.params import CONTROLS, TASKS, Expand, Params, WeightedPrompt
from protocol.errors import ClientFault
from tests.gateway.core.asking import ASSET, CANNY, DEPTH, INIT, LEAST, MASK, MODEL, NARROW, REFERENCE, refused


def path_of(fault: ClientFault) -> tuple[str, str]:
    """Return the code and the field that a refusal names."""
    return fault.code, fault.details["path"]


# --------------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize("task", TASKS)
def test_task_passes_with_the_least_that_it_needs(task: str) -> None:
    """Each of the nine can be asked for."""
    inputs, params = LEAST[task]
    check(task, Params(**params), inputs, MODEL)


@pytest.mark.parametrize("task,name", [(task, name) for task in TASKS for name in sorted(TASKS[task].needs)])
def test_task_without_what_it_needs_is_refused_by_name(task: str, name: str) -> None:
    """Without it the task means nothing."""
    inputs, params = LEAST[task]
    with pytest.raises(ClientFault) as caught:
        check(task, Params(**{given: value for given, value in params.items() if given != name}), inputs, MODEL)
    assert path_of(caught.value) == ("invalid_param", f"params.{name}")


def test_task_that_the_model_or_everybody_lacks_is_refused() -> None:
    """With what the model can do; a model's own words for tasks open nothing."""
    fault = refused("img2img", NARROW)
    assert (fault.code, fault.details) == ("task_not_supported", {"path": "task", "allowed": ["txt2img"]})
    with pytest.raises(ClientFault, match="m cannot do this task"):
        check("paint", Params(), [], replace(MODEL, tasks={"paint": frozenset()}))


# -------------------------------------------------------------------------------------------------------------- inputs

MOST: dict[str, dict[str, tuple[int, int]]] = {
    "txt2img": {},
    "img2img": {"init": (1, 1)},
    "inpaint": {"init": (1, 1), "mask": (1, 1)},
    "outpaint": {"init": (1, 1)},
    "controlnet": {"init": (0, 1), "mask": (0, 1), "control": (1, 3)},
    "reference": {"reference": (1, 2), "mask": (0, 1)},
    "upscale": {"init": (1, 1)},
    "remove_background": {"init": (1, 1)},
    "search_replace": {"init": (1, 1)},
}
"""Task -> role -> how many images MODEL takes."""
IMAGES = some.lists(
    some.sampled_from([INIT, MASK, CANNY, DEPTH, REFERENCE, InputImage("face", ASSET, 9, 9)]), max_size=5
)


def is_taken(task: str, inputs: list[InputImage]) -> bool:
    """Say what `MOST` says, and that nothing can be masked without a picture that is changed."""
    counts = Counter("control" if image in (CANNY, DEPTH) else image.role for image in inputs)
    if task == "controlnet" and counts["mask"] and not counts["init"]:
        return False
    bounds = MOST[task]
    return all(role in bounds for role in counts) and all(
        least <= counts[role] <= most for role, (least, most) in bounds.items()
    )


@given(some.sampled_from(list(TASKS)), IMAGES)
def test_inputs_pass_exactly_where_the_roles_allow_them(task: str, inputs: list[InputImage]) -> None:
    """Neither too few nor too many of a role, and none of another."""
    params = Params(**LEAST[task][1])
    if is_taken(task, inputs):
        check(task, params, inputs, MODEL)
        return
    with pytest.raises(ClientFault) as caught:
        check(task, params, inputs, MODEL)
    assert path_of(caught.value) == ("invalid_param", "inputs")
    assert caught.value.details["allowed"] == sorted(MOST[task])


@pytest.mark.parametrize(
    "task,inputs,message",
    [
        ("txt2img", [INIT], "txt2img takes no init"),
        ("upscale", [INIT, MASK, REFERENCE], "upscale takes no mask or reference"),
        ("img2img", [], "img2img takes 1 input image of role init"),
        ("img2img", [INIT, INIT], "img2img takes 1 input image of role init"),
        ("controlnet", [], "controlnet takes 1 to 3 input images of role control"),
        ("controlnet", [CANNY] * 4, "controlnet takes 1 to 3 input images of role control"),
        ("controlnet", [CANNY, MASK], "a mask needs an init image"),
        ("reference", [REFERENCE] * 3, "reference takes 1 to 2 input images of role reference"),
    ],
)
def test_refused_inputs_are_told_how_many_there_may_be(task: str, inputs: list[InputImage], message: str) -> None:
    """In words, by role; kinds of control count together, and the model's own bounds count."""
    assert refused(task, inputs=inputs).message == message


def test_tasks_bounds_hold_where_the_models_are_wider() -> None:
    """A model cannot take more than a submit can carry."""
    wide = replace(MODEL, max_controls=99, max_references=99)
    check("controlnet", Params(prompt="x"), [CANNY] * 8, wide)
    assert "1 to 8 input images" in refused("controlnet", wide, [CANNY] * 9).message
    assert "1 to 8 input images" in refused("reference", wide, [REFERENCE] * 9).message


@pytest.mark.parametrize(
    "options,name,allowed",
    [
        ({"role": "pose"}, "role", ["canny", "depth"]),
        ({"preprocessor": "hed"}, "preprocessor", ["auto", "none"]),
        ({"preprocessor": ""}, "preprocessor", ["auto", "none"]),
        ({"start": 0.6, "end": 0.5}, "end", None),
    ],
)
def test_control_that_the_model_cannot_use_is_refused_by_place(
    options: dict[str, Any], name: str, allowed: list[str] | None
) -> None:
    """The second of two is named, and what may stand there."""
    fault = refused("controlnet", inputs=[CANNY, structs.replace(DEPTH, **options)])
    assert path_of(fault) == ("invalid_param", f"inputs[1].{name}")
    assert fault.details.get("allowed") == allowed


@pytest.mark.parametrize("role", CONTROLS)
def test_every_kind_of_control_can_be_a_models(role: str) -> None:
    """Where it names it."""
    model = replace(MODEL, controls=(role,))
    check("controlnet", Params(prompt="x"), [structs.replace(CANNY, role=role, start=0.2, end=0.2)], model)


@pytest.mark.parametrize("image,task", [(INIT, "inpaint"), (MASK, "inpaint"), (REFERENCE, "reference")])
@pytest.mark.parametrize("option", [{"weight": 0.5}, {"start": 0.0}, {"end": 1.0}, {"preprocessor": "none"}])
def test_option_that_a_role_has_no_use_for_is_refused(image: InputImage, task: str, option: dict[str, Any]) -> None:
    """It would be dropped in silence: only a reference has a weight and a span beside the controls."""
    others = [one for one in LEAST[task][0] if one is not image]
    inputs = [*others, structs.replace(image, **option)]
    if image is REFERENCE and "preprocessor" not in option:
        check(task, Params(prompt="x"), inputs, MODEL)
    else:
        (name,) = option
        assert path_of(refused(task, inputs=inputs)) == ("invalid_param", f"inputs[{len(others)}].{name}")


BOUND = replace(MODEL, bounds={"control": {"weight": (0.0, 2.0), "start": (0.0, 0.0)}, "reference": AS_IT_IS})


@pytest.mark.parametrize(
    "task,image,options,allowed",
    [
        ("controlnet", CANNY, {"weight": -0.5}, "number >= 0 <= 2"),
        ("controlnet", DEPTH, {"weight": 2.5}, "number >= 0 <= 2"),
        ("controlnet", CANNY, {"start": 0.5}, "number >= 0 <= 0"),
        ("reference", REFERENCE, {"end": 0.5}, "number >= 1 <= 1"),
    ],
)
def test_option_out_of_the_models_bounds_is_refused_by_place(
    task: str, image: InputImage, options: dict[str, float], allowed: str
) -> None:
    """All kinds of control have the same."""
    (name,) = options
    inputs = [REFERENCE if image is REFERENCE else CANNY, structs.replace(image, **options)]
    fault = refused(task, BOUND, inputs)
    assert path_of(fault) == ("invalid_param", f"inputs[1].{name}")
    assert fault.details["allowed"] == allowed
    check(task, Params(prompt="x"), inputs, MODEL)


def test_refused_option_is_told_its_bounds_in_words() -> None:
    """Where one value is left, that."""
    assert refused("controlnet", BOUND, [structs.replace(CANNY, weight=3.0)]).message == (
        "weight of an input image of role canny must be 0 to 2"
    )
    assert refused("reference", BOUND, [structs.replace(REFERENCE, weight=0.5)]).message == (
        "weight of an input image of role reference must be 1"
    )


def test_option_within_the_models_bounds_passes() -> None:
    """The least, the most, and what is left open."""
    controls = [structs.replace(CANNY, weight=0.0, end=0.5), structs.replace(DEPTH, weight=2.0, start=0.0), CANNY]
    check("controlnet", Params(prompt="x"), controls, BOUND)
    check("reference", Params(prompt="x"), [structs.replace(REFERENCE, weight=1.0, start=0.0, end=1.0)], BOUND)


# -------------------------------------------------------------------------------------------------------------- params

VALUES: dict[str, Any] = {
    "prompts": [WeightedPrompt("x")], "negative_prompt": "x", "width": 512, "height": 512, "steps": 20,
    "guidance": 7.0, "sampler": "euler", "scheduler": "karras", "n": 1, "strength": 0.5, "style": "anime",
    "loras": [], "expand": Expand(up=8), "scale": 2.0, "search": "x",
    "tiling": False, "background": "auto",
}  # fmt: skip


def test_every_param_is_among_the_values_tried() -> None:
    """So that a new one is not forgotten below."""
    assert {*VALUES, "prompt", "seed", "adjust"} == set(Params.__struct_fields__)


@pytest.mark.parametrize("name", [name for name in VALUES if name != "prompts"])
def test_param_without_effect_is_refused_by_name(name: str) -> None:
    """With what has one; `prompts` goes where `prompt` goes, and `adjust` everywhere."""
    fault = refused(model=NARROW, **{name: VALUES[name]})
    assert path_of(fault) == ("invalid_param", f"params.{name}")
    assert fault.details["allowed"] == ["adjust", "prompt", "prompts", "seed"]
    check("txt2img", Params(prompts=VALUES["prompts"], seed=1, adjust=True), [], NARROW)


def test_params_count_by_task() -> None:
    """What has an effect in one task may have none in another."""
    model = replace(MODEL, tasks={"txt2img": frozenset({"prompt"}), "upscale": frozenset({"scale"})})
    check("upscale", Params(scale=2.0), [INIT], model)
    assert path_of(refused("upscale", model, prompt="x")) == ("invalid_param", "params.prompt")
    assert path_of(refused("upscale", model, prompts=[WeightedPrompt("x")])) == ("invalid_param", "params.prompts")
    assert path_of(refused(model=model, scale=2.0)) == ("invalid_param", "params.scale")


def test_param_that_has_no_effect_beside_a_picture_is_refused_by_name() -> None:
    """And the task is not blamed."""
    model = replace(MODEL, idle_beside={"tiling": frozenset({"init"})})
    check("controlnet", Params(prompt="x", tiling=True), [CANNY], model)
    fault = refused("controlnet", model, [CANNY, INIT], tiling=True)
    assert path_of(fault) == ("invalid_param", "params.tiling")
    assert "tiling" not in fault.details["allowed"]
    assert fault.message == "tiling has no effect in controlnet of m with these input images"
    assert refused(model=NARROW, tiling=True).message == "tiling has no effect in txt2img of m"


@pytest.mark.parametrize(
    "task,params,path",
    [
        ("controlnet", {"strength": 0.5}, "params.strength"),
        ("outpaint", {"expand": Expand()}, "params.expand"),
        ("outpaint", {"width": 512}, "params.expand"),
        ("upscale", {"scale": 2.0, "width": 512}, "params.scale"),
        ("upscale", {"scale": 2.0, "height": 512}, "params.scale"),
        ("search_replace", {"search": " \t"}, "params.search"),
    ],
)
def test_params_that_contradict_or_say_nothing_are_refused(task: str, params: dict[str, Any], path: str) -> None:
    """Strength of no init, sides that do not grow, two sizes at once, a search for nothing."""
    assert path_of(refused(task, **params)) == ("invalid_param", path)


# ------------------------------------------------------------------------------------------------------------- prompts


@pytest.mark.parametrize(
    "task,params,code,path",
    [
        ("txt2img", {"prompt": ""}, "invalid_param", "params.prompt"),
        ("txt2img", {"prompt": " \n"}, "invalid_param", "params.prompt"),
        ("txt2img", {"prompts": [WeightedPrompt("x")]}, "invalid_param", "params.prompts"),
        ("txt2img", {"prompt": "x" * 101}, "prompt_too_long", "params.prompt"),
        ("txt2img", {"negative_prompt": "x" * 101}, "prompt_too_long", "params.negative_prompt"),
        ("search_replace", {"search": "x" * 101}, "prompt_too_long", "params.search"),
        ("upscale", {"prompt": "x" * 101}, "prompt_too_long", "params.prompt"),
    ],
)
def test_prompt_that_cannot_be_used_is_refused(task: str, params: dict[str, Any], code: str, path: str) -> None:
    """Empty where it is needed, said twice, or too long in any place."""
    assert path_of(refused(task, **params)) == (code, path)


@pytest.mark.parametrize(
    "parts,code,path",
    [
        ([("a fox", 1), (" ", 2)], "invalid_param", "params.prompts[1].text"),
        ([("a fox", 0)], "invalid_param", "params.prompts"),
        ([("a fox", -1)], "invalid_param", "params.prompts"),
        ([("x" * 50, 1), ("y" * 50, 1)], "prompt_too_long", "params.prompts"),
        ([("a fox", 1), ("x" * 100, -2)], "prompt_too_long", "params.prompts"),
    ],
)
def test_parts_that_cannot_be_used_are_refused(parts: list[tuple[str, float]], code: str, path: str) -> None:
    """The notation does not hide that nothing is said, and counts as the upstream will read it."""
    prompts = [WeightedPrompt(text, weight) for text, weight in parts]
    assert path_of(refused(prompt=None, prompts=prompts)) == (code, path)


def test_negative_part_is_refused_where_a_negative_prompt_has_no_effect() -> None:
    """It is one by another name, and would be dropped in silence."""
    parts = [WeightedPrompt("a fox"), WeightedPrompt("fog", -0.5)]
    fault = refused(model=NARROW, prompt=None, prompts=parts)
    assert path_of(fault) == ("invalid_param", "params.prompts[1].weight")
    check("txt2img", Params(prompts=parts), [], MODEL)


def test_prompt_may_be_empty_where_it_is_not_needed() -> None:
    """An upscale goes without."""
    check("upscale", Params(prompt=""), [INIT], MODEL)
    check("upscale", Params(prompts=[WeightedPrompt("fog", -1)]), [INIT], MODEL)


def test_prompts_are_text_for_who_reads_no_parts() -> None:
    """A negative prompt beside them is a part of weight -1; a blank one is none."""
    parts = [WeightedPrompt("a fox", 1.5), WeightedPrompt("fog", -2), WeightedPrompt("snow")]
    assert parts_of(Params(prompts=parts, negative_prompt="rain")) == (*parts, WeightedPrompt("rain", -1))
    assert prompts_of(Params(prompts=parts, negative_prompt="rain")) == ("(a fox:1.5), snow", "(fog:2), rain")
    assert parts_of(Params(prompts=parts, negative_prompt=" ")) == tuple(parts)
    assert prompts_of(Params(prompt="a fox", negative_prompt="fog")) == ("a fox", "fog")
    assert (parts_of(Params()), prompts_of(Params())) == ((), ("", ""))
