"""Reads a prompt: the nouns with their colours and numbers, how they stand to each other, and the ground.

English puts a relation between two things ("a cat under a tree"), Chinese also before or behind the first ("树下的猫"):
all become one relation, from what stands there to its target.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

from gateway.engine.interface import Colour
from gateway.engine.words.items import Item, Vocabulary, items
from gateway.engine.words.lexicon import Relation, colour, lexicon

MOST_NOUNS: Final = 6
_MOST_KEYS: Final = 6
_LEAST_WEIGHT: Final = 0.2
"""What weighs less is not drawn."""
_SURROUNDING: Final[frozenset[Relation]] = frozenset(("in", "on", "under", "over", "beside", "front", "ride", "and"))


@dataclass(frozen=True, slots=True)
class Link:
    """What one noun does to another, by their places: a cat `under` a tree, a dragon that `wear`s a crown."""

    source: int
    relation: Relation
    target: int


@dataclass(slots=True)
class Noun:
    """A thing as it was said: adjacent words that may be one icon's or several's."""

    keys: list[str]
    colour: str | None = None
    """A name of `Lexicon.dyes`."""
    count: int = 1
    weight: float = 1.0
    category: int | None = None
    """The place of the category of which anything will do."""
    ground: str = ""
    """The ground that it makes when it surrounds something, as hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood of a prompt."""

    nouns: tuple[Noun, ...] = ()
    links: tuple[Link, ...] = ()
    ground: Colour | None = None
    colours: tuple[str, ...] = ()
    """All colours said, for a negative prompt."""
    dye: str | None = None
    """The colour that no thing and no ground took, as `count`: for a prompt without a thing."""
    count: int = 1


def read(prompt: str, vocabulary: Vocabulary) -> Reading:
    """Return what is understood of any text, in a time bounded by its first 300 words."""
    reader = _Reader()
    for item in items(prompt, vocabulary):
        reader.take(item)
    return reader.end()


@dataclass(slots=True)
class _Reader:
    nouns: list[Noun] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    ground: Colour | None = None
    colours: list[str] = field(default_factory=list)
    dye: str | None = None
    """The colour that waits for its noun, as `count` does."""
    count: int = 1
    joins: bool = False
    """Whether a further word belongs to the last noun."""
    onward: tuple[Relation, int] | None = None
    """What an earlier noun does to the next."""
    backward: tuple[Relation, int] | None = None
    """What the next noun does to an earlier one."""
    opening: Relation | None = None
    """A relation that came before any noun."""
    aside: tuple[str | None, int] | None = None
    """Colour and count of the noun behind an opening relation's."""
    fresh: bool = True
    """Whether a relation would open a phrase."""
    at: int | None = None
    """How many nouns there were before a Chinese "at"."""
    awaits_ground: bool = False

    def take(self, item: Item) -> None:
        take = _TAKES.get(item.kind)
        if take is not None:
            take(self, item)

    def noun(self, item: Item) -> None:
        self.awaits_ground = False
        if self.joins and self.dye is None and self.count == 1:
            noun = self.nouns[-1]
            if len(noun.keys) < _MOST_KEYS:
                noun.keys.append(item.key)
                noun.weight = max(noun.weight, item.weight)
                noun.category = noun.category if item.kind != "category" else int(item.value)
            noun.ground = item.value if item.kind == "ground" else ""
            return
        place = len(self.nouns)
        new = Noun([item.key], self.dye, self.count, item.weight)
        new.category = int(item.value) if item.kind == "category" else None
        new.ground = item.value if item.kind == "ground" else ""
        if self.onward is not None:
            relation, source = self.onward
            self.links.append(Link(source, relation, place))
        if self.opening is not None:
            self.backward = (self.opening, place)
        elif self.backward is not None:
            relation, target = self.backward
            self.links.append(Link(place, relation, target))
            dye, count = self.aside or (None, 1)
            new.colour, new.count = new.colour or dye, max(new.count, count)
            self.backward = self.aside = None
        self.nouns.append(new)
        self.onward = self.opening = self.dye = None
        self.count, self.joins, self.fresh = 1, True, False

    def colour(self, item: Item) -> None:
        self.colours.append(item.value)
        if self.awaits_ground:
            self.ground, self.awaits_ground = _ground(item.value), False
            return
        self.dye = self.dye or item.value
        self.joins = False

    def number(self, item: Item) -> None:
        self.count = max(self.count, int(item.value))
        self.joins = False

    def relate(self, item: Item) -> None:
        if item.value == "and":
            if self.dye is None or self.joins:
                self._hang_back()
                self.fresh = True
            self.joins = False
            return
        self._hang_back(keep=self.fresh)
        relation: Relation = item.value  # type: ignore[assignment]  # the tables' names are the type's
        if self.fresh or not self.nouns:
            self.opening, self.aside = relation, (self.dye, self.count)
            self.dye, self.count = None, 1
        else:
            self.onward = (relation, self._bearer(len(self.nouns) - 1))
        self.joins = False

    def place(self, item: Item) -> None:
        """A Chinese word behind a noun tells where it is that something else stands."""
        self.joins = False
        last = len(self.nouns) - 1
        if last < 0:
            return
        relation: Relation = item.value  # type: ignore[assignment]  # as above
        link = self._link_to(last)
        if link is not None:
            self.links[link] = replace(self.links[link], relation=relation)
        elif self.at is not None and 0 < self.at <= last:
            self.links.append(Link(self.at - 1, relation, last))
        else:
            self.backward = (relation, last)
        self.at = None

    def of(self, item: Item) -> None:
        """A Chinese "of" ends what describes the next noun: "戴皇冠的龙"."""
        last = len(self.nouns) - 1
        link = self._link_to(last)
        if self.backward is not None or (last >= 0 and self.nouns[last].ground):
            self.joins = False
        elif link is not None and self.joins:
            self.backward, self.joins = (self.links.pop(link).relation, last), False

    def locate(self, item: Item) -> None:
        self.at = len(self.nouns) if not self.fresh else 0
        self.joins = False
        if self.fresh:
            self.aside, self.dye, self.count = (self.dye, self.count), None, 1

    def background(self, item: Item) -> None:
        self.onward = self.opening = None
        if self.dye is not None:
            self.ground, self.dye = _ground(self.dye), None
        elif self.joins and len(self.nouns) > 1:
            last = self.nouns[-1]
            if last.ground:
                self.ground = colour(last.ground)
                self._forget_last()
            else:
                self.links.append(Link(len(self.nouns) - 1, "behind", len(self.nouns) - 2))
        else:
            self.awaits_ground = True
        self.joins = False

    def stop(self, item: Item) -> None:
        self._hang_back()
        self.count, self.joins, self.onward, self.at = 1, False, None, None

    def end(self) -> Reading:
        self._hang_back()
        self._lay_grounds()
        kept = [place for place, noun in enumerate(self.nouns) if noun.weight >= _LEAST_WEIGHT][:MOST_NOUNS]
        places = {place: new for new, place in enumerate(kept)}
        links = (
            Link(places[link.source], link.relation, places[link.target])
            for link in self.links
            if link.source in places and link.target in places and link.source != link.target
        )
        nouns = tuple(self.nouns[place] for place in kept)
        return Reading(nouns, tuple(links), self.ground, tuple(self.colours), self.dye, self.count)

    def _bearer(self, place: int) -> int:
        """Who has the noun, or it: in "a frog with a crown on a mushroom" it is the frog that sits there."""
        link = self._link_to(place)
        if link is None or self.links[link].relation not in {"with", "wear"}:
            return place
        return self.links[link].source

    def _link_to(self, target: int) -> int | None:
        return next((place for place, link in enumerate(self.links) if link.target == target), None)

    def _hang_back(self, *, keep: bool = False) -> None:
        """A colour that no noun followed is that of the noun before it: "a car, red". Without any it waits."""
        if self.dye is not None and self.nouns and not keep:
            self.nouns[-1].colour = self.nouns[-1].colour or self.dye
            self.dye = None

    def _lay_grounds(self) -> None:
        """Turn what surrounds another thing into the ground."""
        targets = {link.target for link in self.links if link.relation in _SURROUNDING}
        sources = {link.source for link in self.links}
        for place, noun in enumerate(self.nouns):
            alone = place not in sources or place in targets
            others = any(other.weight and not other.ground for other in self.nouns)
            if noun.ground and ((alone and others) or noun.keys == [""]):
                dye = noun.colour
                self.ground = _ground(dye) if dye is not None else colour(noun.ground)
                noun.weight = 0.0

    def _forget_last(self) -> None:
        self.nouns.pop()
        self.links = [link for link in self.links if len(self.nouns) not in {link.source, link.target}]


def _ground(name: str) -> Colour:
    # Painted things are a little off white; a ground of that kind would look soiled.
    return (1.0, 1.0, 1.0) if name == "white" else lexicon().dyes[name].rgb


_TAKES: Final[dict[str, Callable[[_Reader, Item], None]]] = {
    "thing": _Reader.noun,
    "category": _Reader.noun,
    "ground": _Reader.noun,
    "colour": _Reader.colour,
    "count": _Reader.number,
    "relation": _Reader.relate,
    "place": _Reader.place,
    "at": _Reader.locate,
    "de": _Reader.of,
    "background": _Reader.background,
    "stop": _Reader.stop,
}
