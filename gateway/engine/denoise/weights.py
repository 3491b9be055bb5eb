"""The network's parameters: 8-bit whole numbers with one scale an output channel, in a file that numpy reads."""

from pathlib import Path
from typing import Final

import numpy as np

from gateway.engine.interface import Plane

PATH: Final = Path(__file__).parents[1] / "data" / "network.npz"
SCALES: Final = ".scales"
"""Ends the name of the scales that belong to a matrix."""

Weights = dict[str, Plane]
"""By the names that training gave. A matrix is (inputs, outputs); one of a 3 x 3 convolution has its inputs ordered by
row, column, channel."""


def load(path: Path = PATH) -> Weights:
    """Return the parameters as 32-bit floats; `OSError` or `ValueError` if the file is not there or is no such file."""
    with np.load(path, allow_pickle=False) as file:
        stored = {name: file[name] for name in file.files}
    return {name: _whole(stored, name) for name in stored if not name.endswith(SCALES)}


def save(weights: Weights, path: Path) -> None:
    """Write matrices as 8-bit numbers, all else (biases, norms) as 16-bit floats; the same weights, the same bytes."""
    stored: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.int8 | np.float16 | np.float32]]] = {}
    for name, values in sorted(weights.items()):
        if values.ndim == 1:
            stored[name] = values.astype(np.float16)
            continue
        scales = np.abs(values).max(axis=0) / 127 + 1e-12
        stored[name] = np.rint(values / scales).astype(np.int8)
        stored[name + SCALES] = scales.astype(np.float32)
    with path.open("wb") as file:
        np.savez_compressed(file, **stored)  # type: ignore[arg-type]  # its keywords are arrays, but for one flag


def _whole(stored: dict[str, Plane], name: str) -> Plane:
    values = stored[name].astype(np.float32)
    return values * stored[name + SCALES] if name + SCALES in stored else values
