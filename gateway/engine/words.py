"""What the painter understands of a prompt: a table of words; the rest only stirs chance."""

import hashlib
import re
from dataclasses import dataclass, field
from typing import Final

from gateway.engine.colour import NAMED, Colour

_SAID: Final[dict[str, str]] = {
    # hours
    "day": "day noon sunny daylight summer bright",
    "dusk": "dusk sunset evening twilight sundown",
    "dawn": "dawn sunrise morning daybreak",
    "night": "night midnight nighttime starry nocturnal",
    "storm": "storm stormy thunder thunderstorm tempest gloomy",
    "space": "space galaxy nebula cosmos cosmic universe outer interstellar",
    # sky
    "sun": "sun suns sunny",
    "moon": "moon moons moonlight moonlit lunar crescent",
    "stars": "star stars starry constellation milky",
    "clouds": "cloud clouds cloudy overcast",
    "aurora": "aurora borealis northern polar",
    "rainbow": "rainbow rainbows",
    "planet": "planet planets saturn jupiter alien",
    "lightning": "lightning thunder thunderstorm",
    # weather
    "rain": "rain rainy raining drizzle",
    "snow": "snow snowy snowing snowfall winter blizzard frozen icy arctic ice christmas",
    "fog": "fog foggy mist misty haze hazy",
    # places
    "sea": "sea ocean waves wave water seascape coast coastal bay harbour harbor marine atlantic",
    "lake": "lake pond river reflection lagoon fjord",
    "beach": "beach shore sand seaside island tropical",
    "desert": "desert dune dunes sahara sandy",
    "mountains": "mountain mountains alps alpine peak peaks cliff cliffs volcano everest canyon rocky",
    "hills": "hill hills valley countryside landscape rolling tuscany village",
    "meadow": "meadow field fields grass prairie spring garden pasture farm",
    "forest": "forest forests woods wood woodland jungle pine pines fir firs taiga",
    "city": "city cities town skyline skyscraper skyscrapers street downtown metropolis york tokyo cyberpunk",
    # things
    "lighthouse": "lighthouse lighthouses beacon",
    "tree": "tree trees oak maple cherry willow apple",
    "palm": "palm palms coconut tropical",
    "boat": "boat boats ship ships sail sails sailboat sailing yacht regatta",
    "house": "house houses home cottage cabin hut farm farmhouse village",
    "castle": "castle castles fortress palace tower towers kingdom fairytale",
    "windmill": "windmill windmills mill",
    "flowers": "flowers tulips poppies roses daisies blossoms wildflowers lavender sunflowers garden spring",
    "flower": "flower rose tulip sunflower daisy poppy blossom bloom lotus orchid",
    "birds": "bird birds seagull seagulls gulls crow crows swallow swallows flock goose geese",
    "balloon": "balloon balloons",
    "cactus": "cactus cacti",
    "pyramid": "pyramid pyramids egypt",
    "cat": "cat cats kitten kitty",
    # manners
    "grey": "monochrome noir charcoal pencil",
    "sepia": "sepia vintage antique",
    "pastel": "pastel watercolor watercolour dreamy soft",
    "vivid": "vivid vibrant neon colorful colourful cyberpunk psychedelic",
    "dark": "dark moody gothic shadowy",
}
_CONCEPTS: Final[dict[str, frozenset[str]]] = {
    word: frozenset(concept for concept, words in _SAID.items() if word in words.split())
    for words in _SAID.values()
    for word in words.split()
}
_IDLE: Final = frozenset((
    "a", "an", "the", "of", "at", "in", "on", "over", "under", "by", "with", "and", "or", "to",
    "from", "near", "above", "below", "behind", "into", "through", "one", "two", "some", "very",
    "big", "small", "large", "little", "old", "picture", "painting", "photo", "image", "art",
    "style", "beautiful", "view", "scene", "sky",
))  # fmt: skip
"""Words that mean nothing here."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was understood of a prompt."""

    concepts: frozenset[str]
    tints: dict[str, Colour] = field(default_factory=dict)
    """Colours said just before the word for a concept."""
    colours: tuple[Colour, ...] = ()
    """All colours said, in order."""
    unknown: tuple[str, ...] = ()
    """Words that stand in no table."""
    salt: int = 0
    """A number of 64 bits that stands for every word in its place."""


def read(prompt: str) -> Reading:
    """Return what is understood of any text; case, spaces and punctuation only matter if there is nothing else."""
    words = re.findall(r"\w+", prompt.casefold()) or [prompt]
    colours = {place: NAMED[word] for place, word in enumerate(words) if word in NAMED}
    concepts = [_CONCEPTS.get(word, frozenset()) for word in words]
    tints = {
        concept: colours[place - 1] for place, found in enumerate(concepts) for concept in found if place - 1 in colours
    }
    return Reading(
        concepts=frozenset().union(*concepts),
        tints=tints | _sky_tint(words, colours),
        colours=tuple(colours.values()),
        unknown=tuple(
            word
            for word, found in zip(words, concepts, strict=True)
            if not found and word not in NAMED and word not in _IDLE
        ),
        salt=int.from_bytes(hashlib.sha256("\n".join(words).encode()).digest()[:8]),
    )


def _sky_tint(words: list[str], colours: dict[int, Colour]) -> dict[str, Colour]:
    if "sky" in words and (before := words.index("sky") - 1) in colours:
        return {"sky": colours[before]}
    return {}
