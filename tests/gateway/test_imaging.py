import asyncio
import io
import struct
import threading
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as some
from PIL import Image

from gateway.core.images import measure
from gateway.core.reports import Picture
from gateway.imaging import PillowTranscoder, mask_of, shrunk
from gateway.ports import MaskSource
from protocol.ladder import EDGES, QUALITIES, Rung
from protocol.messages import ImageFormat, PreviewFormat
from tests import pictures

JPEG = Rung(256, "jpeg", 70)
RAW = Rung(256, "raw", 90)
FORMATS: tuple[PreviewFormat, ...] = ("jpeg", "webp", "png", "raw")


@pytest.fixture
def transcoder() -> Iterator[PillowTranscoder]:
    """Return a transcoder and end its thread afterwards."""
    transcoder = PillowTranscoder()
    yield transcoder
    transcoder.close()


def encoded(image: Image.Image, format: ImageFormat, **options: object) -> Picture:
    """Return an image as an upstream would send it."""
    return Picture(pictures.encoded(image, format, **options), format, *image.size)


def gradient(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return an image that is dark at the top left and bright at the bottom right."""
    return Image.linear_gradient("L").resize((width, height)).convert(mode)


def opened(content: bytes) -> Image.Image:
    """Return what a client's decoder sees."""
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def made(picture: Picture, rung: Rung) -> tuple[bytes, tuple[int, int]]:
    """Return what must be possible to make."""
    result = shrunk(picture, rung)
    assert result is not None
    return result


@pytest.mark.parametrize("image,source,grey", [
    (Image.new("L", (24, 16), 200), "inverted", 55),
    (Image.new("RGB", (24, 16), "black"), "inverted", 255),
    (Image.new("RGBA", (24, 16), (9, 9, 9, 64)), "transparent", 191),
    (Image.new("LA", (24, 16), (9, 0)), "transparent", 255),
    (Image.new("RGB", (24, 16), "red"), "transparent", 0),
    (Image.new("RGBA", (24, 16), (9, 9, 9, 129)), "opaque", 255),
    (Image.new("RGBA", (24, 16), (250, 250, 250, 128)), "opaque", 0),
    (Image.new("RGBA", (24, 16), (200, 200, 200, 255)), "opaque", 200),
    (Image.new("L", (24, 16), 30), "opaque", 30),
])  # fmt: skip
async def test_mask_is_white_where_the_picture_says_so(
    transcoder: PillowTranscoder, image: Image.Image, source: MaskSource, grey: int
) -> None:
    """A grey PNG of the same size, linear in between."""
    made = await transcoder.mask(encoded(image, "png"), source)
    assert made is not None
    mask = opened(made)
    assert (mask.mode, mask.size, mask.getextrema()) == ("L", (24, 16), (grey, grey))


def test_mask_of_what_cannot_be_decoded_is_none() -> None:
    """As for a preview."""
    whole = encoded(gradient(64, 64), "png")
    assert mask_of(Picture(whole.content[:100], "png", 64, 64), "inverted") is None
    assert mask_of(whole, "inverted", max_pixels=64) is None


async def test_transcoder_shrinks_off_the_loop(transcoder: PillowTranscoder) -> None:
    """The work is done in the one thread, and the loop goes on meanwhile."""
    picture = encoded(gradient(1024, 512), "png")
    results = await asyncio.gather(*(transcoder.shrink(picture, JPEG) for _ in range(3)))
    assert [result is not None and result[1] for result in results] == [(256, 128)] * 3
    assert sum(thread.name.startswith("transcoder") for thread in threading.enumerate()) == 1


async def test_transcoder_ends_its_thread_when_it_is_closed() -> None:
    """Nothing is left, and nothing more is taken."""
    transcoder = PillowTranscoder()
    await transcoder.shrink(encoded(gradient(8, 8), "png"), JPEG)
    transcoder.close()
    assert not any(thread.name.startswith("transcoder") for thread in threading.enumerate())
    with pytest.raises(RuntimeError):
        await transcoder.shrink(encoded(gradient(8, 8), "png"), JPEG)


@pytest.mark.parametrize("source", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("format", FORMATS)
def test_picture_of_any_format_becomes_one_of_the_rung(source: ImageFormat, format: PreviewFormat) -> None:
    """The size is told truly, and the picture is still the same picture."""
    content, size = made(encoded(gradient(600, 400), source), Rung(192, format, 90))
    assert size == (192, 128)
    if format == "raw":
        image = Image.frombytes("RGBA", size, content)
    else:
        facts = measure(content)
        assert (facts.format, facts.width, facts.height) == (format, *size)
        image = opened(content)
    levels = [image.convert("L").getpixel((x, y)) for x, y in ((96, 6), (96, 64), (96, 121))]
    assert levels == [pytest.approx(want, abs=8) for want in (12, 128, 243)]


@given(some.integers(1, 700), some.integers(1, 700), some.sampled_from(EDGES), some.sampled_from(FORMATS))
def test_picture_is_never_enlarged_and_keeps_its_shape(
    width: int, height: int, edge: int, format: PreviewFormat
) -> None:
    """Its longest side is the rung's or its own, and the other follows within a pixel."""
    _, size = made(Picture(bytes(width * height * 3), "rgb8", width, height), Rung(edge, format, 40))
    longest = max(width, height)
    assert max(size) == min(edge, longest)
    scale = max(size) / longest
    assert size == pytest.approx((max(1, width * scale), max(1, height * scale)), abs=1)


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
def test_picture_carries_nothing_but_pixels(format: PreviewFormat) -> None:
    """Neither EXIF nor colour profile nor comment of the source goes on."""
    exif = Image.Exif()
    exif[0x010E] = "SECRET-PLACE"
    source = encoded(gradient(64, 64), "jpeg", exif=exif, comment=b"SECRET-COMMENT", icc_profile=b"SECRET-PROFILE" * 20)
    assert b"SECRET" in source.content
    assert b"SECRET" not in made(source, Rung(64, format, 90))[0]


def test_jpeg_is_baseline_with_halved_colours() -> None:
    """What every decoder reads: SOF0, 4:2:0."""
    content, _ = made(encoded(gradient(300, 300), "png"), JPEG)
    assert b"\xff\xc0" in content
    assert b"\xff\xc2" not in content
    assert opened(content).layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]


def test_quality_of_the_rung_counts() -> None:
    """More quality costs more bytes, for JPEG and WebP."""
    noise = Image.effect_noise((256, 256), 60).convert("RGB")
    lossy: tuple[PreviewFormat, ...] = ("jpeg", "webp")
    for name in lossy:
        sizes = [len(made(encoded(noise, "png"), Rung(256, name, quality))[0]) for quality in QUALITIES]
        assert sizes == sorted(set(sizes))


def test_transparent_pixels_become_white_in_jpeg() -> None:
    """JPEG has no alpha; nothing black appears where nothing was."""
    content, _ = made(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 0)), "png"), JPEG)
    assert opened(content).getpixel((32, 32)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_is_kept_where_the_format_has_it(format: PreviewFormat) -> None:
    """Half transparent stays half transparent."""
    content, _ = made(encoded(Image.new("RGBA", (64, 64), (255, 0, 0, 128)), "png"), Rung(64, format, 90))
    red, green, blue, alpha = opened(content).convert("RGBA").getpixel((32, 32))  # type: ignore[misc]
    assert (red, green, blue, alpha) == (
        pytest.approx(255, abs=6),
        pytest.approx(0, abs=6),
        pytest.approx(0, abs=6),
        128,
    )


def test_transparent_colours_do_not_bleed_when_shrunk() -> None:
    """A green that nobody sees does not tint the red beside it."""
    image = Image.new("RGBA", (256, 256), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 129, 256))
    content, size = made(encoded(image, "png"), Rung(64, "raw", 90))
    for place in range(0, len(content), 4):
        red, green, _, alpha = content[place : place + 4]
        assert alpha == 0 or (red, green) == (255, 0)
    assert size == (64, 64)


