"""Answers with the server's own heads, and answers spoilt by a script."""

from __future__ import annotations

import base64
import functools
import http
import json
from collections.abc import Callable
from dataclasses import dataclass

from load.upstreams.faults import Garbage, Refuse
from load.upstreams.sdcpp.json_text import dump
from load.upstreams.wire import Answer

WRONG_BASE64 = "@@@ this is *not* base64 @@@"
NO_PICTURE = base64.b64encode(b"these bytes are no picture").decode()
_ERRORS = {429: "job queue is full", 500: "server_error"}


@dataclass(frozen=True, slots=True)
class Headed(Answer):
    """An answer whose head stands in the server's order, without a date."""

    origin: str = "*"
    last: bool = False
    """Whether the connection ends with it even though the client would go on."""

    @property
    def closes(self) -> bool:
        # The server ends the connection after every error.
        return self.last or self.status >= 400

    def head(self, *, keep_alive: bool = True) -> bytes:
        stays = keep_alive and not self.closes
        fate = ("Keep-Alive", "timeout=5, max=100") if stays else ("Connection", "close")
        length = ("Content-Length", str(len(self.body)))
        headers = [
            # As recorded: the server has two orders.
            *([fate, length] if self.body else [length, fate]),
            *self.headers,
            ("Access-Control-Allow-Methods", "*"),
            ("Access-Control-Allow-Credentials", "true"),
            ("Access-Control-Allow-Headers", "*"),
            ("Access-Control-Allow-Origin", self.origin),
        ]
        lines = [f"HTTP/1.1 {self.status} {_phrase(self.status)}", *(f"{name}: {value}" for name, value in headers)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def told(status: int, body: bytes, *headers: tuple[str, str]) -> Headed:
    """An answer with JSON that is rendered already."""
    return Headed(status, (("Content-Type", "application/json"), *headers), body)


def json_told(status: int, value: object) -> Headed:
    """An answer with JSON."""
    return told(status, dump(value).encode())


def error(status: int, text: str, message: str | None = None) -> Headed:
    """An error in the server's form; only exceptions have a message."""
    return json_told(status, {"error": text} if message is None else {"error": text, "message": message})


def empty(status: int) -> Headed:
    """An answer without a body or its type."""
    return Headed(status, (), b"")


def refused(fault: Refuse) -> Headed:
    """The scripted error."""
    name = fault.name or _ERRORS.get(fault.status, "scripted by the stand-in")
    value = {"error": name} if fault.message is None else {"error": name, "message": fault.message}
    retry = [("Retry-After", str(fault.retry_after))] if fault.retry_after is not None else []
    return told(fault.status, dump(value).encode(), *retry)


def spoilt(answer: Headed, fault: Garbage) -> Headed:
    """The same answer with the body the fault asks for; errors stay as they are."""
    return answer if answer.status >= 400 else Headed(answer.status, answer.headers, _spoilt_body(answer.body, fault))


def spoilt_picture(fault: Garbage) -> str | None:
    """What stands in a picture's place; None if the fault is not about pictures."""
    return {"wrong_base64": WRONG_BASE64, "not_png": NO_PICTURE}.get(fault.what)


def _spoilt_body(body: bytes, fault: Garbage) -> bytes:
    match fault.what:
        case "not_json":
            return b"<html><body>upstream went for a walk</body></html>"
        case "truncated_json":
            return body[: len(body) // 2]
        case "empty":
            return b""
        case "huge":
            return _huge(fault.size_bytes)
        case _:
            return dump(_replaced(json.loads(body), lambda: spoilt_picture(fault))).encode()


def _replaced(value: object, by: Callable[[], object]) -> object:
    """The value with each picture in it replaced: the members `b64_json`, and texts in `images`."""
    if isinstance(value, list):
        return [_replaced(item, by) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: by()
        if name == "b64_json"
        else [by() if isinstance(entry, str) else _replaced(entry, by) for entry in item]
        if name == "images"
        else _replaced(item, by)
        for name, item in value.items()
    }


@functools.lru_cache(maxsize=2)
def _huge(size: int) -> bytes:
    # Kept, so that many huge answers at once share one body.
    frame = b'{"status":"completed","result":{"images":[{"b64_json":"%s","index":0}],"output_format":"png"}}'
    return frame % (b"A" * max(0, size - len(frame) + 2))


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
