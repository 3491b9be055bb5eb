from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some
from msgspec import structs

from gateway.core.models import Model, Sizes
from gateway.core.normal import Note
from gateway.core.params import TASKS, Expand
from tests.gateway.core.asking import CANNY, INIT, LEAST, MODEL, made, refused

LISTED = replace(MODEL, sizes=Sizes(listed=((512, 512), (768, 512), (512, 768))))

# --------------------------------------------------------------------------------------------------------------- sizes


@pytest.mark.parametrize("task", [task for task in TASKS if task not in {"outpaint", "upscale"}])
def test_size_is_the_asked_one_else_the_inits_else_the_models(task: str) -> None:
    """Each edge for itself; a control or a reference says nothing of the result's size."""
    fallback = (640, 384) if INIT in LEAST[task][0] else (512, 512)
    assert (made(task).width, made(task).height) == fallback
    assert (made(task, width=256).width, made(task, width=256).height) == (256, fallback[1])
    assert (made(task, height=256).width, made(task, height=256).height) == (fallback[0], 256)


def test_controlled_picture_has_its_inits_size_if_it_has_one() -> None:
    """As any picture that is drawn over."""
    request = made("controlnet", inputs=[CANNY, INIT])
    assert (request.width, request.height) == (640, 384)


def test_outpainted_picture_is_the_init_and_what_it_grows_by() -> None:
    """Every side counts."""
    request = made("outpaint", expand=Expand(left=8, right=16, up=32, down=64))
    assert (request.width, request.height) == (640 + 24, 384 + 96)
    assert refused("outpaint", expand=Expand(right=512)).code == "resolution_not_supported"


@pytest.mark.parametrize(
    "asked,size",
    [
        ({}, (1280, 768)),
        ({"scale": 1.0}, (640, 384)),
        ({"scale": 1.5}, (960, 576)),
        ({"scale": 4.0}, (2560, 1536)),
        ({"scale": 1.001}, (641, 384)),
        ({"width": 1280}, (1280, 768)),
        ({"height": 768}, (1280, 768)),
        ({"width": 1000}, (1000, 600)),
        ({"width": 1000, "height": 1000}, (1000, 1000)),
    ],
)
def test_upscaled_picture_keeps_the_inits_shape(asked: dict[str, Any], size: tuple[int, int]) -> None:
    """From a scale, twice by default, or one edge; both edges are the client's own choice of a shape."""
    request = made("upscale", **asked)
    assert (request.width, request.height) == size


def test_upscaled_edge_is_never_nothing() -> None:
    """A line of a picture stays a line."""
    line = structs.replace(INIT, width=4000, height=1)
    request = made("upscale", inputs=[line], width=40)
    assert (request.width, request.height) == (40, 1)


# ------------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "code,path,task,asked",
    [
        ("invalid_param", "params.steps", "txt2img", {"steps": 1}),
        ("invalid_param", "params.steps", "txt2img", {"steps": 51}),
        ("invalid_param", "params.n", "txt2img", {"n": 5}),
        ("invalid_param", "params.guidance", "txt2img", {"guidance": 0.5}),
        ("invalid_param", "params.guidance", "txt2img", {"guidance": 12.75}),
        ("invalid_param", "params.style", "txt2img", {"style": "baroque"}),
        ("invalid_param", "params.style", "txt2img", {"style": ""}),
        ("invalid_param", "params.scheduler", "txt2img", {"scheduler": "none"}),
        ("sampler_not_supported", "params.sampler", "txt2img", {"sampler": "dpm"}),
        ("resolution_not_supported", "params.width", "txt2img", {"width": 100}),
        ("resolution_not_supported", "params.height", "txt2img", {"height": 2048}),
        ("resolution_not_supported", "params.width", "txt2img", {"model": LISTED, "width": 1024}),
        ("resolution_not_supported", "params.width", "img2img", {"inputs": [structs.replace(INIT, width=500)]}),
        ("resolution_not_supported", "params.width", "upscale", {"scale": 8.0}),
    ],
)
def test_refusal_names_the_field(code: str, path: str, task: str, asked: dict[str, Any]) -> None:
    """Nothing is clamped silently: who asks for too much is told what and where."""
    fault = refused(task, **asked)
    assert (fault.code, fault.details["path"]) == (code, path)


def test_refusal_says_what_is_allowed() -> None:
    """A list of names, or bounds."""
    assert refused(sampler="x").details["allowed"] == ["euler", "ddim"]
    assert refused(background="transparent").details["allowed"] == ["auto", "opaque"]
    assert refused(steps=1).details["allowed"] == "integer >= 2 <= 50"
    assert refused(guidance=0.5).details["allowed"] == "number >= 1 <= 12.5"
    assert refused(model=LISTED, width=1024).details["allowed"] == ["512x512", "768x512", "512x768"]


