"""What the stand-in of Stability v1 makes of pictures that it is sent."""

from __future__ import annotations

from typing import Any

import aiohttp
import pytest
from PIL import Image

from load.upstreams.pictures import colour_of
from load.upstreams.stability_v1 import StabilityV1
from load.upstreams.stability_v1.orders import Limits
from tests.load.upstreams.talk import AUTH, CAT, ESRGAN, OLD, Client, Reply, decode, edit, flat, send
from tests.pictures import encoded

MASKING = "image-to-image/masking"
UPSCALE = "image-to-image/upscale"


# Image to image


@pytest.mark.parametrize(
    "fields,keep",
    [
        ({"image_strength": 1}, 1.0),
        ({"image_strength": 0}, 0.0),
        ({"image_strength": 0.5}, 0.5),
        ({}, 0.35),
        ({"init_image_mode": "STEP_SCHEDULE", "step_schedule_start": 0.25, "step_schedule_end": 1}, 0.75),
        ({"init_image_mode": "STEP_SCHEDULE", "image_strength": 1}, 0.35),
    ],
)
async def test_image_strength_says_how_much_of_the_init_picture_stays(
    client: Client, standin: StabilityV1, fields: dict[str, Any], keep: float
) -> None:
    """1 keeps the init picture and 0 ignores it; a step schedule counts the other way round."""
    reply = await edit(client, standin.url, {"init_image": flat(640, 512)}, **fields)
    image = reply.images[0]
    mixed = [keep * own + (1 - keep) * new for own, new in zip((200, 100, 0), CAT, strict=True)]
    assert image.size == (640, 512)
    assert image.getpixel((3, 3)) == pytest.approx(mixed, abs=1)


async def test_full_image_strength_gives_back_every_pixel(client: Client, standin: StabilityV1) -> None:
    """At strength 1 a picture full of detail comes back exactly."""
    init = Image.effect_noise((512, 512), 80).convert("RGB")
    reply = await edit(client, standin.url, {"init_image": encoded(init)}, image_strength=1)
    assert reply.images[0].tobytes() == init.tobytes()


@pytest.mark.parametrize("kind,mime", [("JPEG", "image/jpeg"), ("WEBP", "image/webp"), ("PNG", "image/png")])
async def test_init_picture_may_be_png_jpeg_or_webp(client: Client, standin: StabilityV1, kind: str, mime: str) -> None:
    """Three kinds of file are read."""
    init = encoded(Image.new("RGB", (512, 512)), kind)
    assert (await edit(client, standin.url, {"init_image": init}, mime=mime)).status == 200


async def test_png_answer_exists_for_forms_too(client: Client, standin: StabilityV1) -> None:
    """Accept image/png works for image-to-image as for text."""
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("init_image", flat(), filename="i.png", content_type="image/png")
    form.add_field("text_prompts[0][text]", "a cat")
    url = f"{standin.url}/v1/generation/{OLD}/image-to-image"
    reply = await send(client, "POST", url, {**AUTH, "Accept": "image/png"}, data=form)
    assert (reply.headers["Content-Type"], reply.headers["Finish-Reason"]) == ("image/png", "SUCCESS")
    assert decode(reply.body).size == (512, 512)


@pytest.mark.parametrize(
    "files,fields,name",
    [
        ({}, {}, "bad_request"),
        ({"init_image": b""}, {}, "invalid_file_size"),
        ({"init_image": b"GIF89a"}, {}, "invalid_mime_type"),
        ({"init_image": encoded(Image.new("RGB", (512, 512)), "GIF")}, {}, "invalid_mime_type"),
        ({"init_image": flat(500, 512)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat(64, 64)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat(256, 512)}, {}, "invalid_image_dimensions"),
        ({"init_image": flat()[:200]}, {}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": 1.1}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": "nan"}, "bad_request"),
        ({"init_image": flat()}, {"image_strength": "much"}, "bad_request"),
        ({"init_image": flat()}, {"step_schedule_start": -1}, "bad_request"),
        ({"init_image": flat()}, {"init_image_mode": "MAGIC"}, "bad_request"),
        ({"init_image": flat()}, {"samples": 11}, "invalid_samples"),
        ({"init_image": flat()}, {"seed": "1.5"}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[0][text]": None}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[1][weight]": 1}, "bad_request"),
        ({"init_image": flat()}, {"text_prompts[0][weight]": "inf"}, "bad_request"),
    ],
)
async def test_image_to_image_refuses_by_error_name(
    client: Client, standin: StabilityV1, files: dict[str, bytes], fields: dict[str, Any], name: str
) -> None:
    """Files and values are checked, each fault under its name."""
    reply = await edit(client, standin.url, files, **fields)
    assert (reply.status, reply.name) == (400, name)


