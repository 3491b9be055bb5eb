"""What a client would rather have, as its `Accept` says (RFC 9110, section 12.5.1). No I/O."""

import re
from typing import Final

from starlette.requests import Request

JSON: Final = ("application/json", "application/*", "*/*")
"""What means JSON, the exact name first."""
_QUALITY: Final = re.compile(r"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*\Z", re.IGNORECASE)
_MOST: Final = 32
"""Kinds that are looked at; browsers send a handful."""


class Accepted:
    """The kinds of answers that a request names; without `Accept`, any."""

    def __init__(self, request: Request) -> None:
        told = [one for one in ",".join(request.headers.getlist("accept")).split(",", _MOST)[:_MOST] if one.strip()]
        self._qualities = dict(map(_read, told)) or {"*/*": 1.0}

    def names(self, *kinds: str) -> bool:
        """Whether one of the kinds is named and wanted."""
        return any(self._qualities.get(kind, 0.0) > 0 for kind in kinds)

    def quality(self, *kinds: str) -> float:
        """How much the first of the kinds that is named is wanted, from 0 for not at all to 1; the exact one first."""
        return next((self._qualities[kind] for kind in kinds if kind in self._qualities), 0.0)


def _read(told: str) -> tuple[str, float]:
    """A kind, and how much it is wanted; what is no quality counts as none that was told."""
    kind, *params = told.split(";")
    found = [match for one in params if (match := _QUALITY.match(one))]
    return kind.strip().lower(), float(found[-1][1]) if found else 1.0
