"""Puts together what the index says of each icon."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from gateway.engine.atlas import Icon, Kind, Pixels
from training.atlas.colours import colours
from training.atlas.fetch import Drawing
from training.atlas.kinds import is_head, kinds
from training.atlas.tables import added, apply
from training.atlas.words import (
    ALIAS,
    Weights,
    chinese_name,
    chinese_plain,
    english_keywords,
    english_name,
    merged,
    plain,
    rarity,
)

_LESS: Final[dict[Kind, float]] = {"face": 0.85, "person": 0.93, "symbol": 0.85}
"""Of two icons that a word fits alike the plain thing comes first: a cat before a smiling cat."""
_ORDER: Final[tuple[Kind, ...]] = (
    "animal", "plant", "food", "vehicle", "building", "thing", "weather", "place", "flag", "person", "symbol", "face",
)  # fmt: skip


def describe(drawings: Sequence[Drawing], pixels: dict[str, Pixels]) -> list[Icon]:
    """Return the index of the chosen icons, sorted by name."""
    rules = kinds()
    every = {drawing.name for drawing in drawings}
    sorts = {drawing.name: rules.kind(drawing.name, drawing.group) for drawing in drawings}
    english, chinese = _english(drawings), _chinese(drawings)
    for weights, language in ((english, "english"), (chinese, "chinese")):
        for name, words in weights.items():
            _lessen(words, _LESS.get(sorts[name], 1) * (0.9 if is_head(name, every) else 1))
        apply(weights, added(language))
        _settle(weights, sorts)
    return [
        Icon(
            name=drawing.name,
            category=drawing.category,
            kind=sorts[drawing.name],
            flip=rules.flip(drawing.name, drawing.group),
            face=is_head(drawing.name, every),
            colours=colours(pixels[drawing.name]),
            en=_ordered(english[drawing.name]),
            zh=_ordered(chinese[drawing.name]),
        )
        for drawing in sorted(drawings, key=lambda drawing: drawing.name)
    ]


def _english(drawings: Sequence[Drawing]) -> dict[str, Weights]:
    keywords = {drawing.name: english_keywords(drawing.english) for drawing in drawings}
    names = {drawing.name: english_name(drawing.name) for drawing in drawings}
    worth = rarity((*keywords[name], *names[name]) for name in names)
    found = {}
    for drawing in drawings:
        aliases = [plain(text) for text in (*drawing.aliases, *drawing.english[:1])]
        found[drawing.name] = merged(
            names[drawing.name],
            # An alias of one word, such as "adult" of "person", is a keyword like others.
            dict.fromkeys((alias for alias in aliases if " " in alias), ALIAS),
            {word: worth[word] for word in keywords[drawing.name]},
        )
    return found


def _chinese(drawings: Sequence[Drawing]) -> dict[str, Weights]:
    told = {
        # A keyword of punctuation alone, such as "!!", is nothing anybody can say.
        drawing.name: [word for text in drawing.chinese if (word := chinese_plain(text))]
        for drawing in drawings
    }
    worth = rarity(words[1:] for words in told.values())
    return {
        name: merged({word: worth[word] for word in words[1:]}, chinese_name(words[0], words[1:])) if words else {}
        for name, words in told.items()
    }


def _lessen(words: Weights, factor: float) -> None:
    """Make all but the whole names count less."""
    for word, weight in words.items():
        if weight < ALIAS:
            words[word] = weight * factor


def _settle(weights: dict[str, Weights], sorts: dict[str, Kind]) -> None:
    """Round, and leave each word with one icon that has the highest weight: the plainest, then the shortest name."""
    holders: dict[str, list[str]] = defaultdict(list)
    for name, words in weights.items():
        for word, weight in words.items():
            words[word] = round(weight, 3)
            holders[word].append(name)
    for word, names in holders.items():
        best = max(weights[name][word] for name in names)
        level = [name for name in names if weights[name][word] == best]
        level.sort(key=lambda name: (_ORDER.index(sorts[name]), name.count("-"), name))
        for name in level[1:]:
            weights[name][word] = round(best - min(0.01, best / 10), 3)


def _ordered(words: Weights) -> Weights:
    """The words, the weightiest first."""
    return dict(sorted(words.items(), key=lambda item: (-item[1], item[0])))
