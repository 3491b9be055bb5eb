"""What prompts mean: tables of some 300 prompts in English and Chinese."""

from pathlib import Path

import pytest

from gateway.engine.sketch.retrieve import Found, Index
from gateway.engine.words.lexicon import lexicon

_HERE = Path(__file__).parent


def _rows(name: str) -> list[tuple[str, str]]:
    lines = (_HERE / name).read_text("utf-8").splitlines()
    rows = [line.partition(" => ") for line in lines if not line.startswith("#")]
    return [(prompt, meaning) for prompt, _, meaning in rows]


def _told(one: Found) -> str:
    count = f"*{one.noun.count}" if one.noun.count > 1 else ""
    dye = f"!{one.dye}" if one.dye else ""
    return (f"any:{one.noun.category}" if one.choices else one.best) + count + dye


def meaning(index: Index, prompt: str, negative: str = "") -> str:
    """Return what a prompt means in the notation of the tables."""
    reading = index.read(prompt)
    told = " + ".join(_told(one) for one in index.find(reading.nouns, index.shunned(index.read(negative))))
    told += "".join(f" ; {link.source} {link.relation} {link.target}" for link in reading.links)
    return told + ("" if reading.ground is None else " @" + "".join(f"{round(255 * x):02x}" for x in reading.ground))


@pytest.mark.parametrize("prompt,expected", _rows("readings_en.txt"))
def test_english_prompt_means(index: Index, prompt: str, expected: str) -> None:
    """Icons, counts, colours, relations and grounds."""
    assert expected == meaning(index, prompt)


@pytest.mark.parametrize("prompt,expected", _rows("readings_zh.txt"))
def test_chinese_prompt_means(index: Index, prompt: str, expected: str) -> None:
    """Icons, counts, colours, relations and grounds."""
    assert expected == meaning(index, prompt)


@pytest.mark.parametrize("name", ["readings_en.txt", "readings_zh.txt"])
def test_tables_are_long_and_say_everything_once(name: str) -> None:
    """A table that lost its rows would pass every test."""
    prompts = [prompt for prompt, _ in _rows(name)]
    assert len(prompts) >= 120
    assert len(set(prompts)) == len(prompts)


@pytest.mark.parametrize(
    "prompt,negative,expected",
    [
        ("apple", "red", "green-apple"),
        ("apple", "green", "red-apple"),
        ("apple", "红色", "green-apple"),
        ("苹果", "red", "green-apple"),
        ("heart", "red, blue", "green-heart"),
        ("cat", "face", "cat"),
        ("rose", "red", "rose!yellow"),
        ("red rose", "blurry, low quality", "rose"),
        ("cat", "dog", "cat"),
    ],
)
def test_negative_prompt_turns_choice(index: Index, prompt: str, negative: str, expected: str) -> None:
    """What is not wanted gives way to its twin, or gets another colour."""
    assert expected == meaning(index, prompt, negative)


@pytest.mark.parametrize(
    "negative,gone", [("apple, banana", {"red-apple", "green-apple", "banana"}), ("red", {"cherries"})]
)
def test_negative_prompt_empties_category(index: Index, negative: str, gone: set[str]) -> None:
    """Of a category only what is wanted is left to the seed."""
    found = index.find(index.read("fruit").nouns, index.shunned(index.read(negative)))[0]
    assert len(found.choices) > 5
    assert not gone.intersection(found.choices)


def test_negative_prompt_that_shuns_prompt_finds_something_else(index: Index) -> None:
    """Nothing is left of a cat that is no cat, but no error either."""
    assert index.find(index.read("cat").nouns, index.shunned(index.read("cat")))[0].best != "cat"


@pytest.mark.parametrize(
    "prompt,weights",
    [
        ("(cat:1.5) and a dog", [1.5, 1.0]),
        ("((cat)) and [dog]", [1.21, 1 / 1.1]),
        ("(a cat and (dog:2):0.5)", [0.5, 1.0]),
        ("(猫:1.4)和狗", [1.4, 1.0]),
        ("（cat：1.3）", [1.3]),
    ],
)
def test_weights_reach_their_nouns(index: Index, prompt: str, weights: list[float]) -> None:
    """Brackets weigh what stands in them, also wide ones."""
    assert [noun.weight for noun in index.read(prompt).nouns] == pytest.approx(weights)


def test_ranking_puts_best_first_and_matches_between_0_and_1(index: Index) -> None:
    """A sketch of the second best must not outweigh the best."""
    for prompt in ("book", "熊", "happy face", "steaming bowl of noodles"):
        matches = [match for _, match in index.find(index.read(prompt).nouns)[0].ranked]
        assert matches[0] == max(matches)
        assert all(0 <= match <= 1 for match in matches)


def test_categories_name_icons_of_atlas(index: Index) -> None:
    """A typing error in the table would silently shrink a category."""
    missing = {name for names in lexicon().categories for name in names} - set(index.atlas.by_name)
    assert not missing
