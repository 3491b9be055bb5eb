import hashlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import structs

from gateway.core.normal import Note, Request
from gateway.core.params import Expand, Lora, WeightedPrompt
from gateway.core.requests import body_hash, fingerprint
from protocol.codec import decode_client
from protocol.messages import Submit
from tests.gateway.core.asking import ASSET, CANNY, DEPTH, INIT, MASK, MODEL, made

# --------------------------------------------------------------------------------------------------------- fingerprint


def test_fingerprint_covers_every_field_of_which_the_picture_is_made() -> None:
    """Two requests that differ anywhere differ there."""
    request = made("inpaint", sampler="euler", scheduler="karras", style="anime", strength=0.5, seed=7)
    changed = {
        "task": "x", "model": "x", "prompt": "x", "negative_prompt": "x", "width": 1, "height": 1, "steps": 1,
        "guidance": 1.0, "seed": 1, "n": 9, "strength": 0.1, "sampler": "x", "scheduler": "x", "style": "x",
        "inputs": (), "prompts": (WeightedPrompt("x"),), "loras": (Lora("x"),), "expand": Expand(up=1), "search": "x",
        "tiling": True, "background": "x",
    }  # fmt: skip
    assert set(Request.__struct_fields__) == {*changed, "notes", "alternatives"}
    prints = {fingerprint(structs.replace(request, **{name: value})) for name, value in changed.items()}
    assert len(prints | {fingerprint(request)}) == len(changed) + 1


@pytest.mark.parametrize(
    "fields", [{"alternatives": ("up", "other")}, {"notes": (Note("param_clamped", "steps 99 became 50"),)}]
)
def test_fingerprint_leaves_out_what_the_picture_does_not_depend_on(fields: dict[str, Any]) -> None:
    """Who else could draw it, and what it was before it was adjusted."""
    request = made()
    assert fingerprint(structs.replace(request, **fields)) == fingerprint(request)


def test_fingerprint_is_the_same_however_it_was_asked_for() -> None:
    """A default that is written out, one that is not, and one that was come to are one picture."""
    plain, written = (
        made(seed=1),
        made(seed=1, steps=20, n=1, guidance=7, width=512, negative_prompt="", tiling=False, background="auto"),
    )
    assert fingerprint(plain) == fingerprint(written)
    assert len(fingerprint(plain)) == len(hashlib.sha256().hexdigest())
    whole = replace(MODEL, default_guidance=7)
    assert fingerprint(made(model=whole, seed=1)) == fingerprint(plain)
    assert fingerprint(made(seed=1, width=513, sampler="dpm", adjust=True)) == fingerprint(plain)


@pytest.mark.parametrize(
    "options", [{"weight": 0.5}, {"start": 0.1}, {"end": 0.9}, {"preprocessor": "none"}, {"asset": INIT.asset[::-1]}]
)
def test_fingerprint_covers_how_an_input_is_used(options: dict[str, Any]) -> None:
    """Another weight, span or preprocessor is another picture."""
    changed = [structs.replace(CANNY, **options), DEPTH]
    assert fingerprint(made("controlnet", inputs=changed)) != fingerprint(made("controlnet", inputs=[CANNY, DEPTH]))


def test_fingerprint_does_not_depend_on_the_order_of_roles() -> None:
    """Only those of one role have an order; options that are the default may be written out."""
    written = structs.replace(CANNY, weight=1.0, start=0.0, end=1.0, preprocessor="auto")
    prints = {fingerprint(made("controlnet", inputs=inputs)) for inputs in ([CANNY, DEPTH], [DEPTH, written])}
    assert len(prints) == 1
    two = [CANNY, structs.replace(CANNY, weight=0.5)]
    assert fingerprint(made("controlnet", inputs=two)) != fingerprint(made("controlnet", inputs=two[::-1]))


# ----------------------------------------------------------------------------------------------------------- body hash


def submit(**fields: Any) -> Submit:
    """Return a submit as it comes from the wire."""
    body = {"type": "submit", "ref": "r", "task": "img2img", "params": {"prompt": "a fox"}, **fields}
    message = decode_client(msgspec.json.encode(body), 65_536)
    assert isinstance(message, Submit)
    return message


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
