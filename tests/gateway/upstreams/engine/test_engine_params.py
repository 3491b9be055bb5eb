"""Every word of a request reaches the picture, through a real process, and nothing is dropped in silence."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gateway.core.reports import ImageMade, PreviewMade, StepDone, WorkBegun
from gateway.upstreams.child_pictures import decode_picture
from gateway.upstreams.engine import Engine
from tests.gateway.upstreams.engine.talk import (
    ON_SHARED_LOOP,
    drawn,
    encoded,
    made,
    noise,
    order,
    pixels_of,
    shared_engine,
    square,
    told,
    upper_half,
)

pytestmark = ON_SHARED_LOOP
engine = shared_engine()


INIT = {"init": noise()}
LINES = {"canny": square()}
FIGURE = {
    "reference": encoded(np.dstack([np.full((40, 40, 3), (30, 60, 200)), np.full((40, 40), 255)]).astype(np.uint8))
}
REPAINT = {**INIT, "mask": upper_half()}
CHANGES: list[Any] = [
    ("txt2img", {}, {"prompt": "a blue fish"}),
    ("txt2img", {}, {"prompt": "(a red apple:0.5), (a blue fish:1.5)"}),
    ("txt2img", {}, {"negative_prompt": "red"}),
    ("txt2img", {}, {"guidance": 0.0}),
    ("txt2img", {}, {"seed": 6}),
    ("txt2img", {}, {"steps": 1}),
    ("txt2img", {}, {"width": 64}),
    ("txt2img", {}, {"tiling": True}),
    ("txt2img", {}, {"background": "transparent"}),
    ("txt2img", {}, {"model": "icons-network"}),
    ("img2img", INIT, {"inputs": {"init": square()}}),
    ("img2img", INIT, {"strength": 0.3}),
    ("img2img", INIT, {"prompt": "a blue fish"}),
    ("inpaint", REPAINT, {"inputs": {**INIT, "mask": square()}}),
    ("inpaint", REPAINT, {"strength": 0.3}),
    ("controlnet", LINES, {"inputs": {}, "task": "txt2img"}),
    ("controlnet", LINES, {"inputs": {"canny": encoded(np.eye(64, dtype=np.uint8) * 255)}}),
    ("controlnet", LINES, {"used": {"weight": 0.3}}),
    ("controlnet", LINES, {"used": {"end": 0.4}}),
    ("controlnet", LINES, {"used": {"start": 0.4}}),
    ("controlnet", LINES, {"background": "transparent"}),
    ("controlnet", {**LINES, **INIT}, {"strength": 0.3}),
    ("reference", FIGURE, {"inputs": {}, "task": "txt2img"}),
    ("reference", FIGURE, {"inputs": {"reference": square()}}),
    ("reference", FIGURE, {"inputs": {**FIGURE, "mask": upper_half()}}),
]


@pytest.mark.parametrize("task,inputs,change", CHANGES)
async def test_param_changes_the_picture(
    engine: Engine, task: str, inputs: dict[str, bytes], change: dict[str, Any]
) -> None:
    """Another value is another picture, and the same request is the same."""
    strength = {"strength": 0.7} if "init" in inputs else {}
    plain: dict[str, Any] = {"task": task, "inputs": inputs, **strength}
    before, again = [await drawn(engine, order(**plain)) for _ in range(2)]
    assert np.array_equal(before, again)
    after = await drawn(engine, order(**plain | change))
    assert not np.array_equal(before, after)


@pytest.mark.parametrize("role", ["canny", "control", "hed", "lineart", "mlsd", "scribble", "sketch", "softedge"])
async def test_kinds_of_lines_are_one(engine: Engine, role: str) -> None:
    """The engine looks at the lines, also where they are dark on light, or a weight and a span say what is usual."""
    expected = await drawn(engine, order("controlnet", LINES))
    used = {"weight": 1.0, "start": 0.0, "end": 1.0, "preprocessor": "none"}
    assert role in engine.models[0].controls
    assert np.array_equal(await drawn(engine, order("controlnet", {role: square(255, 0)}, used=used)), expected)


@pytest.mark.parametrize("used", [{"weight": 0.0}, {"start": 1.0}, {"end": 0.0}, {"start": 0.5, "end": 0.5}])
async def test_lines_that_count_for_nothing_change_nothing(engine: Engine, used: dict[str, float]) -> None:
    """No weight, or no step in which they count."""
    plain = await drawn(engine, order())
    assert np.array_equal(await drawn(engine, order("controlnet", LINES, used=used)), plain)


async def test_transparent_picture_has_a_figure_and_no_ground(engine: Engine) -> None:
    """An alpha channel that is neither all clear nor all solid."""
    pixels = await drawn(engine, order(background="transparent", width=512, height=512, steps=10))
    assert pixels.shape == (512, 512, 4)
    assert {0, 255} <= set(np.unique(pixels[..., 3]).tolist())


async def test_opaque_is_what_the_engine_paints_anyway(engine: Engine) -> None:
    """Its own choice of a background is one."""
    assert np.array_equal(await drawn(engine, order(background="opaque")), await drawn(engine, order()))


async def test_masked_pixels_of_an_init_image_are_kept_that_had_to_be_resized(engine: Engine) -> None:
    """What the mask holds black is the resized init, byte by byte."""
    init = noise(100, 90)
    picture = await drawn(engine, order("inpaint", {"init": init, "mask": upper_half()}, strength=0.8))
    kept = decode_picture(init, (128, 64))
    assert np.array_equal(picture[32:], kept[32:])
    assert not np.array_equal(picture[:32], kept[:32])


async def test_mask_of_a_reference_keeps_the_references_pixels(engine: Engine) -> None:
    """White is repainted, black kept, as everywhere."""
    reference = noise()
    picture = await drawn(engine, order("reference", {"reference": reference, "mask": upper_half()}))
    assert np.array_equal(picture[32:], pixels_of(reference)[32:])


@pytest.mark.parametrize("size", [(200, 100), (133, 67), (50, 25), (2048, 1024)])
async def test_picture_is_enlarged(engine: Engine, size: tuple[int, int]) -> None:
    """To any size, strip by strip, each told with a preview."""
    init = encoded(np.kron([[0, 255], [255, 0]], np.ones((25, 50))).astype(np.uint8))
    reports = await told(engine, order("upscale", {"init": init}, width=size[0], height=size[1]))
    assert [type(report) for report in reports] == [WorkBegun, *[StepDone, PreviewMade] * 3, ImageMade]
    one = reports[-1]
    assert isinstance(one, ImageMade)
    with Image.open(io.BytesIO(one.picture.content)) as image:
        assert image.size == size == (one.picture.width, one.picture.height)
        corners = [image.convert("L").getpixel(at) for at in ((2, 2), (size[0] - 3, 2))]
    assert corners == [0, 255]


async def test_style_chooses_between_outlines_and_squares(engine: Engine) -> None:
    """Where there is room for them; the first one is what is usual."""
    usual, drawn, squares = [
        (await made(engine, order(width=256, height=256, style=style)))[0].picture
        for style in (None, "drawn", "pixel-art")
    ]
    assert usual == drawn != squares


async def test_route_under_another_name_has_its_denoiser(engine: Engine) -> None:
    """The settings may offer a model under any name: what counts is the engine's own."""
    call = order(model="icons-network")
    renamed = await made(engine, call)
    assert call.model.vendor_model == "icons-network"
    assert renamed[0].picture != (await made(engine, order()))[0].picture


async def test_enlarged_picture_keeps_its_alpha(engine: Engine) -> None:
    """A sprite stays one."""
    figure = np.zeros((64, 64, 4), np.uint8)
    figure[16:48, 16:48] = (200, 10, 10, 255)
    pixels = await drawn(engine, order("upscale", {"init": encoded(figure)}, width=256, height=256))
    assert pixels.shape == (256, 256, 4)
    assert (pixels[2, 2, 3], tuple(pixels[128, 128])) == (0, (200, 10, 10, 255))
