"""Pictures in a painting process, beyond what `child_pictures` does: lines to follow, references, crisp previews."""

import io
from typing import Final

import numpy as np
from PIL import Image

from gateway.engine.interface import Painting, Pixels
from gateway.engine.wire import Paint, PreviewFormat
from gateway.upstreams.child_pictures import decode_mask, decode_picture, decoded, has_alpha, shrunk

Preview = tuple[bytes, PreviewFormat, int, int]
"""A file, its format, and its width and height in pixels."""
MOST_EDGE: Final = 2048
_PREVIEW_EDGE: Final = 512
_JPEG_BLOCK: Final = 8
_DARK: Final = 64
_LIGHT: Final = 192
_MOST_GREY: Final = 0.15
"""The part of a drawing that is neither dark nor light."""
_REFERENCE_EDGE: Final = 512
"""Pixels: more than any figure is drawn with."""


def first_painting(order: Paint) -> Painting:
    """Return the painting of an order's first picture; raises `PaintingFault` for an input that is no image."""
    size = (order.width, order.height)
    return Painting(
        prompt=order.prompt,
        seed=order.seed,
        width=order.width,
        height=order.height,
        steps=order.steps,
        guidance=order.guidance,
        negative_prompt=order.negative_prompt,
        strength=order.strength,
        init=None if order.init is None else decode_picture(order.init, size),
        mask=None if order.mask is None else decode_mask(order.mask, size),
        edges=None if order.edges is None else decode_lines(order.edges, size),
        edge_weight=order.edge_weight,
        reference=None if order.reference is None else decode_reference(order.reference),
        tiling=order.tiling,
        transparent=order.transparent,
        look=order.look,
    )


def decode_lines(content: bytes, size: tuple[int, int]) -> Pixels:
    """Return the brightness of an encoded drawing or picture, of shape (height, width), resized to `size`.

    No line of a drawing is lost by shrinking, however thin. Raises as `decode_picture`.
    """
    grey = _grey(decoded(content))
    levels = grey.histogram()
    if sum(levels[_DARK:_LIGHT]) > _MOST_GREY * sum(levels):
        return np.asarray(grey.resize(size, Image.Resampling.BOX))
    plane: Pixels = np.asarray(grey)
    reduce = np.minimum if _is_light(levels) else np.maximum
    for axis, edge in ((0, size[1]), (1, size[0])):
        # Where it is enlarged a place stands there several times, and `reduceat` repeats what it finds.
        plane = reduce.reduceat(plane, np.arange(edge) * plane.shape[axis] // edge, axis=axis)
    return plane


def _grey(image: Image.Image) -> Image.Image:
    """The lightness of a drawing; where it is transparent it has the ground that its lines stand out from."""
    if not has_alpha(image):
        return image.convert("L")
    image = image if "A" in image.getbands() else image.convert("RGBA")
    grey, alpha = image.convert("L"), image.getchannel("A")
    drawn = grey.histogram(alpha.point([0] * 128 + [255] * 128))
    ground = Image.new("L", image.size, 0 if _is_light(drawn) else 255)
    ground.paste(grey, mask=alpha)
    return ground


def _is_light(levels: list[int]) -> bool:
    """Whether a picture with so many pixels of each level is light rather than dark."""
    return sum(levels[128:]) > sum(levels[:128])


def decode_reference(content: bytes) -> Pixels:
    """Return an encoded picture as RGBA of shape (height, width, 4), at most 512 pixels an edge.

    Raises as `decode_picture`.
    """
    return np.asarray(_bounded(decoded(content), _REFERENCE_EDGE).convert("RGBA"))


def decode_whole(content: bytes) -> Pixels:
    """Return an encoded picture as RGB, or RGBA if it has alpha, at most 2048 pixels an edge; raises as the others."""
    return np.asarray(_bounded(decoded(content), MOST_EDGE))


def _bounded(image: Image.Image, most: int) -> Image.Image:
    """The picture as RGB or RGBA, shrunk to at most so many pixels an edge."""
    part = min(1.0, most / max(image.size))
    size = (max(1, round(image.width * part)), max(1, round(image.height * part)))
    image = shrunk(image, size)
    return image if image.size == size else image.resize(size, Image.Resampling.LANCZOS)


def encode_preview(pixels: Pixels, width: int, height: int) -> Preview:
    """Return a latent's picture as a file, with its format and edges: the asked ones, but at most 512 pixels.

    Each of its pixels becomes a square. Where that is a block of a JPEG, which has no other detail then, the file has
    at most 25 kB and takes 1.5 ms; else a JPEG has up to 170 kB and artefacts, and lossless WebP 20 kB in 3 to 5 ms.
    PNG is neither quicker nor smaller.
    """
    part = min(1.0, _PREVIEW_EDGE / max(width, height))
    size = (max(1, round(width * part)), max(1, round(height * part)))
    # Very long pictures are shown smaller than they are painted.
    how = Image.Resampling.BOX if size[0] < pixels.shape[1] or size[1] < pixels.shape[0] else Image.Resampling.NEAREST
    image = Image.fromarray(pixels).resize(size, how)
    if size == (pixels.shape[1] * _JPEG_BLOCK, pixels.shape[0] * _JPEG_BLOCK):
        return _saved(image, "jpeg", quality=85, subsampling="4:4:4")
    return _saved(image, "webp", lossless=True, quality=0, method=0)


def encode_photo(pixels: Pixels) -> Preview:
    """Return a picture as a file as it is, with its format and edges; it may have any detail."""
    return _saved(Image.fromarray(pixels), "jpeg", quality=85)


def _saved(image: Image.Image, format: PreviewFormat, **options: object) -> Preview:
    content = io.BytesIO()
    image.save(content, format.upper(), **options)
    return content.getvalue(), format, *image.size
