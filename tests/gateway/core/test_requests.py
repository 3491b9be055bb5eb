import random
from collections import Counter
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import structs

from gateway.core.normal import InputImage, Request
from gateway.core.params import TASKS, Expand, Lora, Params, WeightedPrompt, decode_params
from gateway.core.requests import normalise
from protocol.errors import ClientFault
from tests.gateway.core.asking import (
    ASSET,
    CANNY,
    DEPTH,
    INIT,
    LEAST,
    MASK,
    MODEL,
    OTHER,
    REFERENCE,
    made,
    refused,
)


def test_nothing_is_left_open_in_the_normal_form() -> None:
    """Every default is written out, the seed is drawn."""
    request = made()
    assert request == Request("txt2img", "m", "a fox", "", 512, 512, 20, 7.0, request.seed, 1)
    assert 1 <= request.seed < 2**32 - 1


def test_seed_comes_from_chance_only_if_none_was_named() -> None:
    """Seed 0 is a seed."""
    assert made(seed=0).seed == 0
    drawn = {normalise("txt2img", Params("x"), [], MODEL, random.Random(one)).seed for one in range(50)}
    assert len(drawn) == 50


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_normal_form(task: str) -> None:
    """From the least that it needs, with the model's defaults for the rest."""
    request = made(task)
    assert (request.task, request.model, request.steps, request.guidance, request.n) == (task, "m", 20, 7.0, 1)
    assert (request.notes, request.alternatives) == ((), ())
    assert request == made(task), "the same chance gives the same seed"


@pytest.mark.parametrize(
    "task,strength",
    [(task, 0.65 if task in {"img2img", "inpaint"} else None) for task in TASKS],
)
def test_strength_stands_only_where_an_init_is_drawn_over(task: str, strength: float | None) -> None:
    """By default; a strength that was said is kept, 0 too."""
    assert made(task).strength == strength
    if any(image.role == "init" for image in LEAST[task][0]):
        assert made(task, strength=0.0).strength == 0.0


def test_strength_of_a_controlled_picture_depends_on_its_init() -> None:
    """Which it may have or not."""
    assert made("controlnet").strength is None
    assert made("controlnet", inputs=[CANNY, INIT]).strength == 0.65


# -------------------------------------------------------------------------------------------------------------- inputs


def test_inputs_are_kept_by_role() -> None:
    """Their order on the wire means nothing."""
    request = made("inpaint")
    assert request.inputs == (structs.replace(INIT, slot="init"), structs.replace(MASK, slot="mask"))
    assert request.input("mask") == structs.replace(MASK, slot="mask")
    assert made("img2img").input("mask") is None
    assert (request.controls, request.references) == ((), ())


def test_inputs_of_one_role_have_slots_in_the_clients_order() -> None:
    """The first bears the role's name, the others a number."""
    second = structs.replace(CANNY, asset=OTHER)
    request = made("controlnet", inputs=[DEPTH, CANNY, INIT, second])
    assert [(image.slot, image.asset) for image in request.inputs] == [
        ("canny", ASSET), ("canny-2", OTHER), ("depth", OTHER), ("init", ASSET),
    ]  # fmt: skip
    assert [image.slot for image in request.controls] == ["canny", "canny-2", "depth"]
    found = request.input("canny")
    assert found is not None
    assert found.slot == "canny"


@given(some.lists(some.sampled_from([CANNY, DEPTH]), min_size=1, max_size=8), some.randoms())
def test_slots_are_unique_whatever_is_sent(controls: list[InputImage], chance: random.Random) -> None:
    """And nothing is lost or added."""
    inputs = [*controls, INIT, MASK]
    chance.shuffle(inputs)
    request = made("controlnet", replace(MODEL, max_controls=8), inputs)
    assert len({image.slot for image in request.inputs}) == len(inputs)
    assert Counter(image.role for image in request.inputs) == Counter(image.role for image in inputs)
    assert len(request.controls) == len(controls)