async def test_declared_type_of_a_file_is_checked(client: Client, standin: StabilityV1) -> None:
    """A picture declared as something else is refused."""
    reply = await edit(client, standin.url, {"init_image": flat()}, mime="text/plain")
    assert (reply.status, reply.name) == (400, "invalid_mime_type")


async def test_file_over_the_limit_is_refused(client: Client) -> None:
    """The greatest file size can be set."""
    async with StabilityV1(limits=Limits(max_file_bytes=100)) as standin:
        reply = await edit(client, standin.url, {"init_image": flat()})
    assert (reply.status, reply.name) == (400, "invalid_file_size")


async def test_prompt_indices_may_have_gaps_and_repeat(client: Client, standin: StabilityV1) -> None:
    """Prompts are ordered by their index, and a repeated index overrides the earlier one."""
    form = aiohttp.FormData(quote_fields=False)
    for name, value in [
        ("[5][text]", "late"),
        ("[2][text]", "lost"),
        ("[2][text]", "early"),
        ("[5][weight]", "-1"),
    ]:
        form.add_field(f"text_prompts{name}", value)
    form.add_field("seed", "9")
    form.add_field("image_strength", "0")
    form.add_field("init_image", flat(), filename="i.png", content_type="image/png")
    reply = await send(client, "POST", f"{standin.url}/v1/generation/{OLD}/image-to-image", data=form)
    assert reply.images[0].getpixel((0, 0)) == colour_of(9, "early\nlate")


async def test_percent_encoded_field_names_are_other_fields(client: Client, standin: StabilityV1) -> None:
    """A client that encodes the brackets of a prompt's name has sent no prompt."""
    encoded: dict[str, Any] = {"text_prompts[0][text]": None, "text_prompts%5B0%5D%5Btext%5D": "a cat"}
    reply = await edit(client, standin.url, {"init_image": flat()}, **encoded)
    assert (reply.status, reply.name) == (400, "bad_request")


# Masking


def half(white_left: tuple[int, ...], right: tuple[int, ...], mode: str) -> Image.Image:
    """A 512 x 512 picture of two halves."""
    image = Image.new(mode, (512, 512), right)
    image.paste(white_left, (0, 0, 256, 512))
    return image


def noise() -> Image.Image:
    """An init picture in which no two places look alike."""
    bands = [Image.effect_noise((512, 512), 80) for _ in range(3)]
    return Image.merge("RGB", bands)


async def masked(client: Client, url: str, source: str, init: Image.Image, mask: Image.Image | None) -> Reply:
    """POST masking."""
    files = {"init_image": encoded(init)} | ({"mask_image": encoded(mask)} if mask is not None else {})
    return await edit(client, url, files, MASKING, mask_source=source)


@pytest.mark.parametrize("source,replaced", [("MASK_IMAGE_WHITE", 0), ("MASK_IMAGE_BLACK", 256)])
async def test_mask_picture_keeps_init_pixels_exactly(
    client: Client, standin: StabilityV1, source: str, replaced: int
) -> None:
    """White or black says what is replaced; every pixel of the other half is the init picture's."""
    init, mask = noise(), half((255,), (0,), "L")
    image = (await masked(client, standin.url, source, init, mask)).images[0]
    kept = 256 - replaced
    box, other = (kept, 0, kept + 256, 512), (replaced, 0, replaced + 256, 512)
    assert image.crop(box).tobytes() == init.crop(box).tobytes()
    assert image.crop(other).getcolors() == [(256 * 512, CAT)]


