"""The painter as a `Denoiser`: what changes a picture, what does not, and how it develops."""

import subprocess
import sys
import time
import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.denoise.closed_form import ClosedForm
from gateway.engine.interface import Painting
from gateway.engine.paint.painter import Painter
from gateway.engine.paint.plan import guidance_scale
from tests.gateway.engine.shapes import COLOURS, Knowing, Shapes, blue_square, distance, paint, right_half

LINE = np.zeros((128, 128), np.uint8)
LINE[:, 40:44] = 255
SIZES = st.sampled_from((64, 72, 128, 200, 256, 328))


def test_painter_gives_the_same_pixels_in_another_process() -> None:
    """Neither hash seeds nor the number of numpy's threads reach the pixels, of a picture that uses all there is."""
    program = (
        "from tests.gateway.engine.shapes import *\n"
        "print(paint('red disc ring', init=blue_square(), mask=right_half(), strength=.8).sha, paint().sha)\n"
    )
    environment = {"PYTHONPATH": ".", "PYTHONHASHSEED": "5", "OPENBLAS_NUM_THREADS": "1"}
    run = [sys.executable, "-c", program]
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.split()
    here = [paint("red disc ring", init=blue_square(), mask=right_half(), strength=0.8).sha, paint().sha]
    assert there == here


def test_painter_interleaves_two_paintings_without_mixing_them() -> None:
    """A plan that was pushed out is made again, the same."""
    painter = Painter(Shapes(), ClosedForm())
    one, other = Painting("red disc", 7, 128, 128, 3), Painting("blue square", 8, 128, 64, 3)
    latents = [painter.begin(one), painter.begin(other)]
    for step in range(1, 4):
        latents = [
            painter.step(painting, latent, step)[0] for painting, latent in zip((one, other), latents, strict=True)
        ]
    assert np.array_equal(painter.finish(one, latents[0]), paint("red disc", steps=3).picture)
    assert np.array_equal(painter.finish(other, latents[1]), paint("blue square", seed=8, height=64, steps=3).picture)


def test_picture_shows_what_the_sketch_holds() -> None:
    """The prompt's shape in its colour on white, without grain."""
    picture = paint("green disc", width=256, height=256, steps=20).picture
    assert np.allclose(picture[128, 128], np.array(COLOURS["green"]) * 255, atol=1)
    assert (picture[:5] == 255).all()
    assert (picture[-5:] == 255).all()


def test_previews_go_from_noise_to_the_picture() -> None:
    """Each is nearer to the last one, the first one is noise, and none is the same as the one before."""
    previews = paint(steps=20).previews
    assert all(preview.shape == (64, 64, 3) for preview in previews)
    far = [distance(preview, previews[-1]) for preview in previews]
    assert all(now > after for now, after in pairwise(far))
    assert far[0] > 60
    rough = [float(np.abs(np.diff(preview.astype(int), axis=1)).mean()) for preview in previews]
    assert rough[0] > 5 * rough[-1]


def test_painter_takes_the_steps_it_was_asked_for() -> None:
    """One guess a step, also from an init image, from a time that the strength gives."""
    for strength, init in ((1.0, None), (0.4, blue_square())):
        knowing = Knowing(np.zeros((4, 64, 64), np.float32))
        paint(denoiser=Painter(Shapes(), knowing), steps=9, strength=strength, init=init)
        assert len(knowing.times) == 9
        assert knowing.times[0] == pytest.approx(0.996 * strength)


@pytest.mark.parametrize(
    "base,change",
    [
        ({}, {"seed": 1}),
        ({}, {"prompt": "blue ring"}),
        ({}, {"steps": 7}),
        ({"negative_prompt": "disc square"}, {"negative_prompt": "ring cross"}),
        ({"negative_prompt": "disc square"}, {"guidance": 0.0}),
        ({"init": blue_square(), "strength": 0.5}, {"strength": 0.8}),
        ({"strength": 0.8}, {"init": blue_square()}),
        ({"init": blue_square(), "strength": 0.8}, {"mask": right_half()}),
        ({"width": 136}, {"tiling": True}),
        ({}, {"transparent": True}),
        ({}, {"reference": np.full((5, 5, 4), (10, 200, 30, 255), np.uint8)}),
        ({}, {"edges": LINE}),
        ({"edges": LINE}, {"edge_weight": 0.3}),
    ],
    ids="-".join,
)
def test_every_parameter_has_its_effect(base: dict[str, Any], change: dict[str, Any]) -> None:
    """Some seed's previews or picture differ from those without the change."""

    def differs(seed: int) -> bool:
        same: dict[str, Any] = {"prompt": "", "seed": seed}
        before, after = (paint(**(same | asked)) for asked in (base, base | change))
        if before.picture.shape != after.picture.shape or len(before.previews) != len(after.previews):
            return True
        return distance(before.picture, after.picture) > 0.3

    assert any(differs(seed) for seed in range(4))


