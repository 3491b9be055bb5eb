"""The trained denoiser: a small U-Net, run in plain numpy.

It sees the noisy picture, a sketch of what the words found, known pixels and edges, and tells per pixel how much to
take of the sketch, of the known pixels, of a picture of its own, and of the noisy one. How it was trained and what it
can do is told in the model card, `training/MODEL_CARD.md`.
"""

from typing import Final, Literal

import numpy as np

from gateway.engine.denoise.adapted import meant
from gateway.engine.denoise.layers import attended, block, convolved, doubled, gathered, linear, normed, scattered, silu
from gateway.engine.denoise.weights import Weights, load
from gateway.engine.interface import Field, Plane, Scene

_PATCH: Final = 4
_TIMES: Final = 32
_BRIGHTEST: Final = 1.5
_GUIDED: Final = 0.2
"""The time down to which guidance counts: when but fine grain is left, both passes say the same (Kynkäänniemi et al.
2024, https://arxiv.org/abs/2404.07724)."""
_SEES: Final = (0.4, 0.75)
"""The time down to which the noise hides something, and that from which on it hides all."""
_SEES_WITH_INIT: Final = (0.25, 0.5)
"""The same where what shows through the noise is an init image, and the sketch says what shall become of it."""
_Given = tuple[Plane, Plane]
"""The planes beside the noise, (height, width, 10), and the flags, (3,)."""
_NOTHING: Final = -1.0
"""What a field has where there is no figure."""


class Network:
    """A `Guesser`; holds some 12 MB of parameters, and what it made of the scene it was last asked about."""

    name: Literal["network", "closed_form"] = "network"

    def __init__(self, weights: Weights | None = None) -> None:
        self._weights = load() if weights is None else weights
        self._last: tuple[Scene, list[_Given]] | None = None

    def guess(self, noisy: Field, time: float, scene: Scene) -> Field:
        """See `Guesser.guess`; one pass with the sketch, and one without where guidance is not 1."""
        rows = self._rows(scene)
        trust = np.float32(_trust(time, scene))
        sketch = rows[0][0][..., :4]
        if trust == 1:
            return np.ascontiguousarray(sketch.transpose(2, 0, 1))
        best = self._best(noisy, time, scene, rows[:1] if _is_unguided(time, scene) else rows)
        best += trust * (sketch - best)
        return np.ascontiguousarray(np.clip(best, -1, 1).transpose(2, 0, 1))

    def _best(self, noisy: Field, time: float, scene: Scene, rows: list[_Given]) -> Plane:
        given, flags = (np.stack([row[part] for row in rows]) for part in (0, 1))
        pixels = np.repeat(noisy.transpose(1, 2, 0)[None], len(rows), axis=0)
        guesses = forward(self._weights, pixels, time, given, flags, wrap=scene.tiling)
        if len(rows) == 1:
            return np.asarray(guesses[0])
        best: Plane = guesses[1] + np.float32(scene.guidance) * (guesses[0] - guesses[1])
        return best

    def _rows(self, scene: Scene) -> list[_Given]:
        if self._last is None or self._last[0] is not scene:
            self._last = (scene, _rows(scene))
        return self._last[1]


def _is_unguided(time: float, scene: Scene) -> bool:
    """Whether it makes no difference to leave the pass without the sketch out, which takes half of the time."""
    return time < _GUIDED and scene.guidance >= 1


def _trust(time: float, scene: Scene) -> float:
    """Return how much (0..1) of the guess is the sketch itself, before the network has something to see.

    While all is noise the network guesses a mean of all that the sketch might mean, and the steps follow that away from
    the sketch, which is then no longer believed.
    """
    sees, blind = _SEES if scene.known is None else _SEES_WITH_INIT
    return min(1.0, scene.guidance) * min(1.0, max(0.0, (time - sees) / (blind - sees)))


def _rows(scene: Scene) -> list[_Given]:
    """What is given with what the words mean, and where guidance is not 1 also without."""
    wanted = _given(scene, meant(scene))
    if scene.guidance == 1:
        return [wanted]
    against = scene.sketches.against
    return [wanted, _given(scene, None if against is None else 2 * against - 1)]