def test_raw_is_rgba_with_the_top_row_first() -> None:
    """Four bytes a pixel, straight alpha."""
    image = Image.new("RGBA", (2, 2), (1, 2, 3, 4))
    image.putpixel((1, 0), (250, 251, 252, 128))
    content, size = made(encoded(image, "png"), RAW)
    assert size == (2, 2)
    assert content == bytes([1, 2, 3, 4, 250, 251, 252, 128, 1, 2, 3, 4, 1, 2, 3, 4])


@pytest.mark.parametrize("format,pixel", [("rgb8", b"\x01\x02\x03"), ("rgba8", b"\x01\x02\x03\xff")])
def test_raw_pixels_are_taken_as_well(format: ImageFormat, pixel: bytes) -> None:
    """An upstream in the same process need not encode."""
    assert made(Picture(pixel * 6, format, 3, 2), RAW) == (b"\x01\x02\x03\xff" * 6, (3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "RGB", "RGBA"])
def test_png_of_any_mode_keeps_its_brightness(mode: str) -> None:
    """Palettes, grey and 16 bits come out as what they look like."""
    grey = Image.new("L", (64, 64), 255 if mode == "1" else 100)
    image = Image.new("I;16", (64, 64), 100 * 257) if mode == "I;16" else grey.convert(mode)
    content, _ = made(encoded(image, "png"), RAW)
    assert content[:4] == bytes([255] * 4 if mode == "1" else [100, 100, 100, 255])


