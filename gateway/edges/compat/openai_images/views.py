"""How OpenAI's routes tell what became of a request."""

from dataclasses import replace
from typing import Any, Final

import msgspec
from starlette.responses import Response

from gateway.core.reports import Picture
from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.dialect import Piece, Result, Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.openai_images.wire import USAGE, Format, Shape, described
from gateway.edges.compat.pictures import put_together
from gateway.edges.http import answer
from gateway.edges.links import TenantLinks

PATH: Final = "/v1/images/generations/"
_SHOWN: Final[dict[str | None, Format]] = {"jpeg": "jpeg", "png": "png", "webp": "webp"}


class ImagesView:
    """`{"created": ..., "data": [...]}`; see `gateway.edges.compat.dialect.View`."""

    is_json = True

    def __init__(self, doors: Doors, shape: Shape, public_url: str, tenant: str) -> None:
        self._doors = doors
        self._shape = shape
        self._public_url = public_url
        self._tenant = tenant

    async def accepted(self, job: str) -> Response:
        """Return 202 with the id, and where to ask for more; the vendor has no such answer."""
        return answer(unfinished(job, "queued"), 202, {"Location": PATH + job})

    async def finished(self, result: Result) -> Response:
        """Return the pictures."""
        return Response(await self.body(result, {}), media_type="application/json")

    async def body(self, result: Result, beside: dict[str, Any]) -> bytes:
        """Return the JSON of a result with other fields beside it; pictures that a filter held back are left out."""
        pieces = [piece for piece in result.pieces if piece.content is not None]
        if not pieces:
            raise filtered()
        if self._shape.as_url:
            data: list[dict[str, Any]] = [{"url": await self._url(result.job, piece)} for piece in pieces]
            return msgspec.json.encode(self._whole(result, beside, data))
        made = [await picture_of(self._doors, piece, self._shape) for piece in pieces]
        pictures = [picture for picture in made if picture is not None]

        def whole() -> bytes:
            inline = [{"b64_json": encode_picture(picture.content)} for picture in pictures]
            return msgspec.json.encode(self._whole(result, beside, inline))

        return await put_together([picture.content for picture in pictures], whole)

    def _whole(self, result: Result, beside: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, Any]:
        told = described(self._shape, result.request.width, result.request.height)
        return {"created": result.created_ms // 1000, **beside, "data": data, **told, "usage": USAGE}

    async def _url(self, job: str, piece: Piece) -> str:
        """Return a signed address of a picture; where another format is answered than is stored, that is stored too."""
        node = self._doors.node
        asset = piece.asset
        if piece.format != self._shape.format:
            picture = await picture_of(self._doors, piece, self._shape)
            assert picture is not None, "only what was not held back has an address"
            asset = (await node.pictures.store_output(self._tenant, picture)).id
        links = TenantLinks(self._public_url, node.access, self._tenant)
        return links.asset(job, asset, node.clock.time_ms())[0]


def as_stored(shape: Shape, result: Result) -> Shape:
    """Return the shape that a result is told in by those who may only read: its addresses are of what is kept."""
    kept = next((piece.format for piece in result.pieces if piece.asset), None)
    return replace(shape, format=_SHOWN[kept]) if shape.as_url and kept in _SHOWN else shape


def unfinished(job: str, state: str) -> dict[str, Any]:
    """Return what is told of a job that has no pictures yet."""
    return {"id": job, "status": state, "data": []}


async def picture_of(doors: Doors, piece: Piece, shape: Shape) -> Picture | None:
    """Return a picture in the asked format, `None` if a filter held it back. Raises `Trouble`."""
    if piece.content is None:
        return None
    picture = Picture(piece.content, piece.format, piece.width, piece.height)
    content = await doors.pictures.encoded(picture, shape.format, shape.compression)
    return Picture(content, shape.format, piece.width, piece.height)


def filtered() -> Trouble:
    """Return what it is when no picture is left to show."""
    return Trouble("content_filtered", "your request was rejected by the safety system")
