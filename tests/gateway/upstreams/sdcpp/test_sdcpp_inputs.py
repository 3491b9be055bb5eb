"""Input images on their way to the server, and what becomes of their pixels."""

import io
import random
from typing import Any

import pytest
from PIL import Image

from gateway.core.reports import Outcome
from gateway.upstreams.sdcpp.inputs import fitted
from load.upstreams.pictures import colour_of
from load.upstreams.sdcpp import SdCpp as StandIn
from tests.gateway.upstreams.sdcpp.vendor import (
    CONTROLLED,
    adapter,
    fault,
    flat,
    half_white,
    images,
    near,
    order,
    pixel,
)
from tests.pictures import encoded

INIT = (200, 100, 0)
LAMP = colour_of(7, "a lamp")
KINDS: list[tuple[str, Any, tuple[int, ...], str]] = [
    # Pillow's mode, the colour, what must be seen, the format
    ("RGB", INIT, INIT, "PNG"),
    ("RGB", INIT, INIT, "JPEG"),
    ("RGB", INIT, INIT, "WEBP"),
    ("L", 90, (90, 90, 90), "PNG"),
    ("L", 90, (90, 90, 90), "JPEG"),
    ("1", 1, (255, 255, 255), "PNG"),
    ("I;16", 90 * 257, (90, 90, 90), "PNG"),
    ("LA", (90, 255), (90, 90, 90), "PNG"),
    ("LA", (90, 0), (255, 255, 255), "PNG"),
    ("P", 0, (0, 0, 0), "PNG"),
    ("RGBA", (*INIT, 255), INIT, "PNG"),
    ("RGBA", (*INIT, 0), (255, 255, 255), "PNG"),
    ("RGBA", (0, 0, 0, 128), (127, 127, 127), "PNG"),
    ("RGBA", (*INIT, 0), (255, 255, 255), "WEBP"),
    ("CMYK", (0, 0, 0, 0), (255, 255, 255), "JPEG"),
]


@pytest.mark.parametrize("mode,colour,seen,format", KINDS, ids=str)
async def test_picture_of_any_kind_is_what_a_person_sees(
    standin: StandIn, mode: str, colour: Any, seen: tuple[int, ...], format: str
) -> None:
    """The server refuses grey, drops alpha and crops: here grey becomes RGB, and what is transparent white."""
    half = tuple((a + b) / 2 for a, b in zip(seen, LAMP, strict=True))
    async with adapter(standin.url, terms=CONTROLLED) as upstream:
        for size in ((128, 128), (50, 200)):
            content = encoded(Image.new(mode, size, colour), format)
            init = order(upstream, "img2img", strength=0.0, inputs={"init": content})
            control = order(upstream, "controlnet", inputs={"canny": content})
            for asked, expected in ((init, seen), (control, half)):
                (made,) = await images(upstream, asked)
                assert (made.picture.width, made.picture.height) == (128, 128)
                assert near(pixel(made, (64, 64)), expected, 3)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I;16"])
async def test_mask_of_any_kind_is_its_grey_values(standin: StandIn, mode: str) -> None:
    """White is edited in each, also where a mask has 16 bits or an alpha that says nothing."""
    half = half_white()
    mask = half.convert("I").point(lambda value: value * 257).convert("I;16") if mode == "I;16" else half.convert(mode)
    inputs = {"init": flat(INIT), "mask": encoded(mask)}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "inpaint", strength=1.0, inputs=inputs))
    assert near(pixel(made, (20, 64)), LAMP)
    assert near(pixel(made, (120, 64)), INIT)


async def test_deep_grey_mask_is_scaled_and_not_cut(standin: StandIn) -> None:
    """A dark grey of 16 bits is dark, though its number is far above 255."""
    inputs = {"init": flat(INIT), "mask": encoded(Image.new("I;16", (128, 128), 60 * 257))}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "inpaint", strength=1.0, inputs=inputs))
    assert near(pixel(made), INIT)


async def test_picture_of_another_shape_is_seen_whole(standin: StandIn) -> None:
    """The server would crop it: the mask would no longer lie where it was drawn."""
    inputs = {"init": flat(INIT, (256, 64)), "mask": encoded(half_white((256, 64)))}
    async with adapter(standin.url) as upstream:
        (made,) = await images(upstream, order(upstream, "inpaint", strength=1.0, inputs=inputs))
    assert not near(pixel(made, (4, 64)), INIT)
    assert near(pixel(made, (124, 64)), INIT)


async def test_picture_that_fits_is_sent_as_it_is(standin: StandIn) -> None:
    """No pixel is decoded, and none changed, without need."""
    inputs = {"init": flat("red"), "mask": encoded(half_white())}
    async with adapter(standin.url) as upstream:
        asked = order(upstream, "inpaint", inputs=inputs)
        assert await fitted(asked) is asked


async def test_large_input_goes_through(standin: StandIn) -> None:
    """Over a mebibyte it is encoded beside the loop."""
    noise = encoded(Image.frombytes("RGB", (1024, 512), random.Random(1).randbytes(1024 * 512 * 3)))
    assert len(noise) > 1024 * 1024
    async with adapter(standin.url) as upstream:
        asked = order(upstream, "img2img", width=1024, height=512, strength=0.0, inputs={"init": noise})
        (made,) = await images(upstream, asked)
    with Image.open(io.BytesIO(made.picture.content)) as back, Image.open(io.BytesIO(noise)) as there:
        assert back.tobytes() == there.tobytes()


BAD_INPUTS = {
    "no image": (b"GIF89a" + bytes(50), "unsupported_media"),
    "a broken header": (b"\x89PNG\r\n\x1a\n" + bytes(50), "image_decode_failed"),
    "broken pixels": (flat("red", (64, 64))[:60] + bytes(20), "image_decode_failed"),
    "too many pixels": (flat(0, (5000, 4000), "1"), "payload_too_large"),
}


@pytest.mark.parametrize("slot", ["init", "mask"])
@pytest.mark.parametrize("name", BAD_INPUTS)
async def test_point_4_unusable_input_image_costs_no_call(standin: StandIn, name: str, slot: str) -> None:
    """An input that can't be used is the end, before the server hears of it, and before its pixels are decoded."""
    content, code = BAD_INPUTS[name]
    inputs = {"init": flat("red"), "mask": flat(0, mode="L"), slot: content}
    async with adapter(standin.url) as upstream:
        found = await fault(upstream.run(order(upstream, "inpaint", inputs=inputs)))
    assert (found.outcome, found.code, found.charged, standin.calls) == (Outcome.FAILED, code, False, 0)
    assert found.details == {"path": "inputs", "role": slot}
