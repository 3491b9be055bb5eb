"""The words between the names of things: colours, counts, relations, grounds, categories, and those to pass over."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final, Literal, NamedTuple

from gateway.engine.interface import Colour
from gateway.engine.words.tokens import key_of

Relation = Literal[
    "on", "over", "under", "front", "behind", "left", "right", "beside", "wear", "with", "in", "ride", "and"
]
"""What a thing does to its target; a cat `under` a tree, a dragon that `wear`s a crown."""
Kind = Literal[
    "colour",
    "count",
    "measure",
    "relation",
    "place",
    "de",
    "at",
    "background",
    "ground",
    "ignored",
    "category",
    "any",
    "word",
]


class Meaning(NamedTuple):
    """One of the meanings of a key, for instance a colour's name or a count's digit."""

    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Dye:
    """A colour that prompts name."""

    rgb: Colour
    like: str
    """The nearest of the eleven colours that icons are measured by."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """The tables of `data/`."""

    meanings: dict[str, tuple[Meaning, ...]]
    dyes: dict[str, Dye]
    categories: tuple[tuple[str, ...], ...]
    """The names of the icons of each category; a meaning's value is its place here."""


_PARTICLES: Final[dict[str, Kind]] = {"de": "de", "at": "at", "background": "background"}


@cache
def lexicon() -> Lexicon:
    """Read the tables, once."""
    grammar = _table("grammar.toml")
    found: dict[str, list[Meaning]] = {}

    def learn(words: str, kind: Kind, value: str) -> None:
        for word in words.split(","):
            if key := key_of(word.strip()):
                found.setdefault(key, []).append(Meaning(kind, value))

    for name, dye in grammar["colours"].items():
        learn(dye["words"], "colour", name)
    for count, words in grammar["counts"].items():
        learn(words, "count", count)
    learn(grammar["measures"]["words"], "measure", "")
    for name, words in grammar["relations"].items():
        learn(words, "relation", name)
    for name, words in grammar["places"].items():
        learn(words, "place", name)
    for name, words in grammar["particles"].items():
        learn(words, _PARTICLES[name], "")
    for rgb, words in grammar["grounds"].items():
        learn(words, "ground", rgb)
    learn(grammar["ignored"]["words"], "ignored", "")
    learn(grammar["words"]["words"], "word", "")
    categories = _table("categories.toml")["category"]
    for place, category in enumerate(categories):
        learn(category["words"], "any" if category.get("firm") else "category", str(place))
    return Lexicon(
        meanings={key: tuple(meanings) for key, meanings in found.items()},
        dyes={name: Dye(colour(dye["rgb"]), dye["like"]) for name, dye in grammar["colours"].items()},
        categories=tuple(tuple(name.strip() for name in category["icons"].split(",")) for category in categories),
    )


def colour(hexadecimal: str) -> Colour:
    """Return the colour of six hexadecimal digits."""
    red, green, blue = (int(hexadecimal[place : place + 2], 16) / 255 for place in (0, 2, 4))
    return red, green, blue


def _table(name: str) -> dict[str, Any]:
    return tomllib.loads(resources.files("gateway.engine").joinpath("data", name).read_text("utf-8"))
