"""Pixels: what a prompt, a seed, an init picture, a mask and a control picture do to the answer's pictures.

A finished picture is flat in the colour of its seed and words; an unfinished one stands between grey and that
colour, as far as it got. An init picture shines through by 1 minus the strength, within the mask if there is
one. A control picture shines through a quarter of its weight.
"""

from __future__ import annotations

import base64
import binascii
import functools
import io
import random
import re
import struct
import zlib
from collections.abc import Collection
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageFilter, ImageStat

from load.upstreams import pictures
from load.upstreams.a1111.errors import Raised, Refused

Colour = pictures.Colour
GREY: Colour = (128, 128, 128)
CONTROL_SHARE = 0.25
FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
FILL, ORIGINAL, NOISE = 0, 1, 2

_LORA = re.compile(r"<lora:([^:>]+)(?::([^>]*))?>")
_PREVIEW_SHRINKS = 8
_WHITE = (255, 255, 255)


def words_of(prompt: str, negative: str = "", loras: Collection[str] = ()) -> str:
    """The text that decides the colour: tags of unknown networks leave no trace, as on the server."""
    known = sorted(f"<lora:{name}:{weight or 1}>" for name, weight in _LORA.findall(prompt) if name in loras)
    text = " ".join([_LORA.sub("", prompt).strip(), *known])
    return f"{text}\n{negative}" if negative else text


def on_the_way(colour: Colour, done: float) -> Colour:
    """The colour of a picture of which so much is done: grey at 0."""
    red, green, blue = (round(grey + (full - grey) * done) for grey, full in zip(GREY, colour, strict=True))
    return red, green, blue


