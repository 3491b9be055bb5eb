"""How a prompt is cut: emphasis, tokens, forms, items and links, and that any text is bounded work."""

import time
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.engine.sketch.retrieve import Index
from gateway.engine.words.emphasis import weighted
from gateway.engine.words.forms import numbers, stems, typos
from gateway.engine.words.items import items
from gateway.engine.words.lexicon import lexicon
from gateway.engine.words.tokens import MOST_TOKENS, joined, key_of, tokens


@pytest.mark.parametrize(
    "text,expected",
    [
        ("cat", [("cat", 1.0)]),
        ("a (cat:1.3) b", [("a ", 1.0), ("cat", 1.3), (" b", 1.0)]),
        ("(a (b))", [("a ", 1.1), ("b", 1.21)]),
        ("[a]", [("a", 1 / 1.1)]),
        (r"\(a\)", [("a", 1.0)]),
        ("((a", [("a", 1.0)]),
        ("a))", [("a", 1.0)]),
        ("(a:99)", [("a", 3.0)]),
        ("(a:-1)", [("a", 0.0)]),
        ("(a:.5)", [("a", 0.5)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("", []),
    ],
)
def test_emphasis_weighs_pieces(text: str, expected: list[tuple[str, float]]) -> None:
    """Brackets with a partner weigh, the others mean nothing."""
    found = weighted(text)
    assert [piece for piece, _ in found] == [piece for piece, _ in expected]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in expected])


@given(st.text(alphabet="()[]:.0123456789ab\\ ", max_size=300))
def test_emphasis_of_any_brackets_keeps_every_letter(text: str) -> None:
    """No text is lost, and no weight is out of range."""
    found = weighted(text)
    assert sum(piece.count("a") for piece, _ in found) == text.count("a")
    assert all(0 <= weight <= 3 for _, weight in found)


@pytest.mark.parametrize(
    "text,expected",
    [
        ("Ice-Cream", ["ice", "cream"]),
        ("the cat's hat", ["the", "cat", "hat"]),
        ("两只猫", ["两", "只", "猫"]),
        ("ＣＡＴ，狗", ["cat", "", "狗"]),
        ("café", ["cafe"]),
        ("teddy_bear", ["teddy", "bear"]),
        ("a, b", ["a", "", "b"]),
        ("T恤", ["t", "恤"]),
        ("🐱", []),
    ],
)
def test_tokens_are_words_and_characters(text: str, expected: list[str]) -> None:
    """Case, width, accents and joints do not matter."""
    assert [token.text for token in tokens(text)] == expected


def test_tokens_end_after_300() -> None:
    """A long text is not read to its end."""
    assert len(tokens("cat " * 1000)) == MOST_TOKENS == 300


@pytest.mark.parametrize("phrase", ["ice cream", "T-Shirt", "冰淇淋", "T恤", "red, apple", "Café"])
def test_key_of_phrase_is_what_its_tokens_join_to(phrase: str) -> None:
    """Tables and prompts must spell alike, also by the short way for plain words."""
    assert key_of(phrase) == joined([token for token in tokens(phrase) if token.text])


@pytest.mark.parametrize(
    "many,one",
    [
        ("cats", "cat"), ("berries", "berry"), ("boxes", "box"), ("mice", "mouse"), ("red foxes", "red fox"),
        ("wolves", "wolf"), ("children", "child"), ("knives", "knife"), ("geese", "goose"), ("grape", "grapes"),
    ],
)  # fmt: skip
def test_numbers_lead_to_other_number(many: str, one: str) -> None:
    """The key itself comes first."""
    assert next(iter(numbers(many))) == many
    assert one in list(numbers(many))


@pytest.mark.parametrize("word", ["bus", "as", "glass", "猫s"])
def test_numbers_do_not_cut_what_is_no_plural(word: str) -> None:
    """What is too short, ends in a double s, or is not English keeps its letters, or is one of several guesses."""
    assert next(iter(numbers(word))) == word
    assert "glas" not in list(numbers(word))


def test_stems_undo_endings() -> None:
    """Endings are taken off, with a doubled letter or a lost e."""
    assert {"run", "runn"} <= set(stems("running"))
    assert "dance" in stems("dancing")
    assert list(stems("ing")) == []


def test_typos_are_one_letter_away() -> None:
    """Swapped, missing, wrong and added letters; none for short words."""
    assert {"butterfly"} <= set(typos("buterfly")) & set(typos("btuterfly")) & set(typos("butterffly"))
    assert "butterfly" in typos("buttorfly")
    assert list(typos("cats")) == []
    assert list(typos("猫猫猫猫猫")) == []


def test_lexicon_gives_each_key_one_meaning_of_a_kind() -> None:
    """A colour that stands in two rows would be decided by chance of order."""
    for key, meanings in lexicon().meanings.items():
        said = [(meaning.kind, meaning.value) for meaning in set(meanings)]
        kinds = [kind for kind, _ in said]
        assert len(set(kinds)) == len(kinds), (key, said)


class Case(NamedTuple):
    text: str
    kinds: str


@pytest.mark.parametrize(
    "case",
    [
        Case("two red apples", "count colour thing"),
        Case("an orange", "ignored thing"),
        Case("an orange cat", "ignored colour thing"),
        Case("in front of the house", "relation ignored thing"),
        Case("三只猫", "count measure thing"),
        Case("树下的猫", "thing place de thing"),
        Case("cat, zzgrmpf", "thing stop unknown"),
        Case("blue background", "colour background"),
    ],
)
def test_items_are_of_their_kinds(index: Index, case: Case) -> None:
    """The longest match wins, and neighbours decide what is a colour."""
    assert " ".join(item.kind for item in items(case.text, index)) == case.kinds


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=400))
def test_any_text_is_read(index: Index, text: str) -> None:
    """Links name nouns that are there, and no noun is empty of words."""
    reading = index.read(text)
    assert len(reading.nouns) <= 6
    for link in reading.links:
        assert link.source != link.target
        assert max(link.source, link.target) < len(reading.nouns)
    assert all(noun.keys and 1 <= noun.count <= 9 and 0.2 <= noun.weight <= 3 for noun in reading.nouns)


_SAID = """
red blue cat dog two 3 on under with wearing hat crown and , background the night sea in (cat:1.4) orange of behind tree
(( )) 红色 的 猫 狗 树 下 在 上 两只 戴着 帽子 和 ， 背景 蓝色 夜晚 旁边 骑 马 是
"""
_WORDS = st.sampled_from(_SAID.split())


@settings(max_examples=300, deadline=None)
@given(st.lists(_WORDS, max_size=14))
def test_any_order_of_known_words_is_read(index: Index, words: list[str]) -> None:
    """Words that mean much in any order make no impossible link."""
    for text in (" ".join(words), "".join(words)):
        reading = index.read(text)
        places = range(len(reading.nouns))
        assert all(link.source in places and link.target in places for link in reading.links)
        assert index.find(reading.nouns) or not reading.nouns


@pytest.mark.parametrize(
    "text",
    ["(" * 8000, "cat" * 2600, "猫" * 8000, "qwrtz " * 1300, "a:" * 4000, "\ufdfa" * 8000, "(:1" * 2600, "red " * 2000],
)
def test_long_text_is_read_in_bounded_time(index: Index, text: str) -> None:
    """8000 characters of the worst kind; the limit is ten times what a quiet core needs."""
    began = time.process_time()
    index.read(text)
    assert time.process_time() - began < 1.0
