"""An embedded engine, what it is asked for, and what came; `engine` is for a `conftest.py` to import by name."""

import contextlib
import io
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from gateway.core.normal import InputImage, Request
from gateway.core.reports import ImageMade, Report
from gateway.engine.interface import Pixels
from gateway.ports import CallOrder
from gateway.upstreams.engine import Engine
from tests import pictures

ROOT = Path(__file__).parents[4]
DEADLINE_SECONDS = 20.0
ON_SHARED_LOOP = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    """An open engine of one process."""
    opened = Engine()
    await opened.open()
    yield opened
    await opened.close()


def shared_engine() -> Any:
    """Return a fixture for a module whose tests leave the engine whole: an open one of one process for all of them.

    What a process painted before must not count, and a start takes half a second. The tests need `ON_SHARED_LOOP`.
    """

    @pytest_asyncio.fixture(scope="module", loop_scope="module", name="engine")
    async def shared() -> AsyncIterator[Engine]:
        opened = Engine()
        await opened.open()
        yield opened
        await opened.close()

    return shared


def order(
    task: str = "txt2img",
    inputs: Mapping[str, bytes] | None = None,
    *,
    model: str = "icons",
    count: int = 1,
    used: Mapping[str, Any] | None = None,
    **changes: Any,
) -> CallOrder:
    """Return a small call; `inputs` are encoded by role, `used` says how those are used that are no init or mask."""
    given = inputs or {}
    asked: dict[str, Any] = {
        "task": task,
        "model": model,
        "prompt": "a red apple",
        "negative_prompt": "",
        "width": 128,
        "height": 64,
        "steps": 3,
        "guidance": 7.0,
        "seed": 5,
        "n": count,
        "inputs": tuple(
            InputImage(role, "a", 1, 1, slot=role, **({} if role in ("init", "mask") else used or {})) for role in given
        ),
    }
    request = Request(**asked | changes)
    offered = next(one for one in Engine().models if one.id == model)
    return CallOrder("call-1", offered, request, request.seed, count, given)


async def told(engine: Engine, call: CallOrder) -> list[Report]:
    """Run the call to its end."""
    async with contextlib.aclosing(engine.run(call)) as reports:
        return [report async for report in reports]


async def made(engine: Engine, call: CallOrder) -> list[ImageMade]:
    """Return the pictures of a call."""
    return [report for report in await told(engine, call) if isinstance(report, ImageMade)]


async def drawn(engine: Engine, call: CallOrder) -> Pixels:
    """Return the pixels of a call's only picture."""
    (one,) = await made(engine, call)
    return pixels_of(one.picture.content)


def encoded(pixels: np.ndarray[Any, np.dtype[np.uint8]], format: str = "PNG") -> bytes:
    """Return pixels as a file."""
    return pictures.encoded(Image.fromarray(pixels), format)


def noise(height: int = 64, width: int = 128, channels: int = 3) -> bytes:
    """Return a file of random pixels, the same each time."""
    return encoded(np.random.default_rng(1).integers(0, 256, (height, width, channels), np.uint8))


def square(ground: int = 0, line: int = 255) -> bytes:
    """Return a drawing of 128 x 64 pixels: the outline of a square."""
    plane = np.full((64, 128), ground, np.uint8)
    plane[12:52, 44:84] = line
    plane[14:50, 46:82] = ground
    return encoded(plane)


def upper_half() -> bytes:
    """Return a mask of the upper half."""
    mask = np.zeros((10, 10), np.uint8)
    mask[:5] = 255
    return encoded(mask)


def pixels_of(content: bytes) -> Pixels:
    """Return a file's pixels."""
    return np.asarray(Image.open(io.BytesIO(content)))


def process_id(engine: Engine) -> int:
    """Return the id of the engine's only process."""
    (process,) = engine._processes
    return process._process.pid


def runs(pid: int) -> bool:
    """Whether a process lives and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Poll until something is true; return whether it became so in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)  # another process works meanwhile, and tells us nothing
    return True
