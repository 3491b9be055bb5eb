"""`python -m training.card --out training/pictures`: draws every picture of the card, and the judges' sheet."""

import argparse
import random
import time
import tomllib
from pathlib import Path
from typing import Final

from gateway.engine.atlas import Atlas
from gateway.engine.denoise.closed_form import ClosedForm
from gateway.engine.denoise.network import Network
from gateway.engine.interface import Denoiser, Painting
from gateway.engine.paint.painter import Painter
from gateway.engine.sketch.sketcher import IconSketcher
from training.card import controls
from training.card.drawing import CELL, Cell, drawn, in_rows, sheet

PROMPTS: Final = Path(__file__).parent / "named.toml"
_SEED: Final = 1
"""One seed for each prompt: its number on the sheet is added."""
_ROW: Final = 8


def named(denoiser: Denoiser) -> list[Cell]:
    """Return the pictures of the prompts that name things, in their order, each by its name."""
    things = tomllib.loads(PROMPTS.read_text())["named"]
    return [
        (thing["name"], drawn(denoiser, Painting(thing["prompt"], _SEED + number, CELL, CELL)))
        for number, thing in enumerate(things)
    ]


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    sketcher = IconSketcher(Atlas())
    closed_form, network = Painter(sketcher, ClosedForm()), Painter(sketcher, Network())
    for denoiser, ending in ((closed_form, ""), (network, "-network")):
        began = time.process_time()
        cells = named(denoiser)
        print(f"{ending or 'closed form'}: {(time.process_time() - began) / len(cells):.3f} s of one core a picture")
        sheet(in_rows(cells, _ROW)).save(out / f"named{ending}.png", optimize=True)
        sheet(controls.rows(denoiser)).save(out / f"controls{ending}.png", optimize=True)
        if denoiser is closed_form:
            _judged(cells, out)


def _judged(cells: list[Cell], out: Path) -> None:
    """Write the sheet that judges see, and tell which picture is which."""
    order = random.Random(40).sample(range(len(cells)), len(cells))
    unnamed = [(str(place), cells[number][1]) for place, number in enumerate(order, 1)]
    sheet(in_rows(unnamed, _ROW)).save(out / "judged.png", optimize=True)
    print("judged:", ", ".join(f"{place} {cells[number][0]}" for place, number in enumerate(order, 1)))


if __name__ == "__main__":
    main()
