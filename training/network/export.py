"""From what training wrote to what ships.

`python -m training.network.export network.pt gateway/engine/data/network.npz`
"""

import sys
from pathlib import Path

import numpy as np
import torch

from gateway.engine.denoise.weights import Weights, save
from gateway.engine.interface import Plane


def converted(state: dict[str, torch.Tensor]) -> Weights:
    """Return PyTorch's parameters as `gateway.engine.denoise.weights` orders them."""
    return {name: _ordered(values.float().numpy()) for name, values in state.items()}


def _ordered(values: Plane) -> Plane:
    if values.ndim == 4:
        return np.ascontiguousarray(values.transpose(2, 3, 1, 0).reshape(-1, values.shape[0]))
    return np.ascontiguousarray(values.T)


def main() -> None:
    """Read the command line and convert."""
    source, out = map(Path, sys.argv[1:])
    save(converted(torch.load(source, weights_only=True)), out)
    print(f"{out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
