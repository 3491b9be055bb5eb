"""HTTP answers in the server's form, good and spoilt."""

from __future__ import annotations

import http
import json

from load.upstreams.faults import Garbage, Refuse
from load.upstreams.wire import Answer

SERVER = ("Server", "Python/3.11 aiohttp/3.14.5")
TROUBLE = "500 Internal Server Error\n\nServer got itself in trouble"
_PLAIN = ("Content-Type", "text/plain; charset=utf-8")


def json_answer(value: object, status: int = 200) -> Answer:
    """A JSON body."""
    return Answer(status, (("Content-Type", "application/json; charset=utf-8"), SERVER), json.dumps(value).encode())


def empty(status: int = 200) -> Answer:
    """No body and no type."""
    return Answer(status, (SERVER,), b"")


def plain(status: int, text: str, *headers: tuple[str, str]) -> Answer:
    """A line of text, as the server's framework writes it."""
    return Answer(status, (_PLAIN, *headers, SERVER), text.encode())


def trouble() -> Answer:
    """What an exception in a handler becomes."""
    return plain(500, TROUBLE)


def refusal(fault: Refuse) -> Answer:
    """A scripted error; the server itself writes only some of these, proxies before it write the others."""
    wait = [("Retry-After", str(fault.retry_after))] if fault.retry_after is not None else []
    return plain(fault.status, fault.message or _usual_text(fault.status), *wait)


def spoilt(answer: Answer, fault: Garbage) -> Answer:
    """The same answer with a wrong body."""
    return Answer(answer.status, answer.headers, _spoilt_body(answer.body, fault))


def _usual_text(status: int) -> str:
    if status == 500:
        return TROUBLE
    try:
        return f"{status}: {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _spoilt_body(body: bytes, fault: Garbage) -> bytes:
    match fault.what:
        case "truncated_json":
            return body[: len(body) // 2]
        case "not_png" | "wrong_base64":
            return b"these bytes are no picture"
        case "empty":
            return b""
        case "huge":
            return b'"' + b"A" * max(0, fault.size_bytes - 2) + b'"'
        case _:
            return b"<html><body>upstream went for a walk</body></html>"
