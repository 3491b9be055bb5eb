"""The trained network: what it was trained for, on icons that it never saw."""

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from gateway.engine.atlas import Atlas
from gateway.engine.denoise.network import Network
from gateway.engine.denoise.weights import PATH, load, save
from gateway.engine.interface import Field, Painting, Plane, Scene, Sheet, Sketches
from gateway.engine.paint.painter import Painter
from gateway.engine.sketch.sketcher import IconSketcher

HELD_OUT_EVERY = 20


@cache
def network() -> Network:
    """Return the network, read once."""
    return Network()


@cache
def atlas() -> Atlas:
    """Return the atlas, read once."""
    return Atlas()


def held_out() -> list[str]:
    """The icons that training left out, by the rule of `training.atlas`."""
    return [icon.name for icon in atlas().icons if zlib.crc32(icon.name.encode()) % HELD_OUT_EVERY == 0]


def sheet_of(name: str) -> Sheet:
    """Return an icon, premultiplied, of shape (4, 64, 64) in 0..1."""
    pixels = atlas().pixels(name).astype(np.float32) / 255
    pixels[..., :3] *= pixels[..., 3:]
    sheet: Sheet = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return sheet


def scene_of(sheet: Sheet, guidance: float = 1, edges: Plane | None = None, *, tiling: bool = False) -> Scene:
    """Return a scene with one sketch."""
    sketches = Sketches(sheet[None], np.zeros(1, np.float32))
    return Scene(sketches, 0, guidance, whole=False, edges=edges, tiling=tiling)


def noised(sheet: Sheet, time: float, seed: int) -> Field:
    """Return a sheet under noise."""
    noise = np.random.Generator(np.random.PCG64(seed)).standard_normal(sheet.shape, dtype=np.float32)
    noisy: Field = np.float32(np.cos(np.pi / 2 * time)) * (2 * sheet - 1) + np.float32(np.sin(np.pi / 2 * time)) * noise
    return noisy


def coarse(field: Field) -> Field:
    """Return means of 4 x 4 cells: enough to tell icons apart, and quicker to compare."""
    small: Field = field.reshape(4, 16, 4, 16, 4).mean(axis=(2, 4))
    return small


def lines_of(sheet: Sheet) -> Plane:
    """Where the figure on white changes from one pixel to the next, as training draws lines."""
    seen = sheet[:3] + 1 - sheet[3:]
    right = np.abs(np.diff(seen, axis=2, append=seen[:, :, -1:])).max(axis=0)
    down = np.abs(np.diff(seen, axis=1, append=seen[:, -1:])).max(axis=0)
    lines: Plane = (np.maximum(right, down) > 0.25).astype(np.float32)
    return lines


def test_the_weights_fit_the_repository() -> None:
    """They are at most 6 MB."""
    assert PATH.stat().st_size <= 6_000_000


def test_weights_come_back_within_half_a_step_and_are_written_alike_each_time(tmp_path: Path) -> None:
    """Numbers of 8 bits are rounded to the nearest."""
    weights = load()
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    save(weights, first)
    save(weights, second)
    assert first.read_bytes() == second.read_bytes()
    again = load(first)
    assert again.keys() == weights.keys()
    for name, values in weights.items():
        step = np.abs(values).max() / 127
        assert np.abs(again[name] - values).max() <= step / 2 + 1e-3, name


def test_held_out_icons_come_out_of_pure_noise_as_their_sketch_tells() -> None:
    """The nearest icon of the whole atlas to the first guess is the right one."""
    names = [icon.name for icon in atlas().icons]
    every = np.stack([coarse(2 * sheet_of(name) - 1) for name in names])
    out = held_out()
    assert len(out) >= 0.03 * len(names)
    right = 0
    for number, name in enumerate(out):
        sheet = sheet_of(name)
        guess = network().guess(noised(np.zeros_like(sheet), 0.98, number), 0.98, scene_of(sheet))
        right += names[int(np.square(every - coarse(guess)).mean(axis=(1, 2, 3)).argmin())] == name
    assert right >= 0.95 * len(out)


def test_noise_is_taken_off_held_out_icons_without_any_sketch() -> None:
    """What is left is a small part of what was there."""
    errors = []
    for number, name in enumerate(held_out()[:20]):
        sheet = sheet_of(name)
        nothing = scene_of(np.zeros_like(sheet), guidance=0)
        noisy = noised(sheet, 0.3, number)
        guess = network().guess(noisy, 0.3, nothing)
        errors.append(np.square(guess - (2 * sheet - 1)).mean() / np.square(noisy - (2 * sheet - 1)).mean())
    assert np.mean(errors) < 0.15


def test_lines_tell_the_network_what_the_noise_hides() -> None:
    """With the lines of an icon that it never saw, and nothing else, its guess is nearer than without."""
    out, nearer = held_out()[:20], 0
    for number, name in enumerate(out):
        sheet = sheet_of(name)
        noisy, nothing = noised(sheet, 0.85, number), np.zeros_like(sheet)
        with_lines, without = (
            network().guess(noisy, 0.85, scene_of(nothing, guidance=0, edges=lines))
            for lines in (lines_of(sheet), None)
        )
        wrong, blind = (np.square(guess - (2 * sheet - 1)).mean() for guess in (with_lines, without))
        nearer += bool(wrong < blind)
    assert nearer >= 0.9 * len(out)


@pytest.mark.parametrize("prompt", ["tiger", "castle", "green"])
def test_lines_are_found_again_in_the_finished_picture(prompt: str) -> None:
    """Edge overlap: whatever the prompt, within a cell of nearly every given line the colours change."""
    painter = Painter(IconSketcher(atlas()), network())
    for name in held_out()[:3]:
        lines = (lines_of(sheet_of(name)) * 255).astype(np.uint8)
        painting = Painting(prompt, 3, 64, 64, steps=6, edges=lines)
        latent = painter.begin(painting)
        for step in range(1, 7):
            latent, _ = painter.step(painting, latent, step)
        picture = painter.finish(painting, latent).transpose(2, 0, 1).astype(np.float32) / 255
        drawn = lines_of(np.concatenate((picture, np.ones_like(picture[:1]))))
        near = np.max([np.roll(drawn, (y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)], axis=0)
        assert near[lines > 0].mean() > 0.9, name


def test_a_tiling_picture_has_no_place_where_it_begins() -> None:
    """Moving everything moves the guess."""
    sheet = sheet_of("rocket")
    noisy = noised(sheet, 0.7, 3)
    plain = network().guess(noisy, 0.7, scene_of(sheet, tiling=True))
    moved = network().guess(np.roll(noisy, 16, 2), 0.7, scene_of(np.roll(sheet, 16, 2), tiling=True))
    assert np.abs(np.roll(plain, 16, 2) - moved).max() < 1e-3


def test_guidance_goes_away_from_what_is_not_wanted() -> None:
    """A guess is further from what the negative prompt shows than without it."""
    sheet, against = sheet_of("red-apple"), sheet_of("green-apple")
    wanted = Sketches(sheet[None], np.zeros(1, np.float32))
    unwanted = Sketches(sheet[None], np.zeros(1, np.float32), against=against)
    noisy = noised(sheet, 0.35, 1)
    plain, away = (network().guess(noisy, 0.35, Scene(one, 0, 2.0, whole=False)) for one in (wanted, unwanted))
    target = 2 * against - 1
    assert np.square(away - target).mean() > np.square(plain - target).mean()
