"""Strangers' pictures on their way into a painting process, and previews on their way out."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from gateway.engine.interface import Pixels
from gateway.upstreams.child import PaintingFault
from gateway.upstreams.child_pictures import decode_mask, decode_picture
from gateway.upstreams.engine_pictures import decode_lines, decode_reference, encode_preview
from tests import pictures
from tests.gateway.upstreams.engine.talk import encoded, pixels_of, square


def grid(size: int, step: int, ground: int = 255, line: int = 0) -> Pixels:
    """Return a drawing of lines one pixel wide, the first at 3."""
    plane = np.full((size, size), ground, np.uint8)
    plane[3::step] = plane[:, 3::step] = line
    return plane


# ---- in


def test_decoding_refuses_too_many_pixels_by_the_header_alone() -> None:
    """A header that tells of 25 megapixels is believed before anything is decoded."""
    content = bytearray(encoded(np.zeros((8, 8), np.uint8)))
    content[16:24] = (5_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    for decode in (
        decode_reference,
        lambda file: decode_lines(file, (64, 64)),
        lambda file: decode_picture(file, (64, 64)),
    ):
        with pytest.raises(PaintingFault) as caught:
            decode(bytes(content))
        assert caught.value.code == "payload_too_large"


@pytest.mark.parametrize("size", [(64, 64), (32, 80)])
def test_decoding_lays_transparent_pixels_on_white(size: tuple[int, int]) -> None:
    """What cannot be seen in the init does not come through as black, also where it is resized."""
    assert decode_picture(encoded(np.zeros((64, 64, 4), np.uint8)), size).min() == 255
    half = np.zeros((64, 64, 4), np.uint8)
    half[:32] = (0, 200, 0, 255)
    assert set(map(tuple, decode_picture(encoded(half), (64, 64)).reshape(-1, 3).tolist())) == {(0, 200, 0), (255,) * 3}


def test_decoding_gives_a_resized_mask_no_new_greys() -> None:
    """The border between kept and painted stays sharp."""
    mask = decode_mask(encoded(np.eye(5, dtype=np.uint8) * 255), (64, 128))
    assert mask.shape == (128, 64)
    assert set(np.unique(mask).tolist()) == {0, 255}


def test_decoding_takes_the_upper_bits_of_sixteen() -> None:
    """A grey of half the range is no white."""
    deep = pictures.encoded(Image.fromarray(np.full((8, 8), 128 * 256, np.uint16)), "PNG")
    assert np.unique(decode_mask(deep, (8, 8))).tolist() == [128]
    assert np.unique(decode_picture(deep, (8, 8))).tolist() == [128]


@pytest.mark.parametrize("size", [64, 100, 512, 700])
@pytest.mark.parametrize("ground,line", [(255, 0), (0, 255)])
def test_lines_survive_every_size(size: int, ground: int, line: int) -> None:
    """However thin and however much it shrinks, in either tone, and no greys come up."""
    plane = decode_lines(encoded(grid(512, 50, ground, line)), (size, size))
    assert plane.shape == (size, size)
    assert np.unique(plane).tolist() == [0, 255]
    rows = np.flatnonzero((plane == line).all(axis=1))
    assert np.count_nonzero(np.diff(rows) > 1) == 10, "eleven lines, each apart from the next"


def test_picture_is_no_drawing() -> None:
    """It becomes its mean brightness: extremes would make lines of its grain."""
    grain = np.random.default_rng(1).integers(96, 160, (512, 512), np.uint8)
    assert 116 < decode_lines(encoded(grain), (64, 64)).min() <= decode_lines(encoded(grain), (64, 64)).max() < 140


@pytest.mark.parametrize("line", [0, 255])
def test_transparent_drawing_has_a_ground_that_its_lines_stand_out_from(line: int) -> None:
    """Editors export lines so, and what is under the transparent pixels is anything."""
    drawing = np.full((64, 64, 4), 77, np.uint8)
    drawing[..., 3] = 0
    drawing[10:12] = (line, line, line, 255)
    assert np.array_equal(
        decode_lines(encoded(drawing), (64, 64))[:, 0], np.where(np.isin(np.arange(64), (10, 11)), line, 255 - line)
    )
    drawing[..., 3] = 0
    assert np.unique(decode_lines(encoded(drawing), (64, 64))).tolist() == [255]


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "1"])
def test_pictures_of_any_mode_are_read(mode: str) -> None:
    """As what they show."""
    content = pictures.encoded(Image.open(io.BytesIO(square())).convert(mode), "PNG")
    expected = pixels_of(square())
    assert np.array_equal(decode_lines(content, (128, 64)), expected)
    assert np.array_equal(decode_mask(content, (128, 64)), expected)
    assert np.array_equal(decode_picture(content, (128, 64))[..., 1], expected)
    assert np.array_equal(decode_reference(content)[..., 1], expected)


def test_reference_keeps_its_alpha_and_is_bounded() -> None:
    """Its shape stays, and what cannot be seen does not bleed into it."""
    large = np.zeros((2000, 1000, 4), np.uint8)
    large[500:1500, 250:750] = (200, 10, 10, 255)
    reference = decode_reference(encoded(large))
    assert reference.shape == (512, 256, 4)
    assert np.unique(reference[..., 3]).tolist()[:: len(np.unique(reference[..., 3])) - 1] == [0, 255]
    seen = reference[reference[..., 3] > 128]
    assert (np.abs(seen[:, :3].astype(int) - (200, 10, 10)) <= 40).all()
    assert decode_reference(encoded(np.zeros((9, 7, 3), np.uint8))).shape == (9, 7, 4)
    assert decode_reference(encoded(np.zeros((9, 7, 3), np.uint8)))[..., 3].min() == 255


# ---- out


@pytest.mark.parametrize(
    "asked,cells,edges,format",
    [
        ((512, 512), (64, 64), (512, 512), "jpeg"),
        ((2048, 1024), (32, 64), (512, 256), "jpeg"),
        ((64, 64), (64, 64), (64, 64), "webp"),
        ((512, 488), (61, 64), (512, 488), "jpeg"),
        ((520, 480), (60, 64), (512, 473), "webp"),
        ((2048, 64), (32, 1024), (512, 16), "webp"),
    ],
)
def test_preview_is_crisp_and_small(
    asked: tuple[int, int], cells: tuple[int, int], edges: tuple[int, int], format: str
) -> None:
    """Each cell is a square of its colour, in few bytes also where it is all noise."""
    pixels = np.random.default_rng(1).integers(0, 256, (*cells, 3), np.uint8)
    content, told, *size = encode_preview(pixels, *asked)
    assert (told, tuple(size)) == (format, edges)
    shown = pixels_of(content).astype(int)
    assert shown.shape == (edges[1], edges[0], 3)
    assert len(content) < 32_000
    if edges[0] % cells[1] == edges[1] % cells[0] == 0:
        height, width = edges[1] // cells[0], edges[0] // cells[1]
        assert np.abs(shown - pixels.repeat(height, axis=0).repeat(width, axis=1)).max() <= 3
