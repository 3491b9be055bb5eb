"""How the routes of Stability AI's v2beta tell what became of a request: as a bare picture, or as JSON."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.edges.compat.accepting import JSON, Accepted
from gateway.edges.compat.dialect import Result
from gateway.edges.compat.doors import Doors
from gateway.edges.compat.pictures import put_together
from gateway.edges.compat.stability_both import GREY, finish_reason
from gateway.edges.compat.stability_v2beta.answers import id_of, picture_body, unfinished
from gateway.edges.compat.stability_v2beta.fields import Format
from gateway.edges.http import answer
from protocol.errors import ClientFault

RESULTS: Final = "/v2beta/results/"
_BARE: Final = ("image/*", "*/*")


def wants_json(request: Request) -> bool:
    """Whether the client wants JSON. Raises `ClientFault` `bad_request` if it wants neither that nor a picture.

    Of two that it wants alike it gets the picture, unless it names JSON.
    """
    accepted = Accepted(request)
    bare, json = accepted.quality(*_BARE), accepted.quality(*JSON)
    if bare == json == 0:
        raise ClientFault("bad_request", "must be image/* or application/json", details={"path": "accept"})
    return json > bare or (json == bare and accepted.names(*JSON[:2]))


def view_of(request: Request, doors: Doors, format: Format) -> "PictureView":
    """Return the view that the client asks for. Raises as `wants_json`."""
    return (JsonView if wants_json(request) else PictureView)(doors, format)


class PictureView:
    """The bare picture; see `gateway.edges.compat.dialect.View`."""

    is_json = False

    def __init__(self, doors: Doors, format: Format) -> None:
        self._doors = doors
        self._format: Format = format

    async def accepted(self, job: str) -> Response:
        """Return 202 with the id, as of work that the vendor tells of later."""
        told = id_of(job, self._format)
        return answer(unfinished(told), 202, {"Location": RESULTS + told})

    async def finished(self, result: Result) -> Response:
        """Return the picture; of a job with several, which came through another door, the first."""
        piece = result.pieces[0]
        headers = {"finish-reason": finish_reason(piece), "seed": str(piece.seed)}
        content = await self._doors.pictures.shown(piece, self._format, GREY)
        return Response(content, headers=headers, media_type=f"image/{self._format}")


class JsonView(PictureView):
    """`{"image", "finish_reason", "seed"}`."""

    is_json = True

    async def finished(self, result: Result) -> Response:
        """Return the picture, as of `PictureView`."""
        piece = result.pieces[0]
        content = await self._doors.pictures.shown(piece, self._format, GREY)
        body = await put_together([content], lambda: picture_body(piece, content))
        return Response(body, media_type=f"application/json; type=image/{self._format}")
