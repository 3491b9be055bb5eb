import hashlib
import random
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import structs

from gateway.core.models import Model, Sizes
from gateway.core.requests import (
    TASK_ROLES,
    InputImage,
    Params,
    Request,
    body_hash,
    decode_params,
    fingerprint,
    normalise,
)
from protocol.codec import MAX_PARAMS, decode_client
from protocol.errors import ClientFault
from protocol.messages import Submit

ASSET = "sha256:" + "0" * 64
OTHER = "sha256:" + "1" * 64
INIT = InputImage("init", ASSET, 640, 384)
MASK = InputImage("mask", OTHER, 640, 384)
MODEL = Model(
    id="m",
    upstream="up",
    vendor_model="v",
    tasks=frozenset(TASK_ROLES),
    params=frozenset(Params.__struct_fields__),
    sizes=Sizes(smallest=64, largest=1024, multiple_of=8, max_pixels=1024 * 768),
    steps=(2, 50),
    default_steps=20,
    max_n=4,
    samplers=("euler", "ddim"),
    schedulers=("karras",),
    styles=("anime",),
    max_prompt=100,
)
NARROW = replace(MODEL, params=frozenset({"prompt", "seed"}), tasks=frozenset({"txt2img"}))
INPUTS = {"txt2img": [], "img2img": [INIT], "inpaint": [MASK, INIT]}


def made(task: str = "txt2img", model: Model = MODEL, inputs: list[InputImage] | None = None, **params: Any) -> Request:
    """Return the normal form of these params."""
    chance = random.Random(1)
    asked = Params(**{"prompt": "a fox", **params})
    return normalise(task, asked, INPUTS[task] if inputs is None else inputs, model, chance)


def refused(
    task: str = "txt2img", model: Model = MODEL, inputs: list[InputImage] | None = None, **params: Any
) -> ClientFault:
    """Return how these params are refused."""
    with pytest.raises(ClientFault) as caught:
        made(task, model, inputs, **params)
    return caught.value


def submit(**fields: Any) -> Submit:
    """Return a submit as it comes from the wire."""
    body = {"type": "submit", "ref": "r", "task": "img2img", "params": {"prompt": "a fox"}, **fields}
    message = decode_client(msgspec.json.encode(body), 65_536)
    assert isinstance(message, Submit)
    return message


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


@pytest.mark.parametrize("task", TASK_ROLES)
def test_size_is_the_asked_one_else_the_inits_else_the_models(task: str) -> None:
    """Each edge for itself."""
    fallback = (512, 512) if task == "txt2img" else (640, 384)
    assert (made(task).width, made(task).height) == fallback
    assert (made(task, width=256).width, made(task, width=256).height) == (256, fallback[1])


@pytest.mark.parametrize("task,strength", [("txt2img", None), ("img2img", 0.65), ("inpaint", 0.65)])
def test_strength_stands_only_beside_an_init(task: str, strength: float | None) -> None:
    """With a default there, and refused elsewhere."""
    assert made(task).strength == strength
    if strength is not None:
        assert made(task, strength=0.0).strength == 0.0


def test_inputs_are_kept_by_role() -> None:
    """Their order on the wire means nothing."""
    request = made("inpaint")
    assert request.inputs == (INIT, MASK)
    assert request.input("mask") == MASK
    assert made("img2img").input("mask") is None


@pytest.mark.parametrize(
    "code,path,task,asked",
    [
        ("task_not_supported", "task", "img2img", {"model": NARROW}),
        ("task_not_supported", "task", "upscale", {"inputs": []}),
        (
            "task_not_supported",
            "task",
            "upscale",
            {"inputs": [], "model": replace(MODEL, tasks=frozenset({"upscale"}))},
        ),
        ("invalid_param", "inputs", "txt2img", {"inputs": [INIT]}),
        ("invalid_param", "inputs", "img2img", {"inputs": []}),
        ("invalid_param", "inputs", "img2img", {"inputs": [INIT, INIT]}),
        ("invalid_param", "inputs", "inpaint", {"inputs": [INIT]}),
        ("invalid_param", "params.steps", "txt2img", {"steps": 1}),
        ("invalid_param", "params.steps", "txt2img", {"steps": 51}),
        ("invalid_param", "params.n", "txt2img", {"n": 5}),
        ("invalid_param", "params.width", "txt2img", {"model": NARROW, "width": 512}),
        ("invalid_param", "params.guidance", "txt2img", {"model": NARROW, "guidance": 1.0}),
        ("invalid_param", "params.strength", "txt2img", {"strength": 0.5}),
        ("invalid_param", "params.style", "txt2img", {"style": "baroque"}),
        ("invalid_param", "params.scheduler", "txt2img", {"scheduler": "none"}),
        ("invalid_param", "params.prompt", "txt2img", {"prompt": " \n"}),
        ("sampler_not_supported", "params.sampler", "txt2img", {"sampler": "dpm"}),
        ("prompt_too_long", "params.prompt", "txt2img", {"prompt": "x" * 101}),
        ("prompt_too_long", "params.negative_prompt", "txt2img", {"negative_prompt": "x" * 101}),
        ("resolution_not_supported", "params.width", "txt2img", {"width": 100}),
        ("resolution_not_supported", "params.height", "txt2img", {"height": 2048}),
        ("resolution_not_supported", "params.width", "img2img", {"inputs": [InputImage("init", ASSET, 500, 512)]}),
    ],
)
def test_refusal_names_the_field(code: str, path: str, task: str, asked: dict[str, Any]) -> None:
    """Nothing is clamped silently: who asks for too much is told what and where."""
    fault = refused(task, **asked)
    assert (fault.code, fault.details["path"]) == (code, path)


