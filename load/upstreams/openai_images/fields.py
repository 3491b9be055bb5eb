"""Reading a request's values, whether they came as JSON or as a form, in the vendor's strictness."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from load.upstreams.forms import FormError, Part, media_type, parse_form
from load.upstreams.openai_images.refusals import Refusal

LOGGED_CHARACTERS = 4096
FILE_FIELDS = ("image", "image[]", "mask", "mask_image", "markup", "reference_image")


@dataclass(slots=True)
class Fields:
    """A request's values; its methods raise `Refusal` for a wrong one and remember which were asked for."""

    values: Mapping[str, object]
    files: Mapping[str, Sequence[Part]] = field(default_factory=dict)
    textual: bool = False
    asked: set[str] = field(default_factory=set)

    def get(self, name: str) -> object:
        """The value as it came, None if absent."""
        self.asked.add(name)
        return self.values.get(name)

    def text(self, name: str) -> str | None:
        """A string."""
        value = self.get(name)
        if value is not None and not isinstance(value, str):
            wrong_type(name, "a string")
        return value

    def integer(self, name: str, low: int, high: int) -> int | None:
        """A whole number from `low` to `high`."""
        value = self._number(name)
        if value is None:
            return None
        if value != value or value in (float("inf"), float("-inf")) or value != int(value):  # noqa: PLR0124 - NaN
            wrong_type(name, "an integer")
        if value < low:
            refuse("integer_below_min_value", f"Invalid '{name}': Expected a value >= {low}.", name)
        if value > high:
            refuse("integer_above_max_value", f"Invalid '{name}': Expected a value <= {high}.", name)
        return int(value)

    def boolean(self, name: str) -> bool:
        """True or false; text counts only in a form."""
        value = self.get(name)
        if self.textual and isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
        if value is not None and not isinstance(value, bool):
            wrong_type(name, "a boolean")
        return bool(value)

    def choice(self, name: str, allowed: Collection[str]) -> str | None:
        """One of the allowed words."""
        value = self.text(name)
        if value is not None and value not in allowed:
            words = ", ".join(f"'{word}'" for word in sorted(allowed))
            refuse("invalid_value", f"Invalid value: '{value}'. Supported values are: {words}.", name)
        return value

    def uploads(self, name: str) -> list[bytes]:
        """The files under a name and under the same name with brackets."""
        names = (name, f"{name}[]")
        self.asked.update(names)
        return [part.data for each in names for part in self.files.get(each, ())]

    def unknown(self) -> tuple[str, ...]:
        """The names that were sent and never asked for; call it last."""
        return tuple(sorted((set(self.values) | set(self.files)) - self.asked))

    def logged(self) -> dict[str, object]:
        """All of it, ready for JSON; what is long stands as its size and digest."""
        files = {name: [_part_note(part) for part in parts] for name, parts in self.files.items()}
        return {name: _note(value) for name, value in self.values.items()} | files

    def _number(self, name: str) -> float | None:
        value = self.get(name)
        if self.textual and isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                wrong_type(name, "an integer")
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float):
            wrong_type(name, "an integer")
        return value


def read_json(body: bytes) -> Fields:
    """The values of a JSON body; raises `Refusal`."""
    try:
        values = json.loads(body)
    except (ValueError, RecursionError):
        refuse(None, "We could not parse the JSON body of your request.")
    if not isinstance(values, dict):
        refuse(None, "The JSON body of a request must be an object.")
    return Fields(values)


def read_form(content_type: str, body: bytes) -> Fields:
    """The values and files of a form; raises `Refusal`."""
    values: dict[str, object] = {}
    files: dict[str, list[Part]] = {}
    try:
        for part in parse_form(content_type, body):
            if part.filename is not None or part.name in FILE_FIELDS:
                files.setdefault(part.name, []).append(part)
            else:
                values[part.name] = part.text()
    except FormError as error:
        refuse(None, f"We could not parse the form in your request: {error}")
    return Fields(values, files, textual=True)


def read_fields(content_type: str, body: bytes) -> Fields:
    """The values of a body of either kind; raises `Refusal`."""
    kind = media_type(content_type)
    if kind not in ("multipart/form-data", "application/json"):
        refuse("unsupported_content_type", f"Unsupported content type: '{kind}'.")
    return read_json(body) if kind == "application/json" else read_form(content_type, body)


def refuse(code: str | None, message: str, param: str | None = None) -> NoReturn:
    """Raise a `Refusal` with status 400."""
    raise Refusal(400, code, message, param=param)


def wrong_type(name: str, expected: str) -> NoReturn:
    """Raise the refusal of a value of the wrong type."""
    refuse("invalid_type", f"Invalid type for '{name}': expected {expected}.", name)


def _note(value: object) -> object:
    text = value if isinstance(value, str) else json.dumps(value)
    if len(text) <= LOGGED_CHARACTERS:
        return value
    return {"characters": len(text), "sha256": hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()}


def _part_note(part: Part) -> dict[str, object]:
    digest = hashlib.sha256(part.data).hexdigest()
    return {
        "filename": part.filename,
        "content_type": part.content_type,
        "bytes": len(part.data),
        "sha256": digest,
    }
