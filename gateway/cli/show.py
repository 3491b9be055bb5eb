"""How `safelight generate` shows a job: a bar on a terminal, plain lines elsewhere, or JSON."""

import dataclasses
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import msgspec

from gateway.cli.job import Course, counted
from protocol.messages import ImageReady
from protocol.replica_effects import Event, ImageBytes, JobLost, Preview


class Display(Protocol):
    """Shows a course while it goes on; a context, because a terminal must be left as it was found."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, event: Event, course: Course) -> None: ...

    def say(self, sentence: str) -> None: ...


class Bar:
    """A live line at the bottom of a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # noqa: PLC0415 - not needed where no terminal is
        from rich.progress import BarColumn, TextColumn  # noqa: PLC0415
        from rich.progress import Progress as Bars  # noqa: PLC0415

        self._bars = Bars(
            BarColumn(bar_width=24),
            TextColumn("{task.description}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._bars.add_task("connecting", total=None)

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, event: Event, course: Course) -> None:
        parts = [course.state_text()]
        if course.steps:
            about = "about " if course.is_estimated else ""
            parts.append(f"step {about}{course.step}/{course.steps}")
        if course.eta_ms is not None:
            parts.append(f"{course.eta_ms / 1000:.1f} s left")
        if course.job:
            parts += [counted(course.previews, "preview"), course.cost_text()]
        total = course.steps or None
        self._bars.update(self._task, description="  ".join(parts), completed=course.step, total=total)

    def say(self, sentence: str) -> None:
        self._bars.console.print(sentence, markup=False, highlight=False)


class Lines:
    """Plain lines to standard error: what changed, and each quarter of the steps."""

    def __init__(self) -> None:
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, event: Event, course: Course) -> None:
        if isinstance(event, Preview | ImageBytes | ImageReady):
            return
        line = course.state_text()
        if course.offline is None and course.steps and course.position is None:
            quarter = course.step * 4 // course.steps
            line = f"{course.phase or 'started'}, {quarter * 25} % of {counted(course.steps, 'step')}"
        if line != self._last and course.end is None:
            self._last = line
            self.say(line)

    def say(self, sentence: str) -> None:
        print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - this is what it is for


class JsonLines(Lines):
    """Every event as a line of JSON on standard output; pictures without their bytes."""

    def show(self, event: Event, course: Course) -> None:
        print(to_json(event), flush=True)  # noqa: T201


def to_json(event: Event) -> str:
    """Return an event as the protocol writes it; those of the client's own are written alike."""
    if isinstance(event, msgspec.Struct):
        return msgspec.json.encode(event).decode()
    assert dataclasses.is_dataclass(event), "an event is a message or a dataclass"
    names = {Preview: "preview", ImageBytes: "image", JobLost: "job_lost"}
    fields: dict[str, Any] = {"type": names.get(type(event), type(event).__name__.lower())}
    for one in dataclasses.fields(event):
        value = getattr(event, one.name)
        if one.name == "data":
            fields["bytes"] = len(value)
        elif one.name == "type":
            fields["of"] = value
        else:
            fields[one.name] = value
    return msgspec.json.encode(fields).decode()


def choose_display(*, as_json: bool) -> Display:
    """Return what fits where we write to."""
    if as_json:
        return JsonLines()
    return Bar() if sys.stderr.isatty() else Lines()


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines whose cells stand under each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
