"""JSON as the server's C++ library writes and reads it, the messages of its exceptions included."""

from __future__ import annotations

import json
import math
import struct
from typing import NoReturn, TypeVar

_Wanted = TypeVar("_Wanted", str, int, float, bool)
_INT_SPAN = 2**32


class BadRequest(Exception):
    """The server answers 400 with this text as its `error`."""


class ServerError(Exception):
    """The server answers 500 `server_error` with this text, an exception's, as its `message`."""


class NotJson(Exception):
    """The text is no JSON; which status follows depends on the dialect."""


def dump(value: object) -> str:
    """Compact, with names in alphabetical order."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def parse(data: bytes) -> object:
    """The value a text stands for; raises `NotJson`, and `ServerError` for a number without bounds."""
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise NotJson(_parse_error(error)) from error
    except (ValueError, RecursionError) as error:
        raise NotJson("[json.exception.parse_error.101] parse error: syntax error") from error


def _refuse_constant(name: str) -> NoReturn:
    # Python takes NaN and Infinity, which are no JSON.
    raise ValueError(name)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ServerError(f"[json.exception.out_of_range.406] number overflow parsing '{text}'")
    return value


def _parse_error(error: json.JSONDecodeError) -> str:
    expected = "string literal" if "property name" in error.msg else "a value"
    within = "object key" if "property name" in error.msg else "value"
    read = error.doc[max(0, error.pos - 1) : error.pos + 2]
    return (
        f"[json.exception.parse_error.101] parse error at line {error.lineno}, column {error.colno + 1}: syntax error "
        f"while parsing {within} - invalid literal; last read: '{read}'; expected {expected}"
    )


def single(value: float) -> float:
    """The value as the server holds it, in single precision."""
    try:
        return float(struct.unpack("f", struct.pack("f", value))[0])
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def int32(value: int) -> int:
    """The value as the server holds it: what does not fit wraps around."""
    return (value + _INT_SPAN // 2) % _INT_SPAN - _INT_SPAN // 2


def value_of(body: object, name: str, default: _Wanted) -> _Wanted:
    """The named member, strictly of the default's kind, or the default; raises `ServerError`.

    This is the library's `value()`, which the server uses for the few members it insists on.
    """
    if not isinstance(body, dict):
        raise ServerError(f"[json.exception.type_error.306] cannot use value() with {kind_of(body)}")
    if name not in body:
        return default
    found = body[name]
    wanted = kind_of(default)
    fits = isinstance(found, bool | int | float) if wanted == "number" else kind_of(found) == wanted
    if not fits:
        raise ServerError(f"[json.exception.type_error.302] type must be {wanted}, but is {kind_of(found)}")
    return type(default)(found)


def kind_of(value: object) -> str:
    """The library's name of a value's type."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    if isinstance(value, str):
        return "string"
    return "array" if isinstance(value, list) else "object"
