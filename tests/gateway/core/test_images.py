import io
import struct
import zlib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from PIL import Image

from gateway.core.images import ImageFacts, ImageFault, measure
from tests import pictures

SIZES = [(1, 1), (1, 300), (640, 480), (16383, 2)]


def encoded(format: str, mode: str, size: tuple[int, int], **options: Any) -> bytes:
    """Return an image made by Pillow."""
    return pictures.encoded(Image.new(mode, size), format, **options)


def fault_of(content: bytes) -> ImageFault:
    """Return the fault that measuring must end with."""
    with pytest.raises(ImageFault) as caught:
        measure(content)
    return caught.value


def facts_or_code(content: bytes) -> ImageFacts | str:
    """Return what is measured, or the fault's code; anything else that is raised goes through."""
    try:
        return measure(content)
    except ImageFault as fault:
        return fault.code


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "format,mode,options,has_alpha",
    [
        ("PNG", "1", {}, False),
        ("PNG", "L", {}, False),
        ("PNG", "LA", {}, True),
        ("PNG", "P", {}, False),
        ("PNG", "P", {"transparency": 0}, True),
        ("PNG", "RGB", {}, False),
        ("PNG", "RGB", {"dpi": (72, 72), "icc_profile": b"x" * 5000}, False),
        ("PNG", "RGBA", {}, True),
        ("PNG", "I;16", {}, False),
        ("JPEG", "L", {}, False),
        ("JPEG", "RGB", {}, False),
        ("JPEG", "CMYK", {}, False),
        ("JPEG", "RGB", {"progressive": True, "comment": b"hello", "exif": b"Exif\0\0" + bytes(60_000)}, False),
        ("WEBP", "RGB", {}, False),
        ("WEBP", "RGBA", {"lossless": True, "exact": True}, True),
        ("WEBP", "RGB", {"lossless": True}, False),
        ("WEBP", "RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}, False),
    ],
)
def test_images_of_pillow_are_measured(
    format: str, mode: str, options: dict[str, Any], has_alpha: bool, size: tuple[int, int]
) -> None:
    """Every format, mode and layout that Pillow writes has the size and the alpha it was made with."""
    content = encoded(format, mode, size, **options)
    facts = measure(content)
    with Image.open(io.BytesIO(content)) as opened:
        # An encoder may leave out an alpha channel that is opaque throughout, or add one; the file is the truth.
        has_alpha = "A" in opened.getbands() or "transparency" in opened.info
    assert facts == ImageFacts(format.lower(), *size, has_alpha)  # type: ignore[arg-type] # the parameter says it
    assert measure(memoryview(content)) == facts


def test_lossy_webp_with_alpha_is_measured() -> None:
    """The extended form tells its canvas and its alpha."""
    made = io.BytesIO()
    Image.new("RGBA", (70, 50), (1, 2, 3, 100)).save(made, "WEBP")
    assert made.getvalue()[12:16] == b"VP8X"
    assert measure(made.getvalue()) == ImageFacts("webp", 70, 50, has_alpha=True)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a" + bytes(50), b"\x89PNG", b"<svg/>", b"\xff\xd8", b"RIFF\0\0\0\0WAVE", b"RIFF"]
)
def test_unknown_format_is_unsupported_media(content: bytes) -> None:
    """What does not begin like one of the three formats is none of them."""
    fault = fault_of(content)
    assert fault.code == "unsupported_media"
    assert str(fault) == "unsupported_media: neither PNG nor JPEG nor WebP"


WHOLE = {
    "png": encoded("PNG", "RGB", (20, 20), dpi=(72, 72)),
    "jpeg": encoded("JPEG", "RGB", (20, 20)),
    "webp lossy": encoded("WEBP", "RGB", (20, 20)),
    "webp lossless": encoded("WEBP", "RGB", (20, 20), lossless=True),
}


@pytest.mark.parametrize("name", WHOLE)
def test_image_cut_anywhere_gives_facts_or_a_fault(name: str) -> None:
    """However much is missing, nothing else than a fault comes of it, and never other facts."""
    whole = WHOLE[name]
    for size in range(len(whole)):
        found = facts_or_code(whole[:size])
        assert found in (measure(whole), "image_decode_failed", "unsupported_media" if size < 12 else None)


