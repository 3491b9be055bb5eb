"""The gateway of the other doors' tests, with a model that can do all that the vendor's services are."""

import io
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door
from tests.pictures import flat

IMAGE: Final = "/v2beta/stable-image/"
RESULTS: Final = "/v2beta/results/"
PICTURE: Final = flat((9, 8, 7), (192, 128))
_WORDS: Final = frozenset({"prompt", "negative_prompt", "seed", "n", "style"})
_DRAWN: Final = _WORDS | {"width", "height", "steps", "guidance", "strength"}
MODEL: Final = replace(
    EASEL,
    tasks={
        **dict.fromkeys(("txt2img", "img2img", "inpaint", "controlnet", "reference"), _DRAWN),
        "outpaint": _WORDS - {"negative_prompt"} | {"expand"},
        "search_replace": _WORDS | {"search"},
        "upscale": frozenset({"width", "height", "scale"}),
        "remove_background": frozenset(),
    },
    controls=("sketch", "structure", "style"),
    preprocessors=("none", "sketch"),
    max_references=1,
)


def form(**fields: Any) -> aiohttp.FormData:
    """Return a multipart form; bytes are files. The empty file is how the vendor's samples make it multipart."""
    made = aiohttp.FormData()
    made.add_field("none", b"", filename="none")
    for name, value in fields.items():
        if isinstance(value, bytes):
            made.add_field(name, io.BytesIO(value), filename=f"{name}.png", content_type="image/png")
        else:
            made.add_field(name, str(value))
    return made


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway that paints at once."""
    async with open_door(tmp_path, Easel(MODEL)) as door:
        yield door
