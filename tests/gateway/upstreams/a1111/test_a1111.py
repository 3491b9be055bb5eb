"""The adapter against the stand-in, over real sockets: every task, and what becomes of its pixels."""

import base64
import dataclasses
import io
from typing import Any

import pytest
from PIL import Image

from gateway.core.reports import ImageMade
from gateway.upstreams.a1111.wire import from_vendor, needs_pixels, prepared, to_vendor
from load.upstreams.a1111 import words_of
from load.upstreams.pictures import colour_of
from tests.gateway.upstreams.a1111.server import (
    CAT,
    INIT,
    StandIn,
    adapter,
    asked_for,
    body,
    flat,
    images,
    is_in_order,
    near,
    order,
    pixel,
    reports,
)
from tests.pictures import encoded


async def test_picture_is_made_from_the_seed_and_the_prompt(standin: StandIn) -> None:
    """The stand-in paints the colour of seed and prompt: both arrived as they were asked."""
    async with adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream, width=128))
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert is_in_order(told)
    assert (made.index, made.seed, made.filtered) == (0, 7, False)
    assert (made.picture.format, made.picture.width, made.picture.height) == ("png", 128, 64)
    assert pixel(made) == CAT


async def test_several_pictures_are_one_call_and_one_round(standin: StandIn) -> None:
    """Point 3: with several rounds progress would begin anew for each, so a call is one round of a batch."""
    async with adapter(standin.url) as upstream:
        made = await images(upstream, order(upstream, count=3, seed=50))
    assert [(image.index, image.seed) for image in made] == [(0, 50), (1, 51), (2, 52)]
    assert [pixel(image) for image in made] == [colour_of(seed, words_of("a cat")) for seed in (50, 51, 52)]
    assert (body(standin, "txt2img")["batch_size"], body(standin, "txt2img")["n_iter"], standin.calls) == (3, 1, 1)


async def test_options_of_the_server_are_left_alone() -> None:
    """Point 8: options are global and lasting, so a request brings its own; the answer repeats no pictures."""
    async with StandIn(flavour="a1111", service_time=0.001) as standin, adapter(standin.url) as upstream:
        before = dict(standin.options)
        made = await images(upstream, order(upstream, "img2img", {"init": flat(INIT)}, strength=0.0))
        assert standin.options == before
        assert asked_for(standin, "options/set") == 0
    sent = body(standin, "img2img")
    assert sent["override_settings"] == {"sd_model_checkpoint": upstream.models[0].vendor_model}
    assert (sent["include_init_images"], len(made)) == (False, 1)


async def test_large_answer_is_decoded_beside_the_loop() -> None:
    """Point 8: pictures as large as real ones come through whole, and what is over the bound is refused."""
    async with StandIn(web=True, picture_bytes=1_500_000) as standin, adapter(standin.url) as upstream:
        made = await images(upstream, order(upstream, count=2))
    assert [len(image.picture.content) >= 1_500_000 for image in made] == [True] * 2


async def test_every_sampler_and_scheduler_is_known_to_the_server() -> None:
    """Names go both ways: this flavour refuses a sampler that it does not know."""
    async with StandIn(flavour="a1111", service_time=0) as standin, adapter(standin.url) as upstream:
        model = upstream.models[0]
        for sampler in model.samplers:
            await reports(upstream, order(upstream, sampler=sampler, steps=1))
        await reports(upstream, order(upstream, sampler="euler_a", scheduler="karras", steps=1))
    assert {"euler", "euler_a", "dpmpp_2m", "ddim", "lms", "DPM++ 2M SDE", "UniPC"} <= set(model.samplers)
    assert body(standin, "txt2img")["sampler_name"] == "Euler a"
    assert body(standin, "txt2img")["scheduler"] == "karras"
    assert all(call.unknown_fields == () for call in standin.log if call.operation == "txt2img")


async def test_prompt_carries_weights_loras_and_style(standin: StandIn) -> None:
    """Weights stand in the prompt as they are written there, LoRAs as tags; a style goes by its name."""
    async with adapter(standin.url) as upstream:
        upstream._offer = dataclasses.replace(upstream._offer, styles=("Ink",))
        upstream.models = upstream._models()
        parts = [{"text": "a cat"}, {"text": "red", "weight": 1.2}, {"text": "fog", "weight": -1.5}]
        asked = order(upstream, prompts=parts, loras=[{"name": "sketch", "weight": 0.5}], style="Ink")
        made = await images(upstream, asked)
    sent = body(standin, "txt2img")
    assert (sent["prompt"], sent["negative_prompt"]) == ("a cat, (red:1.2) <lora:sketch:0.5>", "(fog:1.5)")
    assert sent["styles"] == ["Ink"]
    assert pixel(made[0]) == colour_of(7, words_of(sent["prompt"], "(fog:1.5)", ["sketch"]))


