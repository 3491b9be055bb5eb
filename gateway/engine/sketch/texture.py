"""Surfaces that go on at their opposite edges: bricks, planks, stones, water, grass, painted with wrapped noise."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway.engine.interface import Colour, Plane, Sheet
from gateway.engine.words.lexicon import colour, lexicon
from gateway.engine.words.tokens import Token, joined, key_of, tokens

_LONGEST: Final = 4
"""Tokens in a material's name."""
_Draw = np.random.Generator
_Tones = tuple[Plane, NDArray[np.bool_] | None]
"""0..1 per pixel along the lighter three colours, and where the first colour is instead."""


@dataclass(frozen=True, slots=True)
class Surface:
    """How a material is painted."""

    kind: str
    colours: Plane
    """RGB, shape (4, 3), 0..1: the first is that of joints or depths."""


@cache
def surfaces() -> dict[str, Surface]:
    """Read the table, once; by key."""
    text = resources.files("gateway.engine").joinpath("data", "textures.toml").read_text("utf-8")
    found: dict[str, Surface] = {}
    for entry in tomllib.loads(text).values():
        colours = np.asarray([colour(tone.strip()) for tone in entry["colours"].split(",")], np.float32)
        surface = Surface(entry["kind"], colours)
        found.update((key_of(word.strip()), surface) for word in entry["words"].split(","))
    return found


def material(prompt: str) -> tuple[Surface | None, str]:
    """Return the first material that a prompt names, in the colour said before it, and the prompt's other words.

    Leaves stay among these: they are figures as well.
    """
    words = tokens(prompt)
    surface: Surface | None = None
    rest: list[str] = []
    start = 0
    while start < len(words):
        found, length = _longest(words, start)
        if found is None or found.kind == "leaves":
            rest.append(words[start].text or ",")
            length = 1
        if found is not None and surface is None:
            before = _colour_before(words[:start])
            surface = found if before is None else dyed(found, lexicon().dyes[before].rgb)
        start += length
    return (surface, " ".join(rest)) if surface is not None else (None, prompt)


def _longest(words: Sequence[Token], start: int) -> tuple[Surface | None, int]:
    for length in range(min(_LONGEST, len(words) - start), 0, -1):
        if found := surfaces().get(joined(words[start : start + length])):
            return found, length
    return None, 1


def _colour_before(words: Sequence[Token]) -> str | None:
    words = words[:-1] if words and words[-1].text == "\u7684" else words
    for length in range(min(3, len(words)), 0, -1):
        for meaning in lexicon().meanings.get(joined(words[-length:]), ()):
            if meaning.kind == "colour":
                return meaning.value
    return None


def dyed(surface: Surface, rgb: Colour) -> Surface:
    """Return the surface in shades of another colour; its joints stay."""
    luma = surface.colours @ np.asarray((0.299, 0.587, 0.114), np.float32)
    shades = np.asarray(rgb, np.float32) * (luma / luma[2])[:, None]
    shades[0] = surface.colours[0]
    return replace(surface, colours=np.clip(shades, 0, 1))


def painted(surface: Surface, height: int, width: int, draw: _Draw) -> Sheet:
    """Return an opaque sheet (4, height, width) that tiles."""
    tone, joints = _KINDS[surface.kind](height, width, draw)
    place = np.clip(tone, 0, 1) * 2
    low = np.minimum(place.astype(np.intp), 1)
    part = (place - low)[..., None]
    rgb = surface.colours[1 + low] * (1 - part) + surface.colours[2 + low] * part
    if joints is not None:
        rgb = np.where(joints[..., None], surface.colours[0], rgb)
    sheet: Sheet = np.ones((4, height, width), np.float32)
    sheet[:3] = rgb.transpose(2, 0, 1)
    return sheet


