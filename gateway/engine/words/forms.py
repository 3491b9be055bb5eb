"""Other spellings of an English word: plurals, simple stems and typing errors."""

from collections.abc import Iterator
from typing import Final

_IRREGULAR: Final = {
    "mice": "mouse", "geese": "goose", "men": "man", "women": "woman", "children": "child", "kids": "child",
    "feet": "foot", "teeth": "tooth", "people": "person", "oxen": "ox", "leaves": "leaf", "wolves": "wolf",
    "knives": "knife", "loaves": "loaf", "scarves": "scarf", "shelves": "shelf", "elves": "elf", "calves": "calf",
    "dice": "die", "cacti": "cactus", "octopi": "octopus", "fungi": "fungus", "fishes": "fish", "sheeps": "sheep",
    "firemen": "fireman", "policemen": "policeman", "snowmen": "snowman", "mermen": "merman", "lice": "louse",
    "axes": "axe", "shoes": "shoe", "horses": "horse", "houses": "house", "roses": "rose", "noses": "nose",
    "dwarves": "dwarf", "buses": "bus", "busses": "bus", "halves": "half", "thieves": "thief", "aircrafts": "aircraft",
}  # fmt: skip
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_LONGEST_TYPO: Final = 20


def numbers(key: str) -> Iterator[str]:
    """Yield the key, then what it may be with its last word in the singular or plural, likeliest first."""
    yield key
    before, space, last = key.rpartition(" ")
    if len(last) < 3 or not last.isascii():
        return
    head = before + space
    if last in _IRREGULAR:
        yield head + _IRREGULAR[last]
    if last.endswith("ies"):
        yield head + last[:-3] + "y"
    if last.endswith("es"):
        yield head + last[:-2]
    if last.endswith("s") and not last.endswith("ss"):
        yield head + last[:-1]
    yield head + last + "s"
    yield head + last + "es"
    if last.endswith("y"):
        yield head + last[:-1] + "ies"


def stems(word: str) -> Iterator[str]:
    """Yield what a word may come from: dancing -> dance, snowy -> snow, smiled -> smile."""
    for ending in ("ing", "ed", "y", "er", "ly", "ish"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            stem = word[: -len(ending)]
            yield stem
            yield stem + "e"
            if stem[-1] == stem[-2]:
                yield stem[:-1]


def typos(word: str) -> Iterator[str]:
    """Yield all words one letter away from one of 5 to 20 ASCII letters: swapped, missing, other, added."""
    if not 5 <= len(word) <= _LONGEST_TYPO or not word.isascii() or not word.isalpha():
        return
    cuts = [(word[:place], word[place:]) for place in range(len(word) + 1)]
    yield from (left + right[1] + right[0] + right[2:] for left, right in cuts if len(right) > 1)
    yield from (left + right[1:] for left, right in cuts if right)
    yield from (left + letter + right for left, right in cuts for letter in _LETTERS)
    yield from (left + letter + right[1:] for left, right in cuts if right for letter in _LETTERS)