async def test_tiling_is_asked_for_where_it_is_wished() -> None:
    """By the field that the server has for it, and by none where it is not."""
    async with StandIn(flavour="a1111", service_time=0) as standin, adapter(standin.url) as upstream:
        await images(upstream, order(upstream, tiling=True))
        assert body(standin, "txt2img")["tiling"] is True
        await images(upstream, order(upstream, "img2img", {"init": flat(INIT)}, tiling=True))
        assert body(standin, "img2img")["tiling"] is True
        await images(upstream, order(upstream, tiling=False))
    assert "tiling" not in body(standin, "txt2img")
    assert all(call.unknown_fields == () for call in standin.log if call.operation in ("txt2img", "img2img"))


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.65, 1.0])
async def test_strength_points_the_right_way(standin: StandIn, strength: float) -> None:
    """0 keeps the init image's pixels, 1 ignores them."""
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "img2img", {"init": flat(INIT)}, strength=strength))
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(INIT, CAT, strict=True))
    assert near(pixel(made, (5, 5)), expected)


def half_white(size: tuple[int, int], mode: str = "L") -> Image.Image:
    """A mask whose left half is to be edited; with an alpha channel that says the opposite."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    if mode == "L":
        return mask
    alpha = mask.point([255 - value for value in range(256)])
    return Image.merge("RGBA", (mask, mask, mask, alpha))


@pytest.mark.parametrize(
    "mask", [half_white((64, 64)), half_white((32, 32)), half_white((64, 64), "RGBA")], ids=["fits", "small", "alpha"]
)
async def test_white_is_repainted_and_black_is_kept(standin: StandIn, mask: Image.Image) -> None:
    """White means edit, whatever the mask's size and alpha: the server would take the alpha for the mask."""
    inputs = {"init": flat(INIT), "mask": encoded(mask)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "inpaint", inputs, strength=1.0))
    assert near(pixel(made, (5, 32)), CAT)
    assert near(pixel(made, (60, 32)), INIT)
    sent = body(standin, "img2img")
    wanted = {"mask_blur": 0, "inpainting_mask_invert": 0, "inpaint_full_res": False, "inpainting_fill": 1}
    assert {name: sent[name] for name in wanted} == wanted


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(64, 64), (100, 40)])
async def test_init_image_of_any_kind_gives_the_asked_size(
    standin: StandIn, format: str, size: tuple[int, int]
) -> None:
    """What would be drawn in another size is converted before."""
    inputs = {"init": flat(INIT, size, format=format)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "img2img", inputs, strength=0.0))
    assert (made.picture.width, made.picture.height) == (64, 64)
    assert near(pixel(made, (32, 32)), INIT, 4)


async def test_outpaint_keeps_the_picture_in_its_place(standin: StandIn) -> None:
    """The init image stays pixel by pixel; all around it is painted, from noise."""
    init = Image.new("RGB", (64, 64), INIT)
    init.putpixel((0, 0), (1, 2, 3))
    expand = {"left": 32, "up": 16, "right": 8, "down": 24}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "outpaint", {"init": encoded(init)}, expand=expand))
    assert (made.picture.width, made.picture.height) == (104, 104)
    assert pixel(made, (32, 16)) == (1, 2, 3)
    for inside in ((33, 16), (95, 79), (64, 40)):
        assert pixel(made, inside) == INIT
    for outside in ((31, 40), (96, 40), (64, 15), (64, 80)):
        assert near(pixel(made, outside), CAT)
    sent = body(standin, "img2img")
    assert (sent["inpainting_fill"], sent["denoising_strength"]) == (2, 1.0)


async def test_outpaint_brought_to_an_allowed_size_scales_canvas_and_mask(standin: StandIn) -> None:
    """With `adjust` the grown picture is scaled a little, the mask with it."""
    async with adapter(standin.url) as upstream:
        asked = order(upstream, "outpaint", {"init": flat(INIT)}, expand={"left": 6}, adjust=True)
        (made,) = await images(upstream, asked)
    assert (made.picture.width, made.picture.height) == (72, 64)
    assert near(pixel(made, (0, 32)), CAT)
    assert near(pixel(made, (40, 32)), INIT)


