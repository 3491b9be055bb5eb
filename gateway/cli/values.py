"""The values of `safelight generate`'s options that are more than a word or a number, read from their text."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from gateway.cli.wish import Control, Lora

_PART: Final = re.compile(r",(weight|start|end|preprocessor)=([^,]*)\Z")
_CONTROL_FORM: Final = "KIND=FILE, and after it any of ,weight=1 ,start=0 ,end=1 ,preprocessor=canny"


class Size(click.ParamType[tuple[int, int]]):
    """WIDTHxHEIGHT in pixels; which sizes a model has is for the gateway to say."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        width, _, height = str(value).lower().partition("x")
        if not (width.isdecimal() and height.isdecimal()):
            self.fail(f"{value!r} is no size; write it as 512x768", param, ctx)
        return int(width), int(height)


class Sides(click.ParamType[tuple[int, int, int, int]]):
    """LEFT,RIGHT,UP,DOWN in pixels."""

    name = "sides"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int, int, int]:
        parts = [part.strip() for part in str(value).split(",")]
        if len(parts) != 4 or not all(part.isdecimal() for part in parts):
            self.fail(f"{value!r} is not four numbers of pixels; write them as 128,128,0,64", param, ctx)
        left, right, up, down = map(int, parts)
        if not left + right + up + down:
            self.fail("no side grows; give one of the four a number above 0", param, ctx)
        return left, right, up, down


class LoraName(click.ParamType["Lora"]):
    """NAME or NAME:WEIGHT; a colon that no number follows belongs to the name."""

    name = "lora"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Lora":
        from gateway.cli.wish import Lora  # noqa: PLC0415

        name, _, weight = str(value).rpartition(":")
        number = _number(weight)
        if not (name if number is not None else str(value)):
            self.fail("it has no name; write it as NAME or NAME:0.8", param, ctx)
        return Lora(str(value)) if not name or number is None else Lora(name, number)


class ControlImage(click.ParamType["Control"]):
    """KIND=FILE, with its options after commas."""

    name = "control"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> "Control":
        from gateway.cli.wish import Control, WrongWish, check_control_kind  # noqa: PLC0415

        kind, _, rest = str(value).partition("=")
        try:
            check_control_kind(kind)
        except WrongWish as fault:
            self.fail(f"{fault}; write it as {_CONTROL_FORM}", param, ctx)
        options: dict[str, str] = {}
        while part := _PART.search(rest):
            options.setdefault(part[1], part[2])
            rest = rest[: part.start()]
        if not Path(rest).is_file():
            self.fail(f"there is no file {rest!r}; write it as {_CONTROL_FORM}", param, ctx)
        preprocessor = options.pop("preprocessor", None)
        numbers = {name: _number(text) for name, text in options.items()}
        for name, number in numbers.items():
            if number is None:
                self.fail(f"{name}={options[name]} is no number", param, ctx)
        return Control(kind, Path(rest), **numbers, preprocessor=preprocessor)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