def test_control_is_used_whole_and_as_the_model_prefers_unless_it_says_otherwise() -> None:
    """Zero is a weight, a start and an end."""
    (plain,) = made("controlnet").controls
    assert (plain.weight, plain.start, plain.end, plain.preprocessor) == (1.0, 0.0, 1.0, "auto")
    said = structs.replace(CANNY, weight=0.0, start=0.0, end=0.0, preprocessor="none")
    assert made("controlnet", inputs=[said]).controls == (structs.replace(said, slot="canny"),)
    late = structs.replace(CANNY, weight=-2.0, start=0.4)
    (kept,) = made("controlnet", inputs=[late]).controls
    assert (kept.weight, kept.start, kept.end) == (-2.0, 0.4, 1.0)


def test_references_are_left_as_they_were_sent() -> None:
    """How strong a reference is when nobody says so is for the upstream to choose."""
    weighed = structs.replace(REFERENCE, weight=0.3)
    request = made("reference", inputs=[REFERENCE, MASK, weighed])
    assert request.references == (
        structs.replace(REFERENCE, slot="reference"),
        structs.replace(weighed, slot="reference-2"),
    )
    assert request.references[0].weight is None


# ---------------------------------------------------------------------------------------- prompts, LoRAs, and the rest


def test_weighted_prompts_are_kept_and_told_as_text() -> None:
    """The negative prompt is among the parts: an upstream that reads them reads nothing else."""
    parts = [WeightedPrompt("a fox", 1.2), WeightedPrompt("fog", -0.5)]
    request = made(prompt=None, prompts=parts, negative_prompt="rain")
    assert request.prompts == (*parts, WeightedPrompt("rain", -1.0))
    assert (request.prompt, request.negative_prompt) == ("(a fox:1.2)", "(fog:0.5), rain")
    assert made().prompts == ()


def test_loras_are_kept_in_their_order() -> None:
    """With their weights."""
    loras = [Lora("neon", 0.5), Lora("ink", -1.0)]
    assert made(loras=loras).loras == tuple(loras)
    assert made(loras=[]).loras == made().loras == ()


@pytest.mark.parametrize(
    "loras,path,allowed",
    [
        ([Lora("ink"), Lora("oil")], "params.loras[1].name", ["ink", "neon"]),
        ([Lora("ink"), Lora("ink", 0.5)], "params.loras[1].name", None),
        ([Lora("neon"), Lora("ink"), Lora("neon")], "params.loras[2].name", None),
    ],
)
@pytest.mark.parametrize("adjust", [False, True])
def test_lora_that_is_unknown_or_twice_there_is_refused(
    loras: list[Lora], path: str, allowed: list[str] | None, adjust: bool
) -> None:
    """No other stands in for it, and which of two weights counts is not ours to guess."""
    fault = refused(loras=loras, adjust=adjust)
    assert (fault.code, fault.details["path"], fault.details.get("allowed")) == ("invalid_param", path, allowed)


def test_refusal_of_a_lora_stays_short() -> None:
    """A model may have thousands."""
    many = replace(MODEL, loras=tuple(f"lora-{number}" for number in range(1000)))
    assert len(refused(model=many, loras=[Lora("x")]).details["allowed"]) == 64


def test_search_and_expand_stand_in_the_normal_form() -> None:
    """As they were said."""
    assert made("search_replace").search == "a dog"
    assert made("outpaint").expand == Expand(left=64, down=128)
    assert (made().search, made().expand) == (None, None)


def test_every_param_has_its_place_in_the_normal_form() -> None:
    """A name that we take and drop would be a silent change; a scale becomes a size, and `adjust` notes."""
    assert set(Params.__struct_fields__) - {"scale", "adjust"} <= set(Request.__struct_fields__)


def test_normal_form_survives_the_ledger() -> None:
    """It is kept as JSON, and a job may be begun again from that alone."""
    request = made(
        "controlnet", inputs=[CANNY, INIT, DEPTH], prompt=None, prompts=[WeightedPrompt("x", 1.5)],
        loras=[Lora("ink")], steps=99, adjust=True,
    )  # fmt: skip
    assert request.notes
    assert msgspec.json.decode(msgspec.json.encode(request), type=Request) == request


# ------------------------------------------------------------------------------------------------------ within bounds


def made_or_refused(task: str, asked: dict[str, Any], inputs: list[InputImage]) -> Request | ClientFault:
    """Return the normal form, or how it is refused."""
    try:
        return normalise(task, decode_params(msgspec.json.encode(asked)), inputs, MODEL, random.Random(1))
    except ClientFault as fault:
        return fault


