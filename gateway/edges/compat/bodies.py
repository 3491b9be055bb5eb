"""What clients of other APIs send: bounded before it is read, and read off the loop where it is large.

A large body has room from its 64th KiB until its request is handled: read, decoded and stored. So memory is bounded to
`MAX_LARGE` times what one body comes to, which is some three times its bytes while pictures are taken out of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final, TypeVar

import msgspec
import pybase64
from starlette.requests import Request

from gateway.core.images import ImageFault, measure
from gateway.edges.compat.forms import Part, parse_form
from gateway.edges.http import read_body
from gateway.edges.room import Enter, Room
from protocol.codec import convert_fields, decode_fields
from protocol.errors import ClientFault

T = TypeVar("T")
_Texts = dict[str, Any]
Handler = Callable[[Request], Awaitable[Any]]
_Fields = TypeVar("_Fields", bound=msgspec.Struct)

PARSED_HERE: Final = 262_144
"""Bytes that are parsed on the loop itself, in a millisecond; more goes to a thread."""
MAX_LARGE: Final = 8
"""Bodies over `SMALL` that are handled at once."""
MAX_LARGE_EACH: Final = 2
"""Of one end user; more wait."""
MOST_VALUES: Final = 20_000
"""Values in JSON: each of two bytes would take some seventy in memory. No client's request has a thousand."""
WHO: Final = "safelight.identity"
"""The name in a request's scope under which stands who asks."""
_ENTER: Final = "safelight.room"
_TURN: Final = 1_048_576
"""Bytes or characters that are looked at in one go, in a thread: between them the loop has its turn."""


class Bodies:
    """Reads bodies of at most `max_bytes`."""

    def __init__(self, max_bytes: int, max_picture_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._max_picture_bytes = max_picture_bytes
        self.room = Room(MAX_LARGE, MAX_LARGE_EACH, "too many large requests at once")

    def holding(self, handler: Handler) -> Handler:
        """Return a handler that keeps the room which its request's body takes until it has done with it."""

        async def handle(request: Request) -> Any:
            with self.room.lease() as enter:
                request.scope[_ENTER] = enter
                return await handler(request)

        return handle

    async def json(self, request: Request, kind: type[_Fields]) -> _Fields:
        """Return the JSON body as a struct of `kind`, whatever its content type says."""
        raw = await self._read(request)
        return await _off_loop(len(raw), lambda: _decoded(raw or b"{}", kind))

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
                return await self.picture(part.content, part.name)
        return part.content

    async def picture(self, text: str | bytes, name: str) -> bytes:
        """Return the bytes of a picture that came as base64 or as a `data:` address, in a field of that name."""
        if len(text) > self._max_picture_bytes * 4 // 3 + 1024:
            message = f"a picture has at most {self._max_picture_bytes} bytes"
            details = {"path": name, "max_bytes": self._max_picture_bytes}
            raise ClientFault("payload_too_large", message, details=details)
        return await _off_loop(len(text), lambda: decode_picture(text, name))

    async def _read(self, request: Request) -> bytes:
        enter: Enter = request.scope[_ENTER]
        return await read_body(request, self._max_bytes, enter=lambda: enter(request.scope[WHO]))


def _decoded(raw: bytes, kind: type[_Fields]) -> _Fields:
    _check_values(raw)
    return decode_fields(raw, kind, "")


def _check_values(raw: bytes) -> None:
    """Refuse JSON of more than `MOST_VALUES`: what stands between and around them is counted, also inside texts."""
    count = 0
    for start in range(0, len(raw), _TURN):
        count += sum(raw.count(mark, start, start + _TURN) for mark in (b",", b"[", b"{"))
        if count > MOST_VALUES:
            details = {"path": "body", "max_values": MOST_VALUES}
            raise ClientFault("payload_too_large", f"the body has at most {MOST_VALUES} values", details=details)


def decode_picture(text: str | bytes, name: str) -> bytes:
    """Return the bytes behind base64 text; line breaks and a `data:` address's head do not count."""
    try:
        told = text if isinstance(text, str) else text.decode("ascii")
        if told.startswith("data:"):
            told = told.partition(",")[2]
        try:
            return pybase64.b64decode(told, validate=True)
        except ValueError:  # few have line breaks, and to look for them costs as much as to decode
            return pybase64.b64decode(_without_spaces(told), validate=True)
    except ValueError:
        raise ClientFault("image_decode_failed", "the picture is not base64", details={"path": name}) from None


def _without_spaces(text: str) -> str:
    starts = range(0, len(text), _TURN)
    return "".join(["".join(text[start : start + _TURN].split()) for start in starts])


def encode_picture(content: bytes) -> msgspec.Raw:
    """Return a picture as a JSON value that is base64 text: an encoder need not look at each of its letters."""
    return msgspec.Raw(b'"' + pybase64.b64encode(content) + b'"')


async def _off_loop(size: int, work: Callable[[], T]) -> T:
    return work() if size <= PARSED_HERE else await asyncio.to_thread(work)