def test_wish_says_all_that_the_words_depend_on() -> None:
    """Prompt, seed, size of the canvas, and the raw guidance; the scene's is for guesses."""
    shapes = Shapes()
    Painter(shapes, ClosedForm()).begin(
        Painting("red disc", 5, 1280, 720, negative_prompt="ring", guidance=12.0, tiling=True)
    )
    (wish,) = shapes.wishes
    assert (wish.prompt, wish.seed, wish.height, wish.width) == ("red disc", 5, 48, 80)
    assert (wish.negative_prompt, wish.guidance, wish.tiling, wish.box) == ("ring", 12.0, True, None)


@pytest.mark.parametrize("guidance,scale", [(0, 1), (0.5, 1), (1, 1), (7, 1.5), (13, 2), (30, 1 + 29 / 12)])
def test_guidance_is_told_in_the_scale_of_large_models(guidance: float, scale: float) -> None:
    """7 is a little more than what the words say."""
    assert guidance_scale(guidance) == pytest.approx(scale)


def test_seed_chooses_among_sketches_by_their_logits() -> None:
    """All four shapes are equally likely without a negative prompt, and one vanishes with it."""
    middles = [tuple(paint("", seed=seed, steps=2).picture[64, 64]) for seed in range(24)]
    # Of the four shapes only the ring is white in the middle.
    assert 1 <= middles.count((255, 255, 255)) <= 12
    against = [paint("", seed=seed, steps=2, negative_prompt="ring").picture[64, 64, 1] for seed in range(24)]
    assert max(against) < 100