# ----------------------------------------------------------------------------------------------------------- adjusting


@pytest.mark.parametrize(
    "asked,kept,notes",
    [
        ({"steps": 99}, {"steps": 50}, [Note("param_clamped", "steps 99 became 50")]),
        ({"steps": 1}, {"steps": 2}, [Note("param_clamped", "steps 1 became 2")]),
        ({"n": 64}, {"n": 4}, [Note("param_clamped", "n 64 became 4")]),
        ({"guidance": 30.0}, {"guidance": 12.5}, [Note("param_clamped", "guidance 30 became 12.5")]),
        ({"guidance": 0.25}, {"guidance": 1.0}, [Note("param_clamped", "guidance 0.25 became 1")]),
        ({"guidance": 12.5}, {"guidance": 12.5}, []),
        ({"width": 500}, {"width": 504, "height": 512}, [Note("param_clamped", "size 500x512 became 504x512")]),
        ({"width": 4096}, {"width": 1024, "height": 128}, [Note("param_clamped", "size 4096x512 became 1024x128")]),
        (
            {"model": LISTED, "width": 1200, "height": 800},
            {"width": 768, "height": 512},
            [Note("param_clamped", "size 1200x800 became 768x512")],
        ),
        (
            {"sampler": "dpm"},
            {"sampler": None},
            [Note("sampler_fallback", "the model has no sampler of that name; it takes its own")],
        ),
        (
            {"scheduler": "x", "style": "y"},
            {"scheduler": None, "style": None},
            [
                Note("scheduler_fallback", "the model has no scheduler of that name; it takes its own"),
                Note("style_fallback", "the model has no style of that name; it takes its own"),
            ],
        ),
        (
            {"background": "transparent"},
            {"background": "auto"},
            [Note("background_fallback", "the model has no background of that name; it takes its own")],
        ),
        ({"steps": 50, "n": 4, "width": 512, "sampler": "euler", "style": "anime"}, {"steps": 50, "n": 4}, []),
        ({}, {"steps": 20, "n": 1, "width": 512, "height": 512}, []),
    ],
)
def test_adjust_brings_to_the_nearest_and_says_so(
    asked: dict[str, Any], kept: dict[str, Any], notes: list[Note]
) -> None:
    """One note for each change, and none where nothing changed."""
    request = made(adjust=True, **asked)
    assert {name: getattr(request, name) for name in kept} == kept
    assert list(request.notes) == notes


def test_adjust_tells_changes_in_one_order() -> None:
    """The size, then numbers, then names: a log reads the same each time."""
    request = made(adjust=True, style="x", n=9, sampler="x", width=9999, steps=999, scheduler="x")
    assert [note.message.split()[0] for note in request.notes[:3]] == ["size", "steps", "n"]
    assert [note.code for note in request.notes[3:]] == ["sampler_fallback", "scheduler_fallback", "style_fallback"]


def test_adjust_counts_for_sizes_that_follow_from_a_picture() -> None:
    """Nobody chose them, and they may fit no better."""
    odd = structs.replace(INIT, width=500, height=300)
    request = made("img2img", inputs=[odd], adjust=True)
    assert (request.width, request.height) == (504, 304)
    grown = made("outpaint", inputs=[odd], expand=Expand(right=1000, down=600), adjust=True)
    assert (grown.width, grown.height) == (1024, 616)
    assert made("upscale", inputs=[odd], scale=8.0, adjust=True).notes == ()


@pytest.mark.parametrize(
    "code,task,asked",
    [
        ("task_not_supported", "img2img", {"model": replace(MODEL, tasks={})}),
        ("invalid_param", "img2img", {"inputs": []}),
        ("invalid_param", "txt2img", {"strength": 0.5}),
        ("invalid_param", "txt2img", {"prompt": ""}),
        ("prompt_too_long", "txt2img", {"prompt": "x" * 101}),
    ],
)
def test_adjust_does_not_touch_what_is_asked_for(code: str, task: str, asked: dict[str, Any]) -> None:
    """Only sizes, numbers and names have something near them."""
    assert refused(task, adjust=True, **asked).code == code


@given(some.integers(1, 16384), some.integers(1, 16384), some.sampled_from([MODEL, LISTED]))
def test_adjusted_size_is_always_one_of_the_models(width: int, height: int, model: Model) -> None:
    """And told exactly if it is another."""
    request = made(model=model, width=width, height=height, adjust=True)
    model.sizes.check(request.width, request.height)
    assert (request.notes == ()) == ((request.width, request.height) == (width, height))
