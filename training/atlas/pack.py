"""Writes the files that the gateway reads; the same icons give the same bytes."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import numpy as np
from PIL import Image

from gateway.engine.atlas import Icon, Pixels
from training.atlas.choose import held_out

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3


def pack_pictures(pixels: Mapping[str, Pixels], path: Path) -> None:
    """Write a ZIP of one lossless WebP per icon, by name, sorted."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as packed:
        for name in sorted(pixels):
            entry = zipfile.ZipInfo(f"{name}.webp", _EPOCH)
            entry.create_system = _UNIX  # else it tells on which system this ran
            packed.writestr(entry, webp(pixels[name]))


def pack_large(pixels: Mapping[str, Pixels], categories: Mapping[str, str], path: Path) -> None:
    """Write what the network is trained on: pictures at full size, and which of them are held out."""
    names = sorted(pixels)
    np.savez(
        path,
        names=np.array(names),
        rgba=np.stack([pixels[name] for name in names]),
        category=np.array([categories[name] for name in names]),
        heldout=np.array([held_out(name) for name in names]),
    )


def webp(pixels: Pixels) -> bytes:
    """Return an icon as a lossless WebP; the colour of pixels that can't be seen is not kept."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, quality=100, method=4)
    return file.getvalue()


def pack_index(icons: Sequence[Icon], path: Path) -> None:
    """Write a JSON array with one icon a line, so that a change of one icon is a change of one line."""
    lines = (msgspec.json.encode(icon).decode() for icon in icons)
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")
