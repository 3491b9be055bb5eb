"""Words to sketches: finds the icons that a prompt means, and lays them out in a number of poses."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from gateway.engine.atlas import Atlas
from gateway.engine.interface import Pixels, Sheet, Sketches, Wish
from gateway.engine.sketch.cast import NOBODY, Cast, Wardrobe, cast
from gateway.engine.sketch.layout import Box, Shape, arranged
from gateway.engine.sketch.poses import posed
from gateway.engine.sketch.reference import fitted
from gateway.engine.sketch.retrieve import Found, Index, Shunned
from gateway.engine.sketch.sheet import laid
from gateway.engine.sketch.texture import Surface, material, painted
from gateway.engine.sketch.tiling import scattered
from gateway.engine.words.grammar import Link, Noun, Reading

_POSES: Final = 6
_SECONDS: Final = 3
_STRANGERS: Final = 3
"""Sketches of the best layout, of next best icons, and of icons that nobody asked for."""
_TILED: Final = 3
"""Poses of a pattern."""
_TEMPERATURE: Final = 0.45
_SECOND: Final = 0.5
"""The most that another icon than the best may match: by it a guidance of 7 is sure, and one of 0.5 is not."""
_FIRM: Final = 2.0
"""The guidance from which on the best comes first whatever the seed."""
_SCENIC: Final = (
    "sparkles", "glowing-star", "rainbow", "milky-way", "night-with-stars", "sunrise-over-mountains", "national-park",
    "gem-stone", "crystal-ball", "mirror-ball", "comet", "cyclone", "yin-yang", "snow-capped-mountain", "kite",
    "desert-island", "ringed-planet", "shooting-star", "mount-fuji", "water-wave", "puzzle-piece", "fireworks",
)  # fmt: skip
_TINTED: Final = ("balloon", "gem-stone", "star", "red-heart", "red-circle")
"""What stands for a colour alone."""


class IconSketcher:
    """See `interface.Sketcher`."""

    def __init__(self, atlas: Atlas) -> None:
        self._index = Index(atlas)
        self._wardrobe = Wardrobe(atlas)
        self._strangers = tuple(icon.name for icon in atlas.icons if icon.kind not in {"symbol", "flag", "person"})

    def sketch(self, wish: Wish) -> Sketches:
        surface, words = material(wish.prompt) if wish.tiling else (None, wish.prompt)
        reading = self._index.read(words)
        negative = self._index.read(wish.negative_prompt)
        shunned = self._index.shunned(negative)
        draw = np.random.Generator(np.random.PCG64([wish.seed, zlib.crc32(wish.prompt.encode("utf-8", "replace"))]))
        found = self._index.find(reading.nouns, shunned)
        if not found and surface is None:
            found = [self._unknown(wish.prompt, reading)]
        casts = self._casts(found, reading.links, shunned, draw)
        if wish.tiling:
            casts = casts[:_TILED] + casts[_POSES:]  # with many copies each, and no two poses differ much
        sheets, names = [], []
        for match, one in casts:
            sheets.append(self._sheet(one, wish, draw, surface if match > _SECOND else None))
            names.append(tuple(role.name for role in one.roles))
        logits = np.asarray([match for match, _ in casts], np.float32) * (wish.guidance / _TEMPERATURE)
        order = _order(logits, wish.guidance, draw)
        return Sketches(
            sheets=np.stack([sheets[place] for place in order]),
            logits=logits[order],
            against=self._against(negative.nouns, wish),
            ground=reading.ground,
            names=tuple(names[place] for place in order),
        )

    def _unknown(self, prompt: str, reading: Reading) -> Found:
        """Something to look at for a prompt that names nothing, always the same for the same text."""
        among = _SCENIC if reading.dye is None else _TINTED
        name = among[zlib.crc32(prompt.encode("utf-8", "replace")) % len(among)]
        return Found(Noun([], reading.dye, reading.count), ((name, 1.0),), reading.dye)

    def _casts(
        self, found: list[Found], links: Sequence[Link], shunned: Shunned, draw: np.random.Generator
    ) -> list[tuple[float, Cast]]:
        """What may be meant, with how much it matches: 1 is what was asked for, less what was asked not to be."""
        casts = [(1.0, NOBODY)] * _POSES
        if found:
            casts = self._meant(found, links, shunned, draw)
        for name in draw.choice(self._strangers, _STRANGERS, replace=False):
            alone = Found(Noun([]), ((str(name), 0.0),))
            casts.append(
                (0.0 - shunned.of(self._wardrobe.icon(str(name))), cast([alone], (), self._wardrobe, [str(name)]))
            )
        return casts

    def _meant(
        self, found: list[Found], links: Sequence[Link], shunned: Shunned, draw: np.random.Generator
    ) -> list[tuple[float, Cast]]:
        chosen = [str(draw.choice(one.choices)) if one.choices else one.best for one in found]
        first = self._wardrobe.icon(chosen[0])
        best = cast(found, links, self._wardrobe, chosen)
        casts = [(1.0 - shunned.of(first), best)] * _POSES
        others = [entry for entry in found[0].ranked if entry[0] != chosen[0]][:_SECONDS]
        for name, match in others:
            near = min(_SECOND, match) - shunned.of(self._wardrobe.icon(name))
            casts.append((near, cast(found, links, self._wardrobe, [name, *chosen[1:]])))
        return casts

    def _sheet(self, who: Cast, wish: Wish, draw: np.random.Generator, surface: Surface | None) -> Sheet:
        figures, shapes, sizes = self._figures(who, wish)
        if wish.tiling:
            return _tiled(who, figures, wish, draw, surface)
        box: Box = wish.box or (0, 0, wish.height, wish.width)
        places = arranged(who.unit, shapes, sizes, box)
        flips = [self._wardrobe.icon(who.roles[role].name).flip for role in who.figures]
        return laid(figures, posed(places, shapes, flips, box, draw, sided=who.sided), wish.height, wish.width)

    def _figures(self, who: Cast, wish: Wish) -> tuple[list[Pixels], list[Shape], list[float]]:
        figures = [self._wardrobe.figure(who.roles[role].name, who.roles[role].dye) for role in who.figures]
        shapes = [self._wardrobe.shape(who.roles[role].name) for role in who.figures]
        if wish.reference is not None:
            shown = fitted(wish.reference, who.roles[0].dye)
            for place in (place for place, role in enumerate(who.figures) if role == 0):
                figures[place] = shown
                shapes[place] = replace(shapes[place], height=shown.shape[0], width=shown.shape[1])
        return figures, shapes, [who.roles[role].weight for role in who.figures]

    def _against(self, nouns: Sequence[Noun], wish: Wish) -> Sheet | None:
        if not nouns:
            return None
        found = self._index.find(nouns[:1])
        who = cast(found[:1], (), self._wardrobe, [found[0].best])
        shapes = [self._wardrobe.shape(who.roles[role].name) for role in who.figures]
        figures = [self._wardrobe.figure(who.roles[role].name, who.roles[role].dye) for role in who.figures]
        box: Box = wish.box or (0, 0, wish.height, wish.width)
        return laid(figures, arranged(who.unit, shapes, [1.0] * len(shapes), box), wish.height, wish.width)


def _tiled(who: Cast, figures: list[Pixels], wish: Wish, draw: np.random.Generator, surface: Surface | None) -> Sheet:
    seen = [figures[who.figures.index(role)] for role in dict.fromkeys(who.figures)]
    places = scattered([figure.shape[:2] for figure in seen], wish.height, wish.width, draw)
    sheet = laid(seen, places, wish.height, wish.width, wrap=True)
    if surface is None:
        return sheet
    return sheet + painted(surface, wish.height, wish.width, draw) * (1 - sheet[3:])


def _order(
    logits: np.ndarray[tuple[int], np.dtype[np.float32]], guidance: float, draw: np.random.Generator
) -> list[int]:
    """The seed's choice first, then the others by their logits."""
    if guidance >= _FIRM:
        first = int(logits.argmax())
    else:
        chances = np.exp(logits - logits.max())
        first = int(draw.choice(len(logits), p=chances / chances.sum()))
    rest = sorted((place for place in range(len(logits)) if place != first), key=lambda place: -float(logits[place]))
    return [first, *rest]
