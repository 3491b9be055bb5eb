"""Finds the icons that a noun means: by its words' weights, its colour, and what the negative prompt shuns."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from gateway.engine.atlas import Atlas, Icon
from gateway.engine.words.grammar import Noun, Reading, read
from gateway.engine.words.lexicon import lexicon

_NAMED: Final = 0.95
"""From this weight on a word is what the icon is called."""
_ASIDE: Final = 0.45
"""What a word beside the head counts, where the head counts 1."""
_COVERED: Final = 0.2
_SHARE: Final = 0.4
"""From this share on an icon has the colour already, also if it is not its first."""
_SHUNNED: Final = 0.35
"""The share of a colour from which on a negative prompt with that colour means the icon."""
_PLAIN: Final = frozenset(
    ("black", "white", "grey", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "gold")
)
"""Colours that an icon of their kind has already; for any other shade it is dyed."""
_COLOUR_WORDS: Final = _PLAIN | {"light", "large"}
_DULL: Final = frozenset(("light", "black", "white", "grey", "brown"))
"""Of twins, those that are taken only if nothing else is left."""
_HEADS: Final = frozenset(("face", "head", "脸", "头", "头像", "smiley"))
_MOST_RANKED: Final = 24


@dataclass(frozen=True, slots=True)
class Found:
    """What one noun may be."""

    noun: Noun
    ranked: tuple[tuple[str, float], ...]
    """Names of icons and how well they match, 0..1, best first; at least one."""
    dye: str | None = None
    """A name of `Lexicon.dyes` that the best icon does not have and is to get."""
    choices: tuple[str, ...] = ()
    """Of a category: the icons of which the seed takes any."""

    @property
    def best(self) -> str:
        """The name of the icon that matches best."""
        return self.ranked[0][0]


@dataclass(frozen=True, slots=True)
class Shunned:
    """What a negative prompt names."""

    icons: Mapping[str, float]
    colours: frozenset[str] = frozenset()

    def of(self, icon: Icon) -> float:
        """Return how much the icon is what is not wanted, 0..1."""
        tinted = any(icon.colours.get(name, 0) >= _SHUNNED for name in self.colours)
        return max(self.icons.get(icon.name, 0.0), 0.7 if tinted else 0.0)

    def left(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return the scores without the icons that are just what is not wanted, the others lessened."""
        shares = {name: self.icons.get(name, 0.0) for name in scores}
        return {name: score - shares[name] for name, score in scores.items() if shares[name] < 1}


NOTHING_SHUNNED: Final = Shunned({})


