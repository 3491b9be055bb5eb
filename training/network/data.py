"""What the network is shown: icons in poses and colours, alone, together or on a ground, with what is given of them.

All pictures are premultiplied RGBA of shape (n, 4, 64, 64) in 0..1, made anew for each batch.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

EDGE: Final = 64
_WEIGHTS: Final = {
    "Animals & Nature": 1.2, "Food & Drink": 1.2, "Travel & Places": 1.1, "Objects": 1.0, "Activities": 1.0,
    "Smileys & Emotion": 0.8, "People & Body": 0.5, "Flags": 0.5, "Symbols": 0.35,
}  # fmt: skip
"""How often icons of a category are drawn."""


_OTHER: Final = 4
_NONE: Final = 5
SHARES: Final = {
    "broad": ((0.28, 0.20, 0.15, 0.08, 0.06, 0.23), (0.06, 0.10, 0.30, 0.02, 0.27, 0.25)),
    "sure": ((0.56, 0.13, 0.06, 0.09, 0.02, 0.14), (0.28, 0.16, 0.14, 0.17, 0.10, 0.15)),
}
"""How often a sketch is the figure as it is, a little off, much off, blurred, another figure, or none: without edges,
and with them. With edges the shape must come from them and the colours from the sketch, so there the sketch is seldomer
right, and where it is another figure the picture has that one's colour. The phase `broad` teaches to draw; `sure` to
believe a sketch, as those at run time are right, and show the ground too where the picture fills its frame."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean pictures in -1..1, what is given beside the noise (n, 10, 64, 64), and flags (n, 3)."""

    clean: Tensor
    given: Tensor
    flags: Tensor


