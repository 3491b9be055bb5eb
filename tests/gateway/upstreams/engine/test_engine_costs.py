"""What a painting process costs: time of one core, and memory."""

import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from PIL import Image

from gateway.core.reports import PreviewMade, WorkBegun
from gateway.upstreams.engine import Engine
from tests.depth import DEEP
from tests.gateway.upstreams.engine.talk import noise, order, process_id, told
from tests.pictures import encoded as saved

MOST_MEGABYTES: Final = 250
MORE_FOR_WEBP: Final = 130
"""While it decodes one of the largest: Pillow's reader holds the picture four times."""
LARGEST: Final = 4096
"""Pixels of an edge: 16 megapixels, the wire protocol's limit."""
COSTS: Final = [(64, 1, 0.6), (64, 4, 2.0), (512, 1, 0.7), (512, 4, 2.4)]
"""Edge, pictures, and the most seconds for them."""


def core_seconds(pid: int) -> float:
    """Return the processor's time that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def megabytes(pid: int) -> tuple[float, float]:
    """Return the memory that a process has, and the most that it ever had."""
    lines = (line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    kilobytes = {words[0]: int(words[1]) for words in lines if words[0] in ("VmRSS:", "VmHWM:")}
    return kilobytes["VmRSS:"] / 1024, kilobytes["VmHWM:"] / 1024


@pytest.mark.timing
@pytest.mark.parametrize("model", ["icons", "icons-network"])
@pytest.mark.parametrize("edge,count,most", COSTS if DEEP else COSTS[::3])
async def test_twenty_steps_take_little_of_one_core(
    engine: Engine, model: str, edge: int, count: int, most: float
) -> None:
    """From the call to the finished PNG, guidance and previews included, by a warm process; the better of two."""
    await told(engine, order(model=model, width=edge, height=edge, steps=2))
    costs = []
    for _ in range(2):
        before = core_seconds(process_id(engine))
        await told(engine, order(model=model, width=edge, height=edge, steps=20, count=count, negative_prompt="green"))
        costs.append(core_seconds(process_id(engine)) - before)
    assert min(costs) <= most


@pytest.mark.timing
@pytest.mark.parametrize("model", ["icons", "icons-network"])
async def test_first_preview_comes_at_once(engine: Engine, model: str) -> None:
    """At most 100 ms after the gateway was told that the work has begun; the best of three, for the machine's sake."""
    waits = []
    began = 0.0
    for _ in range(4):
        async for report in engine.run(order(model=model, width=512, height=512, steps=20)):
            if isinstance(report, WorkBegun):
                began = time.monotonic()
            elif isinstance(report, PreviewMade) and report.step == 1:
                waits.append(time.monotonic() - began)
    assert min(waits[1:]) <= 0.1


KINDS = [(kind, mode) for kind in ("PNG", "JPEG", "WEBP") for mode in ("RGB", "RGBA", "L")]
LARGEST_INPUTS = KINDS if DEEP else [("PNG", "RGBA"), ("WEBP", "RGB")]


@pytest.mark.parametrize("options", [{}, {"tiling": True}, {"background": "transparent"}])
async def test_process_stays_small(engine: Engine, options: dict[str, Any]) -> None:
    """Also after the largest pictures that it paints, one after the other with both models."""
    for model in ("icons", "icons-network"):
        await told(engine, order(model=model, width=2048, height=2048, steps=2, **options))
    assert max(megabytes(process_id(engine))) <= MOST_MEGABYTES


@pytest.mark.parametrize("format,mode", LARGEST_INPUTS)
async def test_process_stays_small_with_the_largest_inputs(engine: Engine, format: str, mode: str) -> None:
    """Each is brought to the picture's size before the next is looked at."""
    image = Image.fromarray(np.zeros((LARGEST, LARGEST), np.uint8)).convert("RGB" if format == "JPEG" else mode)
    largest = saved(image, format)
    await told(engine, order("inpaint", {"init": largest, "mask": largest}, width=2048, height=2048, steps=1))
    await told(engine, order("controlnet", {"canny": largest, "init": noise()}, width=2048, height=2048, steps=1))
    await told(engine, order("reference", {"reference": largest}, width=2048, height=2048, steps=1))
    await told(engine, order("upscale", {"init": largest}, width=2048, height=2048, steps=2))
    now, most = megabytes(process_id(engine))
    assert now <= MOST_MEGABYTES
    assert most <= MOST_MEGABYTES + (MORE_FOR_WEBP if format == "WEBP" else 0)
