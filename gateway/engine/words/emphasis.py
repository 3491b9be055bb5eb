r"""How strongly each piece of a prompt is meant.

`(word:1.3)`, `(word)` = 1.1, `[word]` = 1 / 1.1, all of them nested; `\(` is a bracket that means nothing.

Brackets without a partner mean nothing. The work is linear in the length of the text.
"""

import re
from typing import Final

_STEP: Final = 1.1
_MOST: Final = 3.0
"""The limit of a weight: more could not be drawn larger."""
_MARK: Final = re.compile(
    r"\\[()\[\]\\]|[(\[]|:[ ]{0,4}(?P<weight>[+-]?(?:[0-9]{1,4}(?:\.[0-9]{0,6})?|\.[0-9]{1,6}))[ ]{0,4}\)|[)\]]"
)


def weighted(text: str) -> list[tuple[str, float]]:
    """Return the pieces of the text in order, each with its weight, 0 to 3; a bracket parts two pieces."""
    marks = list(_MARK.finditer(text))
    factors = _factors(marks)
    pieces: list[tuple[str, float]] = []
    factor, start = 1.0, 0
    open_factors: list[float] = []
    for place, mark in enumerate(marks):
        pieces.append((text[start : mark.start()], factor))
        start = mark.end()
        if place in factors:
            open_factors.append(factor)
            factor = min(max(factor * factors[place], 0.0), _MOST)
        elif -place - 1 in factors:
            factor = open_factors.pop()
    pieces.append((text[start:], factor))
    return [(piece, weight) for piece, weight in pieces if piece]


def _factors(marks: list[re.Match[str]]) -> dict[int, float]:
    """The factor of every opening mark that has a partner, by its place; its partner's place as `-place - 1`."""
    factors: dict[int, float] = {}
    waiting: list[int] = []
    for place, mark in enumerate(marks):
        said = mark.group()
        if said in "([":
            waiting.append(place)
        elif said[-1] in ")]" and said[0] != "\\" and waiting and _pair(marks[waiting[-1]].group(), said):
            weight = mark.group("weight")
            usual = _STEP if said[-1] == ")" else 1 / _STEP
            factors[waiting.pop()] = usual if weight is None else float(weight)
            factors[-place - 1] = 1.0
    return factors


def _pair(left: str, right: str) -> bool:
    return left + right[-1] in {"()", "[]"}
