"""The preview ladder: a few sizes and qualities, so that a hundred watchers cost a few encodes a step.

A client's wish is rounded down to a rung. The contract's ladder began at 128 pixels; 64 stands here as well, because a
client may ask for `max_edge` 64 to 127 and must not get more than it asked for.
"""

from dataclasses import dataclass, replace
from typing import Final

from protocol.messages import PreviewFormat, Previews

EDGES: Final = (64, 128, 192, 256, 384, 512, 768, 1024)
QUALITIES: Final = (40, 70, 90)


@dataclass(frozen=True, slots=True)
class Rung:
    """One way to encode previews; `edge` is the longest side in pixels."""

    edge: int
    format: PreviewFormat
    quality: int


def rung_for(policy: Previews, max_edge: int) -> Rung:
    """Return the highest rung within a client's policy and the server's `max_edge` (pixels, at least 64)."""
    edge = max(edge for edge in EDGES if edge <= max(EDGES[0], min(policy.max_edge, max_edge)))
    quality = max((q for q in QUALITIES if q <= policy.quality), default=QUALITIES[0])
    return Rung(edge, policy.format, quality if policy.format in ("jpeg", "webp") else QUALITIES[-1])


def step_down(rung: Rung) -> Rung | None:
    """Return the next smaller rung when a preview does not fit the message limit: quality first, then size."""
    if rung.format in ("jpeg", "webp") and rung.quality > QUALITIES[0]:
        return replace(rung, quality=QUALITIES[QUALITIES.index(rung.quality) - 1])
    if rung.edge > EDGES[0]:
        return replace(rung, edge=EDGES[EDGES.index(rung.edge) - 1])
    return None
