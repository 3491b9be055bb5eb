"""Drawing with the models as a gateway's process does, and sheets of what was drawn."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from gateway.engine.interface import Denoiser, Painting, Pixels

CELL: Final = 128
"""Pixels: the edge of a picture on a sheet."""
_CAPTION: Final = 18
_GAP: Final = 6
_PAPER: Final = (236, 236, 240)
_INK: Final = (40, 40, 48)

Cell = tuple[str, Pixels]
"""A caption and a picture, RGB or RGBA."""


def drawn(denoiser: Denoiser, painting: Painting) -> Pixels:
    """Return the finished picture."""
    return developed(denoiser, painting)[1]


def developed(denoiser: Denoiser, painting: Painting) -> tuple[list[Pixels], Pixels]:
    """Return the preview of each step, and the finished picture."""
    latent, previews = denoiser.begin(painting), []
    for step in range(1, painting.steps + 1):
        latent, preview = denoiser.step(painting, latent, step)
        previews.append(preview)
    return previews, denoiser.finish(painting, latent)


def sheet(rows: Sequence[Sequence[Cell]]) -> Image.Image:
    """Return rows of captioned pictures on paper; rows may differ in length."""
    widest = max(len(row) for row in rows)
    high = CELL + _CAPTION + _GAP
    paper = Image.new("RGB", (widest * (CELL + _GAP) + _GAP, len(rows) * high + _GAP), _PAPER)
    pen, font = ImageDraw.Draw(paper), ImageFont.load_default(13)
    for down, row in enumerate(rows):
        for across, (caption, pixels) in enumerate(row):
            left, top = _GAP + across * (CELL + _GAP), _GAP + down * high
            paper.paste(_opaque(pixels), (left, top))
            pen.text((left + 2, top + CELL + 1), _cut(caption, font), fill=_INK, font=font)
    return paper


def in_rows(cells: Sequence[Cell], length: int) -> list[Sequence[Cell]]:
    """Return the cells in rows of a length."""
    return [cells[start : start + length] for start in range(0, len(cells), length)]


def _cut(caption: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    """Leave out the end of what is too long for its cell."""
    while font.getlength(caption) > CELL:
        caption = caption.removesuffix("…")[:-1] + "…"
    return caption


def _opaque(pixels: Pixels) -> Image.Image:
    """A picture of a cell's size; what is transparent shows a chequered ground."""
    image = Image.fromarray(pixels)
    if image.mode == "RGBA":
        squares = np.indices((CELL, CELL)).sum(axis=0) // 8 % 2 * 40 + 200
        ground = Image.fromarray(np.repeat(squares[..., None], 3, axis=2).astype(np.uint8)).convert("RGBA")
        image = Image.alpha_composite(ground, image.resize((CELL, CELL), Image.Resampling.NEAREST))
    return image.convert("RGB").resize((CELL, CELL), Image.Resampling.NEAREST)
