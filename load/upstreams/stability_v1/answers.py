"""Stability AI REST v1: successful answers in both forms, and spoilt ones."""

from __future__ import annotations

import json

import pybase64

from load.upstreams.faults import Garbage
from load.upstreams.garbage import spoilt_body
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
    return Answer(answer.status, answer.headers, spoilt_body(answer.body, fault, _artifact))


def _artifact(text: str) -> bytes:
    return json.dumps({"artifacts": [{"base64": text, "seed": 1, "finishReason": "SUCCESS"}]}).encode()