def _noise(height: int, width: int, draw: _Draw, rows: int, columns: int, octaves: int = 3) -> Plane:
    """Value noise in about 0..1 whose lattice of `rows` x `columns` cells, and twice those, wraps around."""
    rows, columns = max(1, min(rows, height // 4)), max(1, min(columns, width // 2))
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        lattice = draw.random((rows << octave, columns << octave), dtype=np.float32)
        total += _spread(_spread(lattice, height, 0), width, 1) / 2**octave
    return (total / (2 - 0.5 ** (octaves - 1)) - 0.5) * 1.5 + 0.5


def _spread(lattice: Plane, size: int, axis: int) -> Plane:
    cells = lattice.shape[axis]
    place = (np.arange(size, dtype=np.float32) + 0.5) * cells / size
    low = place.astype(np.intp)
    part = place - low
    part = part * part * (3 - 2 * part)
    part = part[:, None] if axis == 0 else part
    first, second = lattice.take(low % cells, axis), lattice.take((low + 1) % cells, axis)
    spread: Plane = first + (second - first) * part
    return spread


def _bricks(height: int, width: int, draw: _Draw, *, rows: int = 6, across: int = 3, shift: float = 0.5) -> _Tones:
    rows, across = max(2, rows * height // 64 // 2 * 2), max(1, across * width // 64)
    y, x = np.arange(height) * rows / height, np.arange(width) * across / width
    row = y.astype(np.intp)
    along = (x[None, :] + shift * (row % 2)[:, None]) % across
    tones = draw.random((rows, across), dtype=np.float32)[row[:, None], along.astype(np.intp)]
    joints = ((y % 1)[:, None] < 1.3 * rows / height) | (along % 1 < 1.3 * across / width)
    return 0.25 + 0.45 * tones + 0.35 * (_noise(height, width, draw, 8, 8) - 0.5), joints


def _planks(height: int, width: int, draw: _Draw) -> _Tones:
    tone, joints = _bricks(height, width, draw, rows=4, across=1, shift=0.37)
    return tone + 0.9 * (_noise(height, width, draw, 16, 2) - 0.5), joints


def _plates(height: int, width: int, draw: _Draw) -> _Tones:
    tone, joints = _bricks(height, width, draw, rows=2, across=2, shift=0.0)
    return 0.3 + 0.3 * tone + 0.5 * (_noise(height, width, draw, 2, 24) - 0.5), joints


def _cells(height: int, width: int, draw: _Draw) -> _Tones:
    """Stones around jittered points; the joints lie where two points are about as near."""
    rows, columns = max(2, round(height / 15)), max(2, round(width / 15))
    grid = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    points = (grid + draw.uniform(0.15, 0.85, grid.shape)) * (height / rows, width / columns)
    away = [
        np.abs((np.arange(size)[None, :] + 0.5 - points[:, axis, None] + size / 2) % size - size / 2)
        for axis, size in enumerate((height, width))
    ]
    far = np.hypot(away[0][:, :, None], away[1][:, None, :])
    first, second = np.partition(far, 1, axis=0)[:2]
    tones = draw.random(len(points), dtype=np.float32)[far.argmin(axis=0)]
    tone = (
        0.2 + 0.45 * tones + 0.4 * np.clip((second - first) / 8, 0, 1) + 0.3 * (_noise(height, width, draw, 8, 8) - 0.5)
    )
    return np.asarray(tone, np.float32), second - first < 1.7


def _waves(height: int, width: int, draw: _Draw) -> _Tones:
    bend = _noise(height, width, draw, 3, 3) * 5
    y = np.arange(height, dtype=np.float32)[:, None] * (2 * np.pi * max(2, height // 16) / height)
    crest = np.sin(y + bend * 2) * 0.5 + 0.5
    return crest**2 * 0.75 + 0.35 * (_noise(height, width, draw, 4, 2) - 0.3), None


def _blades(height: int, width: int, draw: _Draw) -> _Tones:
    fine = _noise(height, width, draw, 6, 24, 2)
    return 0.5 * _noise(height, width, draw, 3, 3) + 0.8 * (fine - 0.25), fine < 0.22


def _grains(height: int, width: int, draw: _Draw) -> _Tones:
    specks = draw.random((height, width), dtype=np.float32)
    return 0.7 * _noise(height, width, draw, 3, 2) + 0.35 * specks, specks < 0.04


def _clouds(height: int, width: int, draw: _Draw) -> _Tones:
    return (_noise(height, width, draw, 3, 2, 4) - 0.35) * 2.2, None


def _stars(height: int, width: int, draw: _Draw) -> _Tones:
    haze = _noise(height, width, draw, 3, 3) * 0.5
    return np.where(draw.random((height, width)) < 0.018, np.float32(1), haze), None


_KINDS: Final[dict[str, Callable[[int, int, _Draw], _Tones]]] = {
    "bricks": _bricks,
    "planks": _planks,
    "plates": _plates,
    "cells": _cells,
    "waves": _waves,
    "blades": _blades,
    "leaves": _blades,
    "grains": _grains,
    "clouds": _clouds,
    "stars": _stars,
}
