"""Answers as bytes: pictures in both forms, errors, and spoilt ones.

JSON is written without spaces and errors with their keys in this order, as live answers show.
"""

from __future__ import annotations

import base64
import functools
import json
from dataclasses import dataclass

import pybase64

from load.upstreams.faults import Garbage
from load.upstreams.stability_v2beta.trouble import Refusal, bad_request
from load.upstreams.wire import Answer

_JSON = ("content-type", "application/json")
_BARE = ("image/*", "*/*", "")


@dataclass(frozen=True, slots=True)
class Made:
    """A finished picture and what is told about it."""

    data: bytes
    kind: str
    """png, jpeg or webp."""
    seed: int
    reason: str


def wants_json(accept: str) -> bool:
    """Which form an Accept header asks for; raises `Refusal` when it is neither."""
    kinds = {kind.partition(";")[0].strip().lower() for kind in accept.split(",")}
    if "application/json" in kinds:
        return True
    if not kinds & set(_BARE):
        raise bad_request("accept: must be one of image/*, application/json")
    return False


def picture_answer(made: Made, request_id: str, *, as_json: bool) -> Answer:
    """The picture, bare with headers that tell about it or in JSON."""
    identity = ("x-request-id", request_id)
    if not as_json:
        told = (("finish-reason", made.reason), ("seed", str(made.seed)))
        return Answer(200, (("content-type", f"image/{made.kind}"), *told, identity), made.data)
    rest = _compact({"finish_reason": made.reason, "seed": made.seed})
    # Put together by hand: a JSON encoder would look at each of millions of letters for something to escape.
    body = b'{"image":"' + pybase64.b64encode(made.data) + b'",' + rest[1:]
    return Answer(200, (("content-type", f"application/json; type=image/{made.kind}"), identity), body)


def plain_answer(status: int, value: object, request_id: str) -> Answer:
    """An answer of plain JSON."""
    return Answer(status, (_JSON, ("x-request-id", request_id)), _compact(value))


def error_answer(refusal: Refusal, request_id: str) -> Answer:
    """The vendor's error; its 429 has its own name for an id."""
    identity = refusal.name if refusal.name == "rate_limit_exceeded" else request_id
    body: dict[str, object] = {"errors": list(refusal.messages)}
    if refusal.with_id:
        body["id"] = identity
    body["name"] = refusal.name
    wait = () if refusal.retry_after is None else (("retry-after", str(refusal.retry_after)),)
    return Answer(refusal.status, (_JSON, ("x-request-id", request_id), *wait), _compact(body))


def old_error_answer(refusal: Refusal, request_id: str) -> Answer:
    """The error form of the v1 paths, which know one message."""
    body = {"id": request_id, "message": "; ".join(refusal.messages), "name": refusal.name}
    return Answer(refusal.status, (_JSON,), _compact(body))


def spoilt(answer: Answer, fault: Garbage) -> Answer:
    """The same answer with the body the fault asks for, in the form the client expects."""
    media = dict(answer.headers)["content-type"]
    if media.startswith("image/"):
        body = _spoilt_picture(answer.body, fault)
    else:
        body = _spoilt_json(answer.body, fault, has_picture="type=image/" in media)
    return Answer(answer.status, answer.headers, body)


def _spoilt_picture(body: bytes, fault: Garbage) -> bytes:
    match fault.what:
        case "truncated_json":
            return body[: len(body) // 2]
        case "empty":
            return b""
        case "huge":
            return _huge(body[:64], fault.size_bytes, b"")
        case _:
            return b"these bytes are no picture"


def _spoilt_json(body: bytes, fault: Garbage, *, has_picture: bool) -> bytes:
    match fault.what:
        case "not_json":
            return b"<html><body>upstream went for a walk</body></html>"
        case "truncated_json":
            return body[: len(body) // 2]
        case "empty":
            return b""
        case "huge":
            return _huge(b'{"image":"' if has_picture else b'{"id":"', fault.size_bytes, b'"}')
        case "wrong_base64":
            return _odd_picture("@@@ this is *not* base64 @@@") if has_picture else b"{}"
        case "not_png":
            # An answer without a picture loses what it should have said.
            return _odd_picture(base64.b64encode(b"these bytes are no picture").decode()) if has_picture else b"{}"


def _odd_picture(text: str) -> bytes:
    return _compact({"image": text, "finish_reason": "SUCCESS", "seed": 1})


@functools.lru_cache(maxsize=2)
def _huge(opening: bytes, size: int, ending: bytes) -> bytes:
    # Kept, so that many huge answers at once share one body.
    return opening + b"A" * max(0, size - len(opening) - len(ending)) + ending


def _compact(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
