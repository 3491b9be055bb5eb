"""Pictures as they were drawn once: another machine may differ by one level of 255, and no more."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

from gateway.engine.atlas import Atlas
from gateway.engine.denoise.closed_form import ClosedForm
from gateway.engine.denoise.network import Network
from gateway.engine.interface import Guesser, Painting, Pixels
from gateway.engine.paint.painter import Painter
from gateway.engine.sketch.sketcher import IconSketcher

GOLDEN: Final = Path(__file__).parents[2] / "data" / "engine"
CASES: Final = {
    "apple": Painting("a red apple", 7, 64, 64, 20),
    "crown": Painting("a cat with a crown, 蓝色背景", 8, 128, 64, 8, negative_prompt="dog", guidance=12.0),
    "lines": Painting("house", 3, 64, 64, 6, edges=np.eye(64, dtype=np.uint8) * 255),
    "init": Painting("sun", 4, 64, 64, 10, init=np.full((64, 64, 3), (90, 160, 240), np.uint8), strength=0.6),
}
GUESSERS: Final[dict[str, type[Guesser]]] = {"closed_form": ClosedForm, "network": Network}
OTHER_MACHINES: Final = (
    {"OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3"},
    {"OPENBLAS_CORETYPE": "Sandybridge", "OPENBLAS_NUM_THREADS": "1"},
)
"""What makes this machine calculate as older ones do."""


def drawn(guesser: str, case: str) -> Pixels:
    """Return a case's picture."""
    painter, painting = Painter(IconSketcher(Atlas()), GUESSERS[guesser]()), CASES[case]
    latent = painter.begin(painting)
    for step in range(1, painting.steps + 1):
        latent, _ = painter.step(painting, latent, step)
    return painter.finish(painting, latent)


def apart(picture: Pixels, guesser: str, case: str) -> int:
    """Return the greatest difference to the picture that was kept, in levels of 255."""
    kept = np.asarray(Image.open(GOLDEN / f"{case}-{guesser}.png"))
    return int(np.abs(picture.astype(int) - kept).max())


@pytest.mark.parametrize("guesser", GUESSERS)
@pytest.mark.parametrize("case", CASES)
def test_picture_is_the_one_that_was_kept(guesser: str, case: str) -> None:
    """Within one level."""
    assert apart(drawn(guesser, case), guesser, case) <= 1


@pytest.mark.parametrize("machine", OTHER_MACHINES, ids=lambda machine: machine["OPENBLAS_CORETYPE"])
def test_picture_is_the_same_on_another_machine(machine: dict[str, str]) -> None:
    """As far as this one can be told to calculate like others."""
    program = (
        "from tests.gateway.engine.test_golden import *\n"
        "print(max(apart(drawn(g, c), g, c) for g in GUESSERS for c in CASES))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env=os.environ | machine,
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) <= 1