def _given(scene: Scene, sketch: Field | None) -> _Given:
    height, width = scene.sketches.sheets.shape[2:]
    given = np.zeros((height, width, 10), np.float32)
    given[..., :4] = _NOTHING if sketch is None else sketch.transpose(1, 2, 0)
    if scene.known is not None and scene.keep is not None:
        given[..., 4:8] = ((2 * scene.known - 1) * scene.keep).transpose(1, 2, 0)
        given[..., 8] = scene.keep
    if scene.edges is not None:
        given[..., 9] = scene.edges
    flags = (scene.whole, scene.edges is not None, sketch is not None)
    return given, np.array(flags, np.float32)


def forward(weights: Weights, noisy: Plane, time: float, given: Plane, flags: Plane, *, wrap: bool = False) -> Plane:
    """Return the clean pictures (n, height, width, 4) in about -1..1.

    `noisy` is (n, height, width, 4), `given` (n, height, width, 10): sketch, known, where known, edges; `flags` (n, 3).
    """
    embedding = _embedding(weights, time, flags)
    cells = linear(weights, "enter", gathered(np.concatenate((noisy, given), axis=-1), _PATCH))
    skip0 = _blocks(weights, "down0", cells, embedding, wrap=wrap)
    cells = linear(weights, "to1", gathered(skip0, 2))
    skip1 = attended(weights, "look1", _blocks(weights, "down1", cells, embedding, wrap=wrap))
    cells = linear(weights, "to2", gathered(skip1, 2))
    cells = attended(weights, "look2", block(weights, "deep.0", cells, embedding, wrap=wrap))
    cells = block(weights, "deep.1", cells, embedding, wrap=wrap)
    cells = skip1 + doubled(linear(weights, "from2", cells))
    cells = _blocks(weights, "up1", cells, embedding, wrap=wrap)
    cells = skip0 + doubled(linear(weights, "from1", cells))
    cells = _blocks(weights, "up0", cells, embedding, wrap=wrap)
    out = scattered(linear(weights, "leave", silu(normed(weights, "norm", cells))), _PATCH)
    picture = _mixed(out, noisy, time, given)
    return picture + _polish(weights, np.concatenate((picture, noisy, given[..., :4]), axis=-1), embedding, wrap=wrap)


def _blocks(weights: Weights, name: str, cells: Plane, embedding: Plane, *, wrap: bool) -> Plane:
    for one in range(2):
        cells = block(weights, f"{name}.{one}", cells, embedding, wrap=wrap)
    return cells


def _embedding(weights: Weights, time: float, flags: Plane) -> Plane:
    rates = np.exp(np.arange(_TIMES // 2) * (np.log(60.0) / (_TIMES // 2 - 1)))
    angles = time * rates * (np.pi / 2)
    waves = np.concatenate((np.sin(angles), np.cos(angles))).astype(np.float32)
    code = np.concatenate((np.repeat(waves[None], len(flags), axis=0), flags), axis=1)
    return silu(linear(weights, "embed2", silu(linear(weights, "embed1", code))))


def _mixed(out: Plane, noisy: Plane, time: float, given: Plane) -> Plane:
    shares = np.exp(out[..., 4:] - out[..., 4:].max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    plain = np.clip(noisy / np.float32(np.cos(np.pi / 2 * time)), -_BRIGHTEST, _BRIGHTEST)
    pictures = (given[..., 0:4], given[..., 4:8], out[..., :4], plain)
    mixed = np.zeros_like(noisy)
    for one, picture in enumerate(pictures):
        mixed += shares[..., one : one + 1] * picture
    return mixed


def _polish(weights: Weights, pixels: Plane, embedding: Plane, *, wrap: bool) -> Plane:
    inner = convolved(weights, "polish1", pixels, wrap=wrap)
    film = linear(weights, "film", embedding)[:, None, None, :]
    scale, shift = np.split(film, 2, axis=-1)
    return convolved(weights, "polish2", silu(inner * (1 + scale) + shift), wrap=wrap)
