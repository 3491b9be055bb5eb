"""What each operation does to pixels, so plainly that a test can foretell the result.

The *colour* of a request is `pictures.colour_of(seed, picture_key(texts))`; the seed is the reported one.

* `generate/*`: that colour, flat, at the aspect ratio's size. With an `image`, its pixels washed with the colour,
  `strength` being the colour's share: 0 gives the image, 1 the colour, at the image's size.
* `upscale/fast`: each pixel becomes a square of 4 by 4. `conservative` and `creative`: enlarged to four
  megapixels in the same way, then washed, `creativity` being the colour's share.
* `edit/erase`, `edit/inpaint`: the colour where the mask is white, a linear mix where it is grey; see `grown` for
  `grow_mask`. `edit/outpaint`: the image's pixels as they are, the colour in the strips around them.
* `edit/search-and-replace`: the colour in the box `found` gives for the search prompt. `search-and-recolor`: in
  that box the colour darkened by the image's own lightness.
* `edit/remove-background`: alpha 0 where `foreground` says background, 255 elsewhere, colours untouched.
* `edit/replace-background-and-relight`: see `_relight`.
* `control/sketch`, `control/structure`: the colour, and its complement on the image's lines: dark pixels for a
  sketch, edges for structure. `control_strength` is the complement's share there.
* `control/style`: the colour washed with the image's mean colour, `fidelity` being the mean's share.
  `style-transfer`: the init image at one megapixel washed with the style image's mean colour (halfway to the colour
  if there is a prompt), its share being `style_strength` times `change_strength`.

These take milliseconds to seconds and belong in a thread.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from PIL import Image, ImageChops, ImageOps

from load.upstreams.pictures import BLUR, Colour, PictureError
from load.upstreams.stability_v2beta.endpoints import (
    CORE_SIZES,
    FOUR_MEGAPIXELS,
    ONE_MEGAPIXEL,
    SIDES,
    SMALL_SIZES,
    STYLE_SIZES,
    Order,
    Size,
)

Box = tuple[int, int, int, int]

EDGE_STEP = 32
"""Neighbours whose lightness differs by more are an edge."""
DARK = 128
"""Lightness below this is a stroke of a sketch."""
GROUND_TOLERANCE = 16
"""How far each channel may be from the corner's pixel and still be background."""
_FAST_FACTOR = 4
_PROMPTS = ("prompt", "background_prompt", "foreground_prompt", "negative_prompt", "style_preset")


def picture_key(texts: Mapping[str, str]) -> str:
    """The words that decide a picture, one text a line, empty ones left out."""
    return "\n".join(texts[name] for name in _PROMPTS if texts.get(name))


def flat_size(order: Order) -> Size | None:
    """The size of a picture that is of one colour throughout; None for all others."""
    if order.values.uploads or not order.endpoint.path.startswith("generate/"):
        return None
    sizes = CORE_SIZES if order.endpoint.path == "generate/core" else SMALL_SIZES
    return sizes[order.values.texts["aspect_ratio"]]


def paint(order: Order, colour: Colour) -> Image.Image:
    """The finished picture; raises `PictureError` for a damaged upload."""
    return _PAINTERS[order.endpoint.path](order, colour)


def filtered(picture: Image.Image) -> Image.Image:
    """What takes a filtered picture's place: grey, of the same size."""
    return Image.new("RGB", picture.size, BLUR)


def encode(picture: Image.Image, kind: str) -> bytes:
    """The picture as a file; WebP is lossless so that its pixels can be checked, JPEG as good as it gets."""
    out = io.BytesIO()
    match kind:
        case "jpeg":
            picture.convert("RGB").save(out, "JPEG", quality=95, subsampling=0)
        case "webp":
            picture.save(out, "WEBP", lossless=True, exact=True, quality=0, method=0)
        case _:
            picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def found(text: str, width: int, height: int) -> Box:
    """Where the thing a text names is seen: a box of half the sides, its place drawn from the text.

    The first two bytes of the text's SHA-256, modulo 3, count quarters from the left and from the top.
    """
    digest = hashlib.sha256(text.encode()).digest()
    left, top = digest[0] % 3 * width // 4, digest[1] % 3 * height // 4
    return left, top, left + width // 2, top + height // 2


def foreground(picture: Image.Image) -> Image.Image:
    """White where the picture differs from its top left pixel, black where it is that pixel's colour."""
    rgb = picture.convert("RGB")
    ground = Image.new("RGB", rgb.size, _corner(rgb))
    bands = ImageChops.difference(rgb, ground).split()
    furthest = ImageChops.lighter(ImageChops.lighter(bands[0], bands[1]), bands[2])
    return _threshold(furthest, GROUND_TOLERANCE)


