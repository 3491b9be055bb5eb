"""Pictures as arrays of floats from 0 to 1, as the server's nodes hold them, and the way to files and back.

Resampling is Pillow's, or plain repetition; the server's own differs in the last digits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from load.upstreams.comfyui.values import Floats

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "area": Image.Resampling.BOX,
    "bicubic": Image.Resampling.BICUBIC,
    "bislerp": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_PREVIEW_QUALITY = 95
_LATENT_SCALE = 8
_LONGEST_COMMENT = 65_533


def from_picture(picture: Image.Image) -> Floats:
    """An RGB or L picture as floats: H, W, 3 or H, W."""
    return np.asarray(picture, dtype=np.float32) / np.float32(255)


def to_picture(image: Floats) -> Image.Image:
    """One H, W, 3 array as a picture; the half that is added undoes what arithmetic took from a whole number."""
    return Image.fromarray((np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8))


def png(image: Floats, texts: Mapping[str, object] | None = None) -> bytes:
    """One picture as a PNG with these values as JSON text chunks."""
    info = PngInfo()
    for name, value in (texts or {}).items():
        info.add_text(name, json.dumps(value))
    out = io.BytesIO()
    to_picture(image).save(out, "PNG", pnginfo=info, compress_level=1)
    return out.getvalue()


def preview_jpeg(image: Floats, longest: int, at_least: int = 0) -> bytes:
    """A step's preview: the picture at an eighth, scaled to fit, as the server sends it."""
    small = to_picture(image[::_LATENT_SCALE, ::_LATENT_SCALE])
    out = io.BytesIO()
    ImageOps.contain(small, (longest, longest), Image.Resampling.BILINEAR).save(out, "JPEG", quality=_PREVIEW_QUALITY)
    return _padded_jpeg(out.getvalue(), at_least)


def resize(image: Floats, width: int, height: int, method: str = "bilinear", *, crop: bool = False) -> Floats:
    """A batch B, H, W, C at another size; `crop` first cuts the middle part of the wanted shape."""
    part = _centre(image, width, height) if crop else image
    if part.shape[1:3] == (height, width):
        return part
    if method == "nearest-exact":
        return part[:, _nearest(part.shape[1], height)][:, :, _nearest(part.shape[2], width)]
    planes = [[_resample(one[..., c], width, height, method) for c in range(one.shape[-1])] for one in part]
    return np.stack([np.stack(channels, axis=-1) for channels in planes])


def resize_mask(mask: Floats, width: int, height: int) -> Floats:
    """A batch of masks M, H, W at another size."""
    return resize(mask[..., None], width, height)[..., 0]


def repeat_to(batch: Floats, count: int) -> Floats:
    """The batch repeated, or cut, to so many pictures."""
    return np.concatenate([batch] * -(-count // len(batch)))[:count]


def mix(under: Floats, over: Floats, weight: Floats | float) -> Floats:
    """`under` where the weight is 0, `over` where it is 1, linear between, and exact at both ends."""
    share = np.float32(weight) if isinstance(weight, float) else weight
    return np.asarray(under * (np.float32(1) - share) + over * share, dtype=np.float32)


def _centre(image: Floats, width: int, height: int) -> Floats:
    own_height, own_width = image.shape[1:3]
    own, new = own_width / own_height, width / height
    x = round((own_width - own_width * (new / own)) / 2) if own > new else 0
    y = round((own_height - own_height * (own / new)) / 2) if own < new else 0
    return image[:, y : own_height - y, x : own_width - x]


def _nearest(old: int, new: int) -> list[int]:
    return [min(old - 1, int((place + 0.5) * old / new)) for place in range(new)]


def _resample(plane: Floats, width: int, height: int, method: str) -> Floats:
    picture = Image.fromarray(np.ascontiguousarray(plane))
    return np.asarray(picture.resize((width, height), _FILTERS[method]), dtype=np.float32)


def _padded_jpeg(jpeg: bytes, at_least: int) -> bytes:
    """The same JPEG with comments after its first marker until it weighs enough."""
    parts = [jpeg[:2]]
    missing = at_least - len(jpeg)
    while missing > 4:
        length = min(missing - 4, _LONGEST_COMMENT)
        parts.append(b"\xff\xfe" + (length + 2).to_bytes(2, "big") + bytes(length))
        missing -= length + 4
    return b"".join([*parts, jpeg[2:]])
