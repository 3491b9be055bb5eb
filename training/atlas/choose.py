"""Which icons of the set are worth drawing: one of each thing, no skin tones, no pairs of people, no lettering."""

import re
import zlib
from collections.abc import Collection, Iterable
from typing import Final

_TONE: Final = re.compile(r"-(skin-tone|tone[1-5])\b|-tone[1-5]")
_PAIRS: Final = re.compile(
    r"(family|couple|kiss-(man|woman))(-|$)|kiss$|(men|women|people)-(holding|with|wrestling|hugging)|woman-and-man-"
)
_MIRRORED: Final = re.compile(r".*-facing-right$|rightwards-|right-facing-|magnifying-glass-tilted-right$")
_LETTERS: Final = re.compile(
    r"letter-.$|keycap|japanese-.*-button$|input-|.*-button-blood-type$|digit-"
    r"|(cl|cool|free|id|new|ng|ok|p|sos|vs|up-exclamation)-button$|(back|end|on-exclamation|soon|top)-arrow$"
)
_HOURS: Final = re.compile(r".*-(oclock|thirty)$")
_REPEATED: Final = re.compile(r"(black|white)-(small|medium|medium-small)-square$|small-(blue|orange)-diamond$")
_SINGLED_OUT: Final = frozenset({
    "deaf-man", "deaf-woman",    # deaf-person is there
    "merperson", "mx-claus",     # the mermaid, the merman and Mrs Claus are what people ask for
    "middle-finger",             # nothing to send to somebody who asked for "a finger"
    "pregnant-man", "pregnant-person",
    "unknown-flag",
})  # fmt: skip


def chosen(names: Iterable[str]) -> list[str]:
    """Return the names of the icons to keep, sorted."""
    every = frozenset(names)
    return sorted(name for name in every if not _unwanted(name, every))


def _unwanted(name: str, every: Collection[str]) -> bool:
    shapes = (_PAIRS, _MIRRORED, _LETTERS, _HOURS, _REPEATED)
    return (
        name in _SINGLED_OUT
        or _TONE.search(name) is not None
        or any(shape.match(name) for shape in shapes)
        or _has_neutral_twin(name, every)
    )


def _has_neutral_twin(name: str, every: Collection[str]) -> bool:
    """Whether it is the man or the woman of something that is there as just a person too."""
    sex, _, rest = name.partition("-")
    return sex in {"man", "woman"} and (rest in every or f"person-{rest}" in every)


def held_out(name: str) -> bool:
    """Whether training must never see the icon: about one in twenty, always the same ones."""
    return zlib.crc32(name.encode()) % 20 == 0