def grown(mask: Image.Image, pixels: int) -> Image.Image:
    """The mask with its edges grown outward so many pixels, each a little weaker than the one before.

    The k-th of n added rings has the mask's strength times (n + 1 - k) / (n + 1); beyond them nothing changes.
    """
    ring, result = mask, mask
    for step in range(1, pixels + 1):
        ring = _one_wider(ring)
        share = (pixels + 1 - step) / (pixels + 1)
        result = ImageChops.lighter(result, ring.point(_scaled(share)))
    return result


def _corner(rgb: Image.Image) -> Colour:
    red, green, blue = rgb.crop((0, 0, 1, 1)).tobytes()
    return red, green, blue


def _one_wider(mask: Image.Image) -> Image.Image:
    wide = ImageChops.lighter(mask, ImageChops.lighter(_moved(mask, 1, 0), _moved(mask, -1, 0)))
    return ImageChops.lighter(wide, ImageChops.lighter(_moved(wide, 0, 1), _moved(wide, 0, -1)))


def _moved(mask: Image.Image, right: int, down: int) -> Image.Image:
    moved = Image.new("L", mask.size, 0)
    moved.paste(mask, (right, down))
    return moved


def _scaled(share: float) -> list[int]:
    return [round(value * share) for value in range(256)]


def _threshold(grey: Image.Image, above: int) -> Image.Image:
    return grey.point([255 if value > above else 0 for value in range(256)])


def _opened(order: Order, name: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(order.values.uploads[name].data))
        picture.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError(f"{name}: is damaged") from error
    return picture.convert("RGBA") if "transparency" in picture.info else picture


def _rgb(order: Order, name: str = "image") -> Image.Image:
    return _opened(order, name).convert("RGB")


def _washed(picture: Image.Image, colour: Colour, share: float) -> Image.Image:
    return Image.blend(picture, Image.new("RGB", picture.size, colour), share)


def _mean(picture: Image.Image) -> Colour:
    red, green, blue = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX).tobytes()
    return red, green, blue


def _between(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(one + (two - one) * share) for one, two in zip(first, second, strict=True))
    return red, green, blue


def with_pixels(size: Size, pixels: int) -> Size:
    """A size of the same aspect with about so many pixels."""
    scale = math.sqrt(pixels / (size[0] * size[1]))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resized(picture: Image.Image, size: Size) -> Image.Image:
    """The picture at another size, without colours of its own."""
    return picture.resize(size, Image.Resampling.NEAREST)


def _generate(order: Order, colour: Colour) -> Image.Image:
    size = flat_size(order)
    if size is not None:
        return Image.new("RGB", size, colour)
    return _washed(_rgb(order), colour, order.values.numbers["strength"])


def _upscale_fast(order: Order, _colour: Colour) -> Image.Image:
    picture = _rgb(order)
    return resized(picture, (picture.width * _FAST_FACTOR, picture.height * _FAST_FACTOR))


def _upscale(order: Order, colour: Colour) -> Image.Image:
    picture = _rgb(order)
    large = resized(picture, with_pixels(picture.size, FOUR_MEGAPIXELS))
    return _washed(large, colour, order.values.numbers["creativity"])


def _masked(order: Order, colour: Colour) -> Image.Image:
    picture = _opened(order, "image")
    return _recoloured(order, picture.convert("RGB"), Image.new("RGB", picture.size, colour), _mask(order, picture))


def _mask(order: Order, picture: Image.Image) -> Image.Image:
    if "mask" in order.values.uploads:
        return resized(_rgb(order, "mask").convert("L"), picture.size)
    return ImageChops.invert(picture.convert("RGBA").getchannel("A"))


def _recoloured(order: Order, picture: Image.Image, fresh: Image.Image, mask: Image.Image) -> Image.Image:
    return Image.composite(fresh, picture, grown(mask, int(order.values.numbers["grow_mask"])))


def _outpaint(order: Order, colour: Colour) -> Image.Image:
    picture = _rgb(order)
    left, right, up, down = (int(order.values.numbers[side]) for side in SIDES)
    canvas = Image.new("RGB", (left + picture.width + right, up + picture.height + down), colour)
    canvas.paste(picture, (left, up))
    return canvas


def _replace(order: Order, colour: Colour) -> Image.Image:
    picture = _rgb(order)
    mask = _box_mask(picture.size, order.values.texts["search_prompt"])
    return _recoloured(order, picture, Image.new("RGB", picture.size, colour), mask)


def _recolour(order: Order, colour: Colour) -> Image.Image:
    picture = _rgb(order)
    mask = _box_mask(picture.size, order.values.texts["select_prompt"])
    lightness = picture.convert("L").convert("RGB")
    tinted = ImageChops.multiply(lightness, Image.new("RGB", picture.size, colour))
    return _recoloured(order, picture, tinted, mask)


