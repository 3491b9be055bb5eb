"""One row a control: pictures in which its effect is plain."""

from typing import Final

import numpy as np

from gateway.engine.interface import Denoiser, Painting, Pixels
from training.card.drawing import CELL, Cell, developed, drawn

_SEED: Final = 7
_STRENGTHS: Final = (0.3, 0.6, 0.9)


def rows(denoiser: Denoiser) -> list[list[Cell]]:
    """Return the rows of the sheet of controls."""
    return [
        _steps(denoiser),
        _seeds(denoiser),
        _guidance(denoiser),
        _negative(denoiser),
        _img2img(denoiser),
        _inpaint(denoiser),
        _edges(denoiser),
        _reference(denoiser),
        _grounds(denoiser),
    ]


def _of(prompt: str, **given: object) -> Painting:
    return Painting(prompt, **({"seed": _SEED, "width": CELL, "height": CELL} | given))  # type: ignore[arg-type]


def _steps(denoiser: Denoiser) -> list[Cell]:
    previews, picture = developed(denoiser, _of("red apple"))
    shown = [(f"step {step} of 20", previews[step - 1]) for step in (1, 5, 9, 12, 15, 18)]
    return [*shown, ("red apple", picture)]


def _seeds(denoiser: Denoiser) -> list[Cell]:
    return [(f"dog, seed {seed}", drawn(denoiser, _of("dog", seed=seed))) for seed in range(1, 8)]


def _guidance(denoiser: Denoiser) -> list[Cell]:
    return [(f"rocket, guidance {by}", drawn(denoiser, _of("rocket", guidance=by))) for by in (0, 1, 4, 7, 12, 20, 30)]


def _negative(denoiser: Denoiser) -> list[Cell]:
    cases = (
        ("apple", ""),
        ("apple", "red"),
        ("heart", ""),
        ("heart", "red"),
        ("fruit", ""),
        ("fruit", "grape, banana"),
    )
    return [
        (f"{prompt}, not {negative}" if negative else prompt, drawn(denoiser, _of(prompt, negative_prompt=negative)))
        for prompt, negative in cases
    ]


def _img2img(denoiser: Denoiser) -> list[Cell]:
    disc = _disc()
    cells: list[Cell] = [("init", disc)]
    for prompt in ("red apple", "sun"):
        for strength in _STRENGTHS:
            painting = _of(prompt, init=disc, strength=strength)
            cells.append((f"{prompt}, {strength}", drawn(denoiser, painting)))
    return cells


def _disc() -> Pixels:
    """A red disc on blue."""
    down, right = np.mgrid[:CELL, :CELL] - CELL / 2 + 0.5
    inside = (down**2 + right**2 < (0.3 * CELL) ** 2)[..., None]
    disc: Pixels = np.where(inside, (228, 50, 62), (103, 166, 242)).astype(np.uint8)
    return disc


def _inpaint(denoiser: Denoiser) -> list[Cell]:
    cells: list[Cell] = []
    frame, house = (drawn(denoiser, _of(prompt)) for prompt in ("framed picture", "house"))
    middle, half = np.zeros((CELL, CELL), np.uint8), np.zeros((CELL, CELL), np.uint8)
    middle[CELL // 4 : -CELL // 4, CELL // 4 : -CELL // 4] = 255
    half[:, CELL // 2 :] = 255
    for init, mask, prompts in ((frame, middle, ("cat face", "sun")), (house, half, ("castle", "tree"))):
        cells.append(("mask in grey", np.where(mask[..., None] > 0, init // 2 + 64, init)))
        cells += [(prompt, drawn(denoiser, _of(prompt, init=init, mask=mask))) for prompt in prompts]
    return cells


def _edges(denoiser: Denoiser) -> list[Cell]:
    cells: list[Cell] = []
    for shape, prompts in (("cat face", ("cat face", "tiger face", "blue cat")), ("house", ("castle", "green house"))):
        lines = _lines(drawn(denoiser, _of(shape)))
        cells.append((f"edges of a {shape}", np.repeat(lines[..., None], 3, axis=2)))
        cells += [(prompt, drawn(denoiser, _of(prompt, edges=lines))) for prompt in prompts]
    return cells


def _lines(picture: Pixels) -> Pixels:
    """Where colours change from one pixel to the next."""
    values = picture.astype(np.int16)
    right = np.abs(np.diff(values, axis=1, append=values[:, -1:])).max(axis=2)
    down = np.abs(np.diff(values, axis=0, append=values[-1:])).max(axis=2)
    lines: Pixels = np.where(np.maximum(right, down) > 60, 255, 0).astype(np.uint8)
    return lines


def _reference(denoiser: Denoiser) -> list[Cell]:
    figure = drawn(denoiser, _of("teddy bear", transparent=True))
    cells: list[Cell] = [("reference", figure)]
    prompts = ("", "blue", "three", "on a green background")
    return cells + [(prompt or "(no prompt)", drawn(denoiser, _of(prompt, reference=figure))) for prompt in prompts]


def _grounds(denoiser: Denoiser) -> list[Cell]:
    tile = drawn(denoiser, _of("strawberry", tiling=True))
    four = np.tile(tile[::2, ::2], (2, 2, 1))
    cells: list[Cell] = [("strawberry, tiling", tile), ("the same, four times", four)]
    cells.append(("octopus, transparent", drawn(denoiser, _of("octopus", transparent=True))))
    cells.append(("on a blue ground", drawn(denoiser, _of("lemon on a blue background"))))
    for width, height in ((1024, 512), (512, 1024)):
        wide = drawn(denoiser, _of("train" if width > height else "giraffe", width=width, height=height))
        cells.append((f"{width} x {height}", _within(wide)))
    return cells


def _within(picture: Pixels) -> Pixels:
    """A picture of any shape, on white, in a cell."""
    part = max(picture.shape) // CELL
    small = picture[::part, ::part]
    cell = np.full((CELL, CELL, 3), 255, np.uint8)
    top, left = (CELL - small.shape[0]) // 2, (CELL - small.shape[1]) // 2
    cell[top : top + small.shape[0], left : left + small.shape[1]] = small
    return cell
