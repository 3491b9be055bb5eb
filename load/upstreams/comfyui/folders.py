"""The server's input, output and temp folders, in memory and bounded."""

from __future__ import annotations

import posixpath
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["input", "output", "temp"]
Place = tuple[Kind, str, str]
"""Folder, subfolder and name."""

KINDS: tuple[Kind, ...] = ("input", "output", "temp")
_ANNOTATION = re.compile(r"^(?P<name>.*?) ?\[(?P<kind>input|output|temp)\]$", re.DOTALL)
_COUNTER_FORMAT = "{name}_{counter:05}_.png"


class OutsideError(ValueError):
    """A path leads out of its folder."""


@dataclass(frozen=True, slots=True)
class File:
    """One stored file."""

    data: bytes
    changed: float
    """Seconds since the epoch."""


class Folders:
    """All files of the server; the oldest go when there are more than `limit`."""

    def __init__(self, limit: int = 10_000) -> None:
        self._limit = limit
        self._files: OrderedDict[Place, File] = OrderedDict()
        self._highest: dict[tuple[Kind, str, str], int] = {}

    def get(self, place: Place) -> File | None:
        return self._files.get(place)

    def put(self, place: Place, file: File) -> None:
        self._files[place] = file
        while len(self._files) > self._limit:
            self.delete(next(iter(self._files)))

    def delete(self, place: Place) -> None:
        """Remove a file, as an operator's clean-up does; a number it had may be given again."""
        self._files.pop(place, None)
        self._highest.clear()

    def clear(self, kind: Kind) -> None:
        for place in [place for place in self._files if place[0] == kind]:
            self.delete(place)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """The names in a folder itself, without its subfolders."""
        return tuple(sorted(name for at, subfolder, name in self._files if at == kind and not subfolder))

    def next_name(self, kind: Kind, prefix: str) -> Place:
        """Where the next picture with this prefix goes: one above the highest number there."""
        path = clean(prefix)
        subfolder, name = posixpath.split(path)
        key = (kind, subfolder, name)
        if key not in self._highest:
            self._highest[key] = self._find_highest(*key)
        self._highest[key] += 1
        return kind, subfolder, _COUNTER_FORMAT.format(name=name, counter=self._highest[key])

    def _find_highest(self, kind: Kind, subfolder: str, prefix: str) -> int:
        counters = [0]
        for at, below, name in self._files:
            number = name.removeprefix(f"{prefix}_").partition("_")[0]
            if (at, below) == (kind, subfolder) and name.startswith(f"{prefix}_") and number.isdecimal():
                counters.append(int(number))
        return max(counters)


def clean(path: str) -> str:
    """A relative path in its shortest form; raises `OutsideError` when it leads out of its folder."""
    shortest = posixpath.normpath(path) if path else ""
    if shortest.startswith(("/", "..")):
        raise OutsideError(path)
    return "" if shortest == "." else shortest


def annotated(name: str) -> tuple[str, Kind | None]:
    """A name with its folder in brackets behind it, `a.png [output]`, taken apart."""
    match = _ANNOTATION.match(name)
    return (match["name"], cast("Kind", match["kind"])) if match else (name, None)


def input_place(name: str) -> Place:
    """Where a node that loads a picture looks for it; raises `OutsideError`."""
    path, kind = annotated(name)
    subfolder, base = posixpath.split(clean(path))
    return kind or "input", subfolder, base
