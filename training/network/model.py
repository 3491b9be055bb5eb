"""The network as PyTorch trains it; `gateway.engine.denoise.network` runs the same in numpy.

A U-Net on 4 x 4 patches. Beside the noisy picture it sees a sketch: the figure that words found, placed. What it
predicts is per pixel a mixture of four pictures: the sketch, the known pixels, one of its own, and the noisy one. So
neither detail nor noise need pass through the narrow middle, and a sketch that is wrong can be left. Two convolutions
at full size polish the mixture.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH: Final = 4
WIDTHS: Final = (64, 112, 176)
"""Channels at 16 x 16, 8 x 8 and 4 x 4 cells."""
INPUTS: Final = 4 + 4 + 4 + 1 + 1
"""Noisy RGBA, sketch RGBA, known RGBA, where it is known, edges."""
OUTPUTS: Final = 4 + 4
"""The network's own RGBA, and the logits of the four pictures."""
POLISH: Final = 16
"""Channels at full size."""
BRIGHTEST: Final = 1.5
"""Beyond -1.5..1.5 the noisy picture, brought back to its range, tells nothing."""
FLAGS: Final = 3
"""Whether the picture fills its frame, has edges to follow, has a sketch."""
TIMES: Final = 32
EMBEDDING: Final = 128
GROUPS: Final = 8
HEADS: Final = 4


def time_features(time: Tensor) -> Tensor:
    """Return sines and cosines of shape (n, 32) of times of shape (n,) in 0..1."""
    rates = torch.exp(torch.arange(TIMES // 2, device=time.device) * (math.log(60.0) / (TIMES // 2 - 1)))
    angles = time[:, None] * rates[None] * (math.pi / 2)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Block(nn.Module):
    """Two convolutions with a residue; the embedding scales and shifts between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(EMBEDDING, 2 * width)
        self.norm2 = nn.GroupNorm(GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.film.weight)

    def forward(self, cells: Tensor, embedding: Tensor) -> Tensor:
        """Return cells of the same shape (n, width, h, w)."""
        inner = self.conv1(functional.silu(self.norm1(cells)))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        inner = self.norm2(inner) * (1 + scale) + shift
        out: Tensor = cells + self.conv2(functional.silu(inner))
        return out


class Attention(nn.Module):
    """Every cell looks at every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, cells: Tensor) -> Tensor:
        """Return cells of the same shape (n, width, h, w)."""
        count, width, height, breadth = cells.shape
        parts = self.qkv(self.norm(cells)).reshape(count, 3, HEADS, width // HEADS, height * breadth)
        query, key, value = (part.transpose(-1, -2) for part in parts.unbind(1))
        mixed = functional.scaled_dot_product_attention(query, key, value)
        out: Tensor = cells + self.out(mixed.transpose(-1, -2).reshape(count, width, height, breadth))
        return out


class Network(nn.Module):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        top, middle, low = WIDTHS
        self.embed1 = nn.Linear(TIMES + FLAGS, EMBEDDING)
        self.embed2 = nn.Linear(EMBEDDING, EMBEDDING)
        self.enter = nn.Conv2d(INPUTS * PATCH * PATCH, top, 1)
        self.down0 = nn.ModuleList([Block(top), Block(top)])
        self.to1 = nn.Conv2d(4 * top, middle, 1)
        self.down1 = nn.ModuleList([Block(middle), Block(middle)])
        self.look1 = Attention(middle)
        self.to2 = nn.Conv2d(4 * middle, low, 1)
        self.deep = nn.ModuleList([Block(low), Block(low)])
        self.look2 = Attention(low)
        self.from2 = nn.Conv2d(low, middle, 1)
        self.up1 = nn.ModuleList([Block(middle), Block(middle)])
        self.from1 = nn.Conv2d(middle, top, 1)
        self.up0 = nn.ModuleList([Block(top), Block(top)])
        self.norm = nn.GroupNorm(GROUPS, top)
        self.leave = nn.Conv2d(top, OUTPUTS * PATCH * PATCH, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)
        self.polish1 = nn.Conv2d(12, POLISH, 3, padding=1)
        self.film = nn.Linear(EMBEDDING, 2 * POLISH)
        self.polish2 = nn.Conv2d(POLISH, 4, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.polish2.weight)
        nn.init.zeros_(self.polish2.bias)

    def forward(self, noisy: Tensor, time: Tensor, given: Tensor, flags: Tensor) -> Tensor:
        """Return the clean picture, (n, 4, h, w) in about -1..1.

        `noisy` is (n, 4, h, w), `time` (n,), `given` (n, 10, h, w): sketch, known, where known, edges; `flags` (n, 3).
        """
        code = torch.cat((time_features(time), flags), dim=1)
        embedding = functional.silu(self.embed2(functional.silu(self.embed1(code))))
        cells = self.enter(functional.pixel_unshuffle(torch.cat((noisy, given), dim=1), PATCH))
        cells = _through(self.down0, cells, embedding)
        skip0 = cells
        cells = _through(self.down1, self.to1(functional.pixel_unshuffle(cells, 2)), embedding)
        cells = self.look1(cells)
        skip1 = cells
        cells = self.deep[0](self.to2(functional.pixel_unshuffle(cells, 2)), embedding)
        cells = self.deep[1](self.look2(cells), embedding)
        cells = skip1 + _doubled(self.from2(cells))
        cells = _through(self.up1, cells, embedding)
        cells = skip0 + _doubled(self.from1(cells))
        cells = _through(self.up0, cells, embedding)
        out = functional.pixel_shuffle(self.leave(functional.silu(self.norm(cells))), PATCH)
        picture = mixed(out, noisy, time, given)
        inner = self.polish1(torch.cat((picture, noisy, given[:, :4]), dim=1))
        scale, shift = self.film(embedding)[:, :, None, None].chunk(2, dim=1)
        polished: Tensor = picture + self.polish2(functional.silu(inner * (1 + scale) + shift))
        return polished


def mixed(out: Tensor, noisy: Tensor, time: Tensor, given: Tensor) -> Tensor:
    """Return the mixture that the network's outputs (n, 8, h, w) tell."""
    rate = (time * (math.pi / 2)).cos()[:, None, None, None]
    plain = (noisy / rate).clamp(-BRIGHTEST, BRIGHTEST)
    shares = out[:, 4:].softmax(dim=1)
    pictures = (given[:, 0:4], given[:, 4:8], out[:, :4], plain)
    return sum((shares[:, one : one + 1] * picture for one, picture in enumerate(pictures)), torch.zeros(()))


def _through(blocks: nn.ModuleList, cells: Tensor, embedding: Tensor) -> Tensor:
    for block in blocks:
        cells = block(cells, embedding)
    return cells


def _doubled(cells: Tensor) -> Tensor:
    return functional.interpolate(cells, scale_factor=2.0, mode="nearest")
