"""What Stability AI's two APIs have in common: the names of styles, and how a picture ended."""

from typing import Final, Literal

from gateway.edges.compat.dialect import Piece

Style = Literal[
    "3d-model", "analog-film", "anime", "cinematic", "comic-book", "digital-art", "enhance", "fantasy-art",
    "isometric", "line-art", "low-poly", "modeling-compound", "neon-punk", "origami", "photographic", "pixel-art",
    "tile-texture",
]  # fmt: skip
GREY: Final = 128
"""What is shown where a filter held a picture back, which the vendor blurs."""


def finish_reason(piece: Piece) -> str:
    """Return how a picture ended."""
    return "CONTENT_FILTERED" if piece.content is None else "SUCCESS"
