"""Stability AI REST v1: successful answers in both forms, and spoilt ones."""

from __future__ import annotations

import base64
import functools
import json

import pybase64

from load.upstreams.faults import Garbage
from load.upstreams.wire import Answer


def artifacts_answer(made: list[bytes], seeds: tuple[int, ...], reason: str) -> Answer:
    """The JSON form; `artifacts` is a flat list."""
    artifacts = [_artifact_bytes(png, seed, reason) for png, seed in zip(made, seeds, strict=True)]
    body = b'{"artifacts": [' + b", ".join(artifacts) + b"]}"
    return Answer(200, (("Content-Type", "application/json"),), body)


def _artifact_bytes(png: bytes, seed: int, reason: str) -> bytes:
    # Put together by hand: a JSON encoder would look at each of two million letters for something to escape.
    rest = json.dumps({"seed": seed, "finishReason": reason}).encode()
    return b'{"base64": "' + pybase64.b64encode(png) + b'", ' + rest[1:]


def png_answer(png: bytes, seed: int, reason: str) -> Answer:
    """The raw form, which alone has the headers Finish-Reason and Seed."""
    headers = (("Content-Type", "image/png"), ("Finish-Reason", reason), ("Seed", str(seed)))
    return Answer(200, headers, png)


def spoilt(answer: Answer, fault: Garbage) -> Answer:
    """The same answer with the body the fault asks for."""
    return Answer(answer.status, answer.headers, _spoilt_body(answer.body, fault))


def _spoilt_body(body: bytes, fault: Garbage) -> bytes:
    match fault.what:
        case "not_json":
            return b"<html><body>upstream went for a walk</body></html>"
        case "truncated_json":
            return body[: len(body) // 2]
        case "wrong_base64":
            return _artifact("@@@ this is *not* base64 @@@")
        case "not_png":
            return _artifact(base64.b64encode(b"these bytes are no picture").decode())
        case "empty":
            return b""
        case "huge":
            return _huge(fault.size_bytes)


def _artifact(text: str) -> bytes:
    return json.dumps({"artifacts": [{"base64": text, "seed": 1, "finishReason": "SUCCESS"}]}).encode()


@functools.lru_cache(maxsize=2)
def _huge(size: int) -> bytes:
    # Kept, so that many huge answers at once share one body.
    return _artifact("A" * max(0, size - len(_artifact(""))))
