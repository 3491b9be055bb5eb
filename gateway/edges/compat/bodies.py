"""What clients of other APIs send: bounded before it is read, and read off the loop where it is large."""

import asyncio
import binascii
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar

import msgspec
import pybase64
from starlette.requests import Request

from gateway.core.images import ImageFault, measure
from gateway.edges.compat.forms import Part, parse_form
from gateway.edges.http import read_body
from protocol.codec import convert_fields, decode_fields
from protocol.errors import ClientFault

T = TypeVar("T")
_Texts = dict[str, Any]
_Fields = TypeVar("_Fields", bound=msgspec.Struct)

PARSED_HERE: Final = 262_144
"""Bytes that are parsed on the loop itself, in a millisecond; more goes to a thread."""
SMALL: Final = 65_536
MAX_LARGE: Final = 8
"""Bodies over `SMALL`, or of unknown size, that are read at once: each lies in memory as long as it takes to come."""


class Bodies:
    """Reads bodies of at most `max_bytes`."""

    def __init__(self, max_bytes: int, max_picture_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_picture_bytes = max_picture_bytes
        self._reading = 0

    async def json(self, request: Request, kind: type[_Fields]) -> _Fields:
        """Return the JSON body as a struct of `kind`, whatever its content type says."""
        raw = await self._read(request)
        return await _off_loop(len(raw), lambda: decode_fields(raw or b"{}", kind, ""))

    async def form(self, request: Request) -> list[Part]:
        """Return the fields of a multipart body."""
        raw = await self._read(request)
        return await _off_loop(len(raw), lambda: parse_form(request.headers.get("content-type", ""), raw))

    async def either(
        self, request: Request, kind: type[_Fields], pictures: Collection[str], nested: Callable[[_Texts], _Texts]
    ) -> tuple[_Fields, dict[str, bytes]]:
        """Return a body that is a form or JSON, and its pictures by their fields' names.

        In JSON a picture is base64 text, in a form a file, or such text. `nested` makes one value of the fields of a
        form whose names stand for parts of it.
        """
        if not request.headers.get("content-type", "").lower().startswith("multipart/"):
            asked = await self.json(request, kind)
            texts = {name: text for name in pictures if isinstance(text := getattr(asked, name, None), str)}
            return asked, {name: await self.picture(text, name) for name, text in texts.items()}
        parts = await self.form(request)
        fields = nested({part.name: part.text for part in parts if part.name not in pictures})
        sent = {part.name: part for part in parts if part.name in pictures and part.content}
        return convert_fields(fields, kind), {name: await self._content(part) for name, part in sent.items()}

    async def _content(self, part: Part) -> bytes:
        """A picture's bytes from a form's field, which may be base64 where it is no file."""
        try:
            measure(part.content)
        except ImageFault as fault:
            if part.file_name is None and fault.code == "unsupported_media":
                return await self.picture(part.text, part.name)
        return part.content

    async def picture(self, text: str, name: str) -> bytes:
        """Return the bytes of a picture that came as base64 or as a `data:` address, in a field of that name."""
        if len(text) > self._max_picture_bytes * 4 // 3 + 1024:
            message = f"a picture has at most {self._max_picture_bytes} bytes"
            details = {"path": name, "max_bytes": self._max_picture_bytes}
            raise ClientFault("payload_too_large", message, details=details)
        return await _off_loop(len(text), lambda: decode_picture(text, name))

    async def _read(self, request: Request) -> bytes:
        declared = request.headers.get("content-length")
        if declared is not None and int(declared) <= SMALL:
            return await read_body(request, self._max_bytes)
        if self._reading >= MAX_LARGE:
            raise ClientFault("overloaded", "too many large requests at once", retry_after_ms=1000)
        self._reading += 1
        try:
            return await read_body(request, self._max_bytes)
        finally:
            self._reading -= 1


def decode_picture(text: str, name: str) -> bytes:
    """Return the bytes behind base64 text; line breaks and a `data:` address's head do not count."""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return pybase64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise ClientFault("image_decode_failed", "the picture is not base64", details={"path": name}) from None


def encode_picture(content: bytes) -> msgspec.Raw:
    """Return a picture as a JSON value that is base64 text: an encoder need not look at each of its letters."""
    return msgspec.Raw(b'"' + pybase64.b64encode(content) + b'"')


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    return work() if size <= PARSED_HERE else await asyncio.to_thread(work)
