"""What a small U-Net is made of, in plain numpy: cells of shape (n, height, width, channels), 32-bit floats."""

from typing import Final

import numpy as np

from gateway.engine.denoise.weights import Weights
from gateway.engine.interface import Plane

GROUPS: Final = 8
HEADS: Final = 4


def silu(values: Plane) -> Plane:
    """Return x / (1 + exp(-x))."""
    # Below -80 the exponential would overflow, and the result is 0 to the last bit.
    out: Plane = values / (1 + np.exp(-np.maximum(values, -80)))
    return out


def linear(weights: Weights, name: str, values: Plane) -> Plane:
    """Return `values` (..., inputs) times a matrix plus a bias: also a 1 x 1 convolution."""
    out: Plane = values @ weights[f"{name}.weight"]
    out += weights[f"{name}.bias"]
    return out


def convolved(weights: Weights, name: str, cells: Plane, *, wrap: bool) -> Plane:
    """Return a 3 x 3 convolution of the same edges; beyond them lie zeros, or the opposite side."""
    count, height, width, channels = cells.shape
    margins = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = np.pad(cells, margins, mode="wrap") if wrap else np.pad(cells, margins)
    far, row, column, one = padded.strides
    shape, strides = (count, height, width, 3, 3, channels), (far, row, column, row, column, one)
    around = np.lib.stride_tricks.as_strided(padded, shape, strides, writeable=False)
    return linear(weights, name, around.reshape(count, height, width, 9 * channels))


def normed(weights: Weights, name: str, cells: Plane, film: Plane | None = None) -> Plane:
    """Return cells with mean 0 and deviation 1 in each group of channels, then scaled and shifted.

    `film` (n, 2 * channels) scales and shifts once more, each picture on its own.
    """
    count, height, width, channels = cells.shape
    flat = cells.reshape(count, height * width, channels)
    size = height * width * channels // GROUPS
    mean = _grouped(flat.sum(axis=1)) / size
    spread = _grouped(np.square(flat).sum(axis=1)) / size - np.square(mean)
    scale = weights[f"{name}.weight"] / np.sqrt(spread + 1e-5)
    shift = weights[f"{name}.bias"] - mean * scale
    if film is not None:
        scale = scale * (1 + film[:, :channels])
        shift = shift * (1 + film[:, :channels]) + film[:, channels:]
    out: Plane = (flat * scale[:, None] + shift[:, None]).reshape(cells.shape)
    return out


def _grouped(sums: Plane) -> Plane:
    """Replace each channel's sum by its group's."""
    count, channels = sums.shape
    whole = sums.reshape(count, GROUPS, -1).sum(axis=2)
    return np.repeat(whole, channels // GROUPS, axis=1)


def block(weights: Weights, name: str, cells: Plane, embedding: Plane, *, wrap: bool) -> Plane:
    """Return cells plus two convolutions of them, with the embedding (n, e) scaling and shifting between."""
    inner = convolved(weights, f"{name}.conv1", silu(normed(weights, f"{name}.norm1", cells)), wrap=wrap)
    film = linear(weights, f"{name}.film", embedding)
    return cells + convolved(weights, f"{name}.conv2", silu(normed(weights, f"{name}.norm2", inner, film)), wrap=wrap)


def attended(weights: Weights, name: str, cells: Plane) -> Plane:
    """Return cells plus what each takes from all the others."""
    count, height, width, channels = cells.shape
    parts = linear(weights, f"{name}.qkv", normed(weights, f"{name}.norm", cells))
    heads = parts.reshape(count, height * width, 3, HEADS, channels // HEADS).transpose(2, 0, 3, 1, 4)
    scores = heads[0] @ heads[1].swapaxes(-1, -2) / np.float32((channels // HEADS) ** 0.5)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = (shares @ heads[2]).transpose(0, 2, 1, 3).reshape(cells.shape)
    return cells + linear(weights, f"{name}.out", mixed)


def gathered(pixels: Plane, edge: int) -> Plane:
    """Return squares of `edge` x `edge` cells as one cell each, (n, h / edge, w / edge, channels * edge * edge)."""
    count, height, width, channels = pixels.shape
    parts = pixels.reshape(count, height // edge, edge, width // edge, edge, channels)
    return parts.transpose(0, 1, 3, 5, 2, 4).reshape(count, height // edge, width // edge, -1)


def scattered(cells: Plane, edge: int) -> Plane:
    """Undo `gathered`."""
    count, height, width, channels = cells.shape
    parts = cells.reshape(count, height, width, channels // edge**2, edge, edge)
    return parts.transpose(0, 1, 4, 2, 5, 3).reshape(count, height * edge, width * edge, -1)


def doubled(cells: Plane) -> Plane:
    """Return each cell as two by two of the same."""
    return cells.repeat(2, axis=1).repeat(2, axis=2)
