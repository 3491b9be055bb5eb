"""The icons that the embedded model draws, and what is known of each; finding one for a word is not done here."""

import functools
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
"""RGBA of shape (edge, edge, 4), the colours not multiplied by alpha."""
Kind = Literal[
    "thing", "animal", "plant", "food", "vehicle", "building", "place", "face", "person", "symbol", "flag", "weather"
]

EDGE: Final = 64
"""Edge of every icon in pixels."""
_DATA: Final = Path(__file__).parent / "data"
_KEPT: Final = 64
"""How many decoded icons are kept, 16 KiB each: a picture uses a few, and the next one often the same."""


class Icon(msgspec.Struct, frozen=True, gc=False):
    """What is known of one icon."""

    name: str
    """Noto's name, such as "red-apple"."""
    category: str
    """Noto's category, such as "Food & Drink"."""
    kind: Kind
    """What decides where it may stand in a picture."""
    flip: bool
    """Whether it may be mirrored: no letters, no direction that means something."""
    face: bool
    """Whether it is only the head of something that is there whole too."""
    colours: dict[str, float]
    """Share of its basic colours, the largest first; they need not add up to 1."""
    en: dict[str, float]
    """English words and phrases, singular and lower-case, and how much each means this icon, above 0 and up to 1."""
    zh: dict[str, float]
    """The same in simplified Chinese."""


class Atlas:
    """All icons; safe to use from several threads."""

    def __init__(self, folder: Path = _DATA) -> None:
        """Read the index in `folder`; raises OSError or msgspec's errors, as the files are part of the program."""
        self.icons: Final = msgspec.json.decode((folder / "icons.json").read_bytes(), type=tuple[Icon, ...])
        self.by_name: Final[Mapping[str, Icon]] = MappingProxyType({icon.name: icon for icon in self.icons})
        self._pictures = folder / "icons.zip"
        self.pixels = functools.lru_cache(_KEPT)(self._pixels)
        """Takes a name, returns its pixels, shape (64, 64, 4), which may not be changed; raises KeyError for others."""

    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        # Opening reads the list of all entries; whoever wants only words need not wait for it.
        return zipfile.ZipFile(self._pictures)

    def _pixels(self, name: str) -> Pixels:
        packed = self._archive.read(f"{self.by_name[name].name}.webp")
        pixels = np.array(Image.open(io.BytesIO(packed)).convert("RGBA"))
        pixels.flags.writeable = False  # it is shared by everybody who asks
        return pixels
