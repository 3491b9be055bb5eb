"""What the painter understands of a prompt."""

import pytest

from gateway.engine.colour import NAMED
from gateway.engine.words import read


def test_reading_finds_the_concepts_behind_words() -> None:
    """Synonyms mean the same."""
    assert read("A Lighthouse, at SUNSET").concepts == read("beacon in the evening").concepts == {"lighthouse", "dusk"}


def test_reading_binds_a_colour_to_the_word_after_it() -> None:
    """Only the next word is tinted."""
    reading = read("a red boat under a pink sky")
    assert reading.tints == {"boat": NAMED["red"], "sky": NAMED["pink"]}
    assert reading.colours == (NAMED["red"], NAMED["pink"])


def test_reading_tells_unknown_words_from_idle_ones() -> None:
    """Only words that stand in no table stir the picture's hues."""
    assert read("a picture of the quantum sea").unknown == ("quantum",)


@pytest.mark.parametrize(
    "one,other", [("sea city", "city sea"), ("sea", "seas"), ("?", "!"), ("", " "), ("ab c", "a bc")]
)
def test_reading_salts_different_texts_differently(one: str, other: str) -> None:
    """Words, their order, and odd texts all change the salt."""
    assert read(one).salt != read(other).salt


def test_reading_ignores_case_and_punctuation() -> None:
    """A comma makes no other picture."""
    assert read("The SEA, at dusk!") == read("the sea at dusk")
