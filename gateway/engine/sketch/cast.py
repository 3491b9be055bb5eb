"""Who is on the sheet: the figures of a prompt's nouns, and the tree of how they stand to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from gateway.engine.atlas import Atlas, Icon
from gateway.engine.interface import Pixels
from gateway.engine.sketch.layout import MOST_FIGURES, Group, Shape, Unit
from gateway.engine.sketch.recolour import recoloured
from gateway.engine.sketch.retrieve import Found
from gateway.engine.sketch.sheet import cropped, premultiplied
from gateway.engine.words.grammar import Link
from gateway.engine.words.lexicon import Relation, lexicon

_EYEWEAR: Final = frozenset(("glasses", "sunglasses", "goggles", "diving-mask"))
_WORN: Final = _EYEWEAR | frozenset((
    "crown", "top-hat", "womans-hat", "billed-cap", "graduation-cap", "rescue-workers-helmet", "military-helmet",
    "headphone", "ribbon",
))  # fmt: skip
_WEARERS: Final = frozenset(("animal", "face", "person"))
_DOLLS: Final = frozenset(("teddy-bear", "snowman", "snowman-without-snow", "robot", "skull", "jack-o-lantern", "moai"))
_HEADS: Final = frozenset((
    "lion", "robot", "bear", "panda", "polar-bear", "koala", "wolf", "fox", "frog", "hamster", "unicorn", "raccoon",
    "alien", "skull", "jack-o-lantern", "moai", "baby", "boy", "girl", "child", "man", "woman", "person", "old-man",
    "old-woman", "older-person",
))  # fmt: skip
"""Icons of a head alone that the atlas does not mark so, as there is no other of the same."""
_TURNED: Final = {"turtle": (0.38, 0.16, 0.4)}
"""Heads that are not what is highest."""
_HOLLOW: Final = frozenset((
    "basket", "bucket", "bathtub", "shopping-cart", "package", "canoe", "wastebasket", "pot-of-food", "toilet",
    "amphora", "jar", "nest-with-eggs", "empty-nest", "treasure-chest", "bowl-with-spoon",
))  # fmt: skip
_LARGE: Final = frozenset(("place", "building"))
_TREES: Final = frozenset(("deciduous-tree", "evergreen-tree", "palm-tree", "christmas-tree", "leafless-tree"))
_PEAKS: Final = frozenset(("mountain", "snow-capped-mountain", "mount-fuji", "volcano", "rainbow"))
_BROAD: Final[frozenset[Relation]] = frozenset(("under", "front", "in", "on", "behind"))
"""Relations that things joined by "and" share, if the target is large enough for all."""


_SIDES: Final[frozenset[Relation]] = frozenset(("left", "right"))
_DONNED: Final[frozenset[Relation]] = frozenset(("with", "in", "wear", "under"))


@dataclass(frozen=True, slots=True)
class Role:
    """One noun's icon and colour."""

    name: str
    dye: str | None
    weight: float


@dataclass(frozen=True, slots=True)
class Cast:
    """All figures of one sheet."""

    roles: tuple[Role, ...]
    unit: Unit
    figures: tuple[int, ...]
    """The role of each figure; a role of several copies has several."""
    sided: bool = False
    """Whether left and right were said, so that the layout may not be mirrored."""


NOBODY: Final = Cast((), Group(()), ())


class Wardrobe:
    """Figures ready to be laid, by icon and colour; keeps the last ones."""

    def __init__(self, atlas: Atlas) -> None:
        self._atlas: Final = atlas
        self.figure = lru_cache(128)(self._figure)
        """Takes an icon's name and a dye's or None, returns premultiplied RGBA without border; not to be changed."""
        self.shape = lru_cache(128)(self._shape)
        """Takes an icon's name, returns its `Shape`."""

    def icon(self, name: str) -> Icon:
        return self._atlas.by_name[name]

    def face_of(self, name: str) -> str:
        """Return the icon of the head alone, if there is one: a hat sits best on that."""
        other = f"{name}-face"
        return other if other in self._atlas.by_name else name

    def _figure(self, name: str, dye: str | None) -> Pixels:
        pixels = self._atlas.pixels(name)
        if dye is not None:
            pixels = recoloured(pixels, lexicon().dyes[dye].rgb)
        return premultiplied(cropped(pixels))

    def _shape(self, name: str) -> Shape:
        icon, figure = self.icon(name), self.figure(name, None)
        head_only = icon.face or icon.kind == "face" or name in _HEADS
        return Shape(
            height=figure.shape[0],
            width=figure.shape[1],
            large=icon.kind in _LARGE or name in _TREES or name == "rainbow",
            peaked=icon.kind == "building" or name in _PEAKS,
            leafy=name in _TREES,
            hollow=name in _HOLLOW,
            eyewear=name in _EYEWEAR,
            eyes=0.4 if head_only else 0.17,
            head=_TURNED.get(name) or ((0.08, 0.5, 0.72) if head_only else _head(figure)),
        )


