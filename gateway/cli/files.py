"""The files of `safelight generate`: how they are named, and how a picture becomes one."""

import itertools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from gateway.cli.basics import FAILED, REFUSED
from gateway.cli.job import Course, Picture
from gateway.cli.trouble import Trouble
from gateway.cli.wish import Wish

_SUFFIXES: Final = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
_SLUG_LENGTH: Final = 48


@dataclass(frozen=True, slots=True)
class Target:
    """How the files are named; made before anything is asked for, because a picture nobody can keep costs as much."""

    folder: Path
    stem: str
    suffix: str | None
    """`None` = the name is ours: the suffix is that of the format, and no other file gives way."""

    @classmethod
    def of(cls, wish: Wish) -> Self:
        """Return the target of a wish; raises `Trouble` if its folder is not there."""
        if wish.output is None:
            return cls(Path(), slug(wish.title), None)
        if not wish.output.parent.is_dir():
            raise Trouble(REFUSED, f"there is no folder {wish.output.parent}; make it, or write elsewhere with -o")
        return cls(wish.output.parent, wish.output.stem, wish.output.suffix)

    def paths(self, pictures: Mapping[int, Picture], count: int) -> dict[int, Path]:
        """Return a path for each of the pictures, of which the job has `count`."""
        for stem in self._stems():
            paths = {index: self._path(stem, index, count, picture) for index, picture in pictures.items()}
            if self.suffix is not None or not any(path.exists() for path in paths.values()):
                return paths
        raise AssertionError("there is no end of stems")

    def _stems(self) -> Iterator[str]:
        yield self.stem
        yield from (f"{self.stem}-v{number}" for number in itertools.count(2))

    def _path(self, stem: str, index: int, count: int, picture: Picture) -> Path:
        suffix = _SUFFIXES.get(picture.format, f".{picture.format}") if self.suffix is None else self.suffix
        return self.folder / (f"{stem}-{index}{suffix}" if count > 1 else f"{stem}{suffix}")


def slug(prompt: str) -> str:
    """Return a prompt as the stem of a file's name."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return words[:_SLUG_LENGTH].strip("-") or "picture"


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save(course: Course, target: Target, *, as_json: bool) -> None:
    """Write the pictures that came, and tell of each on standard output."""
    pictures = {index: one for index, one in sorted(course.pictures.items()) if one.data is not None}
    for index, path in target.paths(pictures, course.count).items():
        picture = pictures[index]
        try:
            write_whole(path, picture.data or b"")
        except OSError as error:
            raise Trouble(FAILED, f"{path} cannot be written ({error.strerror}); write elsewhere with -o") from error
        print(_saved_json(path, picture, course) if as_json else _saved_line(path, picture, course))  # noqa: T201


def _saved_line(path: Path, picture: Picture, course: Course) -> str:
    seed = "unknown" if picture.seed is None else picture.seed
    size = f"{picture.width}x{picture.height}"
    return f"{path}  {size}  seed {seed}  {course.steps_text()}  {course.cost_text()}"


def _saved_json(path: Path, picture: Picture, course: Course) -> str:
    fields = {
        "type": "saved",
        "path": str(path),
        "w": picture.width,
        "h": picture.height,
        "seed": picture.seed,
        "steps_seen": len(course.steps_seen),
        "steps": course.steps,
        "previews": course.previews,
        "cost_micros": course.cost_micros,
    }
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None}).decode()
