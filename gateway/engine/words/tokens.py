"""Cuts a prompt into words and Chinese characters, and joins them into keys that tables can hold."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from gateway.engine.words.emphasis import weighted

MOST_TOKENS: Final = 300
"""What comes after so many words is not read; image models commonly stop at 77."""
_MOST_CHARACTERS: Final = 8000
_HAN: Final = "\u3400-\u9fff\uf900-\ufaff"
_TOKEN: Final = re.compile(
    rf"(?P<han>[{_HAN}])|(?P<word>[^\W_{_HAN}]+)(?:['\u2019]s\b)?['\u2019]?|(?P<and>[&+])|(?P<stop>[,.;:!?|/\n\u3001\u3002\u00b7])"
)
_LATIN: Final = re.compile(r"[A-Za-z0-9]")


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a Chinese character, or a stop (an empty text)."""

    text: str
    weight: float = 1.0
    han: bool = False


def plain(text: str) -> str:
    """Return the text without case, accents and width of letters."""
    if text.isascii():
        return text.lower()
    letters = unicodedata.normalize("NFKD", text[:_MOST_CHARACTERS])
    return "".join(letter for letter in letters if not unicodedata.combining(letter)).casefold()[:_MOST_CHARACTERS]


def tokens(prompt: str) -> list[Token]:
    """Return the first 300 tokens of any text."""
    found: list[Token] = []
    for piece, weight in weighted(plain(prompt[:_MOST_CHARACTERS])):
        for match in _TOKEN.finditer(piece):
            text = match["han"] or match["word"] or match["and"] or ""
            found.append(Token(text[:40], weight, match["han"] is not None))
            if len(found) == MOST_TOKENS:
                return found
    return found


def joined(parts: Sequence[Token]) -> str:
    """Return the key of adjacent tokens: a space between two words, nothing beside a Chinese character."""
    key = parts[0].text
    for before, after in pairwise(parts):
        key += after.text if before.han or after.han else " " + after.text
    return key


def key_of(phrase: str) -> str:
    """Return the key that `joined` would give for a phrase of a table; empty if there is no word in it."""
    if phrase.isascii():
        if phrase.replace(" ", "").isalnum():
            return phrase.lower()
    elif not _LATIN.search(phrase) and phrase.isalpha():
        return phrase
    found = [token for token in tokens(phrase) if token.text]
    return joined(found) if found else ""