class Icons:
    """The icons to train on, premultiplied, of shape (n, 4, 128, 128), 0..255; the held-out ones are left out."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            kept = ~file["heldout"]
            straight = file["rgba"][kept]
            categories = file["category"][kept]
        alpha = straight[..., 3:].astype(np.uint16)
        colours = ((straight[..., :3] * alpha + 127) // 255).astype(np.uint8)
        self.pixels = torch.from_numpy(np.concatenate((colours, straight[..., 3:]), axis=-1)).permute(0, 3, 1, 2)
        self.weights = torch.tensor([_WEIGHTS.get(str(category), 0.8) for category in categories])

    def draw(self, count: int, dice: torch.Generator) -> Tensor:
        """Return pictures (count, 4, 128, 128) in 0..1."""
        chosen = torch.multinomial(self.weights, count, replacement=True, generator=dice)
        return self.pixels[chosen].float() / 255


class Maker:
    """Makes batches from a seed; `phase` is a name of `SHARES`."""

    def __init__(self, icons: Icons, seed: int, phase: str) -> None:
        self._icons = icons
        self._shares = torch.tensor(SHARES[phase])
        self._shows_ground = phase == "sure"
        self._dice = torch.Generator().manual_seed(seed)

    def batch(self, count: int) -> Batch:
        """Return a batch; takes a few hundredths of a second for 32 pictures."""
        figure = self._coloured(self._figure(count))
        lined = self._chance(count, 0.35)
        kind = self._kind(lined)
        other = figure.roll(1, 0)
        figure = torch.where(_wide(lined & (kind == _OTHER)), _tinted(figure, _mean_colour(other)), figure)
        whole = self._chance(count, 0.35)
        ground = self._ground(count)
        picture = torch.where(_wide(whole), over(figure, ground), figure)
        edges = self._edges(picture) * _wide(lined)
        shown = picture if self._shows_ground else figure
        sketch, sketched = self._sketch(shown, other, kind), kind != _NONE
        keep = self._keep(figure, whole)
        known = (picture * 2 - 1) * keep
        given = torch.cat((sketch * 2 - 1, known, keep, edges), dim=1)
        flags = torch.stack((whole, lined, sketched), dim=1).float()
        return Batch(picture * 2 - 1, given, flags)

    # One figure, or two or three.

    def _figure(self, count: int) -> Tensor:
        picture = self._posed(self._icons.draw(count, self._dice), self._pose(count))
        many = self._chance(count, 0.25).nonzero()[:, 0]
        if len(many):
            picture[many] = self._group(len(many))
        return picture

    def _pose(self, count: int) -> Tensor:
        """Columns: scale, turn, mirror, right, down; plain ones are the icon as it is."""
        plain = self._chance(count, 0.45).float()
        free = 1 - plain
        scale = plain + free * self._between(count, 0.6, 1.05)
        turn = free * self._between(count, -0.25, 0.25)
        mirror = torch.where(self._chance(count, 0.5), -1.0, 1.0)
        room = (1.05 - scale).clamp(min=0.03)
        right, down = (free * room * self._between(count, -1, 1) for _ in range(2))
        return torch.stack((scale, turn, mirror, right, down), dim=1)

    def _group(self, count: int) -> Tensor:
        """Two figures, a quarter of the time three, beside or over each other."""
        picture = torch.zeros(count, 4, EDGE, EDGE)
        angle = self._between(count, 0, 2 * math.pi)
        wide = self._between(count, 0.2, 0.55)
        third = self._chance(count, 0.25)
        for one in range(3):
            around = angle + one * (2 * math.pi / 3 if one == 2 else math.pi)
            pose = torch.stack(
                (
                    self._between(count, 0.4, 0.75),
                    self._between(count, -0.15, 0.15),
                    torch.where(self._chance(count, 0.5), -1.0, 1.0),
                    wide * around.cos(),
                    0.7 * wide * around.sin(),
                ),
                dim=1,
            )
            layer = self._posed(self._icons.draw(count, self._dice), pose)
            if one == 2:
                layer = layer * _wide(third)
            picture = over(layer, picture)
        return picture

    def _posed(self, icons: Tensor, pose: Tensor) -> Tensor:
        large = warped(icons, pose)
        return functional.avg_pool2d(large, icons.shape[-1] // EDGE)

    # Colours and grounds.

    def _coloured(self, picture: Tensor) -> Tensor:
        turned = self._chance(len(picture), 0.2)
        tinted = self._chance(len(picture), 0.15)
        alpha = picture[:, 3:]
        rgb = torch.einsum("nij,njhw->nihw", self._turns(len(picture)), picture[:, :3])
        rgb = torch.where(_wide(turned), rgb, picture[:, :3])
        picture = torch.cat((torch.minimum(rgb.clamp(min=0), alpha), alpha), dim=1)
        return torch.where(_wide(tinted), _tinted(picture, self._colours(len(picture))), picture)

    def _turns(self, count: int) -> Tensor:
        """Matrices (n, 3, 3) that turn hues about the grey axis."""
        angle = self._between(count, 0, 2 * math.pi)
        third, side = (1 - angle.cos()) / 3, angle.sin() / math.sqrt(3)
        same = angle.cos() + third
        less, more = third - side, third + side
        rows = (same, less, more, more, same, less, less, more, same)
        return torch.stack(rows, dim=1).reshape(count, 3, 3)

    def _colours(self, count: int) -> Tensor:
        return torch.rand(count, 3, generator=self._dice)

    def _ground(self, count: int) -> Tensor:
        """Colours, slopes, clouds and other figures enlarged; alpha is 1."""
        first, second = (self._colours(count)[:, :, None, None] for _ in range(2))
        pale = self._chance(count, 0.3).float()[:, None, None, None]
        first = first + pale * (1 - first) * 0.8
        slope = self._slope(count)
        clouds = functional.interpolate(
            torch.rand(count, 1, 6, 6, generator=self._dice), size=(EDGE, EDGE), mode="bicubic"
        ).clamp(0, 1)
        kind = torch.rand(count, generator=self._dice)
        share = torch.where(_wide(kind < 0.35), torch.zeros(()), torch.where(_wide(kind < 0.65), slope, clouds))
        rgb = first + share * (second - first)
        ground = torch.cat((rgb, torch.ones(count, 1, EDGE, EDGE)), dim=1)
        near = (kind > 0.85).nonzero()[:, 0]
        if len(near):
            pose = torch.stack(
                (
                    self._between(len(near), 1.2, 3.0),
                    self._between(len(near), -1, 1),
                    torch.ones(len(near)),
                    self._between(len(near), -0.5, 0.5),
                    self._between(len(near), -0.5, 0.5),
                ),
                dim=1,
            )
            ground[near] = over(self._posed(self._icons.draw(len(near), self._dice), pose), ground[near])
        return ground

    def _slope(self, count: int) -> Tensor:
        angle = self._between(count, 0, 2 * math.pi)[:, None, None, None]
        place = torch.linspace(-1, 1, EDGE)
        return (angle.cos() * place[None, None, None, :] + angle.sin() * place[None, None, :, None]) / 2.83 + 0.5

    # What is given.

    def _edges(self, picture: Tensor) -> Tensor:
        """Lines one pixel wide where the picture, on white, changes; (n, 1, h, w)."""
        seen = picture[:, :3] + 1 - picture[:, 3:]
        right = (seen[..., 1:] - seen[..., :-1]).abs().amax(1, keepdim=True)
        down = (seen[..., 1:, :] - seen[..., :-1, :]).abs().amax(1, keepdim=True)
        change = torch.maximum(functional.pad(right, (0, 1)), functional.pad(down, (0, 0, 0, 1)))
        least = self._between(len(picture), 0.12, 0.45)[:, None, None, None]
        lines = (change > least).float()
        thick = self._chance(len(picture), 0.25)
        return torch.where(_wide(thick), functional.max_pool2d(lines, 2, stride=1, padding=1)[..., 1:, 1:], lines)

    def _kind(self, lined: Tensor) -> Tensor:
        """What each sketch is: a column of `SHARES`."""
        throw = torch.rand(len(lined), generator=self._dice)
        limits = self._shares.cumsum(1)[:, :-1]
        return (throw[:, None] >= limits[lined.long()]).sum(1)

    def _sketch(self, shown: Tensor, other: Tensor, kind: Tensor) -> Tensor:
        count = len(shown)
        near = warped(shown, self._moves(count, 0.06), self._waves(count, 0.0))
        far = warped(shown, self._moves(count, 0.35), self._waves(count, 0.12))
        blurred = functional.interpolate(functional.avg_pool2d(shown, 4), scale_factor=4.0, mode="bilinear")
        choices = torch.stack((shown, near, far, blurred, other, torch.zeros_like(shown)))
        return choices[kind, torch.arange(count)]

    def _moves(self, count: int, size: float) -> Tensor:
        return torch.stack(
            (
                1 + self._between(count, -size, size),
                self._between(count, -2 * size, 2 * size),
                torch.ones(count),
                self._between(count, -size, size),
                self._between(count, -size, size),
            ),
            dim=1,
        )

    def _waves(self, count: int, size: float) -> Tensor:
        coarse = (torch.rand(count, 2, 4, 4, generator=self._dice) * 2 - 1) * size
        return functional.interpolate(coarse, size=(EDGE, EDGE), mode="bicubic").permute(0, 2, 3, 1)

    def _keep(self, figure: Tensor, whole: Tensor) -> Tensor:
        """Where the picture is known, (n, 1, h, w): mostly nowhere."""
        count = len(figure)
        hole = torch.where(_wide(whole & self._chance(count, 0.5)), self._around(figure), self._anywhere(count))
        masked = self._chance(count, 0.15) | (whole & self._chance(count, 0.3))
        return (1 - hole) * _wide(masked)

    def _anywhere(self, count: int) -> Tensor:
        """Boxes and ellipses, a third of them inside out."""
        x, y = (self._between(count, -0.6, 0.6)[:, None, None, None] for _ in range(2))
        w, h = (self._between(count, 0.25, 0.9)[:, None, None, None] for _ in range(2))
        place = torch.linspace(-1, 1, EDGE)
        right, down = (place[None, None, None, :] - x).abs() / w, (place[None, None, :, None] - y).abs() / h
        box = torch.maximum(right, down.expand(-1, -1, -1, EDGE)) < 1
        ellipse = right**2 + down**2 < 1
        hole = torch.where(_wide(self._chance(count, 0.5)), box, ellipse)
        return (hole ^ _wide(self._chance(count, 0.33))).float()

    def _around(self, figure: Tensor) -> Tensor:
        """The box of the figure, some pixels wider."""
        seen = figure[:, 3] > 0.1
        columns, rows = seen.any(1), seen.any(2)
        extra = torch.randint(0, 7, (len(figure), 4), generator=self._dice)
        place = torch.arange(EDGE)
        spans = []
        for one, line in enumerate((columns, rows)):
            first = line.float().argmax(1) - extra[:, 2 * one]
            last = EDGE - 1 - line.flip(1).float().argmax(1) + extra[:, 2 * one + 1]
            spans.append((place[None] >= first[:, None]) & (place[None] <= last[:, None]))
        return (spans[1][:, None, :, None] & spans[0][:, None, None, :]).float()

    def _chance(self, count: int, part: float) -> Tensor:
        return torch.rand(count, generator=self._dice) < part

    def _between(self, count: int, low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, generator=self._dice)


def over(upper: Tensor, lower: Tensor) -> Tensor:
    """Return premultiplied pictures laid on others."""
    return upper + (1 - upper[:, 3:]) * lower


def _tinted(pictures: Tensor, colours: Tensor) -> Tensor:
    """Return pictures in shades of one colour each, (n, 3)."""
    alpha, colour = pictures[:, 3:], colours[:, :, None, None]
    luma = (pictures[:, :3] * torch.tensor([0.3, 0.59, 0.11])[None, :, None, None]).sum(1, keepdim=True)
    ramp = torch.where(luma < 0.5 * alpha, 2 * luma * colour, colour * alpha + (2 * luma - alpha) * (1 - colour))
    return torch.cat((torch.minimum(ramp.clamp(min=0), alpha), alpha), dim=1)


def _mean_colour(pictures: Tensor) -> Tensor:
    sums = pictures.sum(dim=(2, 3))
    return sums[:, :3] / sums[:, 3:].clamp(min=1)


def warped(pictures: Tensor, pose: Tensor, waves: Tensor | None = None) -> Tensor:
    """Return pictures scaled, turned (radians), mirrored and moved (1 = half an edge) by the columns of `pose`."""
    scale, turn, mirror, right, down = pose.unbind(1)
    cos, sin = turn.cos() / scale, turn.sin() / scale
    rows = (
        torch.stack((mirror * cos, mirror * sin, -mirror * (cos * right + sin * down)), dim=1),
        torch.stack((-sin, cos, sin * right - cos * down), dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(pictures.shape), align_corners=False)
    if waves is not None:
        grid = grid + waves
    return functional.grid_sample(pictures, grid, align_corners=False)


def _wide(per_picture: Tensor) -> Tensor:
    return per_picture[:, None, None, None]