class Index:
    """The atlas by word; a `Vocabulary`."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas: Final = atlas
        words: dict[str, dict[str, float]] = {}
        for icon in atlas.icons:
            for table in (icon.en, icon.zh):
                for word, weight in table.items():
                    if len(word) > 1 or not word.isascii():
                        words.setdefault(word, {})[icon.name] = weight
        self._words: Final = words

    @cached_property
    def _twins(self) -> dict[str, list[str]]:
        """Icons whose names differ in a colour only."""
        twins: dict[str, list[str]] = {}
        for icon in self.atlas.icons:
            twins.setdefault(_uncoloured(icon.name), []).append(icon.name)
        return twins

    def knows(self, key: str) -> bool:
        return key in self._words

    def weight(self, key: str) -> float:
        return max(self._words.get(key, {"": 0.0}).values())

    def best(self, key: str) -> str:
        icons = self._words.get(key)
        return max(icons, key=icons.__getitem__) if icons else ""

    def names(self, key: str) -> bool:
        return self.weight(key) >= _NAMED

    def read(self, prompt: str) -> Reading:
        """Return what is understood of a prompt."""
        return read(prompt, self)

    def shunned(self, reading: Reading) -> Shunned:
        """Return what a negative prompt names: whole icons, or colours if it names nothing else."""
        icons: dict[str, float] = {}
        for noun in reading.nouns:
            for name, match in self._scores(noun).items():
                icons[name] = max(icons.get(name, 0.0), 1.0 if match > 0.6 else match)
            for icon in self.atlas.icons if _HEADS.intersection(noun.keys) else ():
                if icon.face or icon.kind == "face" or icon.name.endswith("-face"):
                    icons[icon.name] = 1.0
        colours = [] if reading.nouns else reading.colours
        return Shunned(icons, frozenset(lexicon().dyes[name].like for name in colours))

    def find(self, nouns: Sequence[Noun], shunned: Shunned = NOTHING_SHUNNED) -> list[Found]:
        """Return what the nouns are, in their order, and behind them what their words name beside."""
        found: list[Found] = []
        beside: list[Noun] = []
        for noun in nouns:
            one = self._found(noun, self._scores(noun), shunned)
            found.append(one)
            beside += self._uncovered(noun, one.best)
        return found + [self._found(noun, self._scores(noun), shunned) for noun in beside]

    def _scores(self, noun: Noun) -> dict[str, float]:
        """How well each icon matches all words of a noun, 0..1."""
        if noun.category is not None:
            return self._of_category(noun, noun.category)
        keys, head = self._telling(noun.keys)
        scores: dict[str, float] = {}
        total = 1 + _ASIDE * (len(keys) - 1)
        for place, key in enumerate(keys):
            icons = self._words.get(key)
            if icons:
                share = (1.0 if place == head else _ASIDE) / total / max(icons.values())
                for name, weight in icons.items():
                    scores[name] = scores.get(name, 0.0) + share * weight
        return scores

    def _telling(self, keys: Sequence[str]) -> tuple[Sequence[str], int]:
        """Return the words that tell what a noun is, and the place of the one that tells most."""
        if len(keys) > 1 and _HEADS.intersection(keys):
            # "An angry face": the face is in the anger.
            moods = [key for key in keys if key not in _HEADS]
            keys = moods if any(self._kind(key) == "face" for key in moods) else keys
        head = _head(keys)
        if self._kind(keys[head]) == "person":
            doing = [place for place, key in enumerate(keys) if key.endswith("ing") and self._kind(key) == "person"]
            head = doing[0] if doing else head
        return keys, head

    def _kind(self, key: str) -> str:
        name = self.best(key)
        return self.atlas.by_name[name].kind if name else ""

    def _of_category(self, noun: Noun, category: int) -> dict[str, float]:
        names = lexicon().categories[category]
        scores = dict.fromkeys((name for name in names if name in self.atlas.by_name), 0.9)
        for key in noun.keys[:-1]:
            for name, weight in self._words.get(key, {}).items():
                if name in scores:
                    scores[name] = min(1.0, scores[name] + 0.1 * weight)
        return scores

    def _found(self, noun: Noun, scores: Mapping[str, float], shunned: Shunned) -> Found:
        kept = shunned.left(scores)
        like = lexicon().dyes[noun.colour].like if noun.colour else None
        if noun.category is not None and kept:
            tinted = {name: score - shunned.of(self.atlas.by_name[name]) for name, score in kept.items()}
            return self._any(noun, tinted, like)
        kept = kept or shunned.left(dict.fromkeys(lexicon().categories[0], 0.1)) or {"sparkles": 0.1}
        ranked = sorted(kept.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_RANKED]
        best = ranked[0][0]
        if shunned.colours and not noun.colour:
            best = self._twin(best, kept, lambda icon: shunned.of(icon) == 0) or best
        if like is not None and not self._has(best, noun.colour, like):
            best = self._twin(best, kept, lambda icon: _first(icon) == like) or best
        ranked = [(best, max(ranked[0][1], kept.get(best, 0.0)))] + [entry for entry in ranked if entry[0] != best]
        dye = noun.colour if like is not None and not self._has(best, noun.colour, like) else None
        if dye is None and shunned.of(self.atlas.by_name[best]) and shunned.colours:
            dye = _other_colour(shunned.colours)
        return Found(noun, tuple(ranked), dye)

    def _any(self, noun: Noun, kept: Mapping[str, float], like: str | None) -> Found:
        top = max(kept.values())
        choices = [name for name in sorted(kept) if kept[name] >= top - 0.05]
        fitting = [name for name in choices if like and self._has(name, noun.colour, like)]
        ranked = tuple((name, kept[name]) for name in fitting or choices)
        return Found(noun, ranked[:_MOST_RANKED], None if fitting else noun.colour, tuple(fitting or choices))

    def _uncovered(self, noun: Noun, best: str) -> Iterable[Noun]:
        """The words of a noun that its icon does not mean and that name something of their own."""
        keys, head = self._telling(noun.keys)
        idle = {"face", "symbol", *(["person"] if self._kind(keys[head]) == "person" else [])} if keys else set()
        for at, key in enumerate(keys):
            icons = self._words.get(key, {})
            covered = icons.get(best, 0.0) / max([*icons.values(), 1e-9]) >= _COVERED
            own = at != head and self.names(key) and self._kind(key) not in idle
            if own and not covered and not key.endswith("ing") and noun.category is None:
                yield replace(noun, keys=[key], colour=None, count=1, ground="")

    def _twin(self, name: str, scores: Mapping[str, float], wanted: Callable[[Icon], bool]) -> str | None:
        """The same thing in another colour, the likeliest for the words."""
        twins = [twin for twin in self._twins[_uncoloured(name)] if wanted(self.atlas.by_name[twin])]
        return max(twins, key=lambda twin: (_DULL.isdisjoint(twin.split("-")), scores.get(twin, 0.0)), default=None)

    def _has(self, name: str, dye: str | None, like: str) -> bool:
        icon = self.atlas.by_name[name]
        return dye in _PLAIN and (_first(icon) == like or icon.colours.get(like, 0) >= _SHARE)


def _head(keys: Sequence[str]) -> int:
    """The place of the word that says what the thing is: the last, but not what the thing does."""
    for place in range(len(keys) - 1, 0, -1):
        if not keys[place].endswith("ing") or keys[place] in _NOT_DOING:
            return place
    return 0 if len(keys) == 1 or not keys[0].endswith("ing") else len(keys) - 1


_NOT_DOING: Final = frozenset(
    ("ring", "king", "wing", "building", "dumpling", "wedding", "lightning", "painting", "earring")
)


def _uncoloured(name: str) -> str:
    return "-".join(word for word in name.split("-") if word not in _COLOUR_WORDS) or name


def _first(icon: Icon) -> str:
    return next(iter(icon.colours), "")


def _other_colour(shunned: Iterable[str]) -> str:
    taken = set(shunned)
    return next(name for name in ("yellow", "green", "blue", "purple", "pink") if name not in taken)