def test_refusal_says_what_is_allowed() -> None:
    """A list of names, or bounds."""
    assert refused(sampler="x").details["allowed"] == ["euler", "ddim"]
    assert refused(steps=1).details["allowed"] == "integer >= 2 <= 50"
    assert refused(model=NARROW, n=1).details["allowed"] == ["prompt", "seed"]
    assert refused("img2img", inputs=[]).details["allowed"] == ["init"]
    assert "no input images" in refused(inputs=[INIT]).message


def made_or_refused(task: str, asked: dict[str, Any], inputs: list[InputImage]) -> Request | ClientFault:
    """Return the normal form, or how it is refused."""
    try:
        return normalise(task, decode_params(msgspec.json.encode(asked)), inputs, MODEL, random.Random(1))
    except ClientFault as fault:
        return fault


MAYBE_PARAMS = some.fixed_dictionaries(
    {"prompt": some.text(max_size=120)},
    optional={
        "negative_prompt": some.text(max_size=120),
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
    },
)


@given(some.sampled_from(list(TASK_ROLES)), MAYBE_PARAMS, some.lists(some.sampled_from([INIT, MASK]), max_size=3))
def test_request_is_within_the_models_bounds_or_refused_by_name(
    task: str, asked: dict[str, Any], inputs: list[InputImage]
) -> None:
    """Whatever a client asks for; and what was asked for is what stands there."""
    request = made_or_refused(task, asked, inputs)
    if isinstance(request, ClientFault):
        assert request.details["path"].removeprefix("params.") in {*asked, "inputs", "width", "height", "prompt"}
        return
    MODEL.sizes.check(request.width, request.height)
    assert MODEL.steps[0] <= request.steps <= MODEL.steps[1]
    assert 1 <= request.n <= MODEL.max_n
    assert 0 < len(request.prompt) <= MODEL.max_prompt >= len(request.negative_prompt)
    assert request.sampler in (None, *MODEL.samplers)
    assert request.scheduler in (None, *MODEL.schedulers)
    assert request.style in (None, *MODEL.styles)
    assert 0 <= request.guidance <= 100
    assert (request.strength is not None) == (task != "txt2img")
    assert [image.role for image in request.inputs] == sorted(TASK_ROLES[task])
    for name, value in asked.items():
        assert getattr(request, name) == value


def test_every_param_has_its_place_in_the_normal_form() -> None:
    """A name that we take and drop would be a silent change."""
    assert set(Params.__struct_fields__) <= set(Request.__struct_fields__)


@pytest.mark.parametrize(
    "raw,code,path",
    [
        (b"{}", "invalid_param", "params.prompt"),
        (b'{"prompt": 1}', "invalid_param", "params.prompt"),
        (b'{"prompt": "x", "width": 0}', "invalid_param", "params.width"),
        (b'{"prompt": "x", "strength": 1.5}', "invalid_param", "params.strength"),
        (b'{"prompt": "x", "loras": []}', "invalid_param", "params.loras"),
        (b"[]", "invalid_param", "params"),
        (b"{", "bad_request", "params"),
        (b'{"prompt": "' + b"x" * MAX_PARAMS + b'"}', "payload_too_large", "params"),
    ],
)
def test_params_are_refused_by_name(raw: bytes, code: str, path: str) -> None:
    """A wrong or unknown field, or too many bytes."""
    with pytest.raises(ClientFault) as caught:
        decode_params(msgspec.Raw(raw))
    assert (caught.value.code, caught.value.details["path"]) == (code, path)


