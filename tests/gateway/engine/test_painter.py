"""The painter as a `Denoiser`: what changes a picture, what does not, and how it develops."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from gateway.engine.interface import Denoiser, Painting, Pixels
from gateway.engine.painter import Painter

PROMPT = "a lighthouse at dusk"


@dataclass(frozen=True)
class Painted:
    picture: Pixels
    previews: list[Pixels]


def paint(prompt: str = PROMPT, *, denoiser: Denoiser | None = None, **changes: Any) -> Painted:
    """Paint as the child process does; keep all that it would send."""
    asked: dict[str, Any] = {"seed": 7, "width": 128, "height": 128, "steps": 6} | changes
    painting = Painting(prompt, **asked)
    painter = denoiser or Painter()
    latent = painter.begin(painting)
    previews = []
    for step in range(1, painting.steps + 1):
        latent, preview = painter.step(painting, latent, step)
        previews.append(preview)
    return Painted(painter.finish(painting, latent), previews)


def photograph(width: int = 128, height: int = 128) -> Pixels:
    """A picture with structure at every scale, that no painter would make."""
    return np.random.default_rng(3).integers(0, 256, (height, width, 3), np.uint8)


def half_mask(width: int = 128, height: int = 128) -> Pixels:
    """Keep the left half, repaint the right one."""
    mask = np.zeros((height, width), np.uint8)
    mask[:, width // 2 :] = 255
    return mask


def distance(one: Pixels, other: Pixels) -> float:
    """Return the mean difference of two pictures, 0..255."""
    return float(np.abs(one.astype(np.float64) - other).mean())


def test_painter_repeats_every_pixel_for_the_same_painting() -> None:
    """The same inputs give the same pixels from two painters."""
    assert np.array_equal(paint().picture, paint().picture)


def test_painter_gives_the_same_pixels_in_another_process() -> None:
    """Neither hash seeds nor the number of numpy's threads reach the pixels."""
    program = (
        "import hashlib, sys\n"
        "from gateway.engine.interface import Painting\n"
        "from gateway.engine.painter import Painter\n"
        "painter, painting = Painter(), Painting(sys.argv[1], 7, 128, 128, 6)\n"
        "latent = painter.begin(painting)\n"
        "for step in range(1, 7): latent, _ = painter.step(painting, latent, step)\n"
        "print(hashlib.sha256(painter.finish(painting, latent).tobytes()).hexdigest())\n"
    )
    environment = {"PYTHONPATH": ".", "PYTHONHASHSEED": "5", "OPENBLAS_NUM_THREADS": "1"}
    run = [sys.executable, "-c", program, PROMPT]
    there = subprocess.run(run, capture_output=True, text=True, check=True, env=environment).stdout.strip()
    assert there == hashlib.sha256(paint().picture.tobytes()).hexdigest()


def test_painter_interleaves_two_paintings_without_mixing_them() -> None:
    """A plan that was pushed out is made again, the same."""
    painter = Painter()
    one, other = Painting(PROMPT, 7, 128, 128, 2), Painting("a city at night", 7, 128, 128, 2)
    latents = {id(painting): painter.begin(painting) for painting in (one, other)}
    for step in (1, 2):
        for painting in (one, other):
            latents[id(painting)], _ = painter.step(painting, latents[id(painting)], step)
    assert np.array_equal(painter.finish(one, latents[id(one)]), paint(steps=2).picture)


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "a lighthouse at dawn"},
        {"prompt": "a lighthouse at dusk, qwertz"},
        {"prompt": "dusk at a lighthouse"},
        {"seed": 8},
        {"steps": 7},
        {"steps": 150},
        {"init": photograph()},
        {"init": photograph(), "strength": 0.5},
        {"init": photograph(), "strength": 0.6},
        {"init": photograph(), "mask": half_mask(), "strength": 0.6},
    ],
)
def test_painter_paints_another_picture_for_every_changed_input(changes: dict[str, Any]) -> None:
    """Each parameter has an effect; an init of strength 1 is the one exception and has a test of its own."""
    changed = paint(**({"strength": 0.7} if "init" in changes else {}) | changes).picture
    assert not np.array_equal(changed, paint().picture)


def test_painter_paints_another_picture_at_once_for_every_strength_step_and_mask() -> None:
    """No two of these are the same picture."""
    several: list[dict[str, Any]] = [{"strength": strength} for strength in (0.0, 0.1, 0.35, 0.65, 0.9, 1.0)]
    several += [{"strength": 0.65, "steps": steps} for steps in (1, 2, 149, 150)]
    pictures = [paint(init=photograph(), **changes).picture for changes in several]
    pictures += [paint(steps=steps).picture for steps in (1, 2, 19, 20, 21, 149, 150)]
    assert len({picture.tobytes() for picture in pictures}) == len(pictures)


def test_painter_keeps_the_init_image_for_strength_nothing() -> None:
    """Strength 0 returns the bytes that came."""
    assert np.array_equal(paint(init=photograph(), strength=0.0).picture, photograph())


