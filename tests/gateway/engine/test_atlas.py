import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pytest
from PIL import Image

from gateway.engine.atlas import EDGE, Atlas, Icon, Kind
from training.atlas.choose import chosen, held_out
from training.atlas.colours import NAMES, colours
from training.atlas.pack import pack_index, pack_pictures
from training.atlas.words import english_name, singular

DATA = Path(__file__).parents[3] / "gateway" / "engine" / "data"
Language = Literal["en", "zh"]


def nouns() -> Iterator[tuple[Language, str, frozenset[str]]]:
    """Give language, noun and acceptable icons of each noun in `nouns.txt`."""
    for line in Path(__file__).with_name("nouns.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            english, chinese, icons = line.split("|")
            yield from (("en", noun.strip().replace("-", " "), frozenset(icons.split())) for noun in english.split(","))
            yield from (("zh", noun.strip().lower(), frozenset(icons.split())) for noun in chinese.split(","))


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    """The atlas that is shipped."""
    return Atlas()


def words(icon: Icon, language: Language) -> dict[str, float]:
    """Return the words of an icon in one language."""
    return icon.en if language == "en" else icon.zh


def best(atlas: Atlas, language: Language) -> dict[str, tuple[float, list[str]]]:
    """Return for each word the highest weight and the icons that have it."""
    found: dict[str, tuple[float, list[str]]] = {}
    for icon in atlas.icons:
        for word, weight in words(icon, language).items():
            highest, names = found.get(word, (0.0, []))
            if weight > highest:
                found[word] = weight, [icon.name]
            elif weight == highest:
                names.append(icon.name)
    return found


@pytest.mark.parametrize("language", ["en", "zh"])
def test_everyday_nouns_find_an_acceptable_icon(atlas: Atlas, language: Language) -> None:
    """Whoever asks for an everyday thing gets it, not a scene or a face that also has the word."""
    leads = best(atlas, language)
    asked = [(noun, icons) for spoken, noun, icons in nouns() if spoken == language]
    wrong = {noun: leads.get(noun) for noun, icons in asked if not icons.issuperset(leads.get(noun, (0, ["?"]))[1])}
    assert not wrong
    assert len({noun for noun, _ in asked}) >= 600
    assert all(icons <= atlas.by_name.keys() for _, icons in asked)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_word_has_one_best_icon(atlas: Atlas, language: Language) -> None:
    """A look-up of one word needs no tie-break of its own."""
    assert [word for word, (_, names) in best(atlas, language).items() if len(names) > 1] == []


@pytest.mark.parametrize("language", ["en", "zh"])
def test_words_are_weighed_and_written_alike(atlas: Atlas, language: Language) -> None:
    """Words are lower-case without punctuation; each icon has at least one that means it."""
    for icon in atlas.icons:
        for word, weight in words(icon, language).items():
            assert 0 < weight <= 1, (icon.name, word)
            assert re.fullmatch(r"\w+( \w+)*", word), (icon.name, word)
            assert word == word.lower(), (icon.name, word)
        assert max(words(icon, language).values()) >= 0.8, icon.name


def test_vague_words_weigh_little(atlas: Atlas) -> None:
    """A word that many icons share must not decide."""
    leads = best(atlas, "en")
    assert leads["animal"][0] < 0.1
    assert leads["black"][0] < 0.3
    assert sum(icon.en.get("face", 0) > 0.3 for icon in atlas.icons) <= 1


def test_index_is_sorted_and_plausible(atlas: Atlas) -> None:
    """Kinds and colours come from their short lists, and shares add up to no more than the whole."""
    names = [icon.name for icon in atlas.icons]
    assert names == sorted(set(names))
    assert 1300 < len(names) < 1400
    for icon in atlas.icons:
        assert icon.kind in get_args(Kind)
        assert icon.colours.keys() <= set(NAMES)
        assert all(0 < share <= 1 for share in icon.colours.values())
        assert sum(icon.colours.values()) <= 1.05, icon.name


def test_index_has_one_icon_a_line(atlas: Atlas) -> None:
    """A change of one icon can be read in a diff."""
    lines = (DATA / "icons.json").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "["
    assert lines[-1] == "]"
    assert len(lines) == len(atlas.icons) + 2


def test_heads_and_mirrors(atlas: Atlas) -> None:
    """A head is told from the whole animal, and what has a direction is not mirrored."""
    assert atlas.by_name["dog-face"].face
    assert not atlas.by_name["dog"].face
    assert atlas.by_name["dog"].flip
    assert not atlas.by_name["alarm-clock"].flip
    assert not atlas.by_name["left-arrow"].flip


def test_every_icon_has_a_picture(atlas: Atlas) -> None:
    """Index and pictures hold the same icons, and every picture shows something."""
    with zipfile.ZipFile(DATA / "icons.zip") as packed:
        assert packed.namelist() == [f"{icon.name}.webp" for icon in atlas.icons]
        assert {entry.compress_type for entry in packed.infolist()} == {zipfile.ZIP_STORED}
    for icon in atlas.icons:
        pixels = atlas.pixels(icon.name)
        assert pixels.shape == (EDGE, EDGE, 4)
        assert pixels.dtype == np.uint8
        assert (pixels[..., 3] > 127).mean() > 0.02, icon.name


def test_colours_are_those_of_the_picture(atlas: Atlas) -> None:
    """The index was made from these very pictures."""
    for name in ("red-apple", "elephant", "rocket", "wine-glass"):
        assert colours(atlas.pixels(name)) == atlas.by_name[name].colours
    assert next(iter(atlas.by_name["red-apple"].colours)) == "red"


def test_pixels_are_shared_and_safe(atlas: Atlas) -> None:
    """Pixels are decoded once, and nobody can spoil them for others."""
    assert atlas.pixels("dog") is atlas.pixels("dog")
    with pytest.raises(ValueError, match="read-only"):
        atlas.pixels("dog")[0, 0, 0] = 1
    with pytest.raises(KeyError):
        atlas.pixels("no-such-icon")


def test_pictures_stay_small() -> None:
    """The wheel carries them."""
    assert (DATA / "icons.zip").stat().st_size < 3_000_000
    assert (DATA / "icons.json").stat().st_size < 800_000


def test_packing_again_gives_the_same_bytes(atlas: Atlas, tmp_path: Path) -> None:
    """Packing depends on nothing but the icons, not even on their order."""
    some = {name: atlas.pixels(name) for name in ("rocket", "dog", "red-apple")}
    pack_pictures(some, tmp_path / "one.zip")
    pack_pictures(dict(reversed(some.items())), tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as packed, Image.open(io.BytesIO(packed.read("dog.webp"))) as again:
        seen = some["dog"][..., 3] > 0
        assert (np.asarray(again.convert("RGBA"))[seen] == some["dog"][seen]).all()
    pack_index(atlas.icons, tmp_path / "icons.json")
    assert (tmp_path / "icons.json").read_bytes() == (DATA / "icons.json").read_bytes()


def test_about_one_icon_in_twenty_is_held_out(atlas: Atlas) -> None:
    """The rule depends on the name alone."""
    assert held_out("abacus") is held_out("abacus")
    share = sum(held_out(icon.name) for icon in atlas.icons) / len(atlas.icons)
    assert 0.04 < share < 0.06


@pytest.mark.parametrize(
    "unwanted",
    ["man-astronaut", "astronaut-dark-skin-tone", "family-man-boy", "keycap-1", "letter-a", "two-oclock", "kiss",
     "japanese-free-of-charge-button", "person-walking-facing-right"],
)  # fmt: skip
def test_thinning(unwanted: str) -> None:
    """One of each thing stays."""
    assert chosen(["astronaut", "kiss-mark", "person-walking", unwanted]) == [
        "astronaut",
        "kiss-mark",
        "person-walking",
    ]


@pytest.mark.parametrize(
    "plural, one",
    [("apples", "apple"), ("cherries", "cherry"), ("glass", "glass"), ("boxes", "box"), ("buses", "bus"),
     ("children", "child"), ("cookies", "cookie"), ("leaves", "leaf"), ("tennis", "tennis"), ("tomatoes", "tomato"),
     ("octopus", "octopus"), ("gas", "gas"), ("shoes", "shoe"), ("horses", "horse"), ("witches", "witch")],
)  # fmt: skip
def test_singular(plural: str, one: str) -> None:
    """Plurals are told from words that only end like one."""
    assert singular(plural) == one


def test_what_a_name_says_last_weighs_most() -> None:
    """The thing counts more than what describes it or comes with it."""
    assert english_name("red-apple")["red apple"] == 1
    assert english_name("red-apple")["apple"] > english_name("red-apple")["red"]
    assert english_name("cup-with-straw")["cup"] > english_name("cup-with-straw")["straw"]
    assert english_name("grapes")["grape"] == 1


@pytest.mark.parametrize(
    "notice, says",
    [("NOTICE.md", "Changes made"), ("LICENSE-noto-emoji.txt", "Apache License"), ("LICENSE-emojilib.txt", "Mu-An"),
     ("LICENSE-emojibase.txt", "Miles Johnson"), ("LICENSE-unicode.txt", "UNICODE LICENSE V3")],
)  # fmt: skip
def test_notices_are_there(notice: str, says: str) -> None:
    """Everything that licences ask for travels with the data."""
    assert says in (DATA / notice).read_text(encoding="utf-8")