def _head(figure: Pixels) -> tuple[float, float, float]:
    """Where a hat would rest on a body: on what is highest."""
    height, width = figure.shape[:2]
    top = figure[: max(1, height // 4), :, 3].astype(np.float64).sum(axis=0)
    if not top.any():
        return 0.0, 0.5, 0.6
    columns = np.arange(width) + 0.5
    middle = float((top * columns).sum() / top.sum())
    spread = float(np.sqrt((top * (columns - middle) ** 2).sum() / top.sum()))
    return 0.04, middle / width, min(max(3.4 * spread / width, 0.3), 0.8)


def cast(found: Sequence[Found], links: Sequence[Link], wardrobe: Wardrobe, chosen: Sequence[str]) -> Cast:
    """Return the cast with `chosen` icons for the nouns found."""
    links = _worn(links, chosen, wardrobe)
    wearers = {link.source for link in links if link.relation == "wear"}
    names = [wardrobe.face_of(name) if place in wearers else name for place, name in enumerate(chosen)]
    roles: list[Role] = []
    figures: list[int] = []
    own: list[Unit] = []
    for place, one in enumerate(found):
        dye = one.dye if chosen[place] == one.best or one.choices else one.noun.colour
        roles.append(Role(names[place], dye, one.noun.weight))
        count = max(1, min(one.noun.count, MOST_FIGURES - len(figures) - (len(found) - place - 1)))
        start = len(figures)
        figures += [place] * count
        own.append(start if count == 1 else Group(tuple(range(start, start + count))))
    tree = _tree(own, links, [wardrobe.shape(name).large for name in names])
    return Cast(tuple(roles), tree, tuple(figures), any(link.relation in _SIDES for link in links))


def _worn(links: Sequence[Link], names: Sequence[str], wardrobe: Wardrobe) -> list[Link]:
    """Tell what is worn by what it is: "with a hat" is, "with a dog" is not."""
    normal: list[Link] = []
    for link in links:
        source, target = names[link.source], names[link.target]
        if link.relation in _DONNED and target in _WORN and _wears(source, wardrobe):
            normal.append(Link(link.source, "wear", link.target))
            beside = link.target + 1
            if (
                beside < len(names)
                and names[beside] in _WORN
                and not any(beside in {n.source, n.target} for n in links)
            ):
                normal.append(Link(link.source, "wear", beside))
        elif link.relation in {"on", "over"} and source in _WORN and _wears(target, wardrobe):
            normal.append(Link(link.target, "wear", link.source))
        elif link.relation not in {"with", "wear", "and"}:
            normal.append(link)
    return normal


def _wears(name: str, wardrobe: Wardrobe) -> bool:
    return wardrobe.icon(name).kind in _WEARERS or name in _DOLLS


def _tree(own: Sequence[Unit], links: Sequence[Link], large: Sequence[bool]) -> Unit:
    """Each thing with what it wears and what stands to it, these side by side."""
    worn = {link.target for link in links if link.relation == "wear"}
    standing = [link for link in links if link.relation != "wear" and link.source not in worn]
    sources = {link.source for link in standing}
    roots = [place for place in range(len(own)) if place not in worn and place not in sources]
    for link in [link for link in standing if link.target in roots and large[link.target] and link.relation in _BROAD]:
        # "A cat and a dog under a tree": both are.
        shared = [place for place in roots if place < link.source and place != link.target]
        standing = [Link(place, link.relation, link.target) for place in shared] + standing
        roots = [place for place in roots if place not in shared]
    done: set[int] = set()

    def unit(place: int) -> Unit:
        done.add(place)
        whole = own[place]
        for link in links:
            if link.relation == "wear" and link.source == place and link.target not in done:
                done.add(link.target)
                whole = Group((whole,), "wear", own[link.target])
        near = [link for link in standing if link.target == place]
        for relation in dict.fromkeys(link.relation for link in near):
            row = [link.source for link in near if link.relation == relation and link.source not in done]
            if row:
                done.update(row)
                whole = Group(tuple(unit(source) for source in row), relation, whole)
        return whole

    units = [unit(place) for place in roots]
    # Those that stand to each other in a ring have no root.
    units += [unit(place) for place in range(len(own)) if place not in done]
    return units[0] if len(units) == 1 else Group(tuple(units))