def test_painter_ignores_the_init_image_for_full_strength() -> None:
    """Strength 1 paints what the prompt alone would."""
    assert np.array_equal(paint(init=photograph(), strength=1.0).picture, paint().picture)


def test_painter_goes_further_from_the_init_image_for_more_strength() -> None:
    """More strength, less of the init."""
    init = photograph()
    gaps = [distance(paint(init=init, strength=strength).picture, init) for strength in (0.1, 0.3, 0.5, 0.7, 1.0)]
    assert all(less < more for less, more in pairwise(gaps))


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_painter_keeps_exactly_what_the_mask_holds_black(strength: float) -> None:
    """Black pixels of the mask are the init's bytes, white ones are painted."""
    init = photograph()
    picture = paint(init=init, mask=half_mask(), strength=strength).picture
    assert np.array_equal(picture[:, :64], init[:, :64])
    assert (picture[:, 64:] != init[:, 64:]).any(axis=2).mean() > 0.95


def test_painter_runs_the_kept_colours_into_the_hole() -> None:
    """Beside a kept green part, a repainted one is greener than far from it."""
    init = np.zeros((128, 128, 3), np.uint8)
    init[..., 1] = 200
    picture = paint("a red desert", init=init, mask=half_mask()).picture.astype(float)
    green = picture[..., 1] - picture[..., 0]
    assert green[:, 64:68].mean() > green[:, 110:].mean() + 40


def test_previews_develop_out_of_noise_into_the_picture() -> None:
    """Each preview differs from the one before; the distance to the last one falls."""
    previews = paint(steps=20).previews
    gaps = [distance(preview, previews[-1]) for preview in previews]
    assert all(not np.array_equal(one, other) for one, other in pairwise(previews))
    assert all(later < earlier for earlier, later in pairwise(gaps))
    assert gaps[0] > 40


def test_last_preview_is_the_picture_before_its_enlargement() -> None:
    """At 128 pixels nothing is enlarged, and the two agree but for rounding."""
    painted = paint(steps=20)
    assert distance(painted.previews[-1], painted.picture) < 4
    assert paint(steps=20, width=512, height=256).previews[-1].shape == (64, 128, 3)


@pytest.mark.parametrize("steps", [1, 2, 150])
def test_painter_takes_as_many_steps_as_asked(steps: int) -> None:
    """From 1 to 150, each has its preview."""
    painted = paint(steps=steps)
    assert len(painted.previews) == steps
    assert painted.picture.std() > 5


@pytest.mark.parametrize("width,height", [(64, 64), (64, 1024), (1024, 64), (72, 200), (456, 136), (64, 2048)])
@pytest.mark.parametrize("prompt", [PROMPT, "balloons, a tree and a cat in the snow", "qwertz"])
def test_painter_fills_odd_sizes(width: int, height: int, prompt: str) -> None:
    """Any multiple of 8 is filled, with an init and a mask too."""
    painted = paint(prompt, width=width, height=height, steps=2)
    assert painted.picture.shape == (height, width, 3)
    assert max(painted.previews[0].shape) == min(128, max(width, height))
    init, mask = photograph(width, height), half_mask(width, height)
    assert paint(prompt, width=width, height=height, steps=2, init=init, mask=mask).picture.shape == (height, width, 3)


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "!?", "灯塔 黄昏", "🌅", "the", "red", "pink sky", "x" * 8000, "a\x00b", "sky " * 900, "space city"],
)
def test_painter_has_a_picture_for_any_text(prompt: str) -> None:
    """No prompt is refused, and none gives an empty picture."""
    assert paint(prompt, steps=2).picture.std() > 5


def test_painter_paints_a_dusk_that_is_warmer_and_darker_than_the_day() -> None:
    """What the table knows shows in the colours."""
    dusk, day = (paint(f"the sea {hour}", steps=20).picture.astype(float) for hour in ("at dusk", "by day"))
    assert dusk.mean() < day.mean() - 20
    assert (dusk[..., 0] - dusk[..., 2])[:70].mean() > (day[..., 0] - day[..., 2])[:70].mean() + 40


def test_painter_follows_a_colour_said_before_a_thing() -> None:
    """A blue flower is bluer than a red one."""
    red, blue = (paint(f"a {colour} rose", steps=20).picture.astype(float) for colour in ("red", "blue"))
    assert (red[..., 0] - red[..., 2]).mean() > (blue[..., 0] - blue[..., 2]).mean() + 10


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 60},
        {"height": 2056},
        {"width": 100},
        {"steps": 0},
        {"steps": 151},
        {"strength": 1.1},
        {"seed": -1},
        {"init": photograph(64, 64)},
        {"mask": half_mask()},
        {"init": photograph(), "mask": half_mask(64, 64)},
    ],
)
def test_painting_refuses_numbers_out_of_range(changes: dict[str, Any]) -> None:
    """A painting that exists can be painted."""
    with pytest.raises(ValueError, match=r"."):
        paint(**changes)
