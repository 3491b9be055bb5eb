"""Text into values, and values into text: what a field takes, what was meant, and how TOML has it."""

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from gateway.config.fields import LARGEST, ONE_OR_MORE, SettingPath, Text

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_\-]+(\[\d*\])?\Z")


def convert(value: object, hint: Any, *, is_text: bool) -> Any:
    """Return the value in its type; raises `ValueError` if it is not allowed. `is_text`: all of it is text."""
    if is_text and isinstance(value, str):
        value = _from_text(value.strip(), hint)
    if isinstance(value, str) and _bare(hint)[1].extra == ONE_OR_MORE:
        value = [value]
    try:
        if hint is Path:
            return value if isinstance(value, Path) else Path(msgspec.convert(value, Text))
        return msgspec.convert(value, hint, strict=not is_text)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def _from_text(text: str, hint: Any) -> object:
    """Return what the text of a variable means where it is no plain value: lists, prices, and nothing at all."""
    hint, _ = _bare(hint)
    if typing.get_origin(hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    if typing.get_origin(hint) is Mapping:
        pairs = (part.partition("=") for part in text.split(",") if part.strip())
        return {name.strip(): value.strip() for name, _, value in pairs}
    return None if not text and types.NoneType in typing.get_args(hint) else text


def _bare(hint: Any) -> tuple[Any, Meta]:
    if typing.get_origin(hint) is Annotated:
        bare, meta = typing.get_args(hint)
        return bare, meta
    return hint, Meta()


def takes(hint: Any) -> str:
    """Say in words what a field takes."""
    bare, meta = _bare(hint)
    inner = typing.get_args(bare)
    if meta.description is not None:
        return meta.description
    if types.NoneType in inner:
        return f"{takes(inner[0])}, or nothing"
    if typing.get_origin(bare) is tuple:
        one = takes(inner[0])
        return f"{one}, or a list of such" if meta.extra == ONE_OR_MORE else f"a list; each is {one}"
    if typing.get_origin(bare) is Literal:
        return f"one of {', '.join(inner)}"
    if bare in {int, float}:
        return _takes_numbers("an integer" if bare is int else "a number", meta)
    return {bool: "true or false", Path: "a path"}[bare]


def _takes_numbers(noun: str, meta: Meta) -> str:
    if meta.gt is not None:
        return f"{noun} above {meta.gt}, up to {meta.le}"
    if meta.le == LARGEST:
        return f"{noun} of at least {meta.ge}"
    return f"{noun} from {meta.ge} to {meta.le}"


def shown(value: object) -> str:
    """Return a value as TOML has it, cut to what fits a line."""
    text = toml_text(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(path: SettingPath) -> str:
    """Return a setting's path as TOML has it; `[0]` after a name stands for one table of a list."""
    return ".".join(part if _PLAIN_KEY.match(part) else toml_text(part) for part in path)


def toml_text(value: object) -> str:
    """Return a value as it stands in a TOML file."""
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return str(value)
        case Mapping():
            inner = ", ".join(f"{toml_text(str(name))} = {toml_text(one)}" for name, one in value.items())
            return f"{{ {inner} }}" if inner else "{}"
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return toml_text(dataclasses.asdict(value))
        case list() | tuple():
            return f"[{', '.join(toml_text(one) for one in value)}]"
        case _:
            return msgspec.json.encode(str(value)).decode()
