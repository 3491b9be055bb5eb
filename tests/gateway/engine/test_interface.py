"""What a painting refuses to be."""

from typing import Any

import numpy as np
import pytest

from gateway.engine.interface import Painting

PLANE = np.zeros((64, 128), np.uint8)
PICTURE = np.zeros((64, 128, 3), np.uint8)


@pytest.mark.parametrize(
    "wrong",
    [
        {"width": 60},
        {"height": 2056},
        {"width": 100},
        {"steps": 0},
        {"steps": 151},
        {"strength": 1.1},
        {"seed": -1},
        {"guidance": 31.0},
        {"edge_weight": 2.5},
        {"init": PICTURE[:, :64]},
        {"mask": PLANE},
        {"mask": PLANE[:8], "init": PICTURE},
        {"edges": PLANE.T},
    ],
    ids=lambda wrong: "-".join(map(str, wrong)),
)
def test_wrong_numbers_and_sizes_are_refused(wrong: dict[str, Any]) -> None:
    """One thing wrong at a time."""
    right: dict[str, Any] = {"prompt": "", "seed": 1, "width": 128, "height": 64}
    assert Painting(**right, init=PICTURE, mask=PLANE, edges=PLANE).steps == 20
    with pytest.raises(ValueError, match=r"edge|steps|guidance|init|mask"):
        Painting(**(right | wrong))