def png(
    width: int = 5, height: int = 5, depth: int = 8, colour: int = 2, *, chunks: bytes | None = None, crc: int = 0
) -> bytes:
    """Return a PNG header by hand, and what comes after it."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header) ^ crc)
    return start + (chunk(b"IDAT") if chunks is None else chunks)


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def jpeg(*segments: bytes) -> bytes:
    """Return a JPEG of these segments."""
    return b"\xff\xd8" + b"".join(segments)


FRAME = b"\xff\xc0\x00\x0b\x08\x00\x07\x00\x09\x01\x01\x11\x00"


def webp(kind: bytes, content: bytes) -> bytes:
    """Return a WebP with one chunk."""
    return b"RIFF" + struct.pack("<I", len(content) + 12) + b"WEBP" + kind + struct.pack("<I", len(content)) + content


BROKEN = {
    "png without pixels in a row": png(width=0),
    "png without rows": png(height=0),
    "png wider than can be": png(width=0x80000000),
    "png higher than can be": png(height=0xFFFFFFFF),
    "png of an unknown colour type": png(colour=5),
    "png of a depth its colour type has not": png(depth=4, colour=2),
    "png with a wrong checksum": png(crc=1),
    "png with another first chunk": png().replace(b"IHDR", b"IHDX"),
    "png with a longer header": png().replace(b"\x0dIHDR", b"\x0eIHDR"),
    "png that ends after its header": png(chunks=b""),
    "png that ends without pixels": png(chunks=chunk(b"IEND")),
    "png with a chunk beyond its end": png(chunks=struct.pack(">I", 0xFFFFFFFF) + b"tEXt"),
    "png with endless chunks": png(chunks=chunk(b"tEXt") * 10_000 + chunk(b"IDAT")),
    "jpeg with pixels before its frame": jpeg(b"\xff\xda\x00\x02", FRAME),
    "jpeg that ends before its frame": jpeg(b"\xff\xd9", FRAME),
    "jpeg with rubbish between segments": jpeg(b"\xff\xe0\x00\x02", b"x", FRAME),
    "jpeg with a segment too short": jpeg(b"\xff\xe0\x00\x01", FRAME),
    "jpeg with endless segments": jpeg(b"\xff\xe1\x00\x02" * 10_000, FRAME),
    "jpeg with endless fill bytes": jpeg(b"\xff" * 1_000_000),
    "jpeg without rows": jpeg(FRAME.replace(b"\x00\x07", b"\x00\x00")),
    "jpeg without components": jpeg(FRAME.replace(b"\x09\x01", b"\x09\x00")),
    "jpeg with a frame of a wrong length": jpeg(FRAME.replace(b"\x0b", b"\x0c")),
    "webp of an unknown kind": webp(b"VP9 ", bytes(10)),
    "webp with a chunk beyond its end": webp(b"VP8L", bytes(10)).replace(b"VP8L\x0a", b"VP8L\x0b"),
    "webp shorter than it says": webp(b"VP8L", bytes(10))[:-1],
    "webp of an inter frame": webp(b"VP8 ", b"\x01\x00\x00\x9d\x01\x2a\x05\x00\x05\x00"),
    "webp without a start code": webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2b\x05\x00\x05\x00"),
    "webp without pixels": webp(b"VP8 ", b"\x00\x00\x00\x9d\x01\x2a\x00\x00\x05\x00"),
    "webp lossless without its signature": webp(b"VP8L", b"\x2e" + bytes(9)),
    "webp lossless of a later version": webp(b"VP8L", b"\x2f\x00\x00\x00\x20" + bytes(5)),
    "webp too small for a header": webp(b"VP8L", b"\x2f\x00\x00\x00\x00"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_header_is_a_failed_decode(name: str) -> None:
    """What begins like an image and can't be one is told apart from what is no image."""
    assert fault_of(BROKEN[name]).code == "image_decode_failed"


@pytest.mark.parametrize(
    "content,facts",
    [
        (png(0x7FFFFFFF, 1, chunks=None), ImageFacts("png", 0x7FFFFFFF, 1, has_alpha=False)),
        (png(chunks=chunk(b"tRNS") + chunk(b"IDAT")), ImageFacts("png", 5, 5, has_alpha=True)),
        (jpeg(b"\xff\xff\xff\xd0\xff\x01", FRAME), ImageFacts("jpeg", 9, 7, has_alpha=False)),
        (webp(b"VP8X", b"\x10\0\0\0" + b"\xff" * 6), ImageFacts("webp", 1 << 24, 1 << 24, has_alpha=True)),
    ],
)
def test_odd_header_is_read_as_it_stands(content: bytes, facts: ImageFacts) -> None:
    """The largest sizes, fill bytes and bare markers are legal; what is too large for us is for the caller to say."""
    assert measure(content) == facts


STARTS = [b"", b"\x89PNG\r\n\x1a\n", png()[:33], b"\xff\xd8\xff", b"RIFF\x20\0\0\0WEBP", b"RIFF\x20\0\0\0WEBPVP8X"]


@given(some.sampled_from(STARTS), some.binary(max_size=300))
@example(b"", b"\xff\xd8\xff\xc0\x00")
def test_any_bytes_give_facts_or_a_fault(start: bytes, rest: bytes) -> None:
    """Nothing else ever comes out, and facts always have pixels."""
    facts = facts_or_code(start + rest)
    assert isinstance(facts, str) or min(facts.width, facts.height) >= 1


@given(some.sampled_from(sorted(WHOLE)), some.integers(0, 60), some.integers(0, 255))
def test_image_with_one_wrong_byte_gives_facts_or_a_fault(name: str, at: int, byte: int) -> None:
    """A flipped byte in a header is a fault, or facts of the same format."""
    whole = bytearray(WHOLE[name])
    whole[at % len(whole)] = byte
    facts = facts_or_code(bytes(whole))
    assert isinstance(facts, str) or name.startswith(facts.format)
