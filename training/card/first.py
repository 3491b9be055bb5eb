"""The README's first picture, from a running gateway: `python -m training.card.first gateway/web/first.png`.

Above the previews of one job, as they came over the WebSocket; below the pictures of some prompts.
"""

import asyncio
import io
import os
import sys
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from gateway.engine.interface import Pixels
from protocol.client import Client
from protocol.messages import Previews
from protocol.replica_effects import ImageBytes, Preview
from training.card.drawing import Cell, sheet

_STEPS: Final = (1, 5, 9, 12, 14, 17)
_FIRST: Final = "a red apple"
_OTHERS: Final = (
    ("a blue butterfly", "a blue butterfly", 3), ("a castle in the mountains", "castle, mountains", 1),
    ("两只猫", "two cats (Chinese)", 5), ("a rocket", "a rocket", 2), ("a pink elephant", "a pink elephant", 4),
    ("圣诞树", "christmas tree (Ch.)", 6), ("a cat with a crown", "a cat with a crown", 8),
)  # fmt: skip
"""Prompt, caption (the sheet's font has no Chinese) and seed."""


async def shown(client: Client, prompt: str, seed: int) -> tuple[dict[int, Pixels], Pixels]:
    """Return the previews of a job by their step, and its picture."""
    job = await client.submit("txt2img", {"prompt": prompt, "seed": seed, "width": 256, "height": 256, "steps": 20})
    previews: dict[int, Pixels] = {}
    async for event in job:
        if isinstance(event, Preview):
            previews[event.step] = _read(bytes(event.data))
        if isinstance(event, ImageBytes):
            return previews, _read(event.data)
    raise RuntimeError(f"no picture came for {prompt!r}")


def _read(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


async def draw(url: str, key: str, out: Path) -> None:
    """Ask the gateway for all pictures and write the sheet."""
    async with Client(url, token=key, previews=Previews(max_edge=256, format="png"), finals="inline") as client:
        previews, picture = await shown(client, _FIRST, 7)
        steps: list[Cell] = [(f"step {step} of 20", previews[step]) for step in _STEPS]
        others: list[Cell] = [(caption, (await shown(client, prompt, seed))[1]) for prompt, caption, seed in _OTHERS]
    sheet([[*steps, (_FIRST, picture)], others]).save(out, optimize=True)


def main() -> None:
    """Read the command line and the environment, as the `safelight` commands do."""
    url = os.environ.get("SAFELIGHT_URL", "http://127.0.0.1:8080")
    asyncio.run(draw(url, os.environ["SAFELIGHT_API_KEY"], Path(sys.argv[1])))


if __name__ == "__main__":
    main()
