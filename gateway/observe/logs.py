"""Logs: structlog for our own events, the standard library's records through the same chain, and no secret in either.

Redaction is part of every logger, not of the set-up: what is logged before `configure` was called passes it as well.
"""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor

HIDDEN: Final = "***"
_SECRET_KEY: Final = re.compile(
    r"(?i)(?:^|[_-])(?:authorization|cookie|token|ticket|sig|signature|grant|resume|secret|password|credential)s?$"
    r"|api[_-]?key$"
)
_NAMES: Final = (
    r"(?:[\w-]*(?:authorization|cookie|token|ticket|secret|password|signature|api[_-]?key)|sig|grant|resume)"
)
_SECRETS: Final = (
    # Whole header values, which may have spaces: `Authorization: Basic …`.
    (re.compile(r"(?i)\b(authorization|cookie)(['\"]?\s*[:=,]\s*['\"]?)(?:[a-z]+ +)?[^\s'\",}&;]+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=%-]{4,}"), rf"\1 {HIDDEN}"),
    # `name=value` and `"name": "value"`, in queries, JSON and what `repr` makes of both.
    (re.compile(rf"(?i)(?<![\w-])({_NAMES})(\\*['\"]?\s*(?:=|:|%3d)\s*\\*['\"]?)[^\s'\",}}&;\\]+"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b(?:sk|rk|pk)-[\w*.\-]{4,}"), HIDDEN),
    # Our own signed texts: kind, key, payload, signature.
    (re.compile(r"\b[a-z]\d\.[\w-]+\.[\w-]+\.[\w-]{22}(?![\w-])"), HIDDEN),
)


_CHATTY: Final = ("alembic", "uvicorn", "asyncio")
"""Libraries whose `info` tells an operator nothing: each migration looked at, each socket opened and closed."""


def configure(level: str, format: Literal["auto", "json", "console"], stream: TextIO | None = None) -> None:
    """Send every log of the process to standard error (or `stream`), from `level` on; `auto` asks for a terminal."""
    out = stream or sys.stderr
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_CHAIN,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _renderer(format, out)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of that name: `get("gateway").info("what happened", key=value)`."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        wrapper_class=structlog.stdlib.BoundLogger,
        processors=[
            structlog.stdlib.filter_by_level,
            *_CHAIN,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
    )
    return logger


def redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Take every value that is or looks like a secret out of an event, at any depth and inside any text."""
    return {name: _redacted(name, value) for name, value in event.items() if name not in _OWN} | {
        name: value for name, value in event.items() if name in _OWN
    }


def redact_text(text: str) -> str:
    """Return `text` without anything in it that looks like a secret."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


_OWN: Final = ("_record", "_from_structlog", "_logger", "_name")
"""What structlog itself carries along in an event."""


def _redacted(name: str, value: Any) -> Any:
    if value is not None and _SECRET_KEY.search(name):
        return HIDDEN
    match value:
        case None | bool() | int() | float():
            return value
        case str():
            return redact_text(value)
        case Mapping():
            return {redact_text(str(key)): _redacted(str(key), one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_redacted("", one) for one in value]
    return redact_text(repr(value))  # a renderer would show the same, but after us


def _renderer(format: Literal["auto", "json", "console"], out: TextIO) -> Processor:
    if format == "console" or (format == "auto" and out.isatty()):
        # Exceptions are text by now; the renderer's own formatter would read them anew and could show locals.
        return structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    return structlog.processors.JSONRenderer()


_CHAIN: Final[list[Processor]] = [
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
    structlog.processors.format_exc_info,
    redact,
]
