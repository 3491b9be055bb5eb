"""Reading forms, choosing sizes and saying what went wrong, without a gateway."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.core.models import Sizes
from gateway.core.reports import Picture
from gateway.edges.compat.dialect import Trouble
from gateway.edges.compat.stability_v2beta import answers, asks, fields, sizes
from gateway.edges.compat.stability_v2beta.tables import RATIOS
from gateway.upstreams.stability_v2beta.models import MODELS, model_of, prices_of, ratio_of
from protocol.codec import convert_fields
from protocol.errors import ClientFault
from tests.gateway.edges.compat.stability_v2beta.conftest import MODEL

WIDE = Picture(b"", "png", 192, 128)
ENGINE = replace(
    MODEL, sizes=Sizes(smallest=64, largest=2048, multiple_of=8, max_pixels=2048 * 2048), default_size=(512, 512)
)
VENDOR = {name: model_of("vendor", name, prices_of({}), 4) for name in MODELS}


@pytest.mark.parametrize("ratio,expected", [
    ("21:9", (784, 336)), ("16:9", (680, 384)), ("3:2", (624, 416)), ("5:4", (572, 456)), ("1:1", (512, 512)),
    ("9:16", (384, 680)), ("9:21", (336, 784)),
])  # fmt: skip
def test_ratio_has_the_area_of_the_usual_size(ratio: str, expected: tuple[int, int]) -> None:
    """And the shape as nearly as the model's multiples allow."""
    found = sizes.shaped(ratio)(ENGINE, "txt2img")
    assert abs(found["width"] / found["height"] / RATIOS[ratio] - 1) < 0.02
    assert abs(found["width"] * found["height"] / 512**2 - 1) < 0.02
    assert abs(found["width"] - expected[0]) <= 8
    assert not found["width"] % 8


def test_vendors_own_models_get_back_the_ratio_that_was_asked_for() -> None:
    """Behind the gateway the vendor is asked for the ratio that the client named."""
    for name, model in VENDOR.items():
        task = "reference" if name == "stable-image" else "txt2img"
        for ratio in RATIOS:
            found = sizes.shaped(ratio)(model, task)
            assert ratio_of(found["width"], found["height"]) == ratio


def test_model_without_a_word_for_sizes_is_told_none() -> None:
    """What it draws is what the client gets."""
    mute = replace(ENGINE, tasks={"txt2img": frozenset({"prompt"})})
    assert sizes.shaped("16:9")(mute, "txt2img") == {}


@pytest.mark.parametrize("edges,expected", [((192, 128), {}), ((100, 70), {"width": 104, "height": 72})])
def test_init_picture_keeps_its_size_where_the_model_draws_it(edges: tuple[int, int], expected: dict[str, int]) -> None:
    """Else the nearest in shape."""
    assert sizes.kept(Picture(b"", "png", *edges))(ENGINE, "img2img") == expected


@pytest.mark.parametrize("edges,factor,expected", [
    ((192, 128), 4.0, {"scale": 4.0}),
    ((192, 128), 0.5, {"scale": 1.0}),
    ((192, 128), 9.0, {"scale": 8.0}),
    ((1024, 512), 4.0, {"width": 2048, "height": 1024}),
    ((3000, 1500), 4.0, {"scale": 4.0}),  # never smaller than it was: admission refuses
])  # fmt: skip
def test_upscale_is_as_large_as_the_model_can(
    edges: tuple[int, int], factor: float, expected: dict[str, float]
) -> None:
    """And never smaller."""
    assert sizes.enlarged(Picture(b"", "png", *edges), factor)(ENGINE, "upscale") == expected


@pytest.mark.parametrize("edges,conservative,creative", [
    ((64, 64), 4.0, 4.5), ((512, 512), 4.0, 4.5), ((1024, 1024), 2.0, 4.5), ((512, 1024), 2.8284, 4.5),
])  # fmt: skip
def test_upscale_is_the_vendors_own_where_that_is_behind(
    edges: tuple[int, int], conservative: float, creative: float
) -> None:
    """The adapter tells a creative upscale by more than four times an edge."""
    image = {"image": Picture(b"", "png", *edges)}
    model = VENDOR["stable-image"]
    one = asks.conservative(fields.Conservative(prompt="x"), image)
    other = asks.creative(fields.Creative(prompt="x"), image)
    assert one.size is not None
    assert other.size is not None
    assert one.size(model, "upscale") == {"scale": conservative}
    assert other.size(model, "upscale") == {"scale": creative}


def test_seed_of_zero_and_empty_words_are_none() -> None:
    """As with the vendor, whose 0 is any."""
    asked = convert_fields({"prompt": "x", "seed": "0", "negative_prompt": ""}, fields.Core)
    [wish] = asks.core(asked, {}).wishes
    assert {name for name, value in wish.params.items() if value is not None} == {"prompt"}


@pytest.mark.parametrize("model,expected,is_named", [
    (None, "sd3.5-large", False), ("sd3-medium", "sd3.5-medium", True), ("sd3.5-flash", "sd3.5-flash", True),
])  # fmt: skip
def test_old_models_are_served_by_their_successors(model: Any, expected: str, is_named: bool) -> None:
    """And what the client does not name is not held against him."""
    ask = asks.sd3(fields.Sd3(prompt="x", model=model), {})
    assert (ask.wishes[0].model, ask.is_named) == (expected, is_named)


def test_numbers_of_a_form_are_whole_where_they_are_counts() -> None:
    """`7.0` is 7, as JavaScript writes it."""
    assert convert_fields({"prompt": "x", "seed": "7.0"}, fields.Core).seed == 7
    for wrong in ("7.5", "x", "1e999", "inf", "nan"):
        with pytest.raises(ClientFault):
            convert_fields({"prompt": "x", "seed": wrong}, fields.Core)


@pytest.mark.parametrize("name", ["png", "jpeg", "webp"])
def test_id_tells_its_format(name: Any) -> None:
    """Which the job does not know; any other ending belongs to no id."""
    assert answers.read_id(answers.id_of("J", name)) == ("J", name)
    assert answers.read_id("J.gif") == ("J.gif", "png")


@pytest.mark.parametrize("code,details,message,expected", [
    ("invalid_param", {"path": "params.guidance"}, "is wrong", (400, "cfg_scale: is wrong")),
    ("invalid_param", {"path": "prompt"}, "Object missing required field prompt", (400, "prompt: is required")),
    ("invalid_param", {"path": "inputs[0].role"}, "no", (400, "image: no")),
    ("task_not_supported", {"path": "task"}, "x cannot do this task", (404, "x cannot do this task")),
    ("resolution_not_supported", {"path": "params.width"}, "no", (400, "aspect_ratio: no")),
    ("payload_too_large", {"path": "image", "max_input_pixels": 5}, "no", (400, "image: no")),
    ("payload_too_large", {"path": "body"}, "no", (413, "body: no")),
    ("job_not_found", {"path": "id"}, "no", (404, "no")),
])  # fmt: skip
def test_refusal_names_the_vendors_field(
    code: str, details: dict[str, Any], message: str, expected: tuple[int, str]
) -> None:
    """In one sentence of the list."""
    status, body = answers.error(Trouble(code, message, details=details), "ref")
    assert (status, *body["errors"]) == expected
    assert body["id"] == "ref"