def test_palette_with_a_transparent_colour_is_transparent() -> None:
    """A tRNS chunk counts as alpha."""
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 8, 8, 8])
    assert made(encoded(image, "png", transparency=0), RAW)[0][:4] == b"\x09\x09\x09\x00"


def test_cmyk_jpeg_is_read() -> None:
    """Some encoders write four inks."""
    content, _ = made(encoded(gradient(64, 64).convert("CMYK"), "jpeg"), JPEG)
    assert opened(content).mode == "RGB"


def png_that_claims(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes whose header says that it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


@pytest.mark.parametrize("size", [(4097, 4096), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_picture_with_too_many_pixels_is_not_decoded(size: tuple[int, int]) -> None:
    """The header is asked first; no warning, no gigabyte."""
    assert shrunk(Picture(png_that_claims(*size), "png", *size), JPEG) is None


def test_pixel_limit_is_the_callers() -> None:
    """At the limit it is made, over it is not; for encoded and raw pixels alike."""
    for picture in (encoded(gradient(10, 10), "png"), Picture(bytes(300), "rgb8", 10, 10)):
        assert shrunk(picture, JPEG, 100) is not None
        assert shrunk(picture, JPEG, 99) is None


@pytest.mark.parametrize(
    "picture",
    [
        Picture(b"", "png", 1, 1),
        Picture(b"GIF89a" + bytes(100), "png", 1, 1),
        Picture(png_that_claims(8, 8), "png", 8, 8),
        Picture(bytes(11), "rgb8", 2, 2),
        Picture(bytes(13), "rgb8", 2, 2),
        Picture(b"", "rgba8", 0, 0),
        Picture(bytes(12), "rgb8", -2, -2),
    ],
)
def test_broken_picture_is_none(picture: Picture) -> None:
    """What cannot be decoded is left out."""
    assert shrunk(picture, JPEG) is None


@pytest.mark.parametrize("format", ["jpeg", "png", "webp"])
@given(chance=some.randoms(use_true_random=False), times=some.integers(1, 8))
def test_damaged_picture_is_none_or_a_picture(format: ImageFormat, chance: object, times: int) -> None:
    """Any bytes changed anywhere, or an early end: nothing is raised."""
    content = bytearray(encoded(gradient(40, 30), format).content)
    for _ in range(times):
        content[chance.randrange(len(content))] = chance.randrange(256)  # type: ignore[attr-defined]
    if times == 8:
        del content[chance.randrange(len(content)) :]  # type: ignore[attr-defined]
    result = shrunk(Picture(bytes(content), format, 40, 30), Rung(64, "raw", 90))
    assert result is None or len(result[0]) == result[1][0] * result[1][1] * 4


def test_format_that_the_header_does_not_have_is_nobodys_business() -> None:
    """What an upstream calls its picture is not believed; the bytes are."""
    source = encoded(gradient(64, 32), "webp")
    assert made(Picture(source.content, "png", 1, 1), JPEG)[1] == (64, 32)
