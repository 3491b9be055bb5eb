"""What a form may hold: kinds of fields, each of which reads and checks its own value.

A field's `read` puts what it found into the order's values and what is wrong into a list of messages, so that
one refusal can name every fault of a form, as the vendor's list of errors invites.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from load.upstreams.forms import FormError, Part
from load.upstreams.pictures import PictureError, measure

LONGEST_TEXT = 10_000
LARGEST_SEED = 4_294_967_294
MIME_TYPES = ("image/jpeg", "image/png", "image/webp")


@dataclass(frozen=True, slots=True)
class Upload:
    """A picture from a form, its head read and nothing decoded yet."""

    data: bytes
    width: int
    height: int


@dataclass(slots=True)
class Values:
    """What the fields of a form were read to."""

    texts: dict[str, str] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    """Names that were sent, known or not."""


class Form:
    """The parts of a form by name, a later one in an earlier one's place; files and texts apart."""

    def __init__(self, parts: list[Part]) -> None:
        self.parts: Mapping[str, Part] = {part.name: part for part in parts}

    def file(self, name: str) -> Part | None:
        part = self.parts.get(name)
        return part if part is not None and _is_file(part) else None

    def text(self, name: str) -> str | None:
        """The field's text, None if it is absent or a file; raises `FormError` when it isn't UTF-8."""
        part = self.parts.get(name)
        return None if part is None or _is_file(part) else part.text()


def _is_file(part: Part) -> bool:
    # How common form parsers tell: a picture sent as a plain field is text to them, and the file is missing.
    return part.filename is not None or part.content_type == "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Text:
    """Free text."""

    name: str
    required: bool = False
    least: int = 0

    def read(self, form: Form, values: Values, wrong: list[str]) -> None:
        try:
            text = form.text(self.name)
        except FormError:
            wrong.append(f"{self.name}: must be UTF-8")
            return
        if text is None:
            wrong.extend([f"{self.name}: required"] * self.required)
        elif not self.least <= len(text) <= LONGEST_TEXT:
            wrong.append(f"{self.name}: must have {self.least} to {LONGEST_TEXT} characters")
        else:
            values.texts[self.name] = text


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds; a default of None leaves it out when it isn't sent."""

    name: str
    low: float
    high: float
    default: float | None = None
    whole: bool = False

    def read(self, form: Form, values: Values, wrong: list[str]) -> None:
        text = _text(form, self.name)
        number = self.default if text is None else _number(text)
        if number is None:
            return
        if math.isnan(number):
            wrong.append(f"{self.name}: must be a number")
        elif not self.low <= number <= self.high:
            wrong.append(f"{self.name}: must be from {self.low:.10g} to {self.high:.10g}")
        elif self.whole and number != int(number):
            wrong.append(f"{self.name}: must be an integer")
        else:
            values.numbers[self.name] = number


@dataclass(frozen=True, slots=True)
class Choice:
    """One word of several."""

    name: str
    allowed: tuple[str, ...]
    default: str | None = None

    def read(self, form: Form, values: Values, wrong: list[str]) -> None:
        word = _text(form, self.name)
        if word is None:
            word = self.default
        if word is None:
            return
        if word in self.allowed:
            values.texts[self.name] = word
        else:
            wrong.append(f"{self.name}: must be one of {', '.join(self.allowed)}")


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a size within bounds."""

    name: str
    required: bool = False
    least_side: int = 64
    most_side: int | None = None
    least_pixels: int = 4_096
    most_pixels: int = 9_437_184
    widest: float | None = None
    """How many times the longer side may exceed the shorter one; None sets no bound."""

    def read(self, form: Form, values: Values, wrong: list[str]) -> None:
        part = form.file(self.name)
        if part is None:
            wrong.extend([f"{self.name}: required"] * self.required)
            return
        try:
            mime, width, height = measure(part.data)
        except PictureError:
            mime, width, height = "", 0, 0
        if mime not in MIME_TYPES:
            wrong.append(f"{self.name}: must be a jpeg, png or webp image")
            return
        faults = [f"{self.name}: {fault}" for fault in self._faults(width, height)]
        wrong.extend(faults)
        values.uploads[self.name] = Upload(part.data, width, height)

    def _faults(self, width: int, height: int) -> list[str]:
        faults = []
        most_side = math.inf if self.most_side is None else self.most_side
        if min(width, height) < self.least_side or max(width, height) > most_side:
            limit = "" if self.most_side is None else f" and at most {self.most_side}"
            faults.append(f"every side must be at least {self.least_side}{limit} pixels")
        if not self.least_pixels <= width * height <= self.most_pixels:
            faults.append(f"must have {self.least_pixels} to {self.most_pixels} pixels")
        if self.widest is not None and max(width, height) > self.widest * min(width, height):
            faults.append(f"the aspect ratio must be between 1:{self.widest:g} and {self.widest:g}:1")
        return faults


Field = Text | Number | Choice | Picture


def _text(form: Form, name: str) -> str | None:
    try:
        return form.text(name)
    except FormError:
        # No word and no number; the field's own check says so.
        return "\ufffd"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