def preview_size(size: tuple[int, int], kind: str) -> tuple[int, int]:
    """How large previews of this kind are."""
    if kind == "Full":
        return size
    return max(1, size[0] // _PREVIEW_SHRINKS), max(1, size[1] // _PREVIEW_SHRINKS)


def decode(text: object) -> Image.Image:
    """The picture in base64 or in a data URL; raises the `Refused` the server raises for anything else."""
    if not isinstance(text, str):
        raise Refused(500, "Invalid encoded image")
    if text.startswith(("http://", "https://")):
        raise Refused(500, "Requests not allowed")
    try:
        if text.startswith("data:image/"):
            text = text.split(";")[1].split(",")[1]
        picture = Image.open(io.BytesIO(base64.b64decode(text)))
        picture.load()
    except (binascii.Error, IndexError, OSError, ValueError, SyntaxError) as error:
        raise Refused(500, "Invalid encoded image") from error
    return picture


@dataclass(frozen=True, slots=True)
class Mask:
    """A mask and what the request says about it; white is repainted."""

    picture: Image.Image
    invert: bool = False
    round_alpha: bool = True
    blur: tuple[float, float] = (0, 0)
    fill: int = ORIGINAL
    only_masked: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """A control picture and how strongly it bears upon the result."""

    picture: Image.Image
    weight: float = 1.0
    show_map: bool = True


@dataclass(frozen=True, slots=True)
class Scene:
    """All that decides the pixels of a request's pictures but seed and words."""

    size: tuple[int, int]
    inits: tuple[Image.Image, ...] = ()
    strength: float = 1.0
    resize_mode: int = 0
    mask: Mask | None = None
    controls: tuple[Control, ...] = ()


def draw(scene: Scene, colour: Colour, index: int = 0, chance: int = 0) -> Image.Image:
    """One picture of the scene; `index` picks the init picture, `chance` seeds noise."""
    if not scene.inits:
        return _with_controls(Image.new("RGB", scene.size, colour), scene)
    init = _flattened(scene.inits[index % len(scene.inits)])
    # Repainting only what is masked works on a cut-out and pastes it back, so the init's own size stays.
    keeps_size = scene.mask is not None and scene.mask.only_masked
    base = init if keeps_size else fit(init, scene.size, scene.resize_mode)
    paint = _with_controls(Image.new("RGB", base.size, colour), scene)
    if scene.mask is None:
        return Image.blend(paint, base, 1 - scene.strength)
    weight = _weight(scene.mask, base.size, scene.resize_mode)
    painted = Image.blend(paint, _filled(base, weight, scene.mask.fill, chance), 1 - scene.strength)
    return Image.composite(painted, base, weight)


def detected_maps(scene: Scene) -> list[Image.Image]:
    """The control pictures that are sent along after the results."""
    return [fit(_flattened(item.picture), scene.size, 0) for item in scene.controls if item.show_map]


def fit(picture: Image.Image, size: tuple[int, int], mode: int) -> Image.Image:
    """The picture at a size: 0 and 3 stretch it, 1 crops what is over, 2 fills what is missing."""
    if picture.size == size or mode not in (1, 2):
        return picture.resize(size, Image.Resampling.LANCZOS) if picture.size != size else picture
    choose = max if mode == 1 else min
    scale = choose(size[0] / picture.width, size[1] / picture.height)
    inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    # Beneath lies the stretched picture, so what is missing is filled from its edges.
    out = picture.resize(size, Image.Resampling.LANCZOS)
    scaled = picture.resize(inner, Image.Resampling.LANCZOS)
    out.paste(scaled, (size[0] // 2 - inner[0] // 2, size[1] // 2 - inner[1] // 2))
    return out


def grid(made: list[Image.Image]) -> Image.Image:
    """All pictures in one, as square as may be."""
    columns = round(len(made) ** 0.5) or 1
    rows = -(-len(made) // columns)
    width, height = made[0].size
    out = Image.new("RGB", (columns * width, rows * height))
    for number, picture in enumerate(made):
        out.paste(picture, (number % columns * width, number // columns * height))
    return out


@dataclass(frozen=True, slots=True)
class Upscale:
    """What an upscaling request asks for."""

    picture: Image.Image
    upscaler: str
    factor: float = 2.0
    box: tuple[int, int] | None = None
    crop: bool = True


def upscale(order: Upscale, known: Collection[str]) -> Image.Image:
    """The enlarged picture, each pixel repeated; without an upscaler the picture as it was."""
    if order.upscaler == "None":
        return order.picture
    if order.upscaler not in known:
        raise Raised("AssertionError", f"could not find upscaler named {order.upscaler}")
    width, height = order.picture.size
    factor = max(order.box[0] / width, order.box[1] / height) if order.box else order.factor
    size = max(8, int(width * factor) // 8 * 8), max(8, int(height * factor) // 8 * 8)
    large = order.picture.resize(size, Image.Resampling.NEAREST)
    if not order.box or not order.crop:
        return large
    out = Image.new("RGB", order.box)
    out.paste(large, (order.box[0] // 2 - large.width // 2, order.box[1] // 2 - large.height // 2))
    return out


def encode(picture: Image.Image, kind: str, quality: int = 80, text: str = "", at_least: int = 0) -> bytes:
    """The picture as a file of the kind that `samples_format` names."""
    form = FORMATS.get(kind.lower())
    if form is None:
        raise Refused(500, "Invalid image format")
    if form != "PNG":
        return _save(picture.convert("RGB"), form, quality)
    single = picture.getcolors(1) if picture.mode == "RGB" else None
    png = _flat(picture) if single else _save(picture, form, quality)
    return pictures.padded(_with_text(png, text) if text else png, at_least)


def encode_preview(size: tuple[int, int], colour: Colour, kind: str) -> bytes:
    """A preview as a file."""
    return _save(Image.new("RGB", size, colour), FORMATS.get(kind.lower(), "PNG"), 75)


def _flat(picture: Image.Image) -> bytes:
    pixel = picture.getpixel((0, 0))
    if not isinstance(pixel, tuple):
        raise TypeError(f"an RGB picture's pixel is {pixel!r}")
    return pictures.flat_png(picture.width, picture.height, (int(pixel[0]), int(pixel[1]), int(pixel[2])))


def _save(picture: Image.Image, form: str, quality: int) -> bytes:
    out = io.BytesIO()
    if form == "PNG":
        picture.save(out, form, compress_level=1)
    else:
        picture.save(out, form, quality=quality)
    return out.getvalue()


def _with_text(png: bytes, text: str) -> bytes:
    data = b"tEXtparameters\x00" + text.encode("latin-1", "replace")
    chunk = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    # The header chunk always takes the same 33 bytes with the signature.
    return png[:33] + chunk + png[33:]


def _flattened(picture: Image.Image) -> Image.Image:
    if picture.mode not in ("RGBA", "LA") and "transparency" not in picture.info:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    out = Image.new("RGB", picture.size, _WHITE)
    out.paste(picture, mask=picture.getchannel("A"))
    return out


def _with_controls(paint: Image.Image, scene: Scene) -> Image.Image:
    for item in scene.controls:
        shape = fit(_flattened(item.picture), paint.size, 0)
        paint = Image.blend(paint, shape, max(0.0, min(item.weight, 2.0)) * CONTROL_SHARE)
    return paint


def _weight(mask: Mask, size: tuple[int, int], mode: int) -> Image.Image:
    white = _white_of(mask)
    if mask.invert:
        white = ImageChops.invert(white)
    if any(mask.blur):
        white = white.filter(ImageFilter.GaussianBlur(mask.blur))
    return fit(white, size, 0 if mask.only_masked else mode)


def _white_of(mask: Mask) -> Image.Image:
    picture = mask.picture
    if picture.mode == "RGBA" and picture.getchannel("A").getextrema() != (255, 255):
        alpha = picture.getchannel("A")
        return alpha.point(_rounding()) if mask.round_alpha else alpha
    return picture.convert("L")


@functools.cache
def _rounding() -> list[int]:
    return [255 if value > 128 else 0 for value in range(256)]


def _filled(base: Image.Image, weight: Image.Image, fill: int, chance: int) -> Image.Image:
    if fill == ORIGINAL:
        return base
    if fill == NOISE:
        return Image.frombytes("RGB", base.size, random.Random(chance).randbytes(base.width * base.height * 3))
    kept = ImageChops.invert(weight).point(_rounding())
    if fill != FILL or kept.getextrema() == (0, 0):
        return Image.new("RGB", base.size, GREY)
    red, green, blue = (round(mean) for mean in ImageStat.Stat(base, kept).mean)
    return Image.new("RGB", base.size, (red, green, blue))