def test_params_at_their_limit_pass() -> None:
    """32 KiB to the byte."""
    raw = b'{"prompt": "x"}' + b" " * (MAX_PARAMS - 15)
    assert decode_params(raw).prompt == "x"


def test_fingerprint_covers_every_field_of_the_normal_form() -> None:
    """Two requests that differ anywhere differ there."""
    request = made("inpaint", sampler="euler", scheduler="karras", style="anime", strength=0.5, seed=7)
    changed = {
        "task": "x", "model": "x", "prompt": "x", "negative_prompt": "x", "width": 1, "height": 1, "steps": 1,
        "guidance": 1.0, "seed": 1, "n": 9, "strength": 0.1, "sampler": "x", "scheduler": "x", "style": "x",
        "inputs": (),
    }  # fmt: skip
    assert set(changed) == set(Request.__struct_fields__)
    prints = {fingerprint(structs.replace(request, **{name: value})) for name, value in changed.items()}
    assert len(prints | {fingerprint(request)}) == len(changed) + 1


def test_fingerprint_is_the_same_however_it_was_asked_for() -> None:
    """A default that is written out and one that is not are one picture."""
    plain, written = made(seed=1), made(seed=1, steps=20, n=1, guidance=7, width=512, negative_prompt="")
    assert fingerprint(plain) == fingerprint(written)
    assert len(fingerprint(plain)) == len(hashlib.sha256().hexdigest())
    whole = replace(MODEL, default_guidance=7)
    assert fingerprint(made(model=whole, seed=1)) == fingerprint(plain)


WIRE = {"inputs": [{"role": "init", "asset": ASSET, "weight": 0.5}], "priority": 0}


def hashed(**fields: Any) -> str:
    """Return the body hash of a submit."""
    return body_hash(submit(**{**WIRE, **fields}), [INIT])


@pytest.mark.parametrize(
    "fields",
    [
        {"ref": "another"},
        {"previews": {"max_fps": 1}},
        {"finals": "inline"},
        {"params": {"prompt": "a fox"}},
        {"something_unknown": 1},
        {"priority": 0},
        {"on_disconnect": "continue"},
    ],
)
def test_body_hash_leaves_delivery_out(fields: dict[str, Any]) -> None:
    """How a client wants its news is no part of what it asked for; a default said is a default meant."""
    assert hashed(**fields) == hashed()


@pytest.mark.parametrize(
    "fields",
    [
        {"task": "inpaint"},
        {"model": "m"},
        {"params": {"prompt": "a fox", "steps": 20}},
        {"params": {"prompt": "a cat"}},
        {"inputs": [{"role": "init", "asset": ASSET, "weight": 0.6}]},
        {"inputs": [{"role": "init", "asset": ASSET, "weight": 0.5, "start": 0}]},
        {"inputs": [{"role": "init", "asset": ASSET, "weight": 0}]},
        {"inputs": [{"role": "init", "asset": ASSET}]},
        {"priority": 1},
        {"max_cost_micros": 0},
        {"deadline_ms": 1},
        {"on_disconnect": "cancel"},
        {"inputs": [{"role": "init", "asset": ASSET, "weight": 0.5, "preprocessor": "canny"}]},
    ],
)
def test_body_hash_covers_what_was_asked_for(fields: dict[str, Any]) -> None:
    """A ref used again for anything else is a conflict."""
    assert hashed(**fields) != hashed()


def test_body_hash_tells_zero_from_absent() -> None:
    """An option that is 0 was said, and one that is absent was not."""
    bodies = [[{"role": "init", "asset": ASSET, **option}] for option in ({}, {"weight": 0}, {"start": 0}, {"end": 0})]
    assert len({body_hash(submit(inputs=body), [INIT]) for body in bodies}) == 4


def test_body_hash_stands_an_upload_in_for_its_asset() -> None:
    """A client that uploads again after a lost connection asks for the same."""
    uploads = [
        submit(**{**WIRE, "inputs": [{"role": "init", "upload": name * 26, "weight": 0.5}]}) for name in ("A", "B")
    ]
    assert {body_hash(one, [INIT]) for one in uploads} == {hashed()}
    assert body_hash(uploads[0], [MASK]) != hashed()


@given(some.permutations(["steps", "seed", "width"]))
def test_body_hash_does_not_depend_on_the_order_of_fields(order: list[str]) -> None:
    """JSON objects have none."""
    values = {"steps": 20, "seed": 1, "width": 512}
    params = {"prompt": "a fox", **{name: values[name] for name in order}}
    assert hashed(params=params) == hashed(params={**values, "prompt": "a fox"})
