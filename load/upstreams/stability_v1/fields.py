"""Stability AI REST v1: refusing a request, and reading its values whether they came as JSON or as a form."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from load.upstreams.forms import Part


class Refusal(Exception):
    """The request is refused with this status and the vendor's error name."""

    def __init__(self, status: int, name: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message
        self.retry_after = retry_after


@dataclass(slots=True)
class Fields:
    """A request's values; its methods raise `Refusal` for a wrong one and remember which were asked for."""

    values: Mapping[str, object]
    files: Mapping[str, Part] = field(default_factory=dict)
    textual: bool = False
    asked: set[str] = field(default_factory=set)

    def get(self, name: str) -> object:
        """The value as it came, None if absent."""
        self.asked.add(name)
        return self.values.get(name)

    def number(self, name: str, low: float, high: float, default: float, error: str = "bad_request") -> float:
        """A number from `low` to `high`."""
        value = self.numeric(name, self.get(name))
        if value is None:
            return default
        # Written so that NaN fails as well.
        if not low <= value <= high:
            refuse(error, f"{name}: must be from {low:g} to {high:g}")
        return value

    def integer(self, name: str, low: int, high: int, default: int, error: str = "bad_request") -> int:
        """A whole number from `low` to `high`."""
        value = self.number(name, low, high, default, error)
        if value != int(value):
            refuse(error, f"{name}: must be an integer")
        return int(value)

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str | None:
        """One of the allowed words."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in allowed:
            refuse("bad_request", f"{name}: must be one of {', '.join(sorted(allowed))}")
        return value

    def numeric(self, name: str, value: object) -> float | None:
        """The value as a number; text counts as one only in a form."""
        if value is None:
            return None
        if self.textual and isinstance(value, str):
            try:
                return float(value)
            except ValueError:
                refuse("bad_request", f"{name}: must be a number")
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse("bad_request", f"{name}: must be a number")
        # An integer too long for a float is out of every range there is; NaN goes here too.
        return float(value) if abs(value) < 1e300 else math.inf

    def unknown(self) -> tuple[str, ...]:
        """The names that were sent and never asked for; call it last."""
        return tuple(sorted((set(self.values) | set(self.files)) - self.asked))


def refuse(name: str, message: str) -> NoReturn:
    """Raise a `Refusal` with status 400."""
    raise Refusal(400, name, message)
