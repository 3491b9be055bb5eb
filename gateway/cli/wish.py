"""What a person asks of `safelight generate`: which kind of work that is, and whether it fits together.

The kind follows from the options (`ASKED_BY`), or is named. What a model can do is for the gateway to say; here only
that is refused which means nothing anywhere, before any picture is sent.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gateway.core.params import CONTROLS, TASKS

_OPTIONS: Final = {
    "prompt": "a PROMPT",
    "search": "--search TEXT",
    "expand": "--expand LEFT,RIGHT,UP,DOWN",
    "init": "--init FILE",
    "mask": "--mask FILE",
    "control": "--control KIND=FILE",
    "reference": "--reference FILE",
}
"""How each thing that a kind of work may need is given."""
_ONLY_IN: Final = {"expand": "outpaint", "search": "search_replace", "scale": "upscale"}
"""Params that mean something in one kind of work alone."""


class WrongWish(ValueError):
    """The options contradict each other, or something is missing; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA by the upstream's name of it."""

    name: str
    weight: float | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A control image; `None` leaves it to the gateway."""

    kind: str
    path: Path
    weight: float | None = None
    start: float | None = None
    end: float | None = None
    preprocessor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the person asked for; `None` leaves it to the gateway."""

    prompt: str | None = None
    negative: str | None = None
    steps: int | None = None
    size: tuple[int, int] | None = None
    seed: int | None = None
    n: int | None = None
    guidance: float | None = None
    sampler: str | None = None
    scheduler: str | None = None
    style: str | None = None
    loras: tuple[Lora, ...] = ()
    tiling: bool = False
    background: str | None = None
    adjust: bool = False
    model: str | None = None
    init: Path | None = None
    mask: Path | None = None
    strength: float | None = None
    controls: tuple[Control, ...] = ()
    references: tuple[Path, ...] = ()
    expand: tuple[int, int, int, int] | None = None
    scale: float | None = None
    remove_background: bool = False
    search: str | None = None
    named_task: str | None = None
    output: Path | None = None
    """`None` = a name made from the prompt, in the working directory."""

    @property
    def task(self) -> str:
        """The protocol's name of it."""
        if self.named_task is not None:
            return self.named_task
        asked = self._asked_by()
        if asked:
            return next(iter(asked))
        if self.init is None:
            return "txt2img"
        return "img2img" if self.mask is None else "inpaint"

    @property
    def title(self) -> str:
        """What a file of it is named after."""
        if self.prompt:
            return self.prompt
        return f"{self.init.stem} {self.task}" if self.init is not None else self.task

    def params(self) -> dict[str, Any]:
        """Return the `params` of the submit."""
        width, height = self.size or (None, None)
        given = {
            "prompt": self.prompt,
            "negative_prompt": self.negative,
            "steps": self.steps,
            "width": width,
            "height": height,
            "seed": self.seed,
            "n": self.n,
            "guidance": self.guidance,
            "sampler": self.sampler,
            "scheduler": self.scheduler,
            "style": self.style,
            "strength": self.strength,
            "loras": [_named(name=one.name, weight=one.weight) for one in self.loras] or None,
            "expand": None if self.expand is None else _sides(self.expand),
            "scale": self.scale,
            "search": self.search,
            "tiling": self.tiling or None,
            "background": self.background,
            "adjust": self.adjust or None,
        }
        return _named(**given)

    def pictures(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield each input image with the fields that its `Input` has."""
        for role, path in (("init", self.init), ("mask", self.mask)):
            if path is not None:
                yield path, {"role": role}
        for one in self.controls:
            more = _named(weight=one.weight, start=one.start, end=one.end, preprocessor=one.preprocessor)
            yield one.path, {"role": one.kind, **more}
        for path in self.references:
            yield path, {"role": "reference"}

    def check(self) -> None:
        """Raise `WrongWish` for what means nothing anywhere."""
        asked = self._asked_by()
        if self.named_task is None and len(asked) > 1:
            options, tasks = " and ".join(asked.values()), " and ".join(asked)
            raise WrongWish(f"{options} ask for different kinds of work ({tasks}); leave all but one out")
        if self.task not in TASKS:
            raise WrongWish(f"there is no task {self.task}; there are: {', '.join(TASKS)}")
        if self.remove_background and self.task != "remove_background":
            raise WrongWish(f"--remove-background is no part of {self.task}; leave it or --task out")
        self._check_pictures()
        self._check_needs()
        self._check_params()

    def _asked_by(self) -> dict[str, str]:
        """Return the kinds of work that options ask for which mean nothing else, each with its option."""
        given = {
            "remove_background": ("--remove-background", self.remove_background),
            "search_replace": ("--search", self.search is not None),
            "outpaint": ("--expand", self.expand is not None),
            "upscale": ("--scale", self.scale is not None),
            "controlnet": ("--control", bool(self.controls)),
            "reference": ("--reference", bool(self.references)),
        }
        return {task: option for task, (option, is_given) in given.items() if is_given}

    def _check_pictures(self) -> None:
        counts = {
            "init": int(self.init is not None),
            "mask": int(self.mask is not None),
            "control": len(self.controls),
            "reference": len(self.references),
        }
        if self.mask is not None and self.task == "txt2img":
            raise WrongWish("--mask needs the picture to repaint: --init FILE")
        for role, (least, most) in TASKS[self.task].roles.items():
            count = counts.pop(role)
            if count < least:
                raise WrongWish(f"{self.task} needs {_OPTIONS[role]}")
            if count > most:
                raise WrongWish(f"{self.task} takes at most {most} of {_OPTIONS[role]}")
        for role, count in counts.items():
            if count:
                raise WrongWish(f"{self.task} takes no {_OPTIONS[role]}; leave it out")

    def _check_needs(self) -> None:
        for name in sorted(TASKS[self.task].needs):
            if getattr(self, name) is None:
                hint = "; without one there are --scale X and --remove-background" if self.task == "img2img" else ""
                raise WrongWish(f"{self.task} needs {_OPTIONS[name]}{hint}")
        if self.prompt is not None and self.task == "remove_background":
            raise WrongWish("remove_background takes no PROMPT; leave it out")

    def _check_params(self) -> None:
        for name, task in _ONLY_IN.items():
            if getattr(self, name) is not None and task != self.task:
                raise WrongWish(f"--{name} means something in {task} only, not in {self.task}; leave it out")
        if self.strength is not None and (self.init is None or not TASKS[self.task].uses_strength):
            what = (
                "needs the picture to start from: --init FILE" if self.init is None else f"has no effect in {self.task}"
            )
            raise WrongWish(f"--strength {what}")
        if self.size is not None and self.scale is not None:
            raise WrongWish("--size and --scale both say how large it becomes; leave one out")
        if self.size is not None and self.expand is not None:
            raise WrongWish("--expand says how large it becomes; leave --size out")


def check_control_kind(kind: str) -> None:
    """Raise `WrongWish` unless control images can be of that kind."""
    if kind not in CONTROLS:
        raise WrongWish(f"{kind!r} is no kind of control image; there are: {', '.join(CONTROLS)}")


def _named(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _sides(expand: tuple[int, int, int, int]) -> dict[str, int]:
    return {side: pixels for side, pixels in zip(("left", "right", "up", "down"), expand, strict=True) if pixels}
