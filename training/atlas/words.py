"""Weighs the words that lead to an icon."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

Weights = dict[str, float]

PHRASE: Final = 1.0
"""The whole name."""
ALIAS: Final = 0.95
"""A whole name that another source gives."""
HEAD: Final = 0.85
"""What the thing is, in a name of several words: "apple" of "red apple"."""
_SIDE: Final = 0.55
"""What describes it: "racing" of "racing car"."""
_DETAIL: Final = 0.4
"""What it has with it: "straw" of "cup with straw"."""
_VAGUE: Final = 0.3
"""By how much a word that many names hold and none means counts less."""
_KEYWORD: Final = 0.7
_LEAST: Final = 0.02

_STOP: Final = frozenset((
    "a", "an", "and", "as", "at", "be", "behind", "by", "for", "from", "in", "into", "is", "it", "its", "no",
    "not", "of", "off", "on", "or", "over", "showing", "the", "to", "up", "with", "without",
))  # fmt: skip
_JOINTS: Final = frozenset(("with", "without", "in", "on", "of", "behind", "at", "showing", "over", "for"))
_COLOURS: Final = frozenset(
    ("black", "blue", "brown", "gray", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow")
)
_GENERIC: Final = _COLOURS | frozenset((
    "big", "button", "eyes", "face", "gesture", "hand", "hands", "heavy", "high", "hot", "large", "light",
    "long", "mark", "medium", "old", "oncoming", "open", "person", "round", "sign", "small", "symbol",
    "young",
))  # fmt: skip
_VAGUE_CHINESE: Final = frozenset((
    "人", "头", "手", "脸", "心", "圆", "圆形", "方形", "方块", "按钮", "符号", "标志",
    "表情", "箭头", "笑", "笑脸", "黑", "白", "灰", "红", "橙", "黄", "绿", "蓝", "紫",
    "粉", "棕", "红色", "黑色", "白色", "灰色", "橙色", "黄色", "绿色", "蓝色", "紫色", "粉色",
    "粉红色", "棕色", "褐色",
))  # fmt: skip
_IRREGULAR: Final = {
    "children": "child", "feet": "foot", "geese": "goose", "halves": "half", "knives": "knife", "leaves": "leaf",
    "lives": "life", "loaves": "loaf", "men": "man", "mice": "mouse", "oxen": "ox", "people": "person",
    "scarves": "scarf", "shelves": "shelf", "teeth": "tooth", "wolves": "wolf", "women": "woman",
}  # fmt: skip
_NOT_PLURAL: Final = re.compile(
    r"(ss|us|is|ics)$|^(always|atlas|bias|canvas|chaos|christmas|clothes|gas|gymnas|las|news|pants|series|swiss|texas"
    r"|yes|xmas|james|kansas|lens|mars|mrs|tennis|was|has|this|physics|paris|asparagus)$"
)
_ES: Final = re.compile(r"(ch|sh|ss|x|zz)es$|^(potato|tomato|hero|echo|mango|volcano|tornado|mosquito|bus|gas)es$")


def singular(word: str) -> str:
    """Return an English noun's singular, or the word itself; "glasses" becomes "glass"."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or _NOT_PLURAL.search(word):
        return word
    if word.endswith("ies") and len(word) > 4 and word not in {"cookies", "movies", "zombies", "pies", "ties"}:
        return word[:-3] + "y"
    return word[:-2] if _ES.search(word) else word[:-1]


def plain(text: str) -> str:
    """Return a word or a phrase in lower case, with single spaces and no punctuation but the apostrophe's letters."""
    return " ".join(re.sub(r"[^\w]+|_", " ", text.lower().replace("'", "").replace("\u2019", "")).split())


def rarity(uses: Iterable[Iterable[str]]) -> Mapping[str, float]:
    """Return what a keyword is worth by how many icons have it: 0.7 for one of its own, 0.07 for one that 100 share."""
    counts = Counter(word for words in uses for word in set(words))
    return {word: max(_LEAST, _KEYWORD / math.sqrt(count)) for word, count in counts.items()}


def english_name(name: str) -> Weights:
    """Return the words of a Noto name such as "cup-with-straw", and all of it as a phrase."""
    words = plain(name).split()
    cut = next((place for place, word in enumerate(words) if place and word in _JOINTS), len(words))
    before = [word for word in words[:cut] if word not in _STOP]
    telling = [word for word in before if word not in _GENERIC] or before
    # "bow and arrow" is both; else the last word says what it is, and what it is made of may stand behind "of".
    heads = telling if "and" in words[:cut] else telling[-1:]
    found: Weights = {}
    for word in words:
        if word not in _STOP:
            weight = HEAD if word in heads else _SIDE if word in before else _DETAIL
            worth = weight * (_VAGUE if word in _GENERIC else 1)
            _raise(found, {word: worth, singular(word): worth})
    _raise(found, {" ".join(words): PHRASE})
    if len(words) == 1:
        _raise(found, {singular(words[0]): PHRASE})
    return found


def english_keywords(keywords: Iterable[str]) -> list[str]:
    """Return keywords as they stand in the index, without the idle ones."""
    told = (plain(word) for word in keywords)
    return [" ".join((*word.split()[:-1], singular(word.split()[-1]))) for word in told if word and word not in _STOP]


def chinese_name(label: str, keywords: Iterable[str]) -> Weights:
    """Return a Chinese name and those keywords that are part of it; Chinese puts what the thing is last."""
    found = {label: PHRASE}
    for word in (*keywords, label.rpartition("的")[2]):
        if word and word != label and word in label:
            worth = HEAD if label.endswith(word) else _SIDE
            _raise(found, {word: worth * (_VAGUE if word in _VAGUE_CHINESE else 1)})
    return found


def chinese_plain(text: str) -> str:
    """Return a Chinese word without spaces and punctuation; Latin letters small."""
    return re.sub(r"[^\w]+|_", "", text.lower())


def _raise(weights: Weights, others: Weights) -> None:
    for word, weight in others.items():
        weights[word] = max(weight, weights.get(word, 0))


def merged(*given: Weights) -> Weights:
    """Return the highest weight of each word."""
    found: Weights = {}
    for weights in given:
        _raise(found, weights)
    return found
