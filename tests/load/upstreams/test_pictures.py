"""Pictures with known pixels."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from load.upstreams import pictures
from tests.load.upstreams.talk import decode, flat


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (64, 64), (640, 1536), (1024, 1024)])
def test_flat_picture_has_its_size_and_colour_everywhere(size: tuple[int, int]) -> None:
    """Every pixel of a flat picture is the colour asked for, in 8-bit RGB."""
    image = decode(pictures.flat_png(*size, (250, 3, 127)))
    assert (image.format, image.mode, image.size) == ("PNG", "RGB", size)
    assert image.getcolors() == [(size[0] * size[1], (250, 3, 127))]


def test_colour_follows_seed_and_prompt() -> None:
    """The colour repeats for the same seed and prompt and changes with either."""
    colour = pictures.colour_of(1, "a cat")
    assert colour == pictures.colour_of(1, "a cat")
    assert len({colour, pictures.colour_of(2, "a cat"), pictures.colour_of(1, "a dog")}) == 3


@pytest.mark.parametrize("at_least", [0, 5_000, 1_500_000])
def test_padding_adds_weight_and_changes_no_pixel(at_least: int) -> None:
    """A padded file has at least the bytes asked for and the same picture."""
    plain = pictures.flat_png(64, 64, (1, 2, 3))
    padded = pictures.padded(plain, at_least)
    assert len(padded) == max(len(plain), at_least)
    assert decode(padded).tobytes() == decode(plain).tobytes()


@pytest.mark.parametrize("keep,expected", [(1.0, (200, 100, 0)), (0.0, (0, 0, 100)), (0.5, (100, 50, 50))])
def test_blend_mixes_by_the_share_kept(keep: float, expected: tuple[int, int, int]) -> None:
    """The share kept is the init picture's part in each pixel."""
    init = flat(64, 64)
    pixel = decode(pictures.blend(init, (0, 0, 100), keep)).getpixel((5, 5))
    assert pixel == pytest.approx(expected, abs=1)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_measure_refuses_bytes_that_are_no_picture(data: bytes) -> None:
    """Anything that no decoder knows is refused with one error."""
    with pytest.raises(pictures.PictureError):
        pictures.measure(data)


def test_measure_reads_the_head_only() -> None:
    """A picture that ends after its head still has a type and a size; decoding it fails."""
    cut = pictures.flat_png(640, 320, (1, 2, 3))[:60]
    assert pictures.measure(cut) == ("image/png", 640, 320)
    with pytest.raises(pictures.PictureError):
        pictures.enlarge(cut, 10, 10)


def test_repaint_needs_a_mask_for_mask_images() -> None:
    """Without a mask only the alpha of the init picture can say what to replace."""
    with pytest.raises(pictures.PictureError, match="mask"):
        pictures.repaint(pictures.flat_png(8, 8, (1, 2, 3)), None, "MASK_IMAGE_WHITE", (0, 0, 0))


def test_repaint_understands_a_palette_with_transparency() -> None:
    """Transparency that sits beside a palette counts as alpha."""
    init = Image.new("P", (8, 8), 0)
    init.putpalette([9, 9, 9, 7, 7, 7])
    init.putpixel((0, 0), 1)
    out = io.BytesIO()
    init.save(out, "PNG", transparency=1)
    image = decode(pictures.repaint(out.getvalue(), None, "INIT_IMAGE_ALPHA", (1, 2, 3)))
    assert [image.getpixel((0, 0)), image.getpixel((1, 0))] == [(1, 2, 3), (9, 9, 9)]
