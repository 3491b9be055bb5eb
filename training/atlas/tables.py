"""Reads the words that people added by hand, and lets them win over what the sources say."""

import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from training.atlas.words import Weights

_FOLDER: Final = Path(__file__).parent / "tables"
_OTHERS: Final = 0.8
"""What a word is worth at most for other icons if one icon is its first choice."""


@dataclass(frozen=True, slots=True)
class Added:
    """Words for one icon."""

    first: tuple[str, ...]
    """Words that mean this icon before all others, weight 1."""
    weighed: Weights
    """Words with a weight of their own; 0 takes away what a source says."""


def added(language: str) -> dict[str, Added]:
    """Return what `tables/<language>.toml` adds to each icon; raises ValueError if a word has two first choices."""
    sections = tomllib.loads((_FOLDER / f"{language}.toml").read_text(encoding="utf-8"))
    lines = [line for section in sections.values() for line in section.items()]
    if len({icon for icon, _ in lines}) != len(lines):
        raise ValueError(f"{language}.toml names an icon in two sections: {_repeated(icon for icon, _ in lines)}")
    found = {icon: _line(text) for icon, text in lines}
    if twice := _repeated(word for icon in found.values() for word in icon.first):
        raise ValueError(f"{language}.toml has two first choices for {twice}")
    return found


def _line(text: str) -> Added:
    """Read `car, auto, vehicle:0.5`."""
    words = [word.strip().partition(":") for word in text.split(",")]
    return Added(
        first=tuple(word for word, colon, _ in words if not colon),
        weighed={word: float(weight) for word, colon, weight in words if colon},
    )


def _repeated(words: Iterable[str]) -> list[str]:
    return sorted(word for word, count in Counter(words).items() if count > 1)


def apply(weights: dict[str, Weights], additions: dict[str, Added]) -> None:
    """Change the weights of all icons, by name, to what was added; raises KeyError for an icon that isn't there."""
    first = {word: icon for icon, words in additions.items() for word in words.first}
    for icon, words in weights.items():
        for word in words.keys() & first.keys():
            if first[word] != icon:
                words[word] = min(words[word], _OTHERS)
    for icon, more in additions.items():
        weights[icon] |= dict.fromkeys(more.first, 1.0) | more.weighed
    for icon, kept in weights.items():
        weights[icon] = {word: weight for word, weight in kept.items() if weight > 0}