@given(SIZES, SIZES, st.integers(0, 99))
@settings(max_examples=12, deadline=None)
def test_painter_keeps_the_inits_bytes_where_the_mask_is_black(width: int, height: int, seed: int) -> None:
    """Of every size, also with a soft mask; and where it is white, it paints."""
    draw = np.random.default_rng(seed)
    init = draw.integers(0, 256, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 3 :] = 255
    mask[:, : width // 5] = draw.integers(0, 2, (height, width // 5)) * 100
    picture = paint(init=init, mask=mask, width=width, height=height, steps=2).picture
    assert np.array_equal(picture[mask == 0], init[mask == 0])
    assert distance(picture[mask == 255], init[mask == 255]) > 20


def test_soft_mask_mixes_the_init_and_the_picture() -> None:
    """Half a mask is half of each."""
    init = blue_square()
    hard, soft = np.full((128, 128), 255, np.uint8), np.full((128, 128), 102, np.uint8)
    hard[:, :8] = soft[:, :8] = 0
    painted = paint(init=init, mask=hard).picture[:, 8:].astype(float)
    mixed = paint(init=init, mask=soft).picture[:, 8:]
    assert np.abs(mixed - (0.6 * init[:, 8:] + 0.4 * painted)).max() <= 1.01


def test_figure_is_placed_in_the_hole_and_its_surroundings_go_on_behind_it() -> None:
    """The wish has the hole's box; behind the disc the sand goes on, and nothing of the old square is left."""
    init = blue_square(256, 256)
    mask = np.zeros((256, 256), np.uint8)
    mask[48:208, 48:208] = 255
    shapes = Shapes()
    picture = paint("red disc", denoiser=Painter(shapes, ClosedForm()), init=init, mask=mask, width=256, height=256)
    assert shapes.wishes[0].box == (12, 12, 52, 52)
    assert np.allclose(picture.picture[128, 128], np.array(COLOURS["red"]) * 255, atol=1)
    corner = picture.picture[50:56, 50:56].reshape(-1, 3).mean(axis=0)
    assert np.abs(corner - (230, 204, 128)).max() < 12
    assert picture.picture[..., 2].max() < 200


def test_hole_of_one_pixel_repaints_its_cell_only() -> None:
    """The rest of that cell keeps its bytes all the same."""
    init, mask = blue_square(), np.zeros((128, 128), np.uint8)
    mask[77, 33] = 255
    picture = paint(init=init, mask=mask).picture
    changed = np.argwhere((picture != init).any(axis=2))
    assert changed.tolist() in ([], [[77, 33]])


def test_previews_show_the_kept_part_without_noise() -> None:
    """The left half is the init image from the first step on."""
    first = paint(init=blue_square(texture=0), mask=right_half(), steps=8).previews[0]
    small = blue_square(texture=0)[::2, ::2]
    assert np.abs(first[:, :31].astype(int) - small[:, :31]).max() <= 1
    assert distance(first[:, 33:], small[:, 33:]) > 40


def test_strength_leads_away_from_the_init() -> None:
    """0 returns its bytes, a third leaves its shape and detail, two thirds show what the prompt names."""
    init = blue_square(256, 256)
    pictures = {
        strength: paint("red disc", init=init, strength=strength, width=256, height=256, steps=12).picture
        for strength in (0.0, 0.3, 0.6, 0.9)
    }
    far = [distance(picture, init) for picture in pictures.values()]
    assert all(now < after for now, after in pairwise(far)), far
    assert far[0] == 0
    flat = [float(np.diff(picture[:40, :40].astype(int), axis=1).std()) for picture in (init, *pictures.values())]
    assert flat[0] == flat[1] > flat[2] > 0.4 * flat[0] > flat[4]
    corner, middle = pictures[0.3][66, 66].astype(int), pictures[0.9][128, 128]
    assert corner[2] > corner[0]
    assert np.allclose(middle, np.array(COLOURS["red"]) * 255, atol=16)


def test_strength_of_one_ignores_the_init() -> None:
    """Without a mask; with one, its kept part stays."""
    assert np.array_equal(paint(init=blue_square(), strength=1.0).picture, paint().picture)


def test_figure_takes_the_place_of_the_inits_figure() -> None:
    """A square at the right becomes a disc at the right, on the init's ground."""
    init = np.full((256, 256, 3), (230, 204, 128), np.uint8)
    init[96:160, 176:240] = (20, 60, 220)
    picture = paint("red disc", init=init, strength=0.8, width=256, height=256, steps=12).picture
    red = (picture[..., 0] > 180) & (picture[..., 1] < 80)
    rows, columns = np.nonzero(red)
    assert 90 <= rows.min() <= rows.max() <= 166
    assert 170 <= columns.min() <= columns.max() <= 246
    assert np.abs(picture[:, :160].astype(int) - (230, 204, 128)).max() <= 2


@pytest.mark.parametrize("look", ["pixel-art", "drawn"])
def test_transparent_picture_is_the_figure_alone(look: Any) -> None:
    """Straight alpha: quite clear and quite solid but for the outline, and the figure's own colour at it."""
    picture = paint("green disc", look=look, transparent=True, width=256, height=256, steps=12).picture
    assert picture.shape == (256, 256, 4)
    alpha = picture[..., 3]
    assert (alpha[:8] == 0).all()
    assert (alpha[100:150, 100:150] == 255).all()
    assert ((alpha > 0) & (alpha < 255)).mean() < 0.08
    outline = picture[(alpha > 60) & (alpha < 255)][:, :3]
    assert np.abs(outline - np.array(COLOURS["green"]) * 255).max() < 24


def test_transparent_picture_laid_on_the_ground_is_the_other_picture() -> None:
    """The figure is the same one."""
    figure = paint("green disc", look="pixel-art", transparent=True).picture.astype(float)
    alpha = figure[..., 3:] / 255
    laid = figure[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(laid - paint("green disc", look="pixel-art").picture).max() <= 2


def test_transparent_picture_keeps_the_init_solid() -> None:
    """Its bytes where the mask is black, and only the new figure beside it."""
    init, mask = blue_square(), right_half()
    picture = paint("green disc", init=init, mask=mask, transparent=True, steps=12).picture
    assert np.array_equal(picture[:, :64, :3], init[:, :64])
    assert (picture[:, :64, 3] == 255).all()
    assert np.allclose(picture[64, 96], (*(np.array(COLOURS["green"]) * 255), 255), atol=1)
    assert (picture[2:6, 120:126, 3] == 0).all()


def test_named_ground_fills_the_picture() -> None:
    """In place of white."""
    picture = paint("green disc night").picture
    assert np.allclose(picture[0, 0], np.array((0.1, 0.1, 0.3)) * 255, atol=1)


@given(SIZES, SIZES)
@settings(max_examples=12, deadline=None)
def test_every_size_is_painted(width: int, height: int) -> None:
    """Also broken factors and odd shapes; previews show what the picture shows, small."""
    painted = paint(width=width, height=height, steps=1)
    assert painted.picture.shape == (height, width, 3)
    rows, columns = painted.previews[0].shape[:2]
    assert abs(np.log(rows * width / (columns * height))) < 0.1
    middle = painted.picture[height // 2, width // 2]
    assert middle[0] > 200
    assert middle[1] < 60


@pytest.mark.parametrize("width,height", [(2048, 64), (64, 2048), (2048, 1152)])
def test_longest_shapes_are_painted_whole(width: int, height: int) -> None:
    """The disc is a disc: as wide as it is high, and not cut off."""
    picture = paint(width=width, height=height, steps=1).picture
    red = picture[..., 1] < 100
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    high, wide = rows[-1] - rows[0], columns[-1] - columns[0]
    assert 0.9 < high / wide < 1.1
    assert high > 0.7 * min(width, height)


@pytest.mark.parametrize("look", ["pixel-art", "drawn"])
def test_tiling_picture_goes_on_at_its_opposite_edge(look: Any) -> None:
    """A canvas that is shifted by half gives a picture that is shifted by half."""
    clean = np.random.default_rng(4).uniform(-1, 1, (4, 64, 64)).astype(np.float32)
    clean[3] = 1
    asked: dict[str, Any] = {"look": look, "tiling": True, "width": 512, "height": 512, "steps": 1}
    whole, shifted = (
        paint(denoiser=Painter(Shapes(), Knowing(np.roll(clean, shift, axis=(1, 2)))), **asked).picture
        for shift in (0, 32)
    )
    assert np.abs(np.roll(whole, 256, axis=(0, 1)).astype(int) - shifted).max() <= 1


def test_pixels_are_exact_squares_and_drawn_outlines_are_not() -> None:
    """Squares of 8 by 8 of one colour; the other look has more colours at the outline, and the same areas."""
    pixels, drawn = (paint("red disc", look=look, width=512, height=512).picture for look in ("pixel-art", "drawn"))
    squares = pixels.reshape(64, 8, 64, 8, 3)
    assert (squares == squares[:, :1, :, :1]).all()
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 2 * len(np.unique(pixels.reshape(-1, 3), axis=0))
    assert distance(drawn, pixels) < 3


def test_picture_of_full_size_needs_little_memory() -> None:
    """Beside its own 12 MiB, the init's and the mask's, less than 60 MiB."""
    init, mask = blue_square(2048, 2048), right_half(2048, 2048)
    painting = Painting("red disc", 7, 2048, 2048, 2, init=init, mask=mask, strength=0.5)
    painter = Painter(Shapes(), ClosedForm())
    tracemalloc.start()
    latent = painter.begin(painting)
    latent, _ = painter.step(painting, latent, 1)
    latent, _ = painter.step(painting, latent, 2)
    painter.finish(painting, latent)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 72 * 2**20


@pytest.mark.timing
def test_twenty_steps_take_half_a_second_of_one_core() -> None:
    """Of the closed form, at 64 by 64 with four sketches; the best of three."""
    took = []
    for seed in range(3):
        painting = Painting("", seed, 512, 512, 20)
        painter = Painter(Shapes(), ClosedForm())
        start = time.process_time()
        latent = painter.begin(painting)
        for step in range(1, 21):
            latent, _ = painter.step(painting, latent, step)
        painter.finish(painting, latent)
        took.append(time.process_time() - start)
    assert min(took) < 0.5
