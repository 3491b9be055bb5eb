"""How the routes of the web UI's API tell what became of a request."""

import asyncio
import zlib
from collections.abc import Callable
from typing import Final, cast

from starlette.responses import Response

from gateway.core.reports import Picture
from gateway.edges.compat.a1111.answers import Asked, enlarged, pictures
from gateway.edges.compat.dialect import Piece, Result
from gateway.edges.compat.doors import Doors
from gateway.edges.http import answer
from protocol.messages import PreviewFormat

LARGE: Final = 1_048_576
"""Bytes of pictures above which an answer is put together in a thread."""


class PicturesView:
    """`{"images", "parameters", "info"}`; see `gateway.edges.compat.dialect.View`."""

    is_json = True

    def __init__(self, doors: Doors, asked: Asked) -> None:
        self._doors = doors
        self._asked = asked

    async def accepted(self, job: str) -> Response:
        """Return 202 with the id, and where to ask for more."""
        return answer({"id": job}, 202, {"Location": f"/sdapi/v1/jobs/{job}"})

    async def finished(self, result: Result) -> Response:
        """Return the pictures, each as base64."""
        contents = [await self._content(piece) for piece in result.pieces]
        return await _put_together(contents, lambda: pictures(result, contents, self._asked))

    async def _content(self, piece: Piece) -> bytes:
        """A picture that a filter held back is black, as those of the web UI's own filter are."""
        content = black_png(piece.width, piece.height) if piece.content is None else piece.content
        picture = Picture(content, "png" if piece.content is None else piece.format, piece.width, piece.height)
        return await self._doors.encoded(picture, cast("PreviewFormat", self._asked.format))


class EnlargedView(PicturesView):
    """`{"html_info", "image"}`."""

    def __init__(self, doors: Doors) -> None:
        super().__init__(doors, Asked())

    async def finished(self, result: Result) -> Response:
        """Return the one picture as base64."""
        contents = [await self._content(piece) for piece in result.pieces]
        return await _put_together(contents, lambda: enlarged(contents[0]))


async def _put_together(contents: list[bytes], whole: Callable[[], bytes]) -> Response:
    body = await asyncio.to_thread(whole) if sum(map(len, contents)) > LARGE else whole()
    return Response(body, media_type="application/json")


def black_png(width: int, height: int) -> bytes:
    """Return a PNG of black, one bit a pixel; edges in pixels."""
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x01\x00\x00\x00\x00"
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 1)
    chunks = ((b"IHDR", head), (b"IDAT", rows), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
