"""What the stand-in of Stability v2beta does to pixels, operation by operation, over real sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp
import pytest
from PIL import Image, ImageChops

from load.upstreams.pictures import Colour, colour_of
from load.upstreams.stability_v2beta import StabilityV2Beta
from load.upstreams.stability_v2beta.paint import found, grown, picture_key
from tests.load.upstreams.talk import flat
from tests.load.upstreams.talk_v2beta import (
    BLUE,
    CAT,
    CORE,
    RED,
    SQUARE,
    Fields,
    is_near,
    mixed,
    picture,
    poll,
    post,
    start,
    two_tone,
)
from tests.pictures import encoded

Client = aiohttp.ClientSession
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture
async def standin() -> AsyncIterator[StabilityV2Beta]:
    """A stand-in without delay, limit or faults."""
    async with StabilityV2Beta(limit=None) as running:
        yield running


def mask(width: int = 64, height: int = 64, *, grey: int = 255) -> bytes:
    """Black, its right half white or grey."""
    image = Image.new("L", (width, height), 0)
    image.paste(grey, (width // 2, 0, width, height))
    return encoded(image)


def noise(width: int = 64, height: int = 64) -> Image.Image:
    """A picture in which every pixel differs from its neighbours."""
    pixels = bytes(value * 37 % 251 for value in range(width * height * 3))
    return Image.frombytes("RGB", (width, height), pixels)


def same(one: Image.Image, two: Image.Image) -> bool:
    """Whether two pictures agree in every pixel."""
    return one.size == two.size and ImageChops.difference(one, two).getbbox() is None


async def painted(client: Client, standin: StabilityV2Beta, path: str, fields: Fields) -> Image.Image:
    """The picture an endpoint makes of a form."""
    return picture(await post(client, standin.url, path, fields))


# Generating


@pytest.mark.parametrize("path,extra", [("generate/ultra", {}), ("generate/sd3", {"mode": "image-to-image"})])
@pytest.mark.parametrize("strength", [0, 0.25, 1])
async def test_strength_is_the_share_of_what_is_new(
    client: Client, standin: StabilityV2Beta, path: str, extra: Fields, strength: float
) -> None:
    """0 gives the image pixel by pixel, 1 nothing of it, and between it goes linearly."""
    image = noise()
    fields = {**CORE, **extra, "image": encoded(image), "strength": strength}
    result = await painted(client, standin, path, fields)
    if strength == 0:
        assert same(result, image)
    start_pixel = image.getpixel((9, 9))
    assert isinstance(start_pixel, tuple)
    assert is_near(result.getpixel((9, 9)), mixed((start_pixel[0], start_pixel[1], start_pixel[2]), CAT, strength))


def test_key_of_a_picture_is_its_texts() -> None:
    """Prompt, negative prompt and style in this order, empty ones left out."""
    assert picture_key({"style_preset": "anime", "negative_prompt": "", "prompt": "a"}) == "a\nanime"


# Upscaling


async def test_fast_upscale_makes_sixteen_of_each_pixel(client: Client, standin: StabilityV2Beta) -> None:
    """Four times each side, all content in its place."""
    image = noise(40, 32)
    result = await painted(client, standin, "upscale/fast", {"image": encoded(image)})
    assert result.size == (160, 128)
    assert same(result.resize(image.size, Image.Resampling.NEAREST), image)


async def test_conservative_upscale_is_four_megapixels_of_the_same(client: Client, standin: StabilityV2Beta) -> None:
    """The content is in its place, washed with the prompt's colour as much as creativity says."""
    fields = {**CORE, "image": two_tone(80, 64), "creativity": 0.2}
    result = await painted(client, standin, "upscale/conservative", fields)
    assert abs(result.width * result.height - 4_194_304) < result.width + result.height
    assert abs(result.width / result.height - 80 / 64) < 0.001
    assert is_near(result.getpixel((0, 0)), mixed(RED, CAT, 0.2))
    assert is_near(result.getpixel((result.width // 2, result.height // 2)), mixed(BLUE, CAT, 0.2))


async def test_creative_upscale_is_four_megapixels_too(client: Client, standin: StabilityV2Beta) -> None:
    """Its result has the default creativity."""
    done = await poll(client, standin.url, await start(client, standin.url, image=two_tone()))
    result = picture(done)
    assert result.size == (2048, 2048)
    assert is_near(result.getpixel((1024, 1024)), mixed(BLUE, CAT, 0.3))


# Editing


@pytest.mark.parametrize(
    "path,colour,extra",
    [("edit/inpaint", CAT, CORE), ("edit/erase", colour_of(7, ""), {"seed": 7})],
)
async def test_only_what_is_white_in_the_mask_changes(
    client: Client, standin: StabilityV2Beta, path: str, colour: Colour, extra: Fields
) -> None:
    """White is the new colour throughout, black the image's own pixels exactly."""
    image = noise()
    fields = {**extra, "image": encoded(image), "mask": mask(), "grow_mask": 0}
    result = await painted(client, standin, path, fields)
    kept, edited = (0, 0, 32, 64), (32, 0, 64, 64)
    assert same(result.crop(kept), image.crop(kept))
    assert same(result.crop(edited), Image.new("RGB", (32, 64), colour))


async def test_grey_in_the_mask_mixes(client: Client, standin: StabilityV2Beta) -> None:
    """A fifth of white edits by a fifth."""
    fields = {**CORE, "image": SQUARE, "mask": mask(grey=51), "grow_mask": 0}
    result = await painted(client, standin, "edit/inpaint", fields)
    assert is_near(result.getpixel((60, 5)), mixed(RED, CAT, 0.2))
    assert result.getpixel((5, 5)) == RED


async def test_mask_of_another_size_is_resized(client: Client, standin: StabilityV2Beta) -> None:
    """Half of a small mask is half of the image."""
    fields = {**CORE, "image": flat(128, 64, RED), "mask": mask(16, 4), "grow_mask": 0}
    result = await painted(client, standin, "edit/inpaint", fields)
    assert (result.size, result.getpixel((63, 9)), result.getpixel((64, 9))) == ((128, 64), RED, CAT)


async def test_transparent_pixels_are_edited_without_a_mask(client: Client, standin: StabilityV2Beta) -> None:
    """Alpha stands in for the mask, and a mask overrules it."""
    image = Image.new("RGBA", (64, 64), (*RED, 255))
    image.paste((*RED, 0), (0, 0, 32, 64))
    fields = {**CORE, "image": encoded(image), "grow_mask": 0}
    by_alpha = await painted(client, standin, "edit/inpaint", fields)
    by_mask = await painted(client, standin, "edit/inpaint", {**fields, "mask": mask()})
    assert [by_alpha.getpixel((x, 9)) for x in (31, 32)] == [CAT, RED]
    assert [by_mask.getpixel((x, 9)) for x in (31, 32)] == [RED, CAT]


async def test_mask_grows_by_five_unless_told(client: Client, standin: StabilityV2Beta) -> None:
    """Each pixel further out changes less, and beyond the growth nothing changes."""
    result = await painted(client, standin, "edit/inpaint", {**CORE, "image": SQUARE, "mask": mask()})
    for step in range(1, 6):
        assert is_near(result.getpixel((32 - step, 9)), mixed(RED, CAT, (6 - step) / 6), 2)
    assert result.getpixel((26, 9)) == RED


def test_growing_goes_in_all_directions() -> None:
    """A dot becomes a square, its corners as far away as its sides."""
    dot = Image.new("L", (9, 9), 0)
    dot.putpixel((4, 4), 255)
    wide = grown(dot, 2)
    assert wide.getbbox() == (2, 2, 7, 7)
    assert [wide.getpixel((x, x)) for x in (4, 3, 2)] == [255, 170, 85]


async def test_opaque_image_without_mask_stays(client: Client, standin: StabilityV2Beta) -> None:
    """Nothing says what to edit, so nothing is."""
    image = noise()
    assert same(await painted(client, standin, "edit/inpaint", {**CORE, "image": encoded(image)}), image)


async def test_outpaint_adds_strips_around_the_original(client: Client, standin: StabilityV2Beta) -> None:
    """Each direction adds its own strip, and the original's pixels are where they belong."""
    image = noise()
    sides = {"left": 5, "right": 7, "up": 11, "down": 13}
    result = await painted(client, standin, "edit/outpaint", {**CORE, **sides, "image": encoded(image)})
    assert result.size == (5 + 64 + 7, 11 + 64 + 13)
    assert same(result.crop((5, 11, 69, 75)), image)
    assert {result.getpixel(place) for place in ((4, 40), (69, 40), (40, 10), (40, 75), (75, 87))} == {CAT}


async def test_search_and_replace_changes_the_box_it_finds(client: Client, standin: StabilityV2Beta) -> None:
    """The box depends on the search prompt, its colour on the prompt; around it all pixels stay."""
    image = noise()
    boxes = set()
    for text in ("dog", "cat", "glasses", "hat"):
        fields = {**CORE, "image": encoded(image), "search_prompt": text, "grow_mask": 0}
        result = await painted(client, standin, "edit/search-and-replace", fields)
        box = found(text, 64, 64)
        assert same(result.crop(box), Image.new("RGB", (32, 32), CAT))
        assert ImageChops.difference(result, image).getbbox() == box
        boxes.add(box)
    assert len(boxes) > 1


async def test_search_and_recolor_keeps_light_and_dark(client: Client, standin: StabilityV2Beta) -> None:
    """In the box white takes the colour, black stays black, and around it all stays."""
    box = found("dog", 64, 64)
    image = Image.new("RGB", (64, 64), WHITE)
    image.paste(BLACK, (box[0], box[1], box[0] + 8, box[3]))
    fields = {**CORE, "image": encoded(image), "select_prompt": "dog", "grow_mask": 0}
    result = await painted(client, standin, "edit/search-and-recolor", fields)
    assert result.getpixel((box[0] + 2, box[1] + 2)) == BLACK
    assert result.getpixel((box[2] - 1, box[3] - 1)) == CAT
    outside = Image.new("RGB", (64, 64), 0)
    outside.paste(WHITE, (0, 0, 64, 64))
    outside.paste(BLACK, box)
    changed = ImageChops.multiply(ImageChops.difference(result, image), outside)
    assert changed.getbbox() is None


@pytest.mark.parametrize("kind", ["png", "webp"])
async def test_remove_background_gives_alpha(client: Client, standin: StabilityV2Beta, kind: str) -> None:
    """What has the corner's colour becomes transparent, the rest opaque, and all colours stay."""
    fields = {"image": two_tone(), "output_format": kind}
    result = await painted(client, standin, "edit/remove-background", fields)
    assert (result.mode, result.size) == ("RGBA", (64, 64))
    assert result.getpixel((0, 0)) == (*RED, 0)
    assert result.getpixel((32, 32)) == (*BLUE, 255)
    assert result.getchannel("A").getbbox() == (16, 16, 48, 48)


@pytest.mark.parametrize("path", ["edit/erase", "edit/inpaint", "edit/search-and-replace"])
async def test_edits_can_return_four_megapixels(client: Client, path: str) -> None:
    """The vendor's prose says so of these three, its table of others does not; the stand-in can do either."""
    fields = {**CORE, "image": SQUARE, "search_prompt": "dog", "mask": mask()}
    async with StabilityV2Beta(four_megapixels=[path]) as standin:
        assert (await painted(client, standin, path, fields)).size == (2048, 2048)
        other = "edit/search-and-recolor"
        assert (await painted(client, standin, other, {**fields, "select_prompt": "dog"})).size == (64, 64)


# Replacing the background


async def relit(client: Client, standin: StabilityV2Beta, **fields: object) -> Image.Image:
    """The result of replacing the background of a blue square on red."""
    form = {"subject_image": two_tone(), "background_prompt": "a cat", "seed": 7, **fields}
    reply = await post(client, standin.url, "edit/replace-background-and-relight", form)
    assert reply.status == 200, reply.body
    return picture(await poll(client, standin.url, reply.json["id"]))


@pytest.mark.parametrize("preserve", [0, 0.6, 1])
async def test_subject_is_preserved_as_asked(client: Client, standin: StabilityV2Beta, preserve: float) -> None:
    """1 keeps its pixels exactly; the background is the prompt's colour in any case."""
    result = await relit(client, standin, preserve_original_subject=preserve)
    assert is_near(result.getpixel((32, 32)), mixed(mixed_colour(BLUE, CAT), BLUE, preserve), 1.5)
    assert result.getpixel((2, 2)) == CAT
    assert preserve < 1 or result.getpixel((32, 32)) == BLUE


def mixed_colour(one: Colour, two: Colour) -> Colour:
    """The colour halfway, in whole numbers."""
    red, green, blue = (int(value) for value in mixed(one, two, 0.5))
    return red, green, blue


async def test_background_can_be_a_reference_or_the_original(client: Client, standin: StabilityV2Beta) -> None:
    """A reference picture is used as it is; the original one is kept in another light."""
    reference = await relit(client, standin, background_reference=flat(64, 64, (1, 2, 3)))
    original = await relit(client, standin, keep_original_background="true")
    assert reference.getpixel((2, 2)) == (1, 2, 3)
    assert is_near(original.getpixel((2, 2)), mixed(RED, CAT, 0.5))


@pytest.mark.parametrize(
    "direction,bright,dark",
    [
        ("left", (0, 4), (63, 4)),
        ("right", (63, 4), (0, 4)),
        ("above", (4, 0), (4, 63)),
        ("below", (4, 63), (4, 0)),
    ],
)
async def test_light_comes_from_its_side(
    client: Client, standin: StabilityV2Beta, direction: str, bright: tuple[int, int], dark: tuple[int, int]
) -> None:
    """The background is brighter there, and by the strength of the light."""
    black = flat(64, 64, BLACK)
    shown = {"background_reference": black, "light_source_direction": direction}
    result = await relit(client, standin, **shown, light_source_strength=1)
    dim = await relit(client, standin, **shown)
    assert lightness(result, bright) > 240
    assert lightness(result, dark) < 15
    assert abs(lightness(dim, bright) - 0.3 * lightness(result, bright)) <= 1


async def test_light_can_follow_a_reference(client: Client, standin: StabilityV2Beta) -> None:
    """Where the reference is white the background is bright."""
    result = await relit(
        client, standin, background_reference=flat(64, 64, BLACK), light_reference=mask(), light_source_strength=1
    )
    assert (lightness(result, (2, 2)), lightness(result, (62, 2))) == (0, 255)


def lightness(image: Image.Image, place: tuple[int, int]) -> int:
    """The lightness of one pixel."""
    value = image.convert("L").getpixel(place)
    assert isinstance(value, int)
    return value


# Control


@pytest.mark.parametrize("strength", [0, 0.7, 1])
async def test_structure_keeps_the_edges(client: Client, standin: StabilityV2Beta, strength: float) -> None:
    """The square's outline is drawn in the complement, as strongly as asked, and all else is the colour."""
    white_on_black = Image.new("RGB", (64, 64), BLACK)
    white_on_black.paste(WHITE, (16, 16, 48, 48))
    fields = {**CORE, "image": encoded(white_on_black), "control_strength": strength}
    result = await painted(client, standin, "control/structure", fields)
    complement = (255 - CAT[0], 255 - CAT[1], 255 - CAT[2])
    assert (result.size, result.getpixel((32, 32)), result.getpixel((2, 2))) == ((64, 64), CAT, CAT)
    for edge in ((16, 30), (48, 30), (30, 16), (30, 48)):
        assert is_near(result.getpixel(edge), mixed(CAT, complement, strength))
    assert result.getpixel((15, 30)) == CAT


async def test_sketch_keeps_the_strokes(client: Client, standin: StabilityV2Beta) -> None:
    """Dark strokes on white paper come back in the complement."""
    paper = Image.new("RGB", (64, 64), WHITE)
    paper.paste((40, 40, 40), (10, 20, 54, 22))
    fields = {**CORE, "image": encoded(paper), "control_strength": 1}
    result = await painted(client, standin, "control/sketch", fields)
    lines = ImageChops.difference(result, Image.new("RGB", (64, 64), CAT)).getbbox()
    assert lines == (10, 20, 54, 22)


@pytest.mark.parametrize("fidelity", [0, 0.5, 1])
async def test_style_goes_from_the_prompt_to_the_image(
    client: Client, standin: StabilityV2Beta, fidelity: float
) -> None:
    """Fidelity is the share of the style picture's mean colour."""
    fields = {**CORE, "image": flat(64, 64, RED), "fidelity": fidelity}
    result = await painted(client, standin, "control/style", fields)
    assert (result.size, is_near(result.getpixel((7, 7)), mixed(CAT, RED, fidelity))) == ((1024, 1024), True)


@pytest.mark.parametrize("strength", [0, 0.5, 1])
async def test_style_transfer_keeps_the_composition(client: Client, standin: StabilityV2Beta, strength: float) -> None:
    """One megapixel at the init image's aspect; strength 0 leaves its pixels, else they go towards the style."""
    green = (0, 200, 0)
    fields = {"init_image": two_tone(128, 64), "style_image": flat(64, 64, green), "style_strength": strength}
    result = await painted(client, standin, "control/style-transfer", {**fields, "seed": 7})
    assert result.size == (1448, 724)
    assert is_near(result.getpixel((3, 3)), mixed(RED, green, strength * 0.9))
    assert is_near(result.getpixel((724, 362)), mixed(BLUE, green, strength * 0.9))