SHORT = some.text(max_size=120)
MAYBE_PARAMS = some.fixed_dictionaries(
    {"prompt": SHORT},
    optional={
        "negative_prompt": SHORT,
        "width": some.integers(1, 1200),
        "height": some.sampled_from([64, 512, 768, 1024, 16384]),
        "steps": some.integers(1, 60),
        "guidance": some.floats(0, 100),
        "sampler": some.sampled_from(["euler", "ddim", "dpm"]),
        "scheduler": some.sampled_from(["karras", "none"]),
        "seed": some.integers(0, 2**53 - 1),
        "n": some.integers(1, 6),
        "strength": some.floats(0, 1),
        "style": some.sampled_from(["anime", "baroque"]),
        "search": some.text(min_size=1, max_size=120),
        "scale": some.floats(1, 8),
        "loras": some.lists(some.builds(Lora, some.sampled_from(["ink", "neon", "oil"])), max_size=3),
        "expand": some.builds(Expand, left=some.integers(0, 400), down=some.integers(0, 400)),
        "tiling": some.booleans(),
        "background": some.sampled_from(["auto", "opaque", "transparent"]),
    },
)
IMAGES = some.lists(some.sampled_from([INIT, MASK, CANNY, DEPTH, REFERENCE]), max_size=3)
KEPT_AS_SAID = ("prompt", "negative_prompt", "seed", "strength", "search", "expand")


def assert_within_bounds(request: Request) -> None:
    """Whatever was asked for, the model can do this."""
    MODEL.sizes_of(request.task).check(request.width, request.height)
    assert MODEL.steps[0] <= request.steps <= MODEL.steps[1]
    assert 1 <= request.n <= MODEL.max_n
    assert len(request.prompt) <= MODEL.max_prompt >= len(request.negative_prompt)
    assert request.prompt.strip() or "prompt" not in TASKS[request.task].needs
    assert request.sampler in (None, *MODEL.samplers)
    assert request.scheduler in (None, *MODEL.schedulers)
    assert request.style in (None, *MODEL.styles)
    assert {lora.name for lora in request.loras} <= set(MODEL.loras)
    assert request.background in MODEL.backgrounds
    assert MODEL.guidance[0] <= request.guidance <= MODEL.guidance[1]


@given(some.sampled_from(list(TASKS)), MAYBE_PARAMS, IMAGES)
def test_request_is_within_the_models_bounds_or_refused_by_name(
    task: str, asked: dict[str, Any], inputs: list[InputImage]
) -> None:
    """Whatever a client asks for; and what was asked for is what stands there."""
    request = made_or_refused(task, asked, inputs)
    if isinstance(request, ClientFault):
        field = request.details["path"].removeprefix("params.").partition("[")[0]
        assert field in {*asked, *TASKS[task].needs, "inputs", "width", "height"}
        return
    assert_within_bounds(request)
    assert request.notes == ()
    for name, value in asked.items():
        if name == "loras":
            assert list(request.loras) == value
        elif name != "scale":
            assert getattr(request, name) == value


@given(some.sampled_from(list(TASKS)), MAYBE_PARAMS, IMAGES)
def test_adjusted_request_is_within_the_models_bounds_and_tells_every_change(
    task: str, asked: dict[str, Any], inputs: list[InputImage]
) -> None:
    """Nothing that differs from what was asked goes without a note."""
    request = made_or_refused(task, {**asked, "adjust": True}, inputs)
    if isinstance(request, ClientFault):
        assert request.code in {"invalid_param", "prompt_too_long"}
        return
    assert_within_bounds(request)
    told = [note.message for note in request.notes]
    for name in ("steps", "n", "guidance"):
        is_told = any(message.startswith(f"{name} ") for message in told)
        assert is_told == (name in asked and getattr(request, name) != asked[name])
    for name in ("sampler", "scheduler", "style"):
        is_told = any(message.startswith(f"the model has no {name} ") for message in told)
        assert is_told == (name in asked and getattr(request, name) is None)
    assert all(getattr(request, name) == asked[name] for name in KEPT_AS_SAID if name in asked)
    plain = made_or_refused(task, asked, inputs)
    assert (plain == request) == (not request.notes)
