"""Input images on their way to the vendor, and what becomes of their pixels."""

import io

import pytest
from PIL import Image

from gateway.core.reports import Outcome
from gateway.upstreams.pictures import needs_preparing, prepare
from gateway.upstreams.stability_v1.wire import WANTED
from load.upstreams.pictures import colour_of
from load.upstreams.stability_v1 import StabilityV1 as StandIn
from tests.gateway.upstreams.stability_v1.vendor import adapter, fault, flat, images, near, order, pixel
from tests.pictures import encoded


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.65, 1.0])
async def test_strength_points_the_right_way(standin: StandIn, strength: float) -> None:
    """0 keeps the init image's pixels, 1 ignores them."""
    init, painted = (200, 100, 0), colour_of(7, "a lamp")
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("img2img", strength=strength, inputs={"init": flat(init)}))
    expected = tuple(a * (1 - strength) + b * strength for a, b in zip(init, painted, strict=True))
    assert near(pixel(made, (5, 5)), expected)


def half_white(size: tuple[int, int]) -> Image.Image:
    """A mask whose left half is to be edited."""
    mask = Image.new("L", size, 0)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.mark.parametrize("mask_size", [(320, 320), (64, 64)])
@pytest.mark.parametrize("mask_format", ["PNG", "WEBP", "JPEG"])
async def test_white_is_repainted_and_black_is_kept(
    standin: StandIn, mask_size: tuple[int, int], mask_format: str
) -> None:
    """White means edit, whatever the mask's size and format."""
    inputs = {"init": flat((200, 100, 0)), "mask": encoded(half_white(mask_size), mask_format, quality=100)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("inpaint", inputs=inputs))
    assert near(pixel(made, (20, 160)), colour_of(7, "a lamp"))
    assert near(pixel(made, (300, 160)), (200, 100, 0))
    assert standin.log[0].unknown_fields == ()


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("size", [(320, 320), (100, 200)])
async def test_init_image_of_any_kind_gives_the_asked_size(
    standin: StandIn, format: str, size: tuple[int, int]
) -> None:
    """What the vendor would not take, or would draw in another size, is converted before."""
    inputs = {"init": flat((200, 100, 0), size, format=format)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order("img2img", strength=0.0, inputs=inputs))
    assert (made.picture.width, made.picture.height) == (320, 320)
    assert near(pixel(made, (160, 160)), (200, 100, 0), 4)


def test_init_image_that_fits_is_sent_as_it_is() -> None:
    """No pixel is decoded, and none changed, without need."""
    asked = order("img2img", inputs={"init": flat("red")})
    assert not needs_preparing(asked, WANTED)
    assert prepare(asked, WANTED).inputs == asked.inputs


def test_init_image_keeps_its_alpha() -> None:
    """A converted picture is still transparent where it was."""
    asked = order("img2img", inputs={"init": flat((1, 2, 3, 50), (64, 64), "RGBA")})
    assert needs_preparing(asked, WANTED)
    with Image.open(io.BytesIO(prepare(asked, WANTED).inputs["init"])) as opened:
        assert (opened.mode, opened.size) == ("RGBA", (320, 320))


BAD_INPUTS = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "broken pixels": (flat("red", (64, 64))[:60] + bytes(20), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_unusable_input_image_costs_no_call(standin: StandIn, name: str) -> None:
    """An input that can't be used is the end, before the vendor hears of it, and before its pixels are decoded."""
    content, code = BAD_INPUTS[name]
    async with adapter(standin.url) as upstream:
        found = await fault(upstream, order("img2img", inputs={"init": content}))
    assert (found.outcome, found.code, found.charged, standin.calls) == (Outcome.FAILED, code, False, 0)
