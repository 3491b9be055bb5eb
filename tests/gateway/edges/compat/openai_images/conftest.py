"""The gateway of the other doors' tests, and the vendor's own client in front of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from openai import AsyncOpenAI

from tests.gateway.edges.compat.conftest import EASEL, Door, Easel, open_door

_KNOWN = frozenset({"prompt", "width", "height", "steps", "seed", "n", "strength", "style"})
MODEL = replace(
    EASEL,
    tasks=dict.fromkeys(("txt2img", "img2img", "inpaint", "reference"), _KNOWN),
    styles=("vivid",),
    max_references=4,
)


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    """A gateway that paints at once, with a model that knows references and a style of the vendor's."""
    async with open_door(tmp_path, Easel(MODEL)) as door:
        yield door


@pytest.fixture
async def brisk(tmp_path: Path) -> AsyncIterator[Door]:
    """One that gives a sign of life after a tenth of a second already."""
    async with open_door(tmp_path, Easel(MODEL), compat__silence_ms=100) as door:
        yield door


@pytest.fixture
async def vendor(door: Door) -> AsyncIterator[AsyncOpenAI]:
    """The vendor's client; it tries nothing again unless a test says so."""
    async with AsyncOpenAI(base_url=f"{door.running.url}/v1", api_key=door.running.key, max_retries=0) as client:
        yield client