async def test_transparent_pixels_of_the_init_picture_are_replaced(client: Client, standin: StabilityV1) -> None:
    """With INIT_IMAGE_ALPHA opaque pixels stay exactly and a mask picture counts for nothing."""
    init = noise()
    init.putalpha(half((0,), (255,), "L"))
    reply = await masked(client, standin.url, "INIT_IMAGE_ALPHA", init, Image.new("L", (64, 64), 255))
    image = reply.images[0]
    box = (256, 0, 512, 512)
    assert image.crop(box).tobytes() == init.convert("RGB").crop(box).tobytes()
    assert image.crop((0, 0, 256, 512)).getcolors() == [(256 * 512, CAT)]
    assert standin.log[-1].unknown_fields == ()


async def test_grey_mask_mixes_linearly(client: Client, standin: StabilityV1) -> None:
    """A mid-grey pixel is half replaced."""
    init, mask = Image.new("RGB", (512, 512), (200, 100, 0)), Image.new("RGB", (512, 512), (128, 128, 128))
    image = (await masked(client, standin.url, "MASK_IMAGE_WHITE", init, mask)).images[0]
    expected = [(own + new) / 2 for own, new in zip((200, 100, 0), CAT, strict=True)]
    assert image.getpixel((1, 1)) == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(
    "source,mask,name",
    [
        (None, flat(), "bad_request"),
        ("MASK_IMAGE_GREY", flat(), "bad_request"),
        ("MASK_IMAGE_WHITE", None, "invalid_mask_image"),
        ("MASK_IMAGE_BLACK", flat(512, 576), "invalid_mask_image"),
        ("MASK_IMAGE_BLACK", b"no picture", "invalid_mime_type"),
    ],
)
async def test_masking_refuses_by_error_name(
    client: Client, standin: StabilityV1, source: str | None, mask: bytes | None, name: str
) -> None:
    """The mask must be named, present, a picture and of the init picture's size."""
    files = {"init_image": flat()} | ({"mask_image": mask} if mask is not None else {})
    reply = await edit(client, standin.url, files, MASKING, mask_source=source)
    assert (reply.status, reply.name) == (400, name)


# Upscale


@pytest.mark.parametrize(
    "fields,size", [({}, (600, 400)), ({"width": 1200}, (1200, 800)), ({"height": 512}, (768, 512))]
)
async def test_upscale_keeps_the_shape(
    client: Client, standin: StabilityV1, fields: dict[str, Any], size: tuple[int, int]
) -> None:
    """One side may be given and the other follows; without any the picture doubles."""
    reply = await edit(client, standin.url, {"image": flat(300, 200)}, UPSCALE, ESRGAN, **fields)
    image = reply.images[0]
    assert image.size == size
    assert image.getcolors() == [(size[0] * size[1], (200, 100, 0))]


@pytest.mark.parametrize(
    "size,fields,name",
    [
        ((300, 200), {"width": 1024, "height": 1024}, "invalid_height_or_width"),
        ((300, 200), {"width": 511}, "invalid_height_or_width"),
        ((300, 200), {"height": 4096}, "invalid_pixel_count"),
        ((2048, 1024), {}, "invalid_pixel_count"),
    ],
)
async def test_upscale_refuses_by_error_name(
    client: Client, standin: StabilityV1, size: tuple[int, int], fields: dict[str, Any], name: str
) -> None:
    """Both sides at once, too small a side and too many pixels are refused."""
    reply = await edit(client, standin.url, {"image": flat(*size)}, UPSCALE, ESRGAN, **fields)
    assert (reply.status, reply.name) == (400, name)


async def test_upscale_needs_its_picture(client: Client, standin: StabilityV1) -> None:
    """The field is `image` here, not `init_image`."""
    reply = await edit(client, standin.url, {"init_image": flat()}, UPSCALE, ESRGAN)
    assert (reply.status, reply.name) == (400, "bad_request")