def _box_mask(size: Size, text: str) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, found(text, *size))
    return mask


def _remove_background(order: Order, _colour: Colour) -> Image.Image:
    picture = _rgb(order)
    cut = picture.convert("RGBA")
    cut.putalpha(foreground(picture))
    return cut


def _relight(order: Order, colour: Colour) -> Image.Image:
    """A new background, lit from where the request says, and the subject in front of it.

    The background is the colour, or the reference picture, or with `keep_original_background` the original washed
    half with the colour; light adds up to `light_source_strength` times 255, falling linearly from its side, or as
    bright as the light reference. The subject is washed half with the colour, and of the original it keeps the
    share `preserve_original_subject`.
    """
    picture = _rgb(order, "subject_image")
    relit = _washed(picture, colour, 0.5)
    subject = Image.blend(relit, picture, order.values.numbers["preserve_original_subject"])
    return Image.composite(subject, _lit(order, _background(order, relit, colour)), foreground(picture))


def _background(order: Order, relit: Image.Image, colour: Colour) -> Image.Image:
    if order.values.texts["keep_original_background"] == "true":
        return relit
    if "background_reference" in order.values.uploads:
        return resized(_rgb(order, "background_reference"), relit.size)
    return Image.new("RGB", relit.size, colour)


def _lit(order: Order, background: Image.Image) -> Image.Image:
    light = _light(order, background.size)
    if light is None:
        return background
    added = light.point(_scaled(order.values.numbers["light_source_strength"]))
    return ImageChops.add(background, added.convert("RGB"))


def _light(order: Order, size: Size) -> Image.Image | None:
    if "light_reference" in order.values.uploads:
        return resized(_rgb(order, "light_reference").convert("L"), size)
    direction = order.values.texts.get("light_source_direction")
    if direction is None:
        return None
    below = Image.linear_gradient("L")
    turns = {"below": 0, "right": 90, "above": 180, "left": 270}
    return resized(below.rotate(turns[direction]), size)


def _sketch(order: Order, colour: Colour) -> Image.Image:
    return _drawn(order, colour, ImageOps.invert(_threshold(_rgb(order).convert("L"), DARK - 1)))


def _structure(order: Order, colour: Colour) -> Image.Image:
    return _drawn(order, colour, edges(_rgb(order)))


def edges(picture: Image.Image) -> Image.Image:
    """White on each pixel whose lightness differs by more than `EDGE_STEP` from its left or upper neighbour."""
    grey = picture.convert("L")
    width, height = grey.size
    steps = Image.new("L", grey.size, 0)
    steps.paste(ImageChops.difference(grey.crop((1, 0, width, height)), grey.crop((0, 0, width - 1, height))), (1, 0))
    down = Image.new("L", grey.size, 0)
    down.paste(ImageChops.difference(grey.crop((0, 1, width, height)), grey.crop((0, 0, width, height - 1))), (0, 1))
    return _threshold(ImageChops.lighter(steps, down), EDGE_STEP)


def _drawn(order: Order, colour: Colour, lines: Image.Image) -> Image.Image:
    flat = Image.new("RGB", lines.size, colour)
    strokes = Image.blend(flat, ImageOps.invert(flat), order.values.numbers["control_strength"])
    return Image.composite(strokes, flat, lines)


def _style(order: Order, colour: Colour) -> Image.Image:
    size = STYLE_SIZES[order.values.texts["aspect_ratio"]]
    return Image.new("RGB", size, _between(colour, _mean(_rgb(order)), order.values.numbers["fidelity"]))


def _style_transfer(order: Order, colour: Colour) -> Image.Image:
    picture = _rgb(order, "init_image")
    style = _mean(_rgb(order, "style_image"))
    if order.values.texts.get("prompt"):
        style = _between(style, colour, 0.5)
    share = order.values.numbers["style_strength"] * order.values.numbers["change_strength"]
    return _washed(resized(picture, with_pixels(picture.size, ONE_MEGAPIXEL)), style, share)


_PAINTERS: Mapping[str, Callable[[Order, Colour], Image.Image]] = MappingProxyType(
    {
        "generate/ultra": _generate,
        "generate/core": _generate,
        "generate/sd3": _generate,
        "upscale/fast": _upscale_fast,
        "upscale/conservative": _upscale,
        "upscale/creative": _upscale,
        "edit/erase": _masked,
        "edit/inpaint": _masked,
        "edit/outpaint": _outpaint,
        "edit/search-and-replace": _replace,
        "edit/search-and-recolor": _recolour,
        "edit/remove-background": _remove_background,
        "edit/replace-background-and-relight": _relight,
        "control/sketch": _sketch,
        "control/structure": _structure,
        "control/style": _style,
        "control/style-transfer": _style_transfer,
    }
)
