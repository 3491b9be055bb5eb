"""Pictures at the doors: measured before anything decodes them, masks put right, results in the dialect's format."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.core.reports import Picture
from gateway.edges.compat.dialect import Piece, Sent, Trouble
from gateway.flow.pictures import Brought, Pictures
from gateway.ports import MaskSource, Transcoder
from protocol.errors import ClientFault
from protocol.ladder import Rung
from protocol.messages import Input, PreviewFormat

LARGE: Final = 1_048_576
"""Bytes of pictures above which an answer is put together in a thread."""
MOST_MASKS: Final = 8
"""Masks that are made or wait for it, one after the other: what would wait longer is refused before it is a job."""
_OPTIONS: Final = ("weight", "start", "end", "preprocessor")


class DoorPictures:
    """What doors do with pictures on their way in and out; heavy work runs beside the loop.

    `transcoder` is the doors' own: previews do not wait behind it.
    """

    def __init__(self, pictures: Pictures, transcoder: Transcoder) -> None:
        self._pictures = pictures
        self._transcoder = transcoder
        self._masks = 0

    async def brought(self, one: Sent) -> tuple[Input, Brought]:
        """Check a picture that came along, and return what a submit says of it too. Raises `ClientFault`."""
        options = {name: value for name in _OPTIONS if (value := getattr(one, name)) is not None}
        try:
            brought = await self._pictures.brought(one.content)
            return msgspec.convert({"role": one.role, "asset": brought.asset, **options}, Input), brought
        except ClientFault as fault:
            fault.details = {**fault.details, "path": one.name}
            raise
        except msgspec.ValidationError as error:
            raise ClientFault("invalid_param", str(error)[:200], details={"path": one.name}) from error

    def measured(self, content: bytes, name: str) -> Picture:
        """Return a picture as its head tells it, before anything decodes it. Raises `ClientFault`."""
        try:
            return self._pictures.checked(content)
        except ClientFault as fault:
            fault.details = {**fault.details, "path": name}
            raise

    async def mask(self, content: bytes, source: MaskSource, name: str) -> bytes:
        """Return a mask that is white where a picture is black, transparent or opaque. Raises `ClientFault`.

        `name` is what the dialect calls the picture.
        """
        picture = self.measured(content, name)
        if self._masks >= MOST_MASKS:
            raise ClientFault("overloaded", "too many masks are being made", retry_after_ms=1000)
        self._masks += 1
        try:
            made = await self._transcoder.mask(picture, source)
        finally:
            self._masks -= 1
        if made is None:
            raise ClientFault("image_decode_failed", "the image is broken", details={"path": name})
        return made

    async def encoded(self, picture: Picture, format: PreviewFormat, quality: int = 90) -> bytes:
        """Return a finished picture in a format, as it is if it has that already. Raises `Trouble`."""
        if picture.format == format:
            return picture.content
        rung = Rung(max(picture.width, picture.height), format, quality)
        made = await self._transcoder.shrink(picture, rung)
        if made is None:
            raise Trouble("invalid_output", "the picture cannot be decoded")
        return made[0]

    async def shown(self, piece: Piece, format: PreviewFormat, shade: int) -> bytes:
        """Return a picture of a result in a format; one that a filter held back is plain, of a grey 0-255."""
        if piece.content is None:
            held_back = plain_png(piece.width, piece.height, shade)
            return await self.encoded(Picture(held_back, "png", piece.width, piece.height), format)
        return await self.encoded(Picture(piece.content, piece.format, piece.width, piece.height), format)


async def put_together(contents: Sequence[bytes], whole: Callable[[], bytes]) -> bytes:
    """Return an answer that holds pictures, made beside the loop where it is large."""
    return await asyncio.to_thread(whole) if sum(map(len, contents)) > LARGE else whole()


def plain_png(width: int, height: int, shade: int) -> bytes:
    """Return a PNG of one grey, eight bits a pixel; edges in pixels."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    rows = zlib.compress((b"\x00" + bytes((shade,)) * width) * height, 1)
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