async def test_control_images_become_units_that_are_enabled(standin: StandIn) -> None:
    """Each has its model and module, and none adds a picture to the answer."""
    inputs = {
        "canny": (flat("white"), {"weight": 2.0, "start": 0.1, "end": 0.9}),
        "depth": (flat("black"), {"preprocessor": "depth_midas"}),
    }
    async with adapter(standin.url) as upstream:
        made = await images(upstream, order(upstream, "controlnet", inputs))
    sent = body(standin, "txt2img")["alwayson_scripts"]["controlnet"]["args"]
    assert [(unit["enabled"], unit["module"], unit["model"]) for unit in sent] == [
        (True, "none", "control_v11p_sd15_canny [d14c016b]"),
        (True, "depth_midas", "control_v11f1p_sd15_depth [cfd03158]"),
    ]
    assert not any(unit["save_detected_map"] for unit in sent)
    assert [(unit["weight"], unit["guidance_start"], unit["guidance_end"]) for unit in sent] == [
        (2, 0.1, 0.9),
        (1, 0, 1),
    ]
    half = tuple(value * 0.5 + 127.5 for value in CAT)
    assert len(made) == 1
    assert near(pixel(made[0]), tuple(value * 0.75 for value in half))


async def test_control_image_with_init_and_mask_is_an_edit(standin: StandIn) -> None:
    """All three inputs are used at once."""
    inputs = {"canny": flat("white"), "init": flat(INIT), "mask": encoded(half_white((64, 64)))}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "controlnet", inputs, strength=1.0))
    assert near(pixel(made, (60, 32)), INIT)
    assert near(pixel(made, (5, 32)), tuple(value * 0.75 + 255 / 4 for value in CAT))


@pytest.mark.parametrize(
    "given,size",
    [
        ({"scale": 2}, (128, 128)),
        ({"width": 200}, (200, 200)),
        ({"width": 256, "height": 128}, (256, 128)),
        ({}, (128, 128)),
    ],
)
async def test_upscale_gives_the_asked_size(standin: StandIn, given: dict[str, Any], size: tuple[int, int]) -> None:
    """Enlarged by the server's upscaler, cropped to the asked shape, without a black edge."""
    async with adapter(standin.url) as upstream:
        told = await reports(upstream, order(upstream, "upscale", {"init": flat(INIT)}, **given))
    made = told[-1]
    assert isinstance(made, ImageMade)
    assert is_in_order(told)
    assert (made.picture.width, made.picture.height) == size
    assert pixel(made) == pixel(made, (size[0] - 1, size[1] - 1)) == INIT
    assert body(standin, "extra-single-image")["upscaler_1"] == "Lanczos"


async def test_upscale_never_loses_pixels_to_rounding(standin: StandIn) -> None:
    """The server computes sides in floating point and rounds them down to a multiple of 8."""
    async with adapter(standin.url) as upstream:
        for edge, width in ((67, 232), (69, 88), (69, 176), (71, 112)):
            assert int(edge * (width / edge)) == width - 1
            asked = order(upstream, "upscale", {"init": flat(INIT, (edge, edge))}, width=width)
            (made,) = await images(upstream, asked)
            assert (made.picture.width, pixel(made, (width - 1, width - 1))) == (width, INIT)


@pytest.mark.parametrize("format", ["jpg", "webp"])
async def test_pictures_come_in_the_servers_format(standin: StandIn, format: str) -> None:
    """The encoding is an option of the server's; what comes is measured, not believed."""
    standin.options["samples_format"] = format
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream))
    assert made.picture.format == {"jpg": "jpeg"}.get(format, format)
    assert near(pixel(made), CAT, 6)


async def test_grid_before_the_pictures_is_not_taken_for_one(standin: StandIn) -> None:
    """Pictures are counted from where the server says that they begin."""
    png = encoded(Image.new("RGB", (8, 8), "red"))
    coded = base64.b64encode(png).decode()
    async with adapter(standin.url) as upstream:
        asked = order(upstream, count=2)
    answer = f'{{"images":["{coded}","{coded}","{coded}"],"info":"{{\\"index_of_first_image\\":1}}"}}'
    assert [image.index for image in from_vendor(asked, answer.encode())] == [0, 1]
    assert [image.seed for image in from_vendor(asked, answer.encode())] == [7, 8]


async def test_input_that_fits_is_sent_as_it_is(standin: StandIn) -> None:
    """No pixel is decoded, and none changed, without need; a converted picture keeps its alpha."""
    async with adapter(standin.url) as upstream:
        fits = order(upstream, "img2img", {"init": flat("red")})
        clear = order(upstream, "img2img", {"init": flat((1, 2, 3, 50), (32, 32), "RGBA")})
    assert not needs_pixels(fits)
    assert prepared(fits).inputs == fits.inputs
    with Image.open(io.BytesIO(prepared(clear).inputs["init"])) as opened:
        assert (opened.mode, opened.size) == ("RGBA", (64, 64))
    assert to_vendor(fits, upstream._offer)[0] == "/sdapi/v1/img2img"
