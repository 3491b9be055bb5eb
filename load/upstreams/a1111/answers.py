"""Answers as the vendor's web server writes them, and spoilt ones."""

from __future__ import annotations

import email.utils
import gzip
import json
from collections.abc import Iterable

import pybase64

from load.upstreams.a1111.errors import Json
from load.upstreams.faults import Garbage
from load.upstreams.garbage import spoilt_body
from load.upstreams.wire import Answer

Headers = Iterable[tuple[str, str]]


class UvicornAnswer(Answer):
    """Lower-case header names, `server: uvicorn`, and no word about the connection unless it closes."""

    def head(self, *, keep_alive: bool = True) -> bytes:
        lines = [
            # The words after a status are the same everywhere, so the base may write that line.
            super().head().split(b"\r\n", 1)[0].decode(),
            f"date: {email.utils.formatdate(usegmt=True)}",
            "server: uvicorn",
            *(f"{name}: {value}" for name, value in self.headers),
            *([] if keep_alive else ["connection: close"]),
        ]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


def answer(
    status: int, body: bytes, kind: str = "application/json", first: Headers = (), last: Headers = ()
) -> UvicornAnswer:
    """An answer with its length and type; `first` headers stand before them, `last` ones behind."""
    headers = (*first, ("content-length", str(len(body))), ("content-type", kind), *last)
    return UvicornAnswer(status, headers, body)


def to_json(value: object) -> bytes:
    """JSON as the framework writes it: without blanks, and not escaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def empty(status: int, last: Headers = ()) -> UvicornAnswer:
    """An answer without body and without type."""
    return UvicornAnswer(status, tuple(last), b"")


def pictures_json(files: list[bytes], parameters: Json, info: str) -> bytes:
    """The body of a generation's answer."""
    # Put together by hand: a JSON encoder would look at each of millions of letters for something to escape.
    images = b",".join(b'"' + pybase64.b64encode(file) + b'"' for file in files)
    rest = to_json({"parameters": parameters, "info": info})
    return b'{"images":[' + images + b"]," + rest[1:]


def zipped(plain: UvicornAnswer, level: int = 1) -> UvicornAnswer:
    """The same answer compressed; its headers keep their places."""
    body = gzip.compress(plain.body, level)
    headers = tuple((name, str(len(body)) if name == "content-length" else value) for name, value in plain.headers)
    added = (("content-encoding", "gzip"), ("vary", "Accept-Encoding"))
    return UvicornAnswer(plain.status, headers + added, body)


def spoilt(good: UvicornAnswer, fault: Garbage) -> UvicornAnswer:
    """An answer with the body the fault asks for in place of the good one."""
    return answer(good.status, spoilt_body(good.body, fault, _image_body))


def _image_body(text: str) -> bytes:
    return to_json({"images": [text], "parameters": {}, "info": "{}"})
