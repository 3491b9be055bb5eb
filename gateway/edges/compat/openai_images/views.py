"""How OpenAI's routes tell what became of a request."""

from typing import Any, Final

import msgspec
from starlette.responses import Response

from gateway.core.reports import Picture
from gateway.edges.compat.bodies import encode_picture
from gateway.edges.compat.dialect import Piece, Result, Trouble
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.openai_images.wire import USAGE, Shape, described
from gateway.edges.compat.pictures import put_together
from gateway.edges.http import answer
from gateway.edges.links import TenantLinks

PATH: Final = "/v1/images/generations/"


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
        made = [await picture_of(self._doors, piece, self._shape) for piece in result.pieces]
        pictures = [picture for picture in made if picture is not None]
        if not pictures:
            raise filtered()
        if self._shape.as_url:
            data: list[dict[str, Any]] = [{"url": await self._url(result.job, picture)} for picture in pictures]
            return msgspec.json.encode(self._whole(result, beside, data))

        def whole() -> bytes:
            inline = [{"b64_json": encode_picture(picture.content)} for picture in pictures]
            return msgspec.json.encode(self._whole(result, beside, inline))

        return await put_together([picture.content for picture in pictures], whole)

    def _whole(self, result: Result, beside: dict[str, Any], data: list[dict[str, Any]]) -> dict[str, Any]:
        told = described(self._shape, result.request.width, result.request.height)
        return {"created": result.created_ms // 1000, **beside, "data": data, **told, "usage": USAGE}

    async def _url(self, job: str, picture: Picture) -> str:
        """Keep a picture as it is answered, and return a signed address of it."""
        node = self._doors.node
        record = await node.pictures.store_output(self._tenant, picture)
        links = TenantLinks(self._public_url, node.access, self._tenant)
        return links.asset(job, record.id, node.clock.time_ms())[0]


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
