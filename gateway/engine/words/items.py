"""Cuts a prompt into items, the longest that a table knows first: things, colours, counts, relations and stops."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from gateway.engine.words.forms import numbers, stems, typos
from gateway.engine.words.lexicon import Kind, Meaning, lexicon
from gateway.engine.words.tokens import Token, joined, tokens

_LONGEST: Final = 8
"""Tokens in a key: an English phrase has up to 5 words, a Chinese one up to 8 characters."""
_FAR_TYPO: Final = 7
"""Letters from which on a word is corrected even beside words that are known: few words have such neighbours."""
_MOST_TYPOS: Final = 8
_FIRM: Final[tuple[Kind, ...]] = ("ignored", "count", "relation", "de", "at", "background", "place")
"""Meanings that win over a thing of the same name."""


class Vocabulary(Protocol):
    """The words that name icons."""

    def knows(self, key: str) -> bool:
        """Tell whether some icon has the key among its words."""

    def weight(self, key: str) -> float:
        """Return how much the key means the icon that it means most, 0..1."""

    def best(self, key: str) -> str:
        """Return the name of the icon that the key means most, empty if there is none."""

    def names(self, key: str) -> bool:
        """Tell whether the key is what an icon is called, not only a word said of it."""


@dataclass(frozen=True, slots=True)
class Item:
    """A piece of a prompt; `key` is set if it may name a thing."""

    kind: Kind | Literal["thing", "stop", "unknown"]
    value: str = ""
    key: str = ""
    weight: float = 1.0
    also_thing: bool = False
    """Whether a colour may as well be a thing: an orange."""
    han: bool = False


def items(prompt: str, vocabulary: Vocabulary) -> list[Item]:
    """Return the items of any text."""
    found = list(_cut(tokens(prompt), vocabulary))
    has_thing = any(item.key for item in found)
    chances = _MOST_TYPOS
    for place, item in enumerate(found):
        if item.kind != "unknown" or item.han or chances == 0 or (has_thing and len(item.value) < _FAR_TYPO):
            continue
        chances -= 1
        if right := _corrected(item.value, vocabulary, firmly=has_thing):
            found[place] = replace(_item(right, vocabulary) or item, weight=item.weight)
    return _settled(found)


def _cut(words: Sequence[Token], vocabulary: Vocabulary) -> Iterable[Item]:
    start, several = 0, False
    while start < len(words):
        first = words[start]
        if not first.text:
            yield Item("stop")
            start += 1
            continue
        for length in range(_reach(words, start), 0, -1):
            phrase = words[start : start + length]
            if (item := _item(joined(phrase), vocabulary, several=several)) is not None:
                if item.kind == "thing" and _does(words, start, length):
                    continue
                several = item.value not in {"", "1"} if item.kind == "count" else several and not item.key
                yield replace(item, weight=max(word.weight for word in phrase), han=phrase[-1].han)
                start += length
                break
        else:
            yield Item("unknown", first.text, weight=first.weight, han=first.han)
            start += 1


def _does(words: Sequence[Token], start: int, length: int) -> bool:
    """Whether a Chinese phrase is what the thing behind it does: "骑自行车" is a cyclist, but not in "骑自行车的猫"."""
    behind = words[start + length].text if start + length < len(words) else ""
    whole = joined(words[start : start + length])
    return length > 1 and behind == "\u7684" and _relates(words[start].text) and whole not in lexicon().meanings


def _relates(key: str) -> bool:
    return any(meaning.kind == "relation" for meaning in lexicon().meanings.get(key, ()))


def _reach(words: Sequence[Token], start: int) -> int:
    for length in range(1, min(_LONGEST, len(words) - start)):
        if not words[start + length].text:
            return length
    return min(_LONGEST, len(words) - start)


def _item(phrase: str, vocabulary: Vocabulary, *, several: bool = False) -> Item | None:
    """What a phrase is: a meaning by its own spelling first, a thing in the number that says most.

    Where the prompt counts, the things are counted one by one: "two books" is not two piles.
    """
    things: list[str] = []
    for key in numbers(phrase):
        thing = vocabulary.knows(key)
        meanings = lexicon().meanings.get(key, ())
        if meanings and not things and not (several and key.endswith("s") and vocabulary.names(key[:-1])):
            return _meant(key, meanings, thing=thing, called=vocabulary.names(key))
        if thing and not _only_tinted(key, vocabulary):
            things.append(key)
    if not things:
        return None
    if several and phrase.endswith("s"):
        things = [key for key in things if len(key) < len(phrase)] or things
    return Item("thing", key=max(things, key=vocabulary.weight))


def _only_tinted(key: str, vocabulary: Vocabulary) -> bool:
    """Whether a phrase only adds a colour to what its other words mean: the colour is better read as one."""
    colour, space, rest = key.partition(" ")
    if not space and not key.isascii():
        colour, rest = key[:1], key[1:]
    if not rest or vocabulary.best(rest) != vocabulary.best(key):
        return False
    return any(meaning.kind == "colour" for meaning in lexicon().meanings.get(colour, ()))


def _meant(key: str, meanings: tuple[Meaning, ...], *, thing: bool, called: bool) -> Item:
    kinds = {meaning.kind: meaning.value for meaning in meanings}
    for kind in _FIRM:
        if kind in kinds:
            return Item(kind, kinds[kind], also_thing="measure" in kinds)
    if "colour" in kinds:
        return Item("colour", kinds["colour"], key=key if called else "", also_thing=called)
    if "word" in kinds:
        return Item("thing", key=key) if thing else Item("unknown", key, han=True)
    if "measure" in kinds:
        return Item("measure", key=key if thing else "", also_thing=thing)
    if "any" in kinds:
        return Item("category", kinds["any"], key=key)
    if "category" in kinds and not called:
        return Item("category", kinds["category"], key=key)
    if "ground" in kinds:
        return Item("ground", kinds["ground"], key=key if thing else "", also_thing=True)
    return Item("thing", key=key)


def _corrected(word: str, vocabulary: Vocabulary, *, firmly: bool) -> str | None:
    """The thing or colour that the word was meant for; with `firmly` only what an icon is called."""
    for key in [*stems(word), *typos(word)]:
        if vocabulary.names(key) or (not firmly and vocabulary.knows(key)):
            return key
        if any(meaning.kind in {"colour", "category", "any"} for meaning in lexicon().meanings.get(key, ())):
            return key
    return None


def _settled(found: list[Item]) -> list[Item]:
    """Decide what is a colour or a thing, a measure or a thing, by what stands beside it."""
    settled: list[Item] = []
    for place, item in enumerate(found):
        before = settled[-1].kind if settled else "stop"
        lone_colour = item.kind == "colour" and not _noun_follows(found[place + 1 :])
        lone_measure = item.kind == "measure" and before != "count"
        if item.key and (lone_colour or lone_measure):
            settled.append(replace(item, kind="thing"))
        elif item.kind == "place" and before == "count" and item.also_thing:
            settled.append(replace(item, kind="measure"))
        else:
            settled.append(item)
    return settled


def _noun_follows(rest: Iterable[Item]) -> bool:
    for item in rest:
        if item.kind in {"thing", "category", "ground", "background"} or item.also_thing:
            return True
        if item.kind in {"stop", "relation", "place", "at"}:
            return False
    return False
